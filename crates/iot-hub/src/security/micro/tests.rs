use posture::EventKind;
use proptest::prelude::*;

use super::*;
use crate::mqtt::PropertyBag;
use crate::security;

/// Made by another implementation of the format: `tests/sdk/python/micro_agent.py`.
const SAMPLE: &[u8] = include_bytes!("sample.bin");

#[test]
fn each_kind_that_a_posture_has_a_place_for_is_read() {
    let properties = PropertyBag::parse("mti=2.3-1-0-0").unwrap();
    let converted = security::convert(&properties, SAMPLE);
    let mut events = converted.events.into_iter();
    let at = "2024-05-01T10:00:00Z".parse::<Timestamp>().unwrap();
    let mut next = || {
        let event = events.next().expect("another event");
        assert_eq!(event.observed_at, at);
        event.payload
    };
    let flow = |protocol, local: (&str, u16), remote: (&str, u16)| ConnectionActivity {
        direction: Direction::Unknown,
        protocol,
        local_address: local.0.parse().unwrap(),
        local_port: local.1,
        remote_address: remote.0.parse().unwrap(),
        remote_port: remote.1,
        pid: None,
        executable: None,
        hit_count: 1,
    };
    let curl = ConnectionActivity {
        pid: Some(812),
        executable: Some("/usr/bin/curl".to_owned()),
        ..flow(Protocol::Tcp, ("192.0.2.7", 50_000), ("198.51.100.4", 443))
    };
    assert_eq!(next(), EventPayload::ConnectionActivity(curl));
    let mdns = flow(Protocol::Udp, ("2001:db8::7", 5353), ("ff02::fb", 5353));
    assert_eq!(next(), EventPayload::ConnectionActivity(mdns));
    let system = SystemInformation {
        os_name: Some("Azure RTOS 6.1".to_owned()),
        kernel_version: Some("Linux 5.15.0".to_owned()),
        hardware_model: Some("Model T".to_owned()),
        ..SystemInformation::default()
    };
    assert_eq!(next(), EventPayload::SystemInformation(Box::new(system)));
    let port = |protocol, address: &str, port| ListeningPort {
        protocol,
        port,
        address: address.parse().unwrap(),
        pid: None,
        executable: None,
    };
    let ports = vec![
        port(Protocol::Tcp, "0.0.0.0", 22),
        port(Protocol::Udp, "127.0.0.1", 53),
        port(Protocol::Tcp, "::", 8883),
    ];
    assert_eq!(
        next(),
        EventPayload::ListeningPorts(ListeningPorts { ports })
    );
    assert_eq!(next(), EventPayload::Heartbeat);
    let process = |action, executable: &str, command_line: &str, hit_count| {
        EventPayload::ProcessActivity(ProcessActivity {
            action,
            pid: 70_000,
            parent_pid: 1,
            uid: 1000,
            user: Some("ann".to_owned()),
            executable: executable.to_owned(),
            command_line: command_line.to_owned(),
            hit_count,
        })
    };
    let (exec, exit) = (ProcessAction::Exec, ProcessAction::Exit);
    assert_eq!(
        next(),
        process(exec, "/usr/bin/curl", "curl example.com", 3)
    );
    assert_eq!(next(), process(exit, "/bin/ls", "", 1));
    assert_eq!(events.next(), None);
    let rejected: Vec<_> = converted
        .rejected
        .iter()
        .map(|it| (it.reason, &*it.problem))
        .collect();
    let places = "a posture has places for NetworkActivity, SystemInformation, ListeningPorts, Heartbeat and Process";
    assert_eq!(
        rejected,
        [
            (
                Reason::UnknownKind,
                &*format!("events[4]: its payload is Baseline; {places}")
            ),
            (
                Reason::UnknownKind,
                &*format!("events[7]: its payload is of the unknown kind 11; {places}")
            ),
        ]
    );
}

#[test]
fn a_body_that_is_no_message_is_rejected_as_a_whole() {
    for body in [&b""[..], b"\x10\0\0\0", b"{}", &SAMPLE[..40], &[0; 64]] {
        let converted = convert(body);
        let [rejected] = &converted.rejected[..] else {
            panic!("{converted:?}");
        };
        assert_eq!(rejected.reason, Reason::InvalidMessage);
        assert_eq!(rejected.original, body);
        assert!(converted.events.is_empty());
    }
}

/// What a result takes, roughly: its texts and one place for each entry.
fn weight(converted: &Converted) -> usize {
    let events = converted.events.iter().map(|event| match &event.payload {
        EventPayload::ProcessActivity(it) => it.executable.len() + it.command_line.len(),
        EventPayload::ConnectionActivity(it) => it.executable.as_ref().map_or(0, String::len),
        EventPayload::ListeningPorts(it) => it.ports.len() * 8,
        _ => 0,
    });
    let rejected = converted.rejected.iter().map(|it| it.original.len());
    events.chain(rejected).sum()
}

/// A message whose events are all one and the same process, with a long command line: what a
/// compressor would do, and no agent does.
#[test]
fn a_thing_that_is_named_often_is_read_once() {
    let mut body = SAMPLE.to_vec();
    let buffer = Buffer::new(SAMPLE);
    let root = buffer.root().unwrap();
    let named = root.tables(3).unwrap().unwrap().nth(5).unwrap().unwrap();
    let process = named.table(4).unwrap().unwrap();
    assert_eq!(process.text(5), Ok(Some("curl example.com")));
    // The list of events is written anew behind everything, 2000 times the same.
    let list = body.len();
    let count = 2000_u32;
    body.extend(count.to_le_bytes());
    body.resize(list + 4 + 4 * 2000, 0);
    let event = named.place();
    // An offset leads on only, so the event and all it names is copied behind the list.
    let behind = body.len();
    body.extend_from_slice(SAMPLE);
    for index in 0..2000 {
        let at = list + 4 + 4 * index;
        let offset = u32::try_from(behind + event - at).unwrap();
        body[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    }
    let field = root.place_of(3).unwrap();
    let offset = u32::try_from(list - field).unwrap();
    body[field..field + 4].copy_from_slice(&offset.to_le_bytes());
    let converted = convert(&body);
    assert_eq!(converted.events.len() + converted.rejected.len(), 2000);
    assert!(converted.events.len() > 1, "{:?}", converted.rejected[0]);
    assert!(
        converted
            .rejected
            .iter()
            .all(|it| it.problem.contains("named twice"))
    );
    assert!(weight(&converted) < 4 * body.len());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_keep_much(
        spoilt in prop::collection::vec((0..SAMPLE.len(), any::<u8>()), 0..12),
        cut in 0..=SAMPLE.len(),
    ) {
        let mut body = SAMPLE.to_vec();
        for (at, byte) in spoilt {
            body[at] = byte;
        }
        body.truncate(cut.max(SAMPLE.len() / 2));
        let converted = convert(&body);
        prop_assert!(weight(&converted) <= 16 * body.len());
        for event in &converted.events {
            prop_assert!(event.validate().is_ok());
            prop_assert!(event.kind() != EventKind::AgentStatus);
        }
    }
}
