use posture::limits as posture_limits;
use proptest::prelude::*;
use wire::agent::v1::security_event::Payload;
use wire::agent::v1::{Heartbeat, LoginActivity, login_activity};

use super::*;

const EPOCH: &str = "6f6b0c5e-27a5-4c9c-9c41-5a4b7a2f0001";
const LIMITS: BatchLimits = BatchLimits {
    event_bytes_max: 1024,
    batch_bytes_max: 64 << 10,
    batch_events_max: 50,
};

fn heartbeat(sequence: u64) -> agent::SecurityEvent {
    agent::SecurityEvent {
        sequence,
        observe_time: Some(prost_types::Timestamp {
            seconds: 1_800_000_000,
            nanos: 0,
        }),
        payload: Some(Payload::Heartbeat(Heartbeat {})),
    }
}

fn login(sequence: u64, user_name: String) -> agent::SecurityEvent {
    let login = LoginActivity {
        operation: login_activity::Operation::Login.into(),
        user_name,
        ..LoginActivity::default()
    };
    agent::SecurityEvent {
        payload: Some(Payload::Login(login)),
        ..heartbeat(sequence)
    }
}

fn batch(events: Vec<agent::SecurityEvent>) -> agent::EventBatch {
    agent::EventBatch {
        lane: agent::Lane::High.into(),
        epoch: EPOCH.to_owned(),
        events,
        ..agent::EventBatch::default()
    }
}

fn check_refused(batch: agent::EventBatch, reason: &str, words: &str) {
    let problem = admit(batch, &LIMITS).expect_err(words);
    assert_eq!(problem.reason(), reason, "{problem}");
    assert!(problem.to_string().contains(words), "{problem}");
}

#[test]
fn bad_events_are_rejected_by_name_and_the_others_go_on() {
    let events = vec![
        heartbeat(3),
        login(4, "x".repeat(2000)),
        agent::SecurityEvent {
            payload: None,
            ..heartbeat(5)
        },
        agent::SecurityEvent {
            observe_time: None,
            ..heartbeat(7)
        },
        login(8, "u".repeat(posture_limits::NAME_BYTES_MAX + 1)),
        heartbeat(9),
    ];
    let admission = admit(batch(events), &LIMITS).unwrap();
    assert_eq!(admission.through_sequence, 9);
    assert_eq!(admission.epoch.to_string(), EPOCH);
    let admitted: Vec<u64> = admission
        .events
        .iter()
        .map(|event| event.sequence)
        .collect();
    assert_eq!(admitted, [3, 9]);
    let rejected: Vec<_> = admission
        .rejected
        .iter()
        .map(|rejection| (rejection.event.sequence, rejection.reason.as_str()))
        .collect();
    assert_eq!(
        rejected,
        [
            (4, "EVENT_TOO_LARGE"),
            (5, "UNKNOWN_KIND"),
            (7, "INVALID_FIELD"),
            (8, "INVALID_FIELD")
        ]
    );
    assert!(admission.rejected[0].message.contains("at most 1024"));
    assert!(admission.rejected[2].message.contains("observe_time"));
    assert!(admission.rejected[3].message.contains("login.user"));
}

#[test]
fn a_batch_that_cannot_be_acknowledged_is_refused_as_a_whole() {
    check_refused(batch(vec![]), "INVALID_BATCH", "is empty");
    check_refused(
        batch(vec![heartbeat(0)]),
        "INVALID_BATCH",
        "events[0].sequence",
    );
    check_refused(
        batch(vec![heartbeat(2), heartbeat(2)]),
        "INVALID_BATCH",
        "must rise",
    );
    check_refused(
        batch(vec![heartbeat(u64::MAX)]),
        "INVALID_BATCH",
        "allowed are 1 to",
    );
    let mut lane = batch(vec![heartbeat(1)]);
    lane.lane = 0;
    check_refused(lane, "INVALID_BATCH", "events.lane");
    let mut epoch = batch(vec![heartbeat(1)]);
    epoch.epoch = "today".to_owned();
    check_refused(epoch, "INVALID_BATCH", "events.epoch");
    let mut dropped = batch(vec![heartbeat(1)]);
    dropped.dropped_total = u64::MAX;
    check_refused(dropped, "INVALID_BATCH", "dropped_total");
    let mut settled = batch(vec![heartbeat(3)]);
    settled.settled_through = 3;
    check_refused(settled, "INVALID_BATCH", "settled_through");
    check_refused(
        batch((1..=51).map(heartbeat).collect()),
        "MESSAGE_TOO_LARGE",
        "51 events",
    );
    let large = (1..=50)
        .map(|sequence| login(sequence, "x".repeat(2000)))
        .collect();
    check_refused(batch(large), "MESSAGE_TOO_LARGE", "at most 65536");
}

fn any_event() -> impl Strategy<Value = agent::SecurityEvent> {
    (0..20_u64, 0..5_u8, 0..2000_usize).prop_map(|(sequence, kind, length)| match kind {
        0 => agent::SecurityEvent {
            payload: None,
            ..heartbeat(sequence)
        },
        1 => agent::SecurityEvent {
            observe_time: None,
            ..heartbeat(sequence)
        },
        2 => login(sequence, "é".repeat(length)),
        _ => heartbeat(sequence),
    })
}

proptest! {
    #[test]
    fn every_sequence_is_admitted_or_rejected_exactly_once(
        events in prop::collection::vec(any_event(), 0..60),
        sorted: bool,
    ) {
        let mut events = events;
        if sorted {
            events.sort_by_key(|event| event.sequence);
            events.dedup_by_key(|event| event.sequence);
        }
        let given: Vec<u64> = events.iter().map(|event| event.sequence).collect();
        let rising = given.windows(2).all(|pair| pair[0] < pair[1]);
        let acceptable = !given.is_empty() && given[0] > 0 && rising && given.len() <= 50;
        let small = batch(events.clone()).encoded_len() <= LIMITS.batch_bytes_max;

        match admit(batch(events), &LIMITS) {
            Err(problem) => prop_assert!(!acceptable || !small, "{problem}"),
            Ok(admission) => {
                prop_assert!(acceptable && small);
                let mut decided: Vec<u64> =
                    admission.events.iter().map(|event| event.sequence).collect();
                decided.extend(admission.rejected.iter().map(|it| it.event.sequence));
                decided.sort_unstable();
                prop_assert_eq!(&decided, &given);
                prop_assert_eq!(admission.through_sequence, given[given.len() - 1]);
                for rejection in &admission.rejected {
                    prop_assert!(rejection.message.len() <= MESSAGE_BYTES_MAX);
                    prop_assert!(!rejection.message.is_empty());
                }
            }
        }
    }
}
