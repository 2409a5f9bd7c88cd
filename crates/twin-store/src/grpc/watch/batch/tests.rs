use wire::bus::v1::TwinChange;

use super::*;
use crate::grpc::watch::feed::logged;
use crate::testing::key;

fn change(name: &str, revision: u64, changes: &[i32]) -> Arc<Logged> {
    let change = TwinChange {
        changes: changes.to_vec(),
        ..TwinChange::default()
    };
    Arc::new(logged(key(name), revision, change))
}

fn removal(name: &str, revision: u64) -> Arc<Logged> {
    let change = TwinChange {
        deleted: true,
        ..TwinChange::default()
    };
    Arc::new(logged(key(name), revision, change))
}

/// `key@revision [changes]` of what a batch comes to.
fn gathered(batch: Batch) -> Vec<String> {
    let line = |gathered: Gathered| {
        let (last, changes) = (&gathered.last, &gathered.changes);
        let end = if last.change.deleted { " gone" } else { "" };
        format!("{}@{} {changes:?}{end}", last.key, last.revision)
    };
    batch.into_changes().into_iter().map(line).collect()
}

#[test]
fn of_each_twin_the_last_change_stays_with_all_that_was_touched() {
    let mut batch = Batch::default();
    for logged in [
        change("a", 1, &[5]),
        change("b", 2, &[3]),
        change("a", 3, &[2, 5]),
        change("c", 4, &[]),
        change("a", 5, &[5]),
    ] {
        batch.take(logged);
    }
    assert_eq!(gathered(batch), ["b@2 {3}", "c@4 {}", "a@5 {2, 5}"]);
}

#[test]
fn what_a_deleted_identity_was_is_forgotten_by_the_one_after_it() {
    let mut batch = Batch::default();
    for logged in [
        change("a", 1, &[2]),
        removal("a", 2),
        change("a", 3, &[1]),
        change("b", 4, &[1]),
        removal("b", 5),
    ] {
        batch.take(logged);
    }
    assert_eq!(gathered(batch), ["a@3 {1}", "b@5 {1} gone"]);
}

#[test]
fn a_batch_is_bounded_in_twins_and_in_changes() {
    let mut twins = Batch::default();
    let mut one = Batch::default();
    for revision in 1.. {
        if twins.is_full() && one.is_full() {
            break;
        }
        if !twins.is_full() {
            twins.take(change(&format!("d{revision}"), revision, &[]));
        }
        one.take(change("a", revision, &[5]));
    }
    assert_eq!(twins.into_changes().len(), TWINS_MAX);
    assert_eq!(one.into_changes().len(), 1);
}

#[test]
fn it_is_known_who_was_shown_until_there_are_too_many() {
    let mut shown = Shown::nothing();
    shown.add(&key("a"));
    assert!(!shown.remove(&key("b")));
    assert!(shown.remove(&key("a")));
    assert!(!shown.remove(&key("a")), "told once");
    for number in 0..=SHOWN_MAX {
        shown.add(&key(&format!("d{number}")));
    }
    assert!(shown.known.is_none(), "bounded");
    assert!(shown.remove(&key("b")), "better told once too often");
    assert!(Shown::unknown().remove(&key("a")));
}
