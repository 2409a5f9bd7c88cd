//! The twins of a rollout, wave by wave, counted like everything here by what lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::evaluate::{ActivePolicy, Side, Verdict};
use crate::rollout::{Mean, NUMBERS_MAX, Tally};
use crate::standing::Standing;
use crate::twin_document::TwinDocument;

/// The counts of one wave.
#[derive(Debug, Default)]
pub(super) struct WaveTally {
    applied: AtomicU64,
    rejected: AtomicU64,
    timed_out: AtomicU64,
    reverted: AtomicU64,
    pending: AtomicU64,
    offline: AtomicU64,
    flagged: AtomicU64,
    numbers: [Number; NUMBERS_MAX],
}

/// A sum in thousandths, and of how many.
#[derive(Debug, Default)]
struct Number {
    sum: AtomicI64,
    count: AtomicU64,
}

impl WaveTally {
    /// What is counted now.
    pub(super) fn read(&self) -> Tally {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Tally {
            applied: read(&self.applied),
            rejected: read(&self.rejected),
            timed_out: read(&self.timed_out),
            reverted: read(&self.reverted),
            pending: read(&self.pending),
            offline: read(&self.offline),
            flagged: read(&self.flagged),
            numbers: std::array::from_fn(|index| {
                let number = &self.numbers[index];
                Mean {
                    sum: number.sum.load(Ordering::Relaxed),
                    count: read(&number.count),
                }
            }),
        }
    }

    fn of(&self, place: Place) -> &AtomicU64 {
        match place {
            Place::Applied => &self.applied,
            Place::Rejected => &self.rejected,
            Place::TimedOut => &self.timed_out,
            Place::Reverted => &self.reverted,
            Place::Pending => &self.pending,
            Place::Offline => &self.offline,
        }
    }
}

/// The numbers of one twin in the tally of its wave, for as long as they live. They are counted before the
/// wave begins as well, because from there they may move.
#[derive(Debug)]
pub(super) struct NumbersInWave {
    tally: Arc<WaveTally>,
    values: Box<[Option<i64>]>,
}

impl NumbersInWave {
    /// Counts what a twin has; none if nothing is asked of it.
    pub(super) fn new(
        waves: &[Arc<WaveTally>],
        active: &ActivePolicy,
        twin: &TwinDocument,
    ) -> Option<NumbersInWave> {
        let stage = active.stage.as_ref();
        let course = &stage.filter(|stage| stage.side == Side::New)?.course;
        if course.numbers().len() == 0 {
            return None;
        }
        match active.verdict(twin) {
            Verdict::Applies | Verdict::HeldBack | Verdict::Closed => {}
            Verdict::OtherScope
            | Verdict::NotTargeted
            | Verdict::NotWhen
            | Verdict::Incomplete
            | Verdict::Expired
            | Verdict::Undecided(_) => return None,
        }
        let tally = Arc::clone(waves.get(course.wave_of(twin)?)?);
        let values = course.numbers().of(twin).into_boxed_slice();
        for (number, value) in tally.numbers.iter().zip(&values) {
            if let Some(value) = value {
                number.sum.fetch_add(*value, Ordering::Relaxed);
                number.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        Some(NumbersInWave { tally, values })
    }
}

impl Drop for NumbersInWave {
    fn drop(&mut self) {
        for (number, value) in self.tally.numbers.iter().zip(&self.values) {
            if let Some(value) = value {
                number.sum.fetch_sub(*value, Ordering::Relaxed);
                number.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// What a twin counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Applied,
    Rejected,
    TimedOut,
    Reverted,
    Pending,
    Offline,
}

/// One twin in the tally of its wave, for as long as it lives.
#[derive(Debug)]
pub(super) struct InWave {
    tally: Arc<WaveTally>,
    place: Place,
    flagged: bool,
}

impl InWave {
    /// Counts a twin with the new revision of a policy; none if it has no wave.
    pub(super) fn new(
        waves: &[Arc<WaveTally>],
        active: &ActivePolicy,
        standing: Standing,
        twin: &TwinDocument,
    ) -> Option<InWave> {
        let stage = active.stage.as_ref();
        let course = &stage.filter(|stage| stage.side == Side::New)?.course;
        let tally = Arc::clone(waves.get(course.wave_of(twin)?)?);
        let place = match standing {
            // What others hold needs no answer.
            Standing::Applied | Standing::Overruled => Place::Applied,
            Standing::Rejected => Place::Rejected,
            // Wherever it is now: it was there, and was asked.
            Standing::TimedOut => Place::TimedOut,
            Standing::Reverted => Place::Reverted,
            Standing::Pending if twin.is_connected() => Place::Pending,
            Standing::Pending => Place::Offline,
        };
        let flagged = course.flags(twin);
        tally.of(place).fetch_add(1, Ordering::Relaxed);
        tally
            .flagged
            .fetch_add(u64::from(flagged), Ordering::Relaxed);
        Some(InWave {
            tally,
            place,
            flagged,
        })
    }
}

impl Drop for InWave {
    fn drop(&mut self) {
        self.tally.of(self.place).fetch_sub(1, Ordering::Relaxed);
        let flagged = u64::from(self.flagged);
        self.tally.flagged.fetch_sub(flagged, Ordering::Relaxed);
    }
}
