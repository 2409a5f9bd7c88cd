use super::*;

const EVERYTHING: ReadLimits = ReadLimits {
    bytes: usize::MAX,
    events: usize::MAX,
};

fn segments(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|it| it == "seg"))
        .count()
}

/// On a disk of its own the spool must be able to make room for itself, or acknowledgements would
/// never free anything and nothing would ever be sent again.
#[test]
fn acknowledged_segments_go_also_while_nothing_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LaneLog::open(dir.path(), Uuid::new_v4(), 1).unwrap();
    for _ in 0..5 {
        log.append(b"event").unwrap();
        log.sync().unwrap();
    }
    assert_eq!(segments(dir.path()), 5);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let active = std::mem::replace(&mut log.active, full);
    log.segment_bytes_max = u64::MAX;
    log.append(b"event").unwrap();
    log.acknowledge(Sequence(4)).unwrap();
    assert_eq!(
        log.sync().unwrap_err().kind(),
        io::ErrorKind::StorageFull,
        "the event is not durable, and that is said"
    );
    assert_eq!(segments(dir.path()), 1);
    assert_eq!(log.durable_through(), Sequence(5));

    log.active = active;
    log.sync().unwrap();
    drop(log);
    let mut log = LaneLog::open(dir.path(), Uuid::new_v4(), 1).unwrap();
    let left = log.read(Sequence(0), Sequence(9), EVERYTHING).unwrap();
    let sequences: Vec<u64> = left.iter().map(|event| event.sequence.0).collect();
    assert_eq!(sequences, [5, 6]);
    assert_eq!((log.floor(), log.dropped()), (Sequence(4), 0));
}

#[test]
fn what_no_file_takes_is_dropped_from_memory_and_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LaneLog::open(dir.path(), Uuid::new_v4(), 1 << 20).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let active = std::mem::replace(&mut log.active, full);
    for _ in 0..100 {
        log.append(b"event").unwrap();
    }
    while log.live_count() > 50 {
        assert!(log.drop_oldest().unwrap());
    }
    let (left, dropped) = (log.live_count(), log.dropped());
    assert_eq!(left + dropped, 100);
    assert_eq!(log.live_bytes(), left * record_bytes(5));
    assert_eq!(log.floor(), Sequence(dropped));

    log.active = active;
    log.sync().unwrap();
    drop(log);
    let mut log = LaneLog::open(dir.path(), Uuid::new_v4(), 1 << 20).unwrap();
    assert_eq!((log.live_count(), log.dropped()), (left, dropped));
    let events = log.read(Sequence(0), Sequence(100), EVERYTHING).unwrap();
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence.0).collect();
    let expected: Vec<u64> = (dropped + 1..=100).collect();
    assert_eq!(sequences, expected);
}
