use prost_types::Timestamp;

use super::*;

const STREAM: &str = "TWINS_3";

fn change(device: &str, version: u64, changes: &[Change]) -> TwinChange {
    TwinChange {
        revision: version,
        twin: Some(Twin {
            name: format!("devices/{device}"),
            device_id: device.to_owned(),
            version,
            ..Twin::default()
        }),
        changes: changes.iter().map(|change| (*change).into()).collect(),
        trace_parent: format!("trace-{version}"),
        ..TwinChange::default()
    }
}

fn from_event(mut change: TwinChange, second: i64) -> TwinChange {
    let time = Some(Timestamp {
        seconds: second,
        nanos: 0,
    });
    change.timeline = Some(Timeline {
        observe_time: time,
        fold_time: time,
        ..Timeline::default()
    });
    change
}

fn gathered(messages: Vec<Vec<TwinChange>>) -> Gathered {
    let payloads: Vec<Bytes> = messages
        .into_iter()
        .map(|changes| {
            TwinChanges {
                partition: 3,
                changes,
            }
            .encode_to_vec()
            .into()
        })
        .collect();
    let numbered = payloads.iter().enumerate();
    gather(
        STREAM,
        numbered.map(|(at, payload)| (Sequence::new(at as u64 + 1), payload)),
    )
}

fn versions(gathered: &Gathered) -> Vec<(&str, u64)> {
    let candidates = gathered.candidates.iter();
    candidates
        .map(|one| (one.twin.device_id.as_str(), one.twin.version))
        .collect()
}

#[test]
fn each_twin_is_looked_at_once_as_it_is_last() {
    let found = gathered(vec![
        vec![
            change("a", 1, &[Change::Tags]),
            change("b", 1, &[Change::Reported]),
        ],
        vec![change("a", 2, &[Change::Posture])],
    ]);
    assert_eq!(versions(&found), [("a", 2), ("b", 1)]);
    let both = Interest::of_changes([Change::Tags, Change::Posture]);
    assert_eq!(
        found.candidates[0].changed, both,
        "nothing that changed is forgotten"
    );
    assert_eq!(found.candidates[0].source, "TWINS_3/2/0");
    assert!(found.rejected.is_empty());
}

#[test]
fn the_first_event_gives_timeline_and_trace() {
    let found = gathered(vec![vec![
        change("a", 1, &[Change::Reported]),
        from_event(change("a", 2, &[Change::Posture]), 10),
        from_event(change("a", 3, &[Change::Posture]), 20),
    ]]);
    let one = &found.candidates[0];
    assert_eq!(one.twin.version, 3);
    assert_eq!(one.timeline.fold_time.unwrap().seconds, 10);
    assert_eq!(one.traceparent, "trace-2");
}

#[test]
fn the_echo_of_our_own_write_starts_no_loop() {
    let mut echo = from_event(change("a", 1, &[Change::Desired]), 10);
    let time = Some(Timestamp {
        seconds: 11,
        nanos: 0,
    });
    echo.timeline.as_mut().unwrap().commit_time = time;
    let found = gathered(vec![vec![
        echo,
        from_event(change("a", 2, &[Change::Posture]), 20),
    ]]);
    assert_eq!(found.candidates[0].timeline.fold_time.unwrap().seconds, 20);
}

#[test]
fn a_deleted_twin_is_not_looked_at_unless_it_comes_again() {
    let gone = |device, version| TwinChange {
        deleted: true,
        ..change(device, version, &[])
    };
    let found = gathered(vec![vec![
        change("a", 1, &[Change::Tags]),
        gone("a", 2),
        gone("b", 1),
        change("c", 1, &[Change::Tags]),
        gone("c", 2),
        change("c", 3, &[Change::Created]),
    ]]);
    assert_eq!(versions(&found), [("c", 3)]);
    let gone: Vec<String> = found
        .gone
        .iter()
        .map(|(twin, _)| twin.to_string())
        .collect();
    assert_eq!(gone, ["a", "b", "c"]);
    assert_eq!(
        found.candidates[0].changed,
        Interest::of_changes([Change::Created])
    );
}

#[test]
fn poison_is_named_and_the_rest_goes_on() {
    let good = TwinChanges {
        partition: 3,
        changes: vec![change("a", 1, &[Change::Tags])],
    };
    let empty = TwinChanges {
        partition: 3,
        changes: vec![TwinChange::default()],
    };
    let payloads: [Bytes; 3] = [
        Bytes::from_static(b"\xffpoison"),
        empty.encode_to_vec().into(),
        good.encode_to_vec().into(),
    ];
    let numbered = payloads.iter().zip(1..);
    let found = gather(
        STREAM,
        numbered.map(|(payload, at)| (Sequence::new(at), payload)),
    );
    assert_eq!(versions(&found), [("a", 1)]);
    let rejects: Vec<_> = found
        .rejected
        .iter()
        .map(|one| (one.id.as_str(), one.reason.as_str()))
        .collect();
    assert_eq!(
        rejects,
        [
            ("TWINS_3/1", "UNDECODABLE_MESSAGE"),
            ("TWINS_3/2/0", "INVALID_TWIN")
        ]
    );
    assert_eq!(found.rejected[0].original, payloads[0]);
}

#[test]
fn a_change_that_we_do_not_know_concerns_everybody() {
    let mut unknown = change("a", 1, &[]);
    unknown.changes = vec![999];
    let found = gathered(vec![vec![unknown]]);
    assert_eq!(found.candidates[0].changed, Interest::ALL);
}

#[test]
fn the_beginning_of_a_session_does_not_hide_the_event_behind_it() {
    let mut session = from_event(change("a", 1, &[Change::Posture]), 10);
    session.timeline.as_mut().unwrap().observe_time = None;
    let event = from_event(change("a", 2, &[Change::Posture]), 20);
    let found = gathered(vec![vec![session], vec![event]]);
    assert_eq!(found.candidates[0].timeline.fold_time.unwrap().seconds, 20);
    assert_eq!(found.candidates[0].traceparent, "trace-2");
}

#[test]
fn a_restore_is_told_apart_from_a_change_without_a_twin() {
    let restored = TwinChange {
        revision: 7,
        restored: true,
        ..TwinChange::default()
    };
    let messages = vec![
        vec![change("a", 1, &[Change::Desired])],
        vec![restored, change("b", 2, &[Change::Desired])],
    ];
    let found = gathered(messages);
    assert_eq!(found.restored, Some(Sequence::new(2)));
    assert_eq!(versions(&found), [("a", 1), ("b", 2)]);
    assert!(found.rejected.is_empty());

    let nothing = TwinChange {
        restored: false,
        ..TwinChange::default()
    };
    let found = gathered(vec![vec![nothing]]);
    assert_eq!((found.restored, found.rejected.len()), (None, 1));
}
