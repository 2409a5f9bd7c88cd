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

#[tokio::test]
async fn a_hole_in_the_log_sends_those_behind_it_back_to_the_beginning() {
    use crate::store::{Commit, sample, sqlite};

    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(sqlite::SqliteStore::open(folder.path()).expect("it opens"));
    let mut state = sample::take(&*store).await[0];
    state.revision = Revision::new(4);
    let change = TwinChange {
        twin: Some(wire::twin::v1::Twin {
            name: "devices/d".to_owned(),
            ..Default::default()
        }),
        ..TwinChange::default()
    };
    let log = (1..=4).map(|revision| LogEntry {
        partition: state.partition,
        revision: Revision::new(revision),
        // The third is whole, and no change that we know.
        change: match revision {
            3 => vec![0xff],
            _ => change.encode_to_vec(),
        },
    });
    let commit = Commit {
        partitions: vec![state],
        log: log.collect(),
        ..Commit::default()
    };
    store.commit(commit).await.expect("committed");
    let read = async |after| {
        let feed = Feed::new(store.clone(), sample::count());
        let piece = feed.read(state.partition, Revision::new(after)).await;
        piece
            .map(|piece| piece.changes.len())
            .map_err(|error| error.to_string())
    };
    let old = Error::from(ReadError::WatchTooOld).to_string();
    assert_eq!(read(2).await, Err(old.clone()));
    assert_eq!(read(3).await, Ok(1));
    sqlite::tamper(
        folder.path(),
        "UPDATE log SET change = x'00' WHERE revision = 4",
        [],
    );
    assert_eq!(read(3).await, Err(old));
    assert_eq!(read(4).await, Ok(0));
}
