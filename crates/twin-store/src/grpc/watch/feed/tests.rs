use super::*;
use crate::testing::key;

fn piece(revisions: impl IntoIterator<Item = u64>, through: u64) -> Piece {
    let change = |revision| Arc::new(logged(key("d"), revision, TwinChange::default()));
    Piece {
        changes: revisions.into_iter().map(change).collect(),
        through: Revision::new(through),
    }
}

/// The revisions that a ring has behind one, and up to where it was read.
fn read(ring: &Ring, after: u64) -> Option<(Vec<u64>, u64)> {
    let piece = ring.read(Revision::new(after))?;
    let revisions = piece.changes.iter().map(|change| change.revision.get());
    Some((revisions.collect(), piece.through.get()))
}

#[test]
fn a_ring_answers_only_what_it_holds_whole() {
    let mut ring = Ring::at(Revision::new(10));
    assert_eq!(read(&ring, 10), None, "nothing is known yet");
    // 12 could not be read, and 14 was the last.
    ring.append(&piece([11, 13], 14), 1000);
    assert_eq!(read(&ring, 9), None, "10 may have been anything");
    assert_eq!(read(&ring, 10), Some((vec![11, 13], 14)));
    assert_eq!(read(&ring, 12), Some((vec![13], 14)));
    assert_eq!(read(&ring, 13), Some((vec![], 14)));
    assert_eq!(read(&ring, 14), None, "the store knows what follows");
    assert!(ring.is_behind(Revision::new(15)));
}

#[test]
fn a_ring_forgets_the_oldest_beyond_its_bytes() {
    let mut ring = Ring::at(Revision::ZERO);
    let change = TwinChange {
        trace_parent: "x".repeat(100),
        ..TwinChange::default()
    };
    for revision in 1..=10 {
        let change = Arc::new(logged(key("d"), revision, change.clone()));
        let piece = Piece {
            changes: vec![change],
            through: Revision::new(revision),
        };
        ring.append(&piece, 350);
    }
    assert_eq!(ring.changes.len(), 3);
    assert_eq!(read(&ring, 6), None);
    assert_eq!(read(&ring, 7), Some((vec![8, 9, 10], 10)));
}

#[test]
fn a_long_answer_comes_in_pages() {
    let mut ring = Ring::at(Revision::ZERO);
    ring.append(&piece(1..=300, 305), usize::MAX);
    let (first, through) = read(&ring, 0).expect("held");
    assert_eq!((first.len(), through), (256, 256));
    assert_eq!(read(&ring, 256), Some(((257..=300).collect(), 305)));
}
