//! What a trim forgets, and what it keeps.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use twin::Revision;

use super::small::token;
use super::trails::revisions;
use super::{Opener, commit, standing};
use crate::store::sample::{self, revision, take};
use crate::store::{
    Commit, HistoryEntry, Loaded, OperationId, OperationResultRow, OperationRow, Retention,
    Selection, Store, Trimmed,
};
use crate::testing::{device, key, now};

/// Keeps everything for ever.
fn forever(now: Timestamp) -> Retention {
    Retention {
        now,
        history_age: Duration::MAX,
        history_count: u32::MAX,
        history_span: Duration::ZERO,
        history_every: Duration::MAX,
        request_age: Duration::MAX,
        operation_age: Duration::MAX,
        batch: 100,
    }
}

/// Trims until nothing is left to do; answers what was removed.
async fn trim(store: &dyn Store, retention: Retention) -> Trimmed {
    let mut all = Trimmed::default();
    for _ in 0..1000 {
        let trimmed = store.trim(retention).await.expect("trimmed");
        all.revisions += trimmed.revisions;
        all.joined += trimmed.joined;
        all.written += trimmed.written;
        all.requests += trimmed.requests;
        all.operations += trimmed.operations;
        if !trimmed.more {
            return all;
        }
    }
    panic!("it does not end");
}

pub(super) async fn a_trim_forgets_tokens_an_hour_after_they_expired(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (short, long) = (SignedDuration::from_mins(1), SignedDuration::from_hours(5));
    let commit = Commit {
        partitions: vec![standing(&states, "d", 0)],
        tokens: vec![token(1, short), token(3, long), token(5, long)],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    for (after, expected) in [(1, vec![1, 3, 5]), (3, vec![3, 5]), (9, vec![])] {
        let retention = Retention {
            batch: 1,
            ..forever(now() + SignedDuration::from_hours(after))
        };
        trim(&*store, retention).await;
        let mut left = Vec::new();
        for hash in [1, 3, 5] {
            let selection = Selection::Token([hash; 32], device("d"));
            if !store.load(vec![selection]).await.expect("read").is_empty() {
                left.push(hash);
            }
        }
        assert_eq!(left, expected, "after {after} h");
    }
}

pub(super) async fn a_trim_forgets_old_answers_and_ended_operations(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let at = |minutes| now() + SignedDuration::from_mins(minutes);
    let mut requests = Vec::new();
    for number in 0..4 {
        let mut answer = sample::answers().remove(0);
        answer.id.0 = number.to_string();
        answer.at = at(number);
        requests.push(answer);
    }
    let operation = |id: &str, ended, minutes| OperationRow {
        id: OperationId(id.to_owned()),
        ended,
        at: at(minutes),
        body: "{}".to_owned(),
    };
    let mut results = Vec::new();
    for id in ["1", "2", "3"] {
        let mut result = sample::results().remove(0);
        result.operation.0 = id.to_owned();
        results.push(result);
    }
    let written = Commit {
        operations: vec![
            operation("1", true, 0),
            operation("2", false, 0),
            operation("3", true, 20),
        ],
        results,
        requests,
        ..Commit::default()
    };
    commit(&*store, &states, written).await;
    let retention = Retention {
        request_age: Duration::from_mins(8),
        operation_age: Duration::from_mins(1),
        batch: 1,
        ..forever(at(10))
    };
    let trimmed = trim(&*store, retention).await;
    assert_eq!((trimmed.requests, trimmed.operations), (2, 1));
    let mut left = Vec::new();
    for mut answer in (0..4).map(|_| sample::answers().remove(0)).enumerate() {
        answer.1.id.0 = answer.0.to_string();
        let loaded = store.load(vec![Selection::Request(answer.1.id)]).await;
        for found in loaded.expect("read") {
            if let Loaded::Request(found) = found {
                left.push(found.id.0);
            }
        }
    }
    assert_eq!(left, ["2", "3"]);
    let rows = store.operations(None, 9).await.expect("read");
    let ids: Vec<_> = rows.records.iter().map(|row| &*row.id.0).collect();
    assert_eq!(ids, ["3", "2"]);
    for (id, count) in [("1", 0), ("2", 1), ("3", 1)] {
        let id = OperationId(id.to_owned());
        let results = store.operation_results(id, None, 9).await.expect("read");
        assert_eq!(results.records.len(), count);
    }
}

/// Writes revisions of identities in a device's partition.
async fn write(store: &dyn Store, entries: Vec<HistoryEntry>) {
    let states = take(store).await;
    let last = entries.iter().map(|entry| entry.revision.get()).max();
    let device = entries[0].key.device.to_string();
    let written = Commit {
        history: entries,
        ..Commit::default()
    };
    let state = standing(&states, &device, last.unwrap_or(0));
    commit(store, &[state], written).await;
}

pub(super) async fn a_trim_takes_the_oldest_revisions_only(opener: Opener) {
    let store = opener.open().await;
    let (one, other) = (key("d"), key("d/m"));
    let mut entries: Vec<_> = (1..=6).map(|number| revision(&one, number)).collect();
    // The clock was put back between 3 and 4: what is behind a revision that stays must stay.
    entries[3].at = entries[0].at;
    entries[3].first_at = entries[0].at;
    entries.push(revision(&other, 9));
    write(&*store, entries).await;
    let old = |age| Retention {
        history_age: Duration::from_secs(age),
        batch: 2,
        ..forever(now() + SignedDuration::from_secs(10))
    };
    // Younger than 7.5 s before 10 s: the revisions from 3 on.
    let trimmed = trim(
        &*store,
        Retention {
            history_age: Duration::from_millis(7500),
            ..old(0)
        },
    );
    assert_eq!(trimmed.await.revisions, 2);
    assert_eq!(revisions(&*store, "d").await, [6, 5, 4, 3]);
    // 4 looks as old as the first, but 3 before it is young.
    assert_eq!(trim(&*store, old(8)).await.revisions, 0);
    assert_eq!(trim(&*store, old(5)).await.revisions, 2);
    assert_eq!(revisions(&*store, "d").await, [6, 5]);
    assert_eq!(trim(&*store, old(1)).await.revisions, 2);
    assert!(revisions(&*store, "d").await.is_empty());
    assert_eq!(revisions(&*store, "d/m").await, [9]);
}

pub(super) async fn what_may_not_go_yet_keeps_nobody_else(opener: Opener) {
    let store = opener.open().await;
    // A clock was ahead for a moment: all that came afterwards is behind a revision that is young.
    let mut entries: Vec<_> = (1..=6).map(|number| revision(&key("d"), number)).collect();
    entries[0].at = now() + SignedDuration::from_secs(9);
    entries.extend((7..=8).map(|number| {
        let at = now() + SignedDuration::from_secs(7);
        HistoryEntry {
            at,
            first_at: at,
            ..revision(&key("e"), number)
        }
    }));
    write(&*store, entries).await;
    let retention = Retention {
        history_age: Duration::from_secs(2),
        batch: 2,
        ..forever(now() + SignedDuration::from_secs(10))
    };
    assert_eq!(trim(&*store, retention).await.revisions, 2);
    assert!(revisions(&*store, "e").await.is_empty());
    assert_eq!(revisions(&*store, "d").await, [6, 5, 4, 3, 2, 1]);
}

pub(super) async fn one_step_back_of_a_clock_puts_nothing_together_twice(opener: Opener) {
    let store = opener.open().await;
    let times = [1, 2, 3, 5, 4, 6];
    let entries = (1..=6).zip(times).map(|(number, second)| {
        let at = now() + SignedDuration::from_secs(second);
        HistoryEntry {
            at,
            first_at: at,
            routine: true,
            previous: Some(Revision::new(number - 1)),
            ..revision(&key("d"), number)
        }
    });
    write(&*store, entries.collect()).await;
    let retention = Retention {
        history_span: Duration::from_hours(1),
        history_every: Duration::from_mins(1),
        ..forever(now() + SignedDuration::from_hours(2))
    };
    trim(&*store, retention).await;
    assert_eq!(revisions(&*store, "d").await, [6]);
}

pub(super) async fn a_trim_keeps_the_newest_revisions_of_each_identity(opener: Opener) {
    let store = opener.open().await;
    let (one, other) = (key("d"), key("d/m"));
    let mut entries: Vec<_> = (1..=20).map(|number| revision(&one, number)).collect();
    entries.extend((21..=23).map(|number| revision(&other, number)));
    write(&*store, entries).await;
    let retention = Retention {
        history_count: 4,
        batch: 3,
        ..forever(now() + SignedDuration::from_mins(5))
    };
    assert_eq!(trim(&*store, retention).await.revisions, 16);
    assert_eq!(revisions(&*store, "d").await, [20, 19, 18, 17]);
    assert_eq!(revisions(&*store, "d/m").await, [23, 22, 21]);
    // What comes later is found, too, also by a process that has just started.
    write(
        &*store,
        (24..=26).map(|number| revision(&other, number)).collect(),
    )
    .await;
    assert_eq!(trim(&*opener.open().await, retention).await.revisions, 2);
    assert_eq!(revisions(&*store, "d/m").await, [26, 25, 24, 23]);
}

pub(super) async fn what_a_device_reports_often_drives_out_nobody_else(opener: Opener) {
    let store = opener.open().await;
    let one = key("d");
    let entries = (1..=20).map(|number| HistoryEntry {
        // An operator wrote first, and once in between.
        routine: !matches!(number, 1 | 10),
        ..revision(&one, number)
    });
    write(&*store, entries.collect()).await;
    let later = now() + SignedDuration::from_mins(5);
    let retention = Retention {
        history_count: 2,
        history_span: Duration::from_mins(1),
        history_every: Duration::from_hours(1),
        ..forever(later)
    };
    assert_eq!(trim(&*store, retention).await.revisions, 0);
    assert_eq!(revisions(&*store, "d").await.len(), 20);
    // One more that counts: the oldest goes, and nothing else.
    write(&*store, vec![revision(&one, 21)]).await;
    assert_eq!(trim(&*store, retention).await.revisions, 1);
    assert_eq!(revisions(&*store, "d").await.last(), Some(&2));
    // When they are old they are one each, and count.
    let much_later = Retention {
        history_count: 4,
        now: later + SignedDuration::from_hours(2),
        ..retention
    };
    trim(&*store, much_later).await;
    assert_eq!(revisions(&*store, "d").await, [21, 20, 10, 9]);
}

/// A fleet whose devices report in turn: routine revisions, all within a span of an hour.
fn reports(devices: u64, each: u64) -> Vec<HistoryEntry> {
    let mut entries = Vec::new();
    for round in 0..each {
        for device in 0..devices {
            let number = round * devices + device + 1;
            let at = hour() + Duration::from_secs(number);
            entries.push(HistoryEntry {
                routine: true,
                notification: None,
                at,
                first_at: at,
                patch: format!(r#"{{"posture":{{"n":{number}}}}}"#),
                undo: r#"{"posture":{"n":0}}"#.to_owned(),
                ..revision(&key(&format!("d{device:03}")), number)
            });
        }
    }
    entries
}

/// The begin of a span of an hour.
fn hour() -> Timestamp {
    let second = now().as_second();
    Timestamp::from_second(second - second % 3600).expect("a time")
}

fn hourly(batch: u32) -> Retention {
    Retention {
        history_span: Duration::from_hours(1),
        history_every: Duration::ZERO,
        batch,
        ..forever(hour() + SignedDuration::from_hours(1))
    }
}

pub(super) async fn each_routine_revision_is_put_together_once(opener: Opener) {
    let store = opener.open().await;
    write(&*store, reports(300, 10)).await;
    // Far fewer at once than there are identities.
    let all = trim(&*store, hourly(50)).await;
    assert_eq!((all.written, all.joined), (300, 2700));
    for device in ["d000", "d150", "d299"] {
        assert_eq!(revisions(&*store, device).await.len(), 1);
    }
    assert_eq!(trim(&*store, hourly(50)).await, Trimmed::default());
}

pub(super) async fn where_age_and_thinning_meet_nothing_is_noted(opener: Opener) {
    let store = opener.open().await;
    write(&*store, reports(2, 100)).await;
    // Of each hundred that become one, more than half are too old.
    let retention = Retention {
        history_age: Duration::from_mins(58),
        ..hourly(4)
    };
    let mut ends = false;
    for _ in 0..200 {
        ends = !store.trim(retention).await.expect("trimmed").more;
        assert_eq!(store.damaged().await.expect("read"), []);
        if ends {
            break;
        }
    }
    assert!(ends, "it does not end");
    assert_eq!(revisions(&*store, "d000").await, [199]);
    assert_eq!(revisions(&*store, "d001").await, [200]);
}

pub(super) async fn what_was_looked_at_is_not_looked_at_again_after_a_start(opener: Opener) {
    let store = opener.open().await;
    let mut entries = reports(20, 3);
    for entry in &mut entries {
        entry.routine = false;
    }
    write(&*store, entries).await;
    let retention = Retention {
        history_count: 9,
        ..hourly(2)
    };
    // It is let go half-way.
    for _ in 0..3 {
        assert!(store.trim(retention).await.expect("trimmed").more);
    }
    store.close().await;
    let store = opener.open().await;
    let mut turns = 0;
    while store.trim(retention).await.expect("trimmed").more {
        turns += 1;
        assert!(turns < 100, "it does not end");
    }
    store.close().await;
    let store = opener.open().await;
    let first = store.trim(retention).await.expect("trimmed");
    assert_eq!(
        first,
        Trimmed::default(),
        "there is nothing left to look at"
    );
}

pub(super) async fn a_trim_does_no_more_than_it_may_at_once(opener: Opener) {
    let store = opener.open().await;
    let one = key("d");
    write(
        &*store,
        (1..=9).map(|number| revision(&one, number)).collect(),
    )
    .await;
    let retention = Retention {
        history_age: Duration::from_secs(1),
        batch: 4,
        ..forever(now() + SignedDuration::from_hours(1))
    };
    let mut left = 9;
    while left > 0 {
        let trimmed = store.trim(retention).await.expect("trimmed");
        assert!(trimmed.revisions <= 4, "{trimmed:?}");
        left -= trimmed.revisions;
        assert_eq!(revisions(&*store, "d").await.len() as u64, left);
        assert!(trimmed.more || left == 0);
    }
}

pub(super) async fn a_trim_by_count_does_no_more_than_it_may_at_once(opener: Opener) {
    let store = opener.open().await;
    let (one, other) = (key("d"), key("d/m"));
    let mut entries: Vec<_> = (1..=20).map(|number| revision(&one, number)).collect();
    entries.extend((21..=29).map(|number| revision(&other, number)));
    write(&*store, entries).await;
    let retention = Retention {
        history_count: 2,
        batch: 4,
        ..forever(now() + SignedDuration::from_mins(5))
    };
    let (mut left, mut rounds) = (29, 0);
    loop {
        let trimmed = store.trim(retention).await.expect("trimmed");
        assert!(trimmed.revisions <= 4, "{trimmed:?}");
        left -= trimmed.revisions;
        let mut found = 0;
        for (name, newest) in [("d", 20), ("d/m", 29)] {
            let there = revisions(&*store, name).await;
            let expected: Vec<_> = (0..there.len() as u64).map(|back| newest - back).collect();
            assert_eq!(there, expected, "only the oldest go");
            found += there.len() as u64;
        }
        assert_eq!(found, left);
        rounds += 1;
        assert!(rounds < 100, "it does not end");
        if !trimmed.more {
            break;
        }
    }
    assert_eq!(left, 4);
}

pub(super) async fn a_trim_forgets_results_before_their_operation(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let id = OperationId("1".to_owned());
    let results = (0..9).map(|number| OperationResultRow {
        operation: id.clone(),
        key: key(&format!("d{number}")),
        body: "{}".to_owned(),
    });
    let written = Commit {
        operations: vec![OperationRow {
            id: id.clone(),
            ended: true,
            at: now(),
            body: "{}".to_owned(),
        }],
        results: results.collect(),
        ..Commit::default()
    };
    commit(&*store, &states, written).await;
    let retention = Retention {
        operation_age: Duration::from_secs(1),
        batch: 4,
        ..forever(now() + SignedDuration::from_hours(1))
    };
    let mut left = 9;
    for _ in 0..9 {
        let trimmed = store.trim(retention).await.expect("trimmed");
        let page = store.operation_results(id.clone(), None, 99).await;
        let now_left = page.expect("read").records.len();
        assert!(left - now_left <= 4, "{left} and then {now_left}");
        left = now_left;
        let operations = store.operations(None, 9).await.expect("read").records;
        assert_eq!(operations.is_empty(), trimmed.operations == 1);
        if operations.is_empty() {
            assert_eq!(left, 0, "the results go first");
            return;
        }
        assert!(trimmed.more);
    }
    panic!("it does not end");
}
