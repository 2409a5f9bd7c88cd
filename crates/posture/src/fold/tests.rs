use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::event::{
    AgentStatus, CollectorState, CollectorStatus, ConnectionActivity, Direction, EventKind,
    EventPayload, FileAction, FileActivity, ListeningPort, ListeningPorts, LocalUser, LocalUsers,
    LoginActivity, LoginOperation, ProcessAction, ProcessActivity, Protocol, SystemInformation,
};
use crate::limits;
use crate::posture::Delivery;

mod messages;
mod order;
mod sessions;

const EPOCH: LaneEpoch = LaneEpoch::from_bytes([7; 16]);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn event(sequence: u64, second: i64, payload: EventPayload) -> SecurityEvent {
    SecurityEvent {
        sequence,
        observed_at: at(second),
        payload,
    }
}

fn batch(events: Vec<SecurityEvent>) -> AgentBatch {
    AgentBatch {
        lane: Lane::High,
        epoch: EPOCH,
        events,
        rejected_sequences: Vec::new(),
        dropped_by_agent: 0,
        settled_through: 0,
        received_at: at(1_000_000),
    }
}

fn port(port: u16) -> ListeningPort {
    ListeningPort {
        protocol: Protocol::Tcp,
        port,
        address: Ipv4Addr::UNSPECIFIED.into(),
        pid: Some(u32::from(port)),
        executable: Some("/usr/sbin/sshd".to_owned()),
    }
}

fn ports(numbers: &[u16]) -> EventPayload {
    EventPayload::ListeningPorts(ListeningPorts {
        ports: numbers.iter().map(|number| port(*number)).collect(),
    })
}

fn login(operation: LoginOperation, user: &str) -> EventPayload {
    EventPayload::LoginActivity(LoginActivity {
        operation,
        user: user.to_owned(),
        pid: None,
        terminal: Some("pts/0".to_owned()),
        remote_address: Some("192.0.2.1".to_owned()),
    })
}

fn process(action: ProcessAction, command_line: &str, hit_count: u32) -> EventPayload {
    EventPayload::ProcessActivity(ProcessActivity {
        action,
        pid: 10,
        parent_pid: 1,
        uid: 0,
        user: Some("root".to_owned()),
        executable: "/usr/bin/curl".to_owned(),
        command_line: command_line.to_owned(),
        hit_count,
    })
}

fn shown_ports(posture: &Posture) -> Vec<u16> {
    posture
        .listening_ports
        .iter()
        .map(|port| port.port)
        .collect()
}

#[test]
fn each_kind_of_event_shows_in_the_posture() {
    let mut posture = Posture::default();
    let local: IpAddr = Ipv4Addr::LOCALHOST.into();
    let payloads = vec![
        EventPayload::SystemInformation(Box::new(SystemInformation {
            host_name: Some("gate".to_owned()),
            ..SystemInformation::default()
        })),
        ports(&[8080, 22, 22]),
        EventPayload::LocalUsers(LocalUsers {
            users: vec![LocalUser {
                uid: 0,
                name: "root".to_owned(),
                gid: 0,
                groups: vec!["root".to_owned()],
                shell: Some("/bin/bash".to_owned()),
            }],
        }),
        login(LoginOperation::Login, "ann"),
        login(LoginOperation::Logout, "ann"),
        login(LoginOperation::LoginFailed, "eve"),
        process(ProcessAction::Exec, "curl x", 3),
        process(ProcessAction::Fork, "", 2),
        process(ProcessAction::Exit, "", 4),
        EventPayload::ConnectionActivity(ConnectionActivity {
            direction: Direction::Outbound,
            protocol: Protocol::Tcp,
            local_address: local,
            local_port: 40_000,
            remote_address: local,
            remote_port: 443,
            pid: None,
            executable: None,
            hit_count: 5,
        }),
        EventPayload::FileActivity(FileActivity {
            action: FileAction::Modified,
            path: "/etc/passwd".to_owned(),
            hit_count: 6,
        }),
        EventPayload::Heartbeat,
        EventPayload::AgentStatus(AgentStatus {
            agent_version: "0.1.0".to_owned(),
            collectors: vec![CollectorStatus {
                name: "Process".to_owned(),
                state: CollectorState::Degraded,
                reason: Some("polling".to_owned()),
            }],
        }),
    ];
    let events = (1..)
        .zip(payloads)
        .map(|(sequence, payload)| event(sequence, 100 + i64::try_from(sequence).unwrap(), payload))
        .collect();
    let outcome = fold(&mut posture, &batch(events), 42);

    assert_eq!(
        outcome,
        FoldOutcome {
            applied: 13,
            duplicates: 0,
            new_missing: 0,
            changes: Changes {
                listening_ports: true,
                users: true,
                system: true,
                agent: true,
                logins: true,
            },
            first_observed_at: Some(at(101)),
        }
    );
    assert_eq!(posture.version, 42);
    assert_eq!(posture.updated_at, Some(at(1_000_000)));
    assert_eq!(posture.event_count, 13);
    assert_eq!(posture.events_by_kind[&EventKind::LoginActivity], 3);
    assert_eq!(shown_ports(&posture), [22, 8080]);
    assert_eq!(posture.listening_ports_snapshot.count, 2);
    assert_eq!(posture.listening_ports_snapshot.observed_at, Some(at(102)));
    assert_eq!(posture.users.len(), 1);
    let logins = &posture.logins;
    assert_eq!(
        (logins.succeeded, logins.failed, logins.logged_out),
        (1, 1, 1)
    );
    assert_eq!(logins.recent_failures[0].user, "eve");
    assert_eq!(logins.last_failed_at, Some(at(106)));
    let processes = &posture.processes;
    assert_eq!(
        (processes.started, processes.forked, processes.exited),
        (3, 2, 4)
    );
    assert_eq!(processes.recent.len(), 1);
    assert_eq!(posture.connections.outbound, 5);
    assert_eq!(posture.files.modified, 6);
    assert_eq!(posture.agent.last_heartbeat_at, Some(at(112)));
    assert_eq!(posture.agent.version.as_deref(), Some("0.1.0"));
    assert_eq!(
        posture.agent.collectors["Process"].state,
        CollectorState::Degraded
    );

    let document = serde_json::to_value(&posture).unwrap();
    assert_eq!(document["listeningPorts"][0]["port"], 22);
    assert_eq!(document["listeningPorts"][0]["protocol"], "tcp");
    assert_eq!(document["eventsByKind"]["heartbeat"], 1);
    assert_eq!(document["delivery"]["high"]["epoch"], EPOCH.to_string());
    assert_eq!(document["delivery"]["high"]["lastSequence"], 13);
    assert_eq!(document["delivery"]["low"]["received"], 0);
    assert_eq!(
        document["agent"]["collectors"]["Process"]["state"],
        "degraded"
    );
    assert_eq!(
        document["logins"]["recentFailures"][0]["at"],
        "1970-01-01T00:01:46.000Z"
    );
    assert_eq!(document["configuration"]["state"], "none");
}

#[test]
fn an_empty_document_is_the_default_posture() {
    assert_eq!(
        serde_json::from_str::<Posture>("{}").unwrap(),
        Posture::default()
    );
}

#[test]
fn a_batch_that_comes_again_counts_as_duplicates_and_nothing_else() {
    let mut posture = Posture::default();
    let first = AgentBatch {
        rejected_sequences: vec![2],
        dropped_by_agent: 3,
        ..batch(vec![
            event(1, 10, login(LoginOperation::LoginFailed, "eve")),
            event(3, 12, ports(&[22])),
        ])
    };
    fold(&mut posture, &first, 1);
    let mut expected = posture.clone();
    let again = fold(&mut posture, &first, 2);
    assert_eq!(
        (again.applied, again.duplicates, again.new_missing),
        (0, 3, 0)
    );
    assert_eq!(again.changes, Changes::default());
    assert_eq!(again.first_observed_at, None);

    expected.version = 2;
    expected.delivery.high.duplicates = 3;
    assert_eq!(posture, expected);
    let lane = &posture.delivery.high;
    assert_eq!(
        (lane.received, lane.rejected, lane.dropped_by_agent),
        (2, 1, 3)
    );
    assert_eq!((lane.missing, lane.lost), (0, 0));
}

#[test]
fn a_gap_is_missing_until_it_is_filled() {
    let mut posture = Posture::default();
    let heartbeat = |sequence| event(sequence, 10, EventPayload::Heartbeat);
    let outcome = fold(&mut posture, &batch(vec![heartbeat(1), heartbeat(5)]), 1);
    assert_eq!(outcome.new_missing, 3);
    let outcome = fold(&mut posture, &batch(vec![heartbeat(3), heartbeat(7)]), 2);
    assert_eq!((outcome.applied, outcome.new_missing), (2, 1));
    assert_eq!(posture.delivery.high.missing, 3);
    assert_eq!(posture.event_count, 4);
}

#[test]
fn rejected_sequences_between_admitted_ones_leave_no_holes() {
    let mut posture = Posture::default();
    let mixed = AgentBatch {
        rejected_sequences: (1..=500).map(|n| 2 * n).collect(),
        ..batch(
            (1..=500)
                .map(|n| event(2 * n - 1, 10, EventPayload::Heartbeat))
                .collect(),
        )
    };
    let outcome = fold(&mut posture, &mixed, 1);
    assert_eq!((outcome.applied, outcome.new_missing), (500, 0));
    let lane = &posture.delivery.high;
    assert_eq!(
        (lane.received, lane.rejected, lane.missing, lane.lost),
        (500, 500, 0, 0)
    );
}

#[test]
fn lanes_number_on_their_own() {
    let mut posture = Posture::default();
    for lane in Lane::ALL {
        let of_lane = AgentBatch {
            lane,
            ..batch(vec![event(1, 10, EventPayload::Heartbeat)])
        };
        assert_eq!(fold(&mut posture, &of_lane, 1).applied, 1);
    }
    assert_eq!(posture.event_count, 3);
    let Delivery {
        high, medium, low, ..
    } = &posture.delivery;
    assert_eq!((high.received, medium.received, low.received), (1, 1, 1));
}

#[test]
fn a_reinstalled_agent_counts_on() {
    let mut posture = Posture::default();
    fold(
        &mut posture,
        &batch(vec![event(1, 10, EventPayload::Heartbeat)]),
        1,
    );
    let reinstalled = AgentBatch {
        epoch: LaneEpoch::from_bytes([8; 16]),
        ..batch(vec![event(1, 20, EventPayload::Heartbeat)])
    };
    assert_eq!(fold(&mut posture, &reinstalled, 2).applied, 1);
    assert_eq!(fold(&mut posture, &reinstalled, 3).duplicates, 1);
    assert_eq!(posture.delivery.high.received, 2);
    assert_eq!(posture.event_count, 2);
}

#[test]
fn a_late_snapshot_cannot_turn_back_time() {
    let mut posture = Posture::default();
    fold(
        &mut posture,
        &batch(vec![event(2, 20, ports(&[22, 80]))]),
        1,
    );
    let late = fold(&mut posture, &batch(vec![event(1, 10, ports(&[22]))]), 2);
    assert_eq!(late.applied, 1);
    assert!(!late.changes.listening_ports);
    assert_eq!(shown_ports(&posture), [22, 80]);

    let closed = fold(&mut posture, &batch(vec![event(3, 20, ports(&[22]))]), 3);
    assert!(
        closed.changes.listening_ports,
        "of one instant the later arrival wins"
    );
    assert_eq!(shown_ports(&posture), [22]);
    let same = fold(&mut posture, &batch(vec![event(4, 30, ports(&[22]))]), 4);
    assert!(!same.changes.listening_ports);
}

#[test]
fn a_clock_that_runs_ahead_does_not_freeze_a_snapshot() {
    let mut posture = Posture::default();
    let ahead = AgentBatch {
        received_at: at(100),
        ..batch(vec![event(1, 900_000, ports(&[22]))])
    };
    assert_eq!(
        fold(&mut posture, &ahead, 1).first_observed_at,
        Some(at(100))
    );
    let mended = AgentBatch {
        received_at: at(200),
        ..batch(vec![event(2, 150, ports(&[80]))])
    };
    fold(&mut posture, &mended, 2);
    assert_eq!(shown_ports(&posture), [80]);
}

#[test]
fn what_a_posture_keeps_is_bounded_and_says_so() {
    let mut posture = Posture::default();
    let all: Vec<u16> = (1..=1024).rev().collect();
    let mut events = vec![event(1, 10, ports(&all))];
    for sequence in 2..=101 {
        let second = i64::try_from(sequence).unwrap();
        let long = "é".repeat(4_000);
        events.push(event(
            sequence,
            second,
            process(ProcessAction::Exec, &long, 1),
        ));
    }
    fold(&mut posture, &batch(events), 1);
    assert_eq!(
        posture.listening_ports.len(),
        limits::POSTURE_LISTENING_PORTS_MAX
    );
    assert_eq!(posture.listening_ports_snapshot.count, 1024);
    assert_eq!(posture.listening_ports[0].port, 1);

    let recent = &posture.processes.recent;
    assert_eq!(recent.len(), limits::RECENT_MAX);
    assert_eq!(recent[0].at, at(101), "newest first");
    assert!(
        recent
            .iter()
            .all(|entry| entry.command_line.len() <= limits::POSTURE_TEXT_BYTES_MAX)
    );
    assert!(recent[0].command_line.ends_with('…'));
    assert_eq!(posture.processes.started, 100);
}

#[test]
fn a_posture_that_never_saw_the_epoch_counts_from_what_the_agent_has_settled() {
    let mut posture = Posture::default();
    let after = AgentBatch {
        settled_through: 1013,
        ..batch(vec![
            event(1014, 1, EventPayload::Heartbeat),
            event(1016, 2, EventPayload::Heartbeat),
        ])
    };
    fold(&mut posture, &after, 1);
    assert_eq!(posture.delivery.high.received, 2);
    assert_eq!(posture.delivery.high.missing, 1, "1015 alone");
    // Known by now: what the agent settles later was received here.
    let later = AgentBatch {
        settled_through: 1016,
        ..batch(vec![event(1019, 3, EventPayload::Heartbeat)])
    };
    fold(&mut posture, &later, 2);
    assert_eq!(posture.delivery.high.missing, 3, "1015, 1017 and 1018");
}
