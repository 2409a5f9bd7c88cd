use super::*;
use crate::testing::{key, record};

fn partition() -> Partition {
    let count = twin::PartitionCount::new(1).expect("a count");
    count.partitions().next().expect("there is one")
}

fn at(name: &str, revision: u64) -> Record {
    Record {
        revision: Revision::new(revision),
        ..record(name, "g")
    }
}

fn change(name: &str, revision: u64) -> Committed {
    Committed {
        key: key(name),
        partition: partition(),
        revision: Revision::new(revision),
        touch: Touch::default(),
        record: None,
    }
}

#[test]
fn a_change_that_the_snapshot_has_shown_is_known_and_a_later_one_is_not() {
    let mut seen = Seen::from(BTreeMap::from([(partition(), Revision::new(5))]));
    seen.shown(partition(), &at("old", 3));
    assert!(seen.ahead.is_empty(), "no change of it can come");
    // Changed three times while the snapshot was read: 6, 8 and, after its page, 9.
    seen.shown(partition(), &at("d", 8));
    assert!(seen.knows(&change("d", 6)));
    assert!(!seen.knows(&change("e", 7)));
    assert!(seen.knows(&change("d", 8)));
    assert!(!seen.knows(&change("d", 9)));
}

#[test]
fn what_is_remembered_goes_once_the_changes_have_caught_up() {
    let mut seen = Seen::from(BTreeMap::from([(partition(), Revision::ZERO)]));
    for revision in 1..=100 {
        seen.shown(partition(), &at(&format!("d{revision}"), revision));
    }
    assert_eq!(seen.ahead.len(), 100);
    for revision in 1..=100 {
        assert!(seen.knows(&change(&format!("d{revision}"), revision)));
    }
    assert!(seen.ahead.is_empty() && seen.revisions.is_empty());
    seen.shown(partition(), &at("d7", 7));
    assert!(
        seen.ahead.is_empty(),
        "a later page needs no memory of old changes"
    );
}
