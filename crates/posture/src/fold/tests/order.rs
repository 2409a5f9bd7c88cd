//! Properties: however events are split, repeated and reordered, the posture is the same.

use super::*;

/// A payload of a kind chosen by a number, with content from another.
fn payload(kind: u8, content: u16) -> EventPayload {
    match kind % 9 {
        0 => ports(&[content, 22]),
        1 => login(LoginOperation::LoginFailed, &content.to_string()),
        2 => login(LoginOperation::Login, &content.to_string()),
        3 => process(
            ProcessAction::Exec,
            &content.to_string(),
            u32::from(content) + 1,
        ),
        4 => process(ProcessAction::Exit, "", u32::from(content) + 1),
        5 => EventPayload::Heartbeat,
        6 => EventPayload::FileActivity(FileActivity {
            action: FileAction::Created,
            path: format!("/tmp/{content}"),
            hit_count: u32::from(content) + 1,
        }),
        7 => EventPayload::AgentStatus(AgentStatus {
            agent_version: content.to_string(),
            collectors: Vec::new(),
        }),
        _ => EventPayload::SystemInformation(Box::new(SystemInformation {
            host_name: Some(content.to_string()),
            ..SystemInformation::default()
        })),
    }
}

/// A life of one lane: events in order, each observed later than the one before, some rejected.
fn arrivals() -> impl Strategy<Value = Vec<AgentBatch>> {
    proptest::collection::vec((any::<u8>(), any::<u16>(), 0_u8..8), 1..64).prop_map(|life| {
        (1..)
            .zip(life)
            .map(|(sequence, (kind, content, admitted))| {
                let second = i64::try_from(sequence).unwrap();
                let (events, rejected) = if admitted == 0 {
                    (Vec::new(), vec![sequence])
                } else {
                    (
                        vec![event(sequence, second, payload(kind, content))],
                        Vec::new(),
                    )
                };
                AgentBatch {
                    rejected_sequences: rejected,
                    ..batch(events)
                }
            })
            .collect()
    })
}

fn merged(batches: &[AgentBatch]) -> AgentBatch {
    AgentBatch {
        events: batches.iter().flat_map(|one| one.events.clone()).collect(),
        rejected_sequences: batches
            .iter()
            .flat_map(|one| one.rejected_sequences.clone())
            .collect(),
        ..batch(Vec::new())
    }
}

fn fold_all(batches: &[AgentBatch]) -> Posture {
    let mut posture = Posture::default();
    for (sequence, one) in (1..).zip(batches) {
        fold(&mut posture, one, sequence);
    }
    posture
}

/// What must be equal: all but the number of repetitions and the position in the stream.
fn facts(mut posture: Posture) -> Posture {
    posture.version = 0;
    posture.delivery.high.duplicates = 0;
    posture
}

/// Every counter of a posture that must never go down.
fn counters(posture: &Posture) -> Vec<u64> {
    let lane = &posture.delivery.high;
    let mut counters = vec![
        posture.version,
        posture.event_count,
        lane.received,
        lane.duplicates,
        lane.rejected,
        lane.lost,
        lane.dropped_by_agent,
        lane.current
            .as_ref()
            .map_or(0, |current| current.last_sequence),
        posture.logins.succeeded,
        posture.logins.failed,
        posture.processes.started,
        posture.processes.exited,
        posture.files.created,
    ];
    counters.extend(
        [
            EventKind::SystemInformation,
            EventKind::ProcessActivity,
            EventKind::ListeningPorts,
            EventKind::LoginActivity,
            EventKind::Heartbeat,
            EventKind::FileActivity,
            EventKind::AgentStatus,
        ]
        .map(|kind| {
            posture
                .events_by_kind
                .get(&kind)
                .copied()
                .unwrap_or_default()
        }),
    );
    counters
}

proptest! {
    #[test]
    fn splitting_repeating_and_reordering_changes_no_fact(
        (life, order, cuts) in arrivals().prop_flat_map(|life| {
            let count = life.len();
            // Every arrival at least once, any of them again, in any order.
            let again = proptest::collection::vec(0..count, 0..count);
            let order = again
                .prop_map(move |again| (0..count).chain(again).collect::<Vec<_>>())
                .prop_shuffle();
            let cuts = proptest::collection::vec(1_usize..9, 1..200);
            (Just(life), order, cuts)
        }),
    ) {
        let once = fold_all(&life);
        let lane = &once.delivery.high;
        prop_assert_eq!(lane.received + lane.rejected, u64::try_from(life.len()).unwrap());
        prop_assert_eq!((lane.missing, lane.lost), (0, 0));

        let shuffled: Vec<AgentBatch> = order.iter().map(|index| life[*index].clone()).collect();
        let mut split = Vec::new();
        let mut rest = shuffled.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            split.push(merged(head));
            rest = tail;
        }
        // 64 arrivals have at most 32 holes, so none is given up on the way.
        prop_assert_eq!(facts(fold_all(&split)), facts(once));
    }

    #[test]
    fn counters_never_go_down_and_json_in_between_changes_nothing(
        life in arrivals(),
        picks in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..3, 0_u64..5), 0..100),
    ) {
        let mut straight = Posture::default();
        let mut through_json = Posture::default();
        for (sequence, (pick, epoch, dropped)) in (1..).zip(picks) {
            let one = AgentBatch {
                epoch: LaneEpoch::from_bytes([epoch; 16]),
                dropped_by_agent: dropped,
                ..pick.get(&life).clone()
            };
            let before = counters(&straight);
            let known_epoch = straight.delivery.high.current.as_ref().map(|current| current.epoch);
            let outcome = fold(&mut straight, &one, sequence);
            let after = counters(&straight);
            let same_epoch =
                known_epoch == straight.delivery.high.current.as_ref().map(|current| current.epoch);
            for (index, (before, after)) in before.iter().zip(&after).enumerate() {
                // The highest sequence starts again with a new epoch.
                let is_last_sequence = index == 7;
                prop_assert!(after >= before || (is_last_sequence && !same_epoch), "{index}");
            }

            let text = serde_json::to_string(&through_json).unwrap();
            through_json = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(fold(&mut through_json, &one, sequence), outcome);
        }
        prop_assert_eq!(through_json, straight);
    }
}
