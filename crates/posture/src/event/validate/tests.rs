use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::*;
use crate::event::{
    AgentStatus, CollectorState, CollectorStatus, FileAction, FileActivity, ListeningPort,
    LocalUser, LoginActivity, LoginOperation, NetworkInterface, ProcessAction, ProcessActivity,
    Protocol,
};

fn refused_as(payload: EventPayload, messages: &[&str]) {
    let error = event(payload).validate().unwrap_err();
    let shown: Vec<String> = error.violations.iter().map(ToString::to_string).collect();
    assert_eq!(shown, messages);
}

fn event(payload: EventPayload) -> SecurityEvent {
    SecurityEvent {
        sequence: 1,
        observed_at: Timestamp::UNIX_EPOCH,
        payload,
    }
}

fn port(port: u16) -> ListeningPort {
    ListeningPort {
        protocol: Protocol::Tcp,
        port,
        address: Ipv4Addr::LOCALHOST.into(),
        pid: None,
        executable: None,
    }
}

#[test]
fn what_is_at_its_limits_passes() {
    let payload = EventPayload::ListeningPorts(ListeningPorts {
        ports: vec![
            ListeningPort {
                executable: Some("x".repeat(limits::PATH_BYTES_MAX)),
                ..port(1)
            };
            limits::LISTENING_PORTS_MAX
        ],
    });
    assert_eq!(event(payload).validate(), Ok(()));
    assert_eq!(event(EventPayload::Heartbeat).validate(), Ok(()));
}

#[test]
fn sequences_are_from_1_to_what_json_keeps_exactly() {
    for sequence in [0, limits::SEQUENCE_MAX + 1] {
        let wrong = SecurityEvent {
            sequence,
            ..event(EventPayload::Heartbeat)
        };
        assert_eq!(
            wrong.validate().unwrap_err().to_string(),
            format!("sequence is {sequence}, allowed are 1 to 9007199254740991")
        );
    }
}

#[test]
fn what_is_over_is_named_with_its_path_and_bound() {
    let long = |bytes| "x".repeat(bytes);
    refused_as(
        EventPayload::ProcessActivity(ProcessActivity {
            action: ProcessAction::Exec,
            pid: 1,
            parent_pid: 0,
            uid: 0,
            user: Some(long(256)),
            executable: long(4097),
            command_line: long(4097),
            hit_count: 0,
        }),
        &[
            "process.hitCount is 0, allowed are 1 to 4294967295",
            "process.user is 256 bytes, allowed are 0 to 255",
            "process.executable is 4097 bytes, allowed are 0 to 4096",
            "process.commandLine is 4097 bytes, allowed are 0 to 4096",
        ],
    );
    refused_as(
        EventPayload::ListeningPorts(ListeningPorts {
            ports: [vec![port(1), port(0)], vec![port(2); 1023]].concat(),
        }),
        &[
            "listeningPorts.ports is 1025 entries, allowed are 0 to 1024",
            "listeningPorts.ports[1].port is 0, allowed are 1 to 65535",
        ],
    );
    refused_as(
        EventPayload::LocalUsers(LocalUsers {
            users: vec![LocalUser {
                uid: 0,
                name: long(300),
                gid: 0,
                groups: vec![long(1); 257],
                shell: None,
            }],
        }),
        &[
            "localUsers.users[0].name is 300 bytes, allowed are 0 to 255",
            "localUsers.users[0].groups is 257 entries, allowed are 0 to 256",
        ],
    );
    refused_as(
        EventPayload::LoginActivity(LoginActivity {
            operation: LoginOperation::LoginFailed,
            user: long(256),
            pid: None,
            terminal: None,
            remote_address: Some(long(256)),
        }),
        &[
            "login.user is 256 bytes, allowed are 0 to 255",
            "login.remoteAddress is 256 bytes, allowed are 0 to 255",
        ],
    );
    refused_as(
        EventPayload::FileActivity(FileActivity {
            action: FileAction::Created,
            path: long(4097),
            hit_count: 1,
        }),
        &["file.path is 4097 bytes, allowed are 0 to 4096"],
    );
    refused_as(
        EventPayload::AgentStatus(AgentStatus {
            agent_version: String::new(),
            collectors: vec![CollectorStatus {
                name: "Process".to_owned(),
                state: CollectorState::Failed,
                reason: Some(long(1025)),
            }],
        }),
        &["agentStatus.collectors[0].reason is 1025 bytes, allowed are 0 to 1024"],
    );
    refused_as(
        EventPayload::SystemInformation(Box::new(SystemInformation {
            os_name: Some(long(256)),
            interfaces: vec![NetworkInterface {
                addresses: vec![Ipv4Addr::LOCALHOST.into(); 65],
                ..NetworkInterface::default()
            }],
            ..SystemInformation::default()
        })),
        &[
            "systemInformation.osName is 256 bytes, allowed are 0 to 255",
            "systemInformation.interfaces[0].addresses is 65 entries, allowed are 0 to 64",
        ],
    );
}

#[test]
fn a_report_of_many_violations_is_bounded() {
    let payload = EventPayload::ListeningPorts(ListeningPorts {
        ports: vec![port(0); 1000],
    });
    let error = event(payload).validate().unwrap_err();
    assert_eq!(error.violations.len(), VIOLATIONS_MAX);
}
