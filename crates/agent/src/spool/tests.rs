//! What the spool promises: order, durability, exact counts, and healing.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

const EVERYTHING: ReadLimits = ReadLimits {
    bytes: usize::MAX,
    events: usize::MAX,
};
const LAST: Sequence = Sequence(u64::MAX);

fn options(bytes_max: u64) -> Options {
    Options {
        bytes_max,
        segment_bytes: 256,
    }
}

fn read_all(spool: &mut Spool, lane: Lane) -> Vec<(u64, Vec<u8>)> {
    spool
        .read(lane, Sequence(0), LAST, EVERYTHING)
        .unwrap()
        .into_iter()
        .map(|event| (event.sequence.0, event.payload))
        .collect()
}

fn segments(dir: &Path, lane: Lane) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir.join(lane.as_str()))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn an_event_is_shown_only_after_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(10_000)).unwrap();
    spool.append(Lane::High, b"one").unwrap();
    assert_eq!(read_all(&mut spool, Lane::High), []);
    spool.sync().unwrap();
    assert_eq!(read_all(&mut spool, Lane::High), [(1, b"one".to_vec())]);
}

#[test]
fn a_reader_goes_on_where_it_stopped_and_can_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(100_000)).unwrap();
    for number in 0..50_u8 {
        spool.append(Lane::Low, &[number; 40]).unwrap();
    }
    spool.sync().unwrap();
    let mut after = Sequence(0);
    let mut seen = Vec::new();
    loop {
        let limits = ReadLimits {
            bytes: 100,
            events: 9,
        };
        let events = spool.read(Lane::Low, after, Sequence(45), limits).unwrap();
        let Some(last) = events.last() else { break };
        assert!(events.len() <= 2, "100 bytes hold two events of 40");
        after = last.sequence;
        seen.extend(events.into_iter().map(|event| event.sequence.0));
    }
    assert_eq!(seen, (1..=45).collect::<Vec<_>>());
    assert_eq!(read_all(&mut spool, Lane::Low).len(), 50);
}

#[test]
fn acknowledged_segments_leave_the_disk_and_sequences_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(100_000)).unwrap();
    for number in 0..40_u8 {
        spool.append(Lane::Medium, &[number; 50]).unwrap();
        spool.sync().unwrap();
    }
    assert!(segments(dir.path(), Lane::Medium).len() > 5);
    spool.acknowledge(Lane::Medium, Sequence(40)).unwrap();
    spool.sync().unwrap();
    assert_eq!(segments(dir.path(), Lane::Medium).len(), 1);
    let epoch = spool.status(Lane::Medium).epoch;
    drop(spool);

    let mut spool = Spool::open(dir.path(), options(100_000)).unwrap();
    assert_eq!(spool.status(Lane::Medium).epoch, epoch);
    assert_eq!(spool.append(Lane::Medium, b"next").unwrap(), Sequence(41));
}

#[test]
fn a_torn_tail_is_cut_off_and_its_sequence_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(10_000)).unwrap();
    spool.append(Lane::High, b"kept").unwrap();
    spool.sync().unwrap();
    let before = fs::metadata(&segments(dir.path(), Lane::High)[0])
        .unwrap()
        .len();
    spool.append(Lane::High, b"torn").unwrap();
    spool.sync().unwrap();
    drop(spool);
    let path = segments(dir.path(), Lane::High).remove(0);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(before + 18)
        .unwrap();

    let mut spool = Spool::open(dir.path(), options(10_000)).unwrap();
    assert_eq!(read_all(&mut spool, Lane::High), [(1, b"kept".to_vec())]);
    assert_eq!(spool.status(Lane::High).dropped_total, 0);
    assert_eq!(spool.append(Lane::High, b"again").unwrap(), Sequence(2));
    spool.sync().unwrap();
    assert_eq!(read_all(&mut spool, Lane::High).len(), 2);
}

#[test]
fn damage_inside_costs_only_the_damaged_event_and_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(10_000)).unwrap();
    for text in [b"first", b"wrong", b"third"] {
        spool.append(Lane::High, text).unwrap();
    }
    spool.sync().unwrap();
    drop(spool);
    let path = segments(dir.path(), Lane::High).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(5)
        .position(|window| window == b"wrong")
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();

    for _ in 0..2 {
        let mut spool = Spool::open(dir.path(), options(10_000)).unwrap();
        let events = read_all(&mut spool, Lane::High);
        assert_eq!(events, [(1, b"first".to_vec()), (3, b"third".to_vec())]);
        assert_eq!(spool.status(Lane::High).dropped_total, 1);
    }
}

#[test]
fn a_lane_that_lost_its_epoch_begins_anew_and_counts_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(10_000)).unwrap();
    let epoch = spool.status(Lane::Low).epoch;
    for _ in 0..3 {
        spool.append(Lane::Low, b"event").unwrap();
    }
    spool.sync().unwrap();
    drop(spool);
    fs::write(dir.path().join("low/epoch"), "not a uuid").unwrap();

    let mut spool = Spool::open(dir.path(), options(10_000)).unwrap();
    let status = spool.status(Lane::Low);
    assert_ne!(status.epoch, epoch);
    assert_eq!((status.dropped_total, status.waiting_count), (3, 0));
    assert_eq!(spool.append(Lane::Low, b"event").unwrap(), Sequence(1));
}

#[test]
fn over_the_bound_the_oldest_of_the_lowest_lane_go_first_and_counts_survive() {
    let dir = tempfile::tempdir().unwrap();
    // Each event takes 100 bytes with its header; ten fit.
    let mut spool = Spool::open(dir.path(), options(1_000)).unwrap();
    let event = [7; 84];
    for lane in [Lane::High, Lane::Medium, Lane::Low] {
        for _ in 0..4 {
            spool.append(lane, &event).unwrap();
        }
    }
    let counts = |spool: &Spool| {
        Lane::ALL.map(|lane| {
            (
                spool.status(lane).waiting_count,
                spool.status(lane).dropped_total,
            )
        })
    };
    assert_eq!(counts(&spool), [(4, 0), (4, 0), (2, 2)]);
    for _ in 0..5 {
        spool.append(Lane::High, &event).unwrap();
    }
    assert_eq!(counts(&spool), [(9, 0), (1, 3), (0, 4)]);
    spool.sync().unwrap();
    drop(spool);

    let mut spool = Spool::open(dir.path(), options(1_000)).unwrap();
    assert_eq!(counts(&spool), [(9, 0), (1, 3), (0, 4)]);
    assert_eq!(read_all(&mut spool, Lane::Medium)[0].0, 4);
    assert_eq!(spool.append(Lane::Low, &event).unwrap(), Sequence(5));
}

#[test]
fn events_that_wait_too_long_go_by_whole_segments_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(100_000)).unwrap();
    for _ in 0..9 {
        spool.append(Lane::Low, &[1; 84]).unwrap();
        spool.sync().unwrap();
    }
    // Three events of 100 bytes fill a segment of 256.
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000);
    for path in &segments(dir.path(), Lane::Low)[..2] {
        OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    spool
        .expire(Timestamp::from_second(2_000).unwrap())
        .unwrap();
    spool.sync().unwrap();
    let status = spool.status(Lane::Low);
    assert_eq!((status.dropped_total, status.waiting_count), (6, 3));
    assert_eq!(read_all(&mut spool, Lane::Low)[0].0, 7);
    assert_eq!(segments(dir.path(), Lane::Low).len(), 1);
}

#[test]
fn an_acknowledgement_beyond_what_was_made_durable_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(10_000)).unwrap();
    spool.append(Lane::High, b"durable").unwrap();
    spool.sync().unwrap();
    spool.append(Lane::High, b"not yet").unwrap();
    spool.acknowledge(Lane::High, Sequence(99)).unwrap();
    spool.sync().unwrap();
    assert_eq!(read_all(&mut spool, Lane::High), [(2, b"not yet".to_vec())]);
}

#[test]
fn an_event_over_the_limit_is_refused_and_takes_no_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), options(10_000_000)).unwrap();
    let error = spool
        .append(Lane::High, &vec![0; EVENT_BYTES_MAX + 1])
        .unwrap_err();
    assert!(matches!(error, Error::EventTooLarge { .. }), "{error}");
    assert_eq!(spool.append(Lane::High, b"small").unwrap(), Sequence(1));
}

/// What a random run does to the spool.
#[derive(Debug, Clone)]
enum Step {
    Append(Lane, usize),
    Sync,
    /// Acknowledges this many of the durable events of a lane.
    Acknowledge(Lane, u64),
    Read(Lane, usize),
    /// kill -9: nothing in memory is left; perhaps half a record was being written.
    Kill {
        torn_tail: Option<(Lane, Vec<u8>)>,
    },
    Reopen,
}

fn lane() -> impl Strategy<Value = Lane> {
    prop_oneof![Just(Lane::High), Just(Lane::Medium), Just(Lane::Low)]
}

fn step() -> impl Strategy<Value = Step> {
    let torn = proptest::option::of((lane(), proptest::collection::vec(any::<u8>(), 1..40)));
    prop_oneof![
        8 => (lane(), 0_usize..120).prop_map(|(lane, size)| Step::Append(lane, size)),
        3 => Just(Step::Sync),
        2 => (lane(), 0_u64..12).prop_map(|(lane, count)| Step::Acknowledge(lane, count)),
        2 => (lane(), 1_usize..400).prop_map(|(lane, bytes)| Step::Read(lane, bytes)),
        1 => torn.prop_map(|torn_tail| Step::Kill { torn_tail }),
        1 => Just(Step::Reopen),
    ]
}

/// A lane as plain values.
#[derive(Debug, Clone, Default)]
struct ModelLane {
    live: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    durable: u64,
    floor: u64,
    dropped: u64,
    read_after: u64,
}

#[derive(Debug, Clone, Default)]
struct Model {
    lanes: PerLane<ModelLane>,
    /// The lanes as a crash would leave them.
    saved: PerLane<ModelLane>,
}

impl Model {
    fn enforce(&mut self, bound: u64) {
        let size = |lane: &ModelLane| -> u64 {
            lane.live
                .iter()
                .map(|(_, payload)| record::record_bytes(payload.len()))
                .sum()
        };
        while Lane::ALL
            .iter()
            .map(|lane| size(&self.lanes[*lane]))
            .sum::<u64>()
            > bound
        {
            for lane in LOWEST_FIRST {
                if let Some((sequence, _)) = self.lanes[lane].live.pop_front() {
                    self.lanes[lane].dropped += 1;
                    self.lanes[lane].floor = sequence;
                    break;
                }
            }
        }
    }

    fn sync(&mut self) {
        for lane in Lane::ALL {
            self.lanes[lane].durable = self.lanes[lane].next - 1;
        }
        self.saved = self.lanes.clone();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens, the spool holds what a list would hold: nothing durable is lost, nothing
    /// is doubled, no sequence of a durable event is used twice, and the counts are exact.
    #[test]
    fn behaves_like_three_lists(steps in proptest::collection::vec(step(), 1..120)) {
        const BOUND: u64 = 2_000;
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), options(BOUND)).unwrap();
        let mut model = Model::default();
        for lane in Lane::ALL {
            model.lanes[lane].next = 1;
        }
        model.sync();
        let mut content = 0_u8;
        for step in steps {
            match step {
                Step::Append(lane, size) => {
                    content = content.wrapping_add(1);
                    let payload = vec![content; size];
                    let sequence = spool.append(lane, &payload).unwrap();
                    prop_assert_eq!(sequence.0, model.lanes[lane].next);
                    model.lanes[lane].next += 1;
                    model.lanes[lane].live.push_back((sequence.0, payload));
                    model.enforce(BOUND);
                }
                Step::Sync => {
                    spool.sync().unwrap();
                    model.sync();
                }
                Step::Acknowledge(lane, count) => {
                    let lane_model = &mut model.lanes[lane];
                    let through = (lane_model.floor + count).min(spool.status(lane).durable_through.0);
                    spool.acknowledge(lane, Sequence(through)).unwrap();
                    lane_model.live.retain(|(sequence, _)| *sequence > through);
                    lane_model.floor = lane_model.floor.max(through);
                }
                Step::Read(lane, bytes) => {
                    let lane_model = &mut model.lanes[lane];
                    let durable = spool.status(lane).durable_through.0;
                    let limits = ReadLimits { bytes, events: 4 };
                    let after = lane_model.read_after;
                    let events = spool.read(lane, Sequence(after), LAST, limits).unwrap();
                    let mut expected = Vec::new();
                    let mut total = 0;
                    for (sequence, payload) in &lane_model.live {
                        if *sequence <= after || *sequence > durable { continue; }
                        total += payload.len();
                        if expected.len() == 4 || (total > bytes && !expected.is_empty()) { break; }
                        expected.push(SpooledEvent { sequence: Sequence(*sequence), payload: payload.clone() });
                    }
                    prop_assert_eq!(&events, &expected);
                    // Reaching the end, the next read begins again, as after a reconnect.
                    lane_model.read_after = events.last().map_or(0, |event| event.sequence.0);
                }
                Step::Kill { torn_tail } => {
                    // What reached the disk beyond the last sync is up to the kernel: a lane may
                    // have written more. Copying the model from the last sync is only right when
                    // nothing was written since, so the files are rolled back to it as well.
                    drop(spool);
                    let durable = model.saved.clone();
                    roll_back(dir.path(), &durable);
                    if let Some((lane, bytes)) = torn_tail {
                        let path = segments(dir.path(), lane).pop().unwrap();
                        OpenOptions::new().append(true).open(path).unwrap().write_all(&bytes).unwrap();
                    }
                    model.lanes = durable;
                    for lane in Lane::ALL {
                        model.lanes[lane].read_after = 0;
                    }
                    spool = Spool::open(dir.path(), options(BOUND)).unwrap();
                    model.enforce(BOUND);
                    model.sync();
                }
                Step::Reopen => {
                    spool.sync().unwrap();
                    model.sync();
                    drop(spool);
                    spool = Spool::open(dir.path(), options(BOUND)).unwrap();
                    for lane in Lane::ALL {
                        model.lanes[lane].read_after = 0;
                    }
                }
            }
            for lane in Lane::ALL {
                let (status, lane_model) = (spool.status(lane), &model.lanes[lane]);
                prop_assert_eq!(status.waiting_count, lane_model.live.len() as u64);
                prop_assert_eq!(status.dropped_total, lane_model.dropped);
                prop_assert_eq!(status.floor.0, lane_model.floor);
                prop_assert!(status.durable_through.0 >= lane_model.durable);
            }
        }
    }
}

/// Cuts each lane's files back to what was durable at the last sync: the worst that a crash of the
/// machine may leave. (A killed process leaves more; that is the `Reopen` step without its sync.)
fn roll_back(dir: &Path, durable: &PerLane<ModelLane>) {
    for lane in Lane::ALL {
        let mut paths = segments(dir, lane);
        while let Some(path) = paths.pop() {
            let first: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            if first > durable[lane].durable && !paths.is_empty() {
                fs::remove_file(path).unwrap();
                continue;
            }
            let bytes = fs::metadata(&path).unwrap().len();
            let mut reader = segment::Reader::open(&path, 0, bytes).unwrap();
            let mut end = 0;
            while let segment::Item::Record {
                sequence,
                next_offset,
                ..
            } = reader.next().unwrap()
            {
                if sequence.0 > durable[lane].durable {
                    break;
                }
                end = next_offset;
            }
            OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(end)
                .unwrap();
            break;
        }
    }
}
