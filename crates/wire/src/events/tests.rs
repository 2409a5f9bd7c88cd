use jiff::Timestamp;
use posture::event::*;
use prost::Message as _;

use super::*;

fn event(payload: EventPayload) -> SecurityEvent {
    SecurityEvent {
        sequence: 42,
        observed_at: Timestamp::new(1_700_000_000, 123_000_000).unwrap(),
        payload,
    }
}

fn every_kind() -> Vec<SecurityEvent> {
    let text = |text: &str| Some(text.to_owned());
    [
        EventPayload::SystemInformation(Box::new(SystemInformation {
            host_name: text("cam"),
            total_memory_kib: Some(1024),
            interfaces: vec![NetworkInterface {
                name: "eth0".into(),
                mac: text("02:00:00:00:00:01"),
                addresses: vec!["fe80::1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
            }],
            ..SystemInformation::default()
        })),
        EventPayload::ProcessActivity(ProcessActivity {
            action: ProcessAction::Exec,
            pid: 10,
            parent_pid: 1,
            uid: 0,
            user: None,
            executable: "/usr/bin/curl".into(),
            command_line: "curl http://x".into(),
            hit_count: 3,
        }),
        EventPayload::ListeningPorts(ListeningPorts {
            ports: vec![ListeningPort {
                protocol: Protocol::Tcp,
                port: 8888,
                address: "0.0.0.0".parse().unwrap(),
                pid: Some(812),
                executable: None,
            }],
        }),
        EventPayload::ConnectionActivity(ConnectionActivity {
            direction: Direction::Outbound,
            protocol: Protocol::Udp,
            local_address: "::1".parse().unwrap(),
            local_port: 1,
            remote_address: "192.0.2.1".parse().unwrap(),
            remote_port: 65535,
            pid: None,
            executable: text("curl"),
            hit_count: 2,
        }),
        EventPayload::LoginActivity(LoginActivity {
            operation: LoginOperation::LoginFailed,
            user: "root".into(),
            pid: Some(5),
            terminal: text("ssh:notty"),
            remote_address: text("192.0.2.7"),
        }),
        EventPayload::LocalUsers(LocalUsers {
            users: vec![LocalUser {
                uid: 1000,
                name: "alice".into(),
                gid: 1000,
                groups: vec!["sudo".into()],
                shell: None,
            }],
        }),
        EventPayload::Heartbeat,
        EventPayload::FileActivity(FileActivity {
            action: FileAction::MetadataChanged,
            path: "/etc/shadow".into(),
            hit_count: 1,
        }),
        EventPayload::AgentStatus(AgentStatus {
            agent_version: "0.1.0".into(),
            collectors: vec![CollectorStatus {
                name: "Login".into(),
                state: CollectorState::Skipped,
                reason: text("btmp is not readable"),
            }],
        }),
    ]
    .into_iter()
    .map(event)
    .collect()
}

#[test]
fn every_kind_of_event_comes_back_as_it_went() {
    let events = every_kind();
    let kinds: std::collections::BTreeSet<_> = events.iter().map(SecurityEvent::kind).collect();
    assert_eq!(kinds.len(), events.len(), "one example of each kind");
    for event in events {
        let bytes = event_to_wire(&event).encode_to_vec();
        let wire = wire::SecurityEvent::decode(bytes.as_slice()).unwrap();
        assert_eq!(event_from_wire(wire).unwrap(), event);
    }
}

#[test]
fn a_wrong_field_is_named_with_its_path() {
    let wrong = |change: fn(&mut wire::SecurityEvent)| {
        let mut wire = event_to_wire(&every_kind()[2]);
        change(&mut wire);
        event_from_wire(wire).unwrap_err().field
    };
    assert_eq!(wrong(|event| event.sequence = 0), "sequence");
    assert_eq!(wrong(|event| event.observe_time = None), "observe_time");
    assert_eq!(wrong(|event| event.payload = None), "payload");
    let port = |change: fn(&mut wire::ListeningPort)| {
        let mut port = wire::ListeningPort {
            protocol: "tcp".into(),
            address: "::".into(),
            port: 1,
            process_id: 0,
            executable: String::new(),
        };
        change(&mut port);
        let mut wire = event_to_wire(&every_kind()[2]);
        wire.payload = Some(Payload::ListeningPorts(wire::ListeningPorts {
            ports: vec![port],
        }));
        event_from_wire(wire).unwrap_err().field
    };
    assert_eq!(
        port(|port| port.port = 65536),
        "listening_ports.ports[0].port"
    );
    assert_eq!(
        port(|port| port.protocol = "sctp".into()),
        "listening_ports.ports[0].protocol"
    );
    assert_eq!(
        port(|port| port.address = "host".into()),
        "listening_ports.ports[0].address"
    );
}

#[test]
fn lanes_come_back_as_they_went_and_no_others_pass() {
    for lane in Lane::ALL {
        assert_eq!(
            lane_from_wire("lane", lane_to_wire(lane).into()).unwrap(),
            lane
        );
    }
    assert!(lane_from_wire("lane", 0).is_err());
    assert!(lane_from_wire("lane", 4).is_err());
}

/// Bytes written by the first version of the contract; they must be readable for ever.
#[test]
fn old_bytes_still_read() {
    let bytes: &[u8] = &[
        0x08, 0x2a, 0x12, 0x06, 0x08, 0x80, 0xe2, 0xcf, 0xaa, 0x06, 0x82, 0x01, 0x00,
    ];
    let event = event_from_wire(wire::SecurityEvent::decode(bytes).unwrap()).unwrap();
    assert_eq!(event.sequence, 42);
    assert_eq!(event.observed_at, Timestamp::new(1_700_000_000, 0).unwrap());
    assert_eq!(event.payload, EventPayload::Heartbeat);
}
