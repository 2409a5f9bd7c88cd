//! Which routine revisions of a history are put together when they are no longer young. Pure.
//!
//! Time is cut into spans that follow one another from 1970 on. A span is thinned when all of it is old
//! enough. Revisions are looked at in the order of their times; at the first of a span, the whole span of its
//! identity is put together, so that a revision is read and written again one time. (A span of more than
//! [`LIGHTS`] revisions takes several turns, each of which writes what it has anew.)

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Retention;
use super::place::Place;
use super::row::history::nanoseconds;
pub(super) use join::{Join, Joined, Patience, Run, joins_of};

mod join;

/// Revisions of one identity that are looked at in a turn.
pub(super) const LIGHTS: u16 = 512;
/// Identities whose revisions the shared store looks at with one statement.
pub(super) const AT_ONCE: usize = 64;
/// Revisions younger than this are not counted yet: clocks of replicas differ, and a commit takes its time.
const UNSETTLED: Duration = Duration::from_mins(1);
/// Bytes of the patches that are put together in a turn: what it may take of memory, and of time to parse.
const BYTES: u64 = 8 << 20;

/// Of a revision, what decides on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Light {
    pub(super) revision: i64,
    pub(super) first_at: i64,
    pub(super) at: i64,
    pub(super) routine: bool,
    /// Of its patches.
    pub(super) bytes: i64,
}

impl Light {
    /// One that does not tell what decides on it: it stays by itself, between those before and behind it.
    pub(super) fn unreadable(revision: i64) -> Light {
        Light {
            revision,
            first_at: i64::MIN,
            at: i64::MIN,
            routine: false,
            bytes: 0,
        }
    }
}

/// The spans that are old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spans {
    length: i64,
    /// Where the first one begins that is not.
    pub(super) end: i64,
}

impl Spans {
    /// None: nothing is put together.
    pub(super) fn of(retention: &Retention) -> Option<Spans> {
        let length = i64::try_from(retention.history_span.as_nanos()).ok()?;
        let length = Some(length).filter(|length| *length > 0)?;
        let young = before(retention.now, retention.history_every)?;
        Some(Spans {
            length,
            end: young.div_euclid(length).checked_mul(length)?,
        })
    }

    /// Where the first revision begins that is kept by itself for now, whatever `history_count` says:
    /// how often a device reports must not decide for how long its past is kept.
    pub(super) fn young(retention: &Retention) -> i64 {
        Spans::of(retention).map_or(i64::MAX, |spans| spans.end)
    }

    /// Before when revisions are counted: what is written right now may have a time a little before another
    /// one's that was looked at already.
    pub(super) fn settled(retention: &Retention) -> i64 {
        before(retention.now, UNSETTLED).unwrap_or(i64::MAX)
    }

    fn number(self, at: i64) -> i64 {
        at.div_euclid(self.length)
    }

    fn end_of(self, at: i64) -> i64 {
        let next = self.number(at).saturating_add(1);
        next.saturating_mul(self.length)
    }

    /// Revisions of one identity, in their order, that become one each: at least two routine ones in a row,
    /// all of one span.
    pub(super) fn runs(self, revisions: &[Light]) -> impl Iterator<Item = &[Light]> {
        let together = move |older: &Light, newer: &Light| {
            let are_routine = older.routine && newer.routine;
            let is_old = newer.at < self.end && older.at < self.end;
            // A clock that was put back makes no span longer.
            let number = self.number(older.first_at);
            let is_one = [older.at, newer.first_at, newer.at]
                .into_iter()
                .all(|at| self.number(at) == number);
            are_routine && is_old && is_one
        };
        revisions.chunk_by(together).filter(|run| run.len() > 1)
    }
}

/// The revisions of one identity that are to be looked at as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) device: String,
    pub(super) module: String,
    /// Its first revision that was found; the one before it is looked at, too, since it may be of the same span.
    pub(super) revision: i64,
    /// Its last revision that was found. What is behind it is looked at in its own time, but for the run that is
    /// open there: to read it each time that something before it is found would cost far more than all else.
    pub(super) last: i64,
    /// Where the span of its last one ends.
    pub(super) end: i64,
    /// Where it was first found.
    found: usize,
}

impl Reach {
    /// Whether it ends before this one, which is behind all that it has reached so far.
    pub(super) fn ends_at(&self, light: &Light) -> bool {
        light.revision > self.last && (!light.routine || light.at >= self.end)
    }
}

/// One turn: takes what was found in the order of times, and says what is put together.
#[derive(Debug)]
pub(super) struct Turn {
    spans: Spans,
    found: Vec<Place>,
    /// The reach of each of them.
    of: Vec<usize>,
    reaches: Vec<Reach>,
    next: usize,
    budget: Budget,
    runs: Vec<Run>,
    /// The first of `found` that is left to the next turn.
    end: usize,
}

impl Turn {
    /// How many revisions a turn finds at most: many more than it puts together, since only their keys are read,
    /// and where most are no routine ones it is this that decides how fast they are passed.
    pub(super) fn finds(retention: &Retention) -> u32 {
        retention.batch.saturating_mul(8)
    }

    /// Begins one with what was found.
    pub(super) fn new(spans: Spans, retention: &Retention, found: Vec<Place>) -> Turn {
        let mut reaches: Vec<Reach> = Vec::new();
        let mut of = Vec::with_capacity(found.len());
        let mut known: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, one) in found.iter().enumerate() {
            let known = known.entry((&one.device, &one.module)).or_default();
            // A clock that was put back gave a later one an earlier time; then revisions that lie far apart are
            // found in turns, and each part of the history is a reach of its own.
            let last = |number: &usize| reaches.get(*number).map(|reach| reach.last);
            let before = known
                .iter()
                .copied()
                .filter(|number| last(number).is_some_and(|last| last < one.revision));
            let number = before.max_by_key(|number| last(number));
            let number = number.unwrap_or(reaches.len());
            let end = spans.end_of(one.at);
            if let Some(reach) = reaches.get_mut(number) {
                reach.end = reach.end.max(end);
                reach.last = one.revision;
            } else {
                known.push(number);
                reaches.push(Reach {
                    device: one.device.clone(),
                    module: one.module.clone(),
                    revision: one.revision,
                    last: one.revision,
                    end,
                    found: index,
                });
            }
            of.push(number);
        }
        Turn {
            spans,
            end: found.len(),
            found,
            of,
            reaches,
            next: 0,
            budget: Budget {
                // Twice as many as are removed of anything else: one of a run stays, and two are needed.
                rows: usize::try_from(retention.batch.saturating_mul(2)).unwrap_or(usize::MAX),
                bytes: BYTES,
                // Spans are looked at to their ends, also for one revision of theirs, and need not become less.
                looks: usize::try_from(Turn::finds(retention).saturating_mul(4))
                    .unwrap_or(usize::MAX),
            },
            runs: Vec::new(),
        }
    }

    /// The next identities to look at, at most so many; none when the turn is over.
    pub(super) fn next(&mut self, most: usize) -> Vec<Reach> {
        if self.budget.is_spent() {
            return Vec::new();
        }
        let rest = self.reaches.get(self.next..).unwrap_or_default();
        rest.iter().take(most).cloned().collect()
    }

    /// Takes the next reach's revisions: the one before the first that was found, and up to [`LIGHTS`] in all.
    pub(super) fn take(&mut self, lights: &[Light]) {
        let Some(reach) = self.reaches.get(self.next) else {
            return;
        };
        if self.budget.is_spent() {
            return;
        }
        self.next += 1;
        self.budget.looks = self.budget.looks.saturating_sub(lights.len());
        let within = lights.iter().take_while(|light| !reach.ends_at(light));
        let within = lights.get(..within.count()).unwrap_or_default();
        // The last one that is dealt with.
        let mut last = i64::MAX;
        if within.len() == usize::from(LIGHTS) {
            last = within.last().map_or(last, |light| light.revision);
        }
        for run in self.spans.runs(within) {
            if self.meets(reach, run) {
                // Another part of this history has it already; what becomes of it is found the next time.
                last = run.first().map_or(0, |first| first.revision - 1);
                break;
            }
            // One that does not fit is left to the next turn, or it would be written twice; but for one that
            // fits into no turn.
            let taken = if self.runs.is_empty() || self.budget.fits(run) {
                self.budget.spend(run)
            } else {
                self.budget.rows = 0;
                0
            };
            let part = run.get(..taken).unwrap_or_default();
            if let [first, .., last] = part {
                self.runs.push(Run {
                    device: reach.device.clone(),
                    module: reach.module.clone(),
                    first: first.revision,
                    last: last.revision,
                    count: part.len(),
                });
            }
            if taken < run.len() {
                let before = run.first().map_or(0, |first| first.revision - 1);
                last = part.last().map_or(before, |light| light.revision);
                break;
            }
        }
        if last < i64::MAX {
            let found = self.found.iter().zip(&self.of);
            let is_left = |(one, of): (&Place, &usize)| *of + 1 == self.next && one.revision > last;
            let left = { found }.position(is_left);
            self.end = left.map_or(self.end, |left| left.min(self.end));
        }
    }

    /// Whether some of these revisions are put together already.
    fn meets(&self, reach: &Reach, run: &[Light]) -> bool {
        let ([first, ..], [.., last]) = (run, run) else {
            return false;
        };
        self.runs.iter().any(|other| {
            let is_apart = other.last < first.revision || last.revision < other.first;
            !is_apart && other.device == reach.device && other.module == reach.module
        })
    }

    /// What is put together, and the last revision that is dealt with; none if nothing was found.
    pub(super) fn end(self) -> (Vec<Run>, Option<Place>) {
        let left = self.reaches.get(self.next).map(|reach| reach.found);
        // The first one was looked at; whatever was made of it, each turn gets on.
        let end = left.map_or(self.end, |left| left.min(self.end)).max(1);
        (self.runs, self.found.into_iter().take(end).next_back())
    }
}

/// What a turn may still put together.
#[derive(Debug)]
struct Budget {
    rows: usize,
    bytes: u64,
    /// And look at.
    looks: usize,
}

impl Budget {
    fn fits(&self, run: &[Light]) -> bool {
        run.len() <= self.rows && bytes(run) <= self.bytes
    }

    /// As many of them as it has room for, but two however large they are: a turn that joined none would be
    /// the same the next time.
    fn spend(&mut self, run: &[Light]) -> usize {
        let mut taken = 0;
        for light in run {
            if self.rows == 0 || (self.bytes == 0 && taken >= 2) {
                break;
            }
            taken += 1;
            self.rows -= 1;
            self.bytes = self.bytes.saturating_sub(bytes(&[*light]));
        }
        taken
    }

    fn is_spent(&self) -> bool {
        // A run has two at least.
        self.rows < 2 || self.bytes == 0 || self.looks == 0
    }
}

fn bytes(run: &[Light]) -> u64 {
    let bytes = run.iter().map(|light| light.bytes.max(0).cast_unsigned());
    bytes.fold(0, u64::saturating_add)
}

fn before(now: Timestamp, age: Duration) -> Option<i64> {
    let age = SignedDuration::try_from(age).ok()?;
    nanoseconds(now.checked_sub(age).ok()?)
}

/// Where the spans of seconds are to be looked at in which these were found.
#[cfg(test)]
pub(super) fn reaches(found: Vec<Place>) -> Vec<Reach> {
    let retention = tests::retention(100_000);
    let spans = Spans::of(&retention).expect("spans");
    Turn::new(spans, &retention, found).reaches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::place::Walk;

    const SECOND: i64 = 1_000_000_000;

    pub(super) fn retention(now: i64) -> Retention {
        Retention {
            now: Timestamp::from_second(now).expect("a time"),
            history_age: Duration::MAX,
            history_count: u32::MAX,
            history_span: Duration::from_secs(10),
            history_every: Duration::from_secs(5),
            request_age: Duration::MAX,
            operation_age: Duration::MAX,
            batch: 100,
        }
    }

    fn light(revision: i64, at: i64, routine: bool) -> Light {
        Light {
            revision,
            first_at: at * SECOND,
            at: at * SECOND,
            routine,
            bytes: 100,
        }
    }

    #[test]
    fn a_span_is_old_when_all_of_it_is() {
        let end = |now| Spans::of(&retention(now)).expect("spans").end / SECOND;
        assert_eq!([end(24), end(25), end(34), end(35)], [10, 20, 20, 30]);
        let never = Retention {
            history_span: Duration::ZERO,
            ..retention(99)
        };
        assert_eq!(Spans::of(&never), None);
        let all = Retention {
            history_every: Duration::MAX,
            ..retention(99)
        };
        assert_eq!(Spans::of(&all), None);
    }

    #[test]
    fn routine_revisions_of_one_old_span_become_one() {
        let spans = Spans::of(&retention(35)).expect("spans");
        let revisions = [
            light(1, 8, true),
            // Another span.
            light(2, 10, true),
            light(4, 12, true),
            light(5, 13, false),
            light(6, 14, true),
            light(9, 19, true),
            light(10, 21, true),
            light(11, 29, true),
            // Young.
            light(12, 30, true),
            light(13, 31, true),
        ];
        assert_eq!(runs(spans, &revisions), [(2, 4), (6, 9), (10, 11)]);
        assert_eq!(runs(spans, &revisions[..1]), []);
        // The clock went back between two.
        let back = [light(1, 12, true), light(2, 8, true), light(3, 13, true)];
        assert_eq!(runs(spans, &back), []);
    }

    fn runs(spans: Spans, revisions: &[Light]) -> Vec<(i64, i64)> {
        let runs = spans.runs(revisions);
        runs.map(|run| (run[0].revision, run[run.len() - 1].revision))
            .collect()
    }

    /// Histories of routine revisions, thinned as a store does it.
    #[derive(Default)]
    struct Fleet {
        /// By device: what is there.
        histories: BTreeMap<String, Vec<Light>>,
        place: Place,
        written: usize,
        turns: usize,
        looked: usize,
    }

    impl Fleet {
        fn thin(&mut self, retention: &Retention) {
            let spans = Spans::of(retention).expect("spans");
            loop {
                let found = self.find(spans, Turn::finds(retention) as usize);
                if found.is_empty() {
                    return;
                }
                let mut turn = Turn::new(spans, retention, found);
                let mut looked = 0;
                loop {
                    let next = turn.next(1);
                    let Some(reach) = next.first() else { break };
                    let history = &self.histories[&reach.device];
                    let at = history
                        .iter()
                        .position(|one| one.revision == reach.revision);
                    let lights = history[at.expect("there").saturating_sub(1)..].iter();
                    let lights = lights.copied().take_while(|light| !reach.ends_at(light));
                    let lights: Vec<_> = lights.take(usize::from(LIGHTS)).collect();
                    looked += lights.len();
                    turn.take(&lights);
                }
                // And no more than with the last one of them.
                let most = 4 * Turn::finds(retention) as usize + usize::from(LIGHTS);
                assert!(looked <= most, "{looked} were looked at");
                self.looked += looked;
                let (runs, place) = turn.end();
                let place = place.expect("something was found");
                assert_ne!(place, self.place, "it gets on");
                self.place = place;
                self.turns += 1;
                let rows: usize = runs.iter().map(|run| run.count).sum();
                assert!(rows <= 2 * retention.batch as usize, "{rows}");
                for run in runs {
                    self.join(&run);
                }
            }
        }

        fn find(&self, spans: Spans, most: usize) -> Vec<Place> {
            let all = self.histories.iter().flat_map(|(device, history)| {
                history.iter().map(|light| Place {
                    at: light.at,
                    device: device.clone(),
                    module: String::new(),
                    revision: light.revision,
                })
            });
            let order = |one: &Place| (one.at, one.device.clone(), one.revision);
            let from = order(&self.place);
            let mut found: Vec<_> = all
                .filter(|one| one.at < spans.end && order(one) > from)
                .collect();
            found.sort_by_key(order);
            found.truncate(most);
            found
        }

        fn join(&mut self, run: &Run) {
            let history = self.histories.get_mut(&run.device).expect("there");
            let within = |light: &&Light| (run.first..=run.last).contains(&light.revision);
            let joined: Vec<Light> = history.iter().filter(within).copied().collect();
            assert_eq!(joined.len(), run.count);
            history.retain(|light| !within(&light) || light.revision == run.last);
            let last = history.iter_mut().find(|one| one.revision == run.last);
            last.expect("it stays").first_at = joined[0].first_at;
            self.written += 1;
        }
    }

    /// A fleet whose devices report at the same seconds, each with numbers of its own.
    fn fleet(devices: i64, seconds: i64) -> Fleet {
        let history = |device| (1..=seconds).map(move |at| light(device + 1000 * at, at, true));
        let histories =
            (0..devices).map(|device| (format!("d{device:03}"), history(device).collect()));
        Fleet {
            histories: histories.collect(),
            ..Fleet::default()
        }
    }

    #[test]
    fn a_whole_span_is_put_together_when_its_first_revision_is_found() {
        let retention = Retention {
            batch: 20,
            ..retention(65)
        };
        // Spans of 10 s, old up to 60 s.
        let mut fleet = fleet(300, 59);
        fleet.thin(&retention);
        assert_eq!(fleet.written, 300 * 6, "each is written once");
        assert!(fleet.histories.values().all(|history| history.len() == 6));
        // 17,700 revisions, at most 40 a turn.
        assert!(fleet.turns < 17_700 / 40 * 2, "{}", fleet.turns);
    }

    #[test]
    fn what_becomes_no_less_is_looked_at_a_bounded_number_of_times() {
        let retention = Retention {
            batch: 20,
            ..retention(6_010)
        };
        // Spans of one row each.
        let mut fleet = fleet(4, 600);
        for history in fleet.histories.values_mut() {
            history.retain(|light| (light.at / SECOND) % 10 == 3);
        }
        fleet.thin(&retention);
        assert_eq!(fleet.written, 0);
        // Each of 240, and the one before the first that a turn found of an identity.
        assert!(fleet.looked < 2 * 240, "{}", fleet.looked);
        // Long spans of revisions that are no routine ones: whatever is found, a turn ends.
        let mut fleet = self::fleet(10, 100);
        for light in fleet.histories.values_mut().flatten() {
            light.routine = false;
        }
        let long = Retention {
            history_span: Duration::from_secs(500),
            ..retention
        };
        fleet.thin(&long);
        assert_eq!(fleet.written, 0);
    }

    #[test]
    fn long_spans_of_what_is_not_routine_are_looked_at_about_once() {
        let retention = Retention {
            history_span: Duration::from_mins(10),
            ..retention(10_000)
        };
        // One of ten is routine, and none has another one beside it.
        let mut fleet = fleet(40, 590);
        for light in fleet.histories.values_mut().flatten() {
            light.routine = (light.at / SECOND) % 10 == 0;
        }
        fleet.thin(&retention);
        assert_eq!(fleet.written, 0);
        assert!(fleet.looked < 3 * 40 * 590, "{}", fleet.looked);
    }

    #[test]
    fn a_clock_that_was_put_back_stops_nothing() {
        let retention = Retention {
            history_span: Duration::from_hours(1),
            history_every: Duration::ZERO,
            ..retention(7200)
        };
        for routine in [true, false] {
            // The same hour twice, and another device in it.
            let twice = (1..=3599).chain(0..3600).zip(1..);
            let twice = twice.map(|(at, revision)| light(revision, at, routine));
            let other = (1..3600).map(|at| light(at, at, true));
            let mut fleet = Fleet::default();
            fleet.histories.insert("d".to_owned(), twice.collect());
            fleet.histories.insert("e".to_owned(), other.collect());
            fleet.thin(&retention);
            let left = fleet.histories["d"].len();
            assert!(if routine { left <= 2 } else { left == 7199 }, "{left}");
            assert_eq!(fleet.histories["e"].len(), 1);
            assert!(fleet.turns < 1000, "{}", fleet.turns);
        }
    }

    #[test]
    fn one_step_back_of_a_clock_puts_nothing_together_twice() {
        let retention = Retention {
            history_span: Duration::from_hours(1),
            history_every: Duration::ZERO,
            ..retention(20_000)
        };
        // Each half minute, and back by 40 s once; with few others and with many of one span each.
        for (batch, others) in [(500, 0), (500, 3), (100, 50), (20, 3)] {
            let retention = Retention { batch, ..retention };
            let step = |number: i64| 30 * number - if number < 60 { 0 } else { 40 };
            let device = || (1..=400).map(|number| light(number, step(number), true));
            let mut fleet = fleet(others, 100);
            for name in ["x", "y"] {
                fleet.histories.insert(name.to_owned(), device().collect());
            }
            fleet.thin(&retention);
            let left = &fleet.histories["x"];
            assert!(left.len() <= 6, "{batch} {others}: {left:?}");
            assert!(left.is_sorted_by_key(|one| one.revision));
        }
    }

    fn run(first: i64) -> Run {
        Run {
            device: "d".to_owned(),
            module: String::new(),
            first,
            last: 9,
            count: 9,
        }
    }

    #[test]
    fn what_is_never_as_it_was_read_is_noted_and_passed_over() {
        let patience = Patience::default();
        for stored in [None, Some("elsewhere".to_owned())] {
            let walk = Walk::from(stored, 0);
            // Once something else came between, and is as it was read the next time.
            let turns = [vec![run(1), run(5)], vec![run(1)], vec![run(1)]];
            let turns = turns.map(|left| patience.given_up(&walk, &left));
            assert_eq!(turns, [None, None, Some(vec![run(1).note()])]);
        }
        let walk = Walk::from(None, 0);
        assert_eq!(patience.given_up(&walk, &[run(1)]), None, "it begins anew");
        assert_eq!(patience.given_up(&walk, &[]), Some(Vec::new()));
        assert_eq!(patience.given_up(&walk, &[run(1)]), None, "and again");
    }

    #[test]
    fn what_is_another_run_each_time_is_no_damage_and_keeps_nothing_for_ever() {
        let patience = Patience::default();
        let walk = Walk::from(None, 0);
        let mut turns = (1..=100).map(|first| patience.given_up(&walk, &[run(first)]));
        let given_up = turns.find_map(|noted| noted).expect("it ends");
        assert_eq!(given_up, [], "nothing is damaged");
    }

    #[test]
    fn a_span_that_is_too_much_for_one_turn_becomes_one_all_the_same() {
        let retention = Retention {
            history_span: Duration::from_secs(5000),
            history_every: Duration::ZERO,
            batch: 10_000,
            ..retention(6000)
        };
        let mut fleet = fleet(2, 4000);
        fleet.thin(&retention);
        let left =
            |fleet: &Fleet| -> Vec<usize> { fleet.histories.values().map(Vec::len).collect() };
        assert_eq!(left(&fleet), [1, 1]);
        // 512 at first, and then 511 with what they became.
        assert_eq!(fleet.written, 2 * 8);
        // Large ones: a turn takes as many as it has bytes for.
        let large = i64::try_from(BYTES).expect("small") / 10;
        let mut fleet = Fleet::default();
        let history = (1..=100).map(|at| Light {
            bytes: large,
            ..light(at, at, true)
        });
        fleet.histories.insert("d".to_owned(), history.collect());
        fleet.thin(&retention);
        assert_eq!(left(&fleet), [1]);
        assert_eq!(fleet.written, 10);
        // Each of them more than a turn has: two at a time.
        let history = (1..=5).map(|at| Light {
            bytes: 10 * large + 10,
            ..light(at, at, true)
        });
        fleet = Fleet::default();
        fleet.histories.insert("d".to_owned(), history.collect());
        fleet.thin(&retention);
        assert_eq!(left(&fleet), [1]);
        assert_eq!(fleet.written, 4);
    }
}
