//! The audit log by time.

use jiff::SignedDuration;
use twin::Partition;

use super::{Opener, commit};
use crate::audit;
use crate::store::sample::take;
use crate::store::{AuditEntry, AuditPlace, AuditRead, Commit, PartitionState, Store};
use crate::testing::now;

/// Actors, actions and resources: some of many entries, some of few.
const ACTORS: [&str; 3] = ["operator:alice", "operator:bob", "operator:carol"];
const ACTIONS: [&str; 3] = ["twin.patch", "device.create", "device.delete"];
const RESOURCES: [&str; 5] = [
    "devices/a",
    "devices/a/modules/m",
    "devices/a0",
    "devices/a-b",
    "policies/a",
];

fn entry(state: &mut PartitionState, at: i64, of: [&str; 3]) -> AuditEntry {
    let [actor, action, resource] = of.map(str::to_owned);
    let entry = AuditEntry {
        partition: state.partition,
        sequence: 0,
        at: now() + SignedDuration::from_secs(at),
        actor,
        action,
        resource,
        detail: "{}".to_owned(),
        trace_parent: None,
        hash: [0; 32],
    };
    audit::append(&mut state.audit, entry)
}

async fn write(store: &dyn Store, states: &[PartitionState], entries: &[AuditEntry]) {
    for entries in entries.chunks(1000) {
        let entries = Commit {
            audit: entries.to_vec(),
            ..Commit::default()
        };
        commit(store, states, entries).await;
    }
}

fn place(entry: &AuditEntry) -> AuditPlace {
    AuditPlace {
        at: entry.at,
        partition: entry.partition,
        sequence: entry.sequence,
    }
}

/// All that a reading finds, a page after the other.
async fn all(store: &dyn Store, read: &AuditRead) -> Vec<AuditEntry> {
    let mut read = read.clone();
    let mut entries = Vec::new();
    loop {
        let found = store.audit_by_time(read.clone()).await.expect("read");
        assert!(found.looked_at <= read.limit as usize, "{found:?}");
        entries.extend(found.entries.into_iter().map(|entry| entry.expect("whole")));
        let Some(next) = found.next else {
            return entries;
        };
        assert_ne!(Some(next), read.after, "it goes on");
        read.after = Some(next);
    }
}

/// What should be found.
fn expected(entries: &[AuditEntry], read: &AuditRead) -> Vec<AuditEntry> {
    let mut entries = entries.to_vec();
    entries.retain(|entry| read.wants(entry));
    entries.sort_by_key(place);
    if read.newest_first {
        entries.reverse();
    }
    entries
}

pub(super) async fn entries_are_found_by_time_and_by_what_they_say(opener: Opener) {
    let store = opener.open().await;
    let mut states = take(&*store).await;
    let mut entries = Vec::new();
    // Times go up and down, several share one, and each chain has some of each.
    for number in 0..60_usize {
        let state = &mut states[number % 4];
        let at = [5, 3, 3, 8, 1][number % 5] + i64::try_from(number / 20).unwrap();
        let of = [
            ACTORS[number % 3],
            ACTIONS[number % 7 % 3],
            RESOURCES[number % 11 % 5],
        ];
        entries.push(entry(state, at, of));
    }
    write(&*store, &states, &entries).await;
    let text = |text: &str| Some(text.to_owned());
    let times = [
        (None, None),
        (Some(3), None),
        (None, Some(6)),
        (Some(4), Some(9)),
    ];
    let at = |seconds: Option<i64>| seconds.map(|at| now() + SignedDuration::from_secs(at));
    for newest_first in [true, false] {
        for (from, to) in times {
            for (actor, action, resource) in [
                (None, None, None),
                (text(ACTORS[1]), None, None),
                (None, text(ACTIONS[2]), None),
                (None, None, text("devices/a")),
                (None, None, text("devices")),
                (text(ACTORS[0]), text(ACTIONS[1]), text("devices/a")),
                (text("nobody"), None, None),
                (None, None, text("device")),
            ] {
                for limit in [1, 7, 1000] {
                    let read = AuditRead {
                        newest_first,
                        from: at(from),
                        to: at(to),
                        actor: actor.clone(),
                        action: action.clone(),
                        resource: resource.clone(),
                        after: None,
                        limit,
                        by: None,
                    };
                    let found = all(&*store, &read).await;
                    assert_eq!(found, expected(&entries, &read), "{read:?}");
                }
            }
        }
    }
}

/// So many entries that some filters find more than is put in order without an index.
pub(super) async fn filters_that_find_much_and_little_find_the_same_as_the_plain_rule(
    opener: Opener,
) {
    let store = opener.open().await;
    let mut states = take(&*store).await;
    let mut entries = Vec::new();
    for number in 0..2500_usize {
        let is_rare = number % 500 == 7;
        let at = i64::try_from(number % 700).unwrap();
        let of = [
            ACTORS[usize::from(is_rare)],
            ACTIONS[usize::from(number % 900 == 3)],
            RESOURCES[usize::from(number % 300 == 5)],
        ];
        entries.push(entry(&mut states[number % 4], at, of));
    }
    write(&*store, &states, &entries).await;
    let text = |text: &str| Some(text.to_owned());
    for (actor, action, resource) in [
        (text(ACTORS[0]), None, None),
        (text(ACTORS[1]), None, None),
        (None, text(ACTIONS[0]), text("devices/a")),
        (text(ACTORS[0]), text(ACTIONS[1]), None),
        (text(ACTORS[1]), None, text("devices/a")),
        (None, None, text(RESOURCES[1])),
    ] {
        for newest_first in [true, false] {
            let read = AuditRead {
                newest_first,
                actor: actor.clone(),
                action: action.clone(),
                resource: resource.clone(),
                limit: 300,
                ..AuditRead::default()
            };
            let found = all(&*store, &read).await;
            assert_eq!(found, expected(&entries, &read), "{read:?}");
        }
    }
}

pub(super) async fn a_damaged_entry_stands_in_its_place_in_time(opener: Opener) {
    let store = opener.open().await;
    let mut states = take(&*store).await;
    let state = &mut states[1];
    let entries: Vec<_> = (0..3)
        .map(|at| entry(state, at, [ACTORS[0], ACTIONS[0], RESOURCES[0]]))
        .collect();
    write(&*store, &states, &entries).await;
    let damaged: Partition = states[1].partition;
    opener
        .tamper(format!(
            "UPDATE audit SET hash = {} WHERE partition = {damaged} AND sequence = 2",
            opener.bytes("00")
        ))
        .await;
    let read = AuditRead {
        newest_first: true,
        // What nobody can read may be anybody's.
        actor: Some(ACTORS[0].to_owned()),
        limit: 10,
        ..AuditRead::default()
    };
    let found = store.audit_by_time(read).await.expect("read").entries;
    let places: Vec<_> = found
        .iter()
        .map(|entry| match entry {
            Ok(entry) => (entry.sequence, true),
            Err(hole) => (hole.at.1, false),
        })
        .collect();
    assert_eq!(places, [(3, true), (2, false), (1, true)]);
    assert_eq!(store.damaged().await.expect("read").len(), 1);
}
