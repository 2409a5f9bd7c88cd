//! Which routine revisions of a history are put together when they are no longer young. Pure.
//!
//! Time is cut into spans that follow one another from 1970 on. A span is thinned when all of it is old
//! enough, and then once: so a revision is read and written again one time, however often it is looked.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Retention;
use super::row::history::nanoseconds;

/// Revisions that are put together at once, more or less: their patches may be large, and writers wait
/// meanwhile.
pub(super) const AT_ONCE: usize = 128;

/// Of a revision, what decides on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Light {
    pub(super) revision: i64,
    pub(super) first_at: i64,
    pub(super) at: i64,
    pub(super) routine: bool,
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

    fn number(self, at: i64) -> i64 {
        at.div_euclid(self.length)
    }

    /// Where revisions of one identity, in their order, become one each: first and last revision of at
    /// least two routine ones in a row, all of one span.
    pub(super) fn runs(self, revisions: &[Light]) -> Vec<(i64, i64, usize)> {
        let mut runs = Vec::new();
        let together = |older: &Light, newer: &Light| {
            let are_routine = older.routine && newer.routine;
            let is_old = newer.at < self.end && older.at < self.end;
            // A clock that was put back makes no span longer.
            let number = self.number(older.first_at);
            let is_one = [older.at, newer.first_at, newer.at]
                .into_iter()
                .all(|at| self.number(at) == number);
            are_routine && is_old && is_one
        };
        for run in revisions.chunk_by(together) {
            if let [first, .., last] = run {
                runs.push((first.revision, last.revision, run.len()));
            }
        }
        runs
    }
}

fn before(now: Timestamp, age: Duration) -> Option<i64> {
    let age = SignedDuration::try_from(age).ok()?;
    nanoseconds(now.checked_sub(age).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn retention(now: i64) -> Retention {
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
        assert_eq!(spans.runs(&revisions), [(2, 4, 2), (6, 9, 2), (10, 11, 2)]);
        assert_eq!(spans.runs(&revisions[..1]), []);
        // The clock went back between two.
        let back = [light(1, 12, true), light(2, 8, true), light(3, 13, true)];
        assert_eq!(spans.runs(&back), []);
    }
}
