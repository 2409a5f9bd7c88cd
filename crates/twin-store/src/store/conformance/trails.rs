//! The log, the history, the audit entries.

use std::time::Duration;

use twin::{IdentityKey, Revision};

use super::{Opener, change, commit, standing};
use crate::store::sample::{self, audited, revision, sound, take};
use crate::store::{Commit, HistoryEntry, HistoryRead, PartitionState, Retention, Store};
use crate::testing::{key, now};

pub(super) async fn the_log_keeps_its_order_and_forgets_what_is_trimmed(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (one, other) = (states[0], states[1]);
    let at = |state: PartitionState, revision| PartitionState {
        revision: Revision::new(revision),
        ..state
    };
    let log = [3, 1, 2]
        .map(|revision| change(one, revision))
        .into_iter()
        .chain([change(other, 1)])
        .collect();
    let commit = Commit {
        partitions: vec![at(one, 3), at(other, 1)],
        log,
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let read = async |state: PartitionState, after, limit| -> Vec<u64> {
        let page = store
            .log(state.partition, Revision::new(after), limit)
            .await
            .expect("read");
        for found in &page.entries {
            assert_eq!(*found, change(state, found.revision.get()));
        }
        let revisions = page.entries.iter().map(|change| change.revision.get());
        std::iter::once(page.floor.get()).chain(revisions).collect()
    };
    assert_eq!(read(one, 0, 9).await, [0, 1, 2, 3]);
    assert_eq!(read(one, 1, 1).await, [0, 2]);
    let commit = Commit {
        partitions: vec![at(one, 3)],
        trim_log: vec![(one.partition, Revision::new(2))],
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    assert_eq!(read(one, 0, 9).await, [2, 3]);
    assert_eq!(read(other, 0, 9).await, [0, 1]);
}

/// The revisions of an identity that are there, newest first.
pub(super) async fn revisions(store: &dyn Store, of: &str) -> Vec<u64> {
    let all = history(store, &read(&key(of))).await;
    all.iter().map(|entry| entry.revision.get()).collect()
}

fn read(key: &IdentityKey) -> HistoryRead {
    HistoryRead {
        key: key.clone(),
        before: None,
        from: None,
        to: None,
        limit: 100,
    }
}

async fn history(store: &dyn Store, read: &HistoryRead) -> Vec<HistoryEntry> {
    sound(store.history(read.clone()).await.expect("read"))
}

pub(super) async fn the_history_is_read_newest_first_within_its_bounds(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (one, other) = (key("d"), key("d/m"));
    let entries: Vec<_> = [2, 3, 5, 8].map(|number| revision(&one, number)).into();
    let mut all = entries.clone();
    all.push(revision(&other, 4));
    let state = standing(&states, "d", 8);
    let written = Commit {
        history: all,
        ..Commit::default()
    };
    commit(&*store, &[state], written).await;

    let newest_first: Vec<_> = entries.iter().rev().cloned().collect();
    assert_eq!(history(&*store, &read(&one)).await, newest_first);
    assert_eq!(revisions(&*store, "d/m").await, [4]);
    assert!(revisions(&*store, "x").await.is_empty());
    let at = |number: usize| entries[number].at;
    for (narrowed, expected) in [
        (
            HistoryRead {
                limit: 2,
                ..read(&one)
            },
            vec![8, 5],
        ),
        (
            HistoryRead {
                before: Some(Revision::new(5)),
                ..read(&one)
            },
            vec![3, 2],
        ),
        (
            HistoryRead {
                before: Some(Revision::new(4)),
                limit: 1,
                ..read(&one)
            },
            vec![3],
        ),
        (
            HistoryRead {
                from: Some(at(1)),
                ..read(&one)
            },
            vec![8, 5, 3],
        ),
        (
            HistoryRead {
                to: Some(at(1)),
                ..read(&one)
            },
            vec![2],
        ),
        (
            HistoryRead {
                from: Some(at(1)),
                to: Some(at(3)),
                ..read(&one)
            },
            vec![5, 3],
        ),
        (
            HistoryRead {
                before: Some(Revision::new(2)),
                ..read(&one)
            },
            vec![],
        ),
    ] {
        let found = history(&*store, &narrowed).await;
        let found: Vec<_> = found.iter().map(|entry| entry.revision.get()).collect();
        assert_eq!(found, expected, "{narrowed:?}");
    }
}

fn routine(key: &IdentityKey, number: u64) -> HistoryEntry {
    HistoryEntry {
        routine: true,
        patch: format!(r#"{{"posture":{{"n":{number}}}}}"#),
        undo: format!(r#"{{"posture":{{"n":{}}}}}"#, number - 1),
        notification: None,
        ..revision(key, number)
    }
}

pub(super) async fn routine_revisions_are_put_together_and_others_are_not(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (one, other) = (key("d"), key("d/m"));
    // A revision is a second after the one before.
    let steps = [
        vec![routine(&one, 1), routine(&other, 2)],
        vec![routine(&one, 3), routine(&one, 4)],
        vec![revision(&one, 5)],
        vec![routine(&one, 6), routine(&other, 7)],
        vec![routine(&one, 13)],
    ];
    for entries in steps {
        let last = entries.last().map_or(0, |entry| entry.revision.get());
        let written = Commit {
            history: entries,
            coalesce_within: Duration::from_secs(5),
            ..Commit::default()
        };
        commit(&*store, &[standing(&states, "d", last)], written).await;
    }
    let found = history(&*store, &read(&one)).await;
    let spans: Vec<_> = found
        .iter()
        .map(|entry| (entry.first_revision.get(), entry.revision.get()))
        .collect();
    // 13 is too long after 6; 5 is not routine.
    assert_eq!(spans, [(13, 13), (6, 6), (5, 5), (1, 4)]);
    let joined = &found[3];
    assert_eq!(joined.patch, r#"{"posture":{"n":4}}"#);
    assert_eq!(joined.undo, r#"{"posture":{"n":0}}"#);
    assert_eq!(joined.first_at, revision(&one, 1).at);
    assert_eq!(joined.at, revision(&one, 4).at);
    assert_eq!(revisions(&*store, "d/m").await, [7]);
    let written = Commit {
        history: vec![routine(&one, 14)],
        ..Commit::default()
    };
    commit(&*store, &[standing(&states, "d", 14)], written).await;
    assert_eq!(
        revisions(&*store, "d").await,
        [14, 13, 6, 5, 4],
        "without a time nothing is put together"
    );
    assert_eq!(
        history(
            &*store,
            &HistoryRead {
                to: Some(now()),
                ..read(&one)
            }
        )
        .await,
        []
    );
}

/// From the time of the tests to where a span of ten seconds begins.
const BEGIN: Duration = Duration::from_secs(3);

/// Trims with spans of ten seconds; what is at or behind `end` seconds is young.
async fn thin(store: &dyn Store, end: u64) -> u64 {
    let retention = Retention {
        now: now() + BEGIN + Duration::from_secs(end),
        history_age: Duration::MAX,
        history_count: u32::MAX,
        history_span: Duration::from_secs(10),
        history_every: Duration::ZERO,
        request_age: Duration::MAX,
        operation_age: Duration::MAX,
        batch: 3,
    };
    let mut joined = 0;
    loop {
        let trimmed = store.trim(retention).await.expect("trimmed");
        joined += trimmed.joined;
        if !trimmed.more {
            return joined;
        }
    }
}

pub(super) async fn old_routine_revisions_become_one_for_each_span(opener: Opener) {
    let store = opener.open().await;
    let states = take(&*store).await;
    let (one, other) = (key("d"), key("d/m"));
    // A revision is as many seconds behind the beginning of a span as its number.
    let mut entries: Vec<_> = (1..=33).map(|number| routine(&one, number)).collect();
    entries[14] = revision(&one, 15);
    entries.push(routine(&other, 34));
    for (index, entry) in entries.iter_mut().enumerate().take(33) {
        entry.previous = Some(Revision::new(index as u64));
        entry.at += BEGIN;
        entry.first_at += BEGIN;
    }
    let all = Commit {
        history: entries,
        ..Commit::default()
    };
    commit(&*store, &[standing(&states, "d", 34)], all).await;
    let spans = async || -> Vec<(u64, u64)> {
        let found = history(&*store, &read(&one)).await;
        let span = |entry: &HistoryEntry| (entry.first_revision.get(), entry.revision.get());
        found.iter().map(span).collect()
    };
    assert_eq!(thin(&*store, 9).await, 0, "no span is over");
    assert_eq!(spans().await.len(), 33);
    assert_eq!(thin(&*store, 10).await, 8);
    assert_eq!(spans().await[22..], [(11, 11), (10, 10), (1, 9)]);
    // 15 is no routine one, and whatever is young stays by itself.
    assert_eq!(thin(&*store, 32).await, 4 + 3 + 9);
    let found = spans().await;
    assert_eq!(
        found,
        [
            (33, 33),
            (32, 32),
            (31, 31),
            (30, 30),
            (20, 29),
            (16, 19),
            (15, 15),
            (10, 14),
            (1, 9)
        ]
    );
    assert_eq!(thin(&*store, 32).await, 0, "once");
    let joined = &history(&*store, &read(&one)).await[4];
    assert_eq!(joined.previous, Some(Revision::new(19)));
    assert_eq!(joined.patch, r#"{"posture":{"n":29}}"#);
    assert_eq!(joined.undo, r#"{"posture":{"n":19}}"#);
    assert_eq!(revisions(&*store, "d/m").await, [34]);
}

pub(super) async fn the_history_of_a_removed_identity_stays(opener: Opener) {
    let store = opener.open().await;
    let mut states = take(&*store).await;
    let created = sample::created(&mut states, &["d"]);
    store.commit(created).await.expect("committed");
    let mut removed = sample::created(&mut states, &["d"]);
    removed.upserts.clear();
    removed.deletes = vec![key("d")];
    store.commit(removed).await.expect("committed");
    assert_eq!(store.get(key("d")).await.expect("read"), None);
    assert_eq!(revisions(&*store, "d").await, [2, 1]);
    opener.is_sound().await;
    // Created anew, it is a new identity with the old one's past.
    let again = sample::created(&mut states, &["d"]);
    store.commit(again).await.expect("committed");
    assert_eq!(revisions(&*store, "d").await, [3, 2, 1]);
    opener.is_sound().await;
}

pub(super) async fn the_chain_of_audit_entries_is_kept_in_order(opener: Opener) {
    let store = opener.open().await;
    let mut states = take(&*store).await;
    let mut written = Vec::new();
    for round in 0..3 {
        let state = &mut states[1];
        let entries: Vec<_> = (0..2)
            .map(|number| audited(state, &format!("devices/d{round}{number}")))
            .collect();
        written.extend(entries.clone());
        let states = [*state];
        let entries = Commit {
            audit: entries,
            ..Commit::default()
        };
        commit(&*store, &states, entries).await;
    }
    let partition = states[1].partition;
    let page = store.audit(partition, 0, 100).await.expect("read");
    assert_eq!(page.head, states[1].audit);
    let entries = sound(page.entries);
    assert_eq!(entries, written);
    crate::audit::verify(&entries, page.head).expect("whole");
    let page = store.audit(partition, 2, 3).await.expect("read");
    assert_eq!(sound(page.entries), written[2..5]);
    assert_eq!(page.head, states[1].audit, "of the chain, not of the page");
    let other = store.audit(states[0].partition, 0, 9).await.expect("read");
    assert!(other.entries.is_empty());
    assert_eq!(other.head.sequence, 0);
    let again = take(&*store).await;
    assert_eq!(again[1].audit, states[1].audit);
}
