#![allow(clippy::needless_pass_by_value)] // `json!(…)` reads best as an argument

use posture::event::{LoginOperation, ProcessAction, Protocol};
use posture::{EventKind, EventPayload};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn bag(text: &str) -> PropertyBag {
    PropertyBag::parse(text).unwrap()
}

fn event(name: &str, payload: Value) -> Value {
    let is_empty = payload.as_array().is_some_and(Vec::is_empty);
    json!({
        "Id": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "TimestampLocal": "2024-05-01T12:00:00Z",
        "TimestampUTC": "2024-05-01T10:00:00Z",
        "Category": "Triggered",
        "Name": name,
        "EventType": "Security",
        "IsEmpty": is_empty,
        "PayloadSchemaVersion": "1.0",
        "Payload": payload,
    })
}

fn message(events: Value) -> Value {
    json!({
        "AgentVersion": "0.0.6",
        "AgentId": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "MessageSchemaVersion": "1.0",
        "Events": events,
    })
}

fn read(events: Value) -> Converted {
    convert(&bag(""), message(events).to_string().as_bytes())
}

/// The one event that a payload comes to.
fn one(name: &str, payload: Value) -> EventPayload {
    let mut converted = read(json!([event(name, json!([payload]))]));
    assert_eq!(converted.rejected, []);
    assert_eq!(converted.events.len(), 1);
    converted.events.remove(0).payload
}

/// Why the one payload is rejected.
fn why(name: &str, payload: Value) -> (Reason, String) {
    let converted = read(json!([event(name, json!([payload]))]));
    assert_eq!(converted.events, []);
    let [rejected] = &converted.rejected[..] else {
        panic!("{converted:?}");
    };
    (rejected.reason, rejected.problem.clone())
}

#[test]
fn the_mark_is_the_interface_id() {
    assert!(is_marked(&bag(
        "%24.ifid=urn%3aazureiot%3aSecurity%3aSecurityAgent%3a1&a=b"
    )));
    for other in [
        "",
        "a=b",
        "%24.ifid=urn%3aother",
        "%24.ifid",
        "ifid=urn%3aazureiot%3aSecurity%3aSecurityAgent%3a1",
    ] {
        assert!(!is_marked(&bag(other)), "{other}");
    }
}

#[test]
fn a_message_is_known_again_by_its_id_and_its_body() {
    let known = key(&bag("%24.mid=1"), b"a");
    assert_eq!(key(&bag("%24.mid=1&%24.ct=x"), b"a"), known);
    for (properties, body) in [
        ("%24.mid=1", "b"),
        ("%24.mid=2", "a"),
        ("", "a"),
        ("", "1a"),
    ] {
        assert_ne!(key(&bag(properties), body.as_bytes()), known);
    }
}

#[test]
fn the_documented_message_gives_its_ports() {
    let mut port = event(
        "ListeningPorts",
        json!([{"Protocol": "tcp", "LocalAddress": "0.0.0.0", "LocalPort": "22", "ExtraDetails": {"Pid": "812"}},
               {"Protocol": "udp6", "LocalPort": 53}, {"Protocol": "raw", "LocalPort": "1"}]),
    );
    port["Category"] = json!("Periodic");
    let converted = read(json!([port]));
    assert_eq!(converted.rejected, []);
    let [event] = &converted.events[..] else {
        panic!("{converted:?}");
    };
    assert_eq!(
        (event.sequence, event.observed_at.as_second()),
        (1, 1_714_557_600)
    );
    let EventPayload::ListeningPorts(found) = &event.payload else {
        panic!("{event:?}");
    };
    let found: Vec<_> = found
        .ports
        .iter()
        .map(|it| (it.protocol, it.port, it.address.to_string(), it.pid))
        .collect();
    let wanted = [
        (Protocol::Tcp, 22, "0.0.0.0".to_owned(), Some(812)),
        (Protocol::Udp, 53, "::".to_owned(), None),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn each_kind_comes_to_its_event() {
    let EventPayload::ProcessActivity(process) = one(
        "ProcessCreate",
        json!({"Executable": "/usr/bin/curl", "ProcessId": 7, "ParentProcessId": 1, "UserId": "1000",
               "CommandLine": "curl x", "ExtraDetails": {"HitCount": 3}}),
    ) else {
        panic!("no process");
    };
    assert_eq!((process.action, process.uid), (ProcessAction::Exec, 1000));
    assert_eq!((process.hit_count, &*process.command_line), (3, "curl x"));

    let EventPayload::ProcessActivity(process) = one(
        "ProcessTerminate",
        json!({"Executable": "/usr/bin/curl", "ProcessId": 7, "ExitStatus": 0}),
    ) else {
        panic!("no process");
    };
    assert_eq!(
        (process.action, process.hit_count),
        (ProcessAction::Exit, 1)
    );

    let EventPayload::ConnectionActivity(connection) = one(
        "ConnectionCreate",
        json!({"RemoteAddress": "2001:0db8:0000:0000:0000:0000:0000:0001", "RemotePort": "443",
               "Direction": "Out", "Protocol": "tcp", "ProcessId": 0, "Executable": "/usr/bin/curl",
               "LocalPort": ""}),
    ) else {
        panic!("no connection");
    };
    assert_eq!(connection.remote_address.to_string(), "2001:db8::1");
    assert_eq!(connection.local_address.to_string(), "::");
    assert_eq!((connection.local_port, connection.pid), (0, None));

    for (result, operation, wanted) in [
        ("Fail", "PAM:authentication", LoginOperation::LoginFailed),
        ("Success", "PAM:authentication", LoginOperation::Login),
        ("Success", "Logout", LoginOperation::Logout),
    ] {
        let EventPayload::LoginActivity(login) = one(
            "Login",
            json!({"ProcessId": 9, "Operation": operation, "Executable": "/usr/sbin/sshd",
                   "Result": result, "UserId": "0", "RemoteAddress": "192.0.2.1"}),
        ) else {
            panic!("no login");
        };
        assert_eq!((login.operation, &*login.user), (wanted, "0"));
        assert_eq!(login.remote_address.as_deref(), Some("192.0.2.1"));
    }

    let EventPayload::LocalUsers(users) = one(
        "LocalUsers",
        json!({"UserName": "ann", "UserId": "1000", "GroupNames": "ann;sudo", "GroupIds": "1000;27"}),
    ) else {
        panic!("no users");
    };
    assert_eq!((users.users[0].uid, users.users[0].gid), (1000, 1000));
    assert_eq!(users.users[0].groups, ["ann", "sudo"]);

    let EventPayload::SystemInformation(system) = one(
        "SystemInformation",
        json!({"OSName": "Linux", "OSVersion": "5.10 #1 SMP", "HostName": "h", "TotalPhysicalMemoryInKB": 1024}),
    ) else {
        panic!("no system");
    };
    assert_eq!(system.os_version.as_deref(), Some("5.10 #1 SMP"));
    assert_eq!(system.total_memory_kib, Some(1024));

    let heartbeat = read(json!([event("Heartbeat", json!([]))]));
    assert_eq!(heartbeat.events[0].kind(), EventKind::Heartbeat);
}

#[test]
fn an_empty_snapshot_says_that_there_is_none() {
    for (name, kind) in [
        ("ListeningPorts", EventKind::ListeningPorts),
        ("LocalUsers", EventKind::LocalUsers),
    ] {
        let converted = read(json!([event(name, json!([]))]));
        assert_eq!(converted.events[0].kind(), kind);
    }
    let nothing = read(json!([event("SystemInformation", json!([]))]));
    assert_eq!(nothing, Converted::default());
}

#[test]
fn what_is_no_event_of_ours_says_why() {
    let (reason, problem) = why("FirewallConfiguration", json!({"Enabled": true}));
    assert_eq!(reason, Reason::UnknownKind);
    assert!(
        problem.contains("Events[0].Name is \"FirewallConfiguration\""),
        "{problem}"
    );
    for (name, payload, wanted) in [
        ("Login", json!(1), "Events[0].Payload[0] is no JSON object"),
        (
            "Login",
            json!({"Result": "Fail"}),
            "Events[0].Payload[0].UserName is absent",
        ),
        (
            "Login",
            json!({"Result": "Maybe"}),
            "allowed are \"Success\" and \"Fail\"",
        ),
        (
            "ListeningPorts",
            json!({"Protocol": "tcp", "LocalPort": "65536"}),
            "Events[0].Payload[0].LocalPort is \"65536\"; allowed are 0 to 65535",
        ),
        (
            "ListeningPorts",
            json!({"Protocol": "sctp", "LocalPort": "1"}),
            "allowed are tcp and udp",
        ),
        (
            "ListeningPorts",
            json!({"Protocol": "tcp", "LocalPort": "0"}),
            "listeningPorts.ports[0].port",
        ),
        (
            "ConnectionCreate",
            json!({"Direction": "In"}),
            "RemoteAddress is absent",
        ),
        (
            "LocalUsers",
            json!({"GroupIds": ""}),
            "GroupIds begins with \"\"",
        ),
    ] {
        let (reason, problem) = why(name, payload);
        assert_eq!(reason, Reason::InvalidField, "{problem}");
        assert!(problem.contains(wanted), "{problem}");
    }
}

#[test]
fn one_bad_payload_does_not_take_the_others_along() {
    let good = json!({"Operation": "x", "Result": "Fail", "UserName": "root"});
    let converted = read(json!([
        event("Login", json!([good, {"Result": 1}, good])),
        event("OSBaseline", json!([{}])),
        event("Heartbeat", json!([])),
    ]));
    let sequences: Vec<_> = converted
        .events
        .iter()
        .map(|event| event.sequence)
        .collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert_eq!(converted.rejected.len(), 2);
    assert_eq!(converted.rejected[0].original, b"{\"Result\":1}");
}

#[test]
fn an_envelope_that_is_none_is_rejected_as_a_whole() {
    let mut newer = message(json!([event("Heartbeat", json!([]))]));
    newer["MessageSchemaVersion"] = json!("2.0");
    let many = vec![json!({}); EVENTS_MAX + 1];
    for (body, wanted) in [
        (String::new(), "the body is no JSON"),
        ("[]".to_owned(), "the body is no JSON object"),
        ("{}".to_owned(), "AgentVersion is absent"),
        (
            newer.to_string(),
            "MessageSchemaVersion is \"2.0\"; \"1.0\" is known",
        ),
        (message(json!({})).to_string(), "Events is no list"),
        (message(json!([])).to_string(), "Events has 0"),
        (message(json!(many)).to_string(), "allowed are 1 to 4096"),
    ] {
        let converted = convert(&bag(""), body.as_bytes());
        assert_eq!(converted.events, []);
        let [rejected] = &converted.rejected[..] else {
            panic!("{converted:?}");
        };
        assert_eq!(rejected.reason, Reason::InvalidMessage);
        assert!(rejected.problem.contains(wanted), "{}", rejected.problem);
        assert_eq!(rejected.original, body.as_bytes());
    }
    for unsupported in ["mti=3.0-1-0-0", "mti=2.3-2-0-0", "mti=2.3", "mti="] {
        let converted = convert(&bag(unsupported), b"\x10\0\0\0");
        assert_eq!(converted.rejected[0].reason, Reason::UnsupportedEncoding);
    }
    let json = message(json!([event("Heartbeat", json!([]))])).to_string();
    assert_eq!(
        convert(&bag("mti=1.0-0-1-0"), json.as_bytes()).events.len(),
        1
    );
}

/// Any JSON, with the names that are read among its keys.
fn values() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "Events",
        "Payload",
        "Name",
        "TimestampUTC",
        "IsEmpty",
        "Protocol",
        "LocalPort",
        "Result",
        "UserName",
        "UserId",
        "GroupIds",
        "GroupNames",
        "ExtraDetails",
        "HitCount",
        "Direction",
        "RemoteAddress",
        "Operation",
        "AgentId",
        "AgentVersion",
        "MessageSchemaVersion",
    ]);
    let text = prop::sample::select(vec![
        "",
        "1.0",
        "tcp",
        "22",
        "Login",
        "ListeningPorts",
        "LocalUsers",
        "Fail",
        "In",
        "::1",
        "é;;",
        "2024-05-01T10:00:00Z",
        "18446744073709551616",
        "-1",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn kinds() -> impl Strategy<Value = &'static str> {
    prop::sample::select(payload::Kind::NAMES.to_vec())
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_none_are_lost(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let converted = convert(&bag(""), &body);
        prop_assert_eq!(converted.events.len(), 0);
        prop_assert_eq!(converted.rejected.len(), 1);
    }

    #[test]
    fn whatever_comes_of_any_json_is_valid(body in values(), payload in values(), name in kinds()) {
        let wrapped = message(json!([event(name, json!([payload])), body.clone()]));
        for body in [body, wrapped] {
            let converted = convert(&bag(""), body.to_string().as_bytes());
            for (place, event) in (1..).zip(&converted.events) {
                prop_assert_eq!(event.sequence, place);
                prop_assert_eq!(event.validate(), Ok(()));
            }
            for rejected in &converted.rejected {
                prop_assert!(!rejected.problem.is_empty());
                prop_assert!(rejected.problem.len() < 2000);
            }
        }
    }
}
