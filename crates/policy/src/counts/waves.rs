//! The twins of a rollout, wave by wave, counted like everything here by what lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::SignedDuration;

use crate::evaluate::{ActivePolicy, PolicySet};
use crate::membership::{Membership, membership};
use crate::rollout::{Mean, NUMBERS_MAX, Tally};
use crate::standing::{Standing, standing_without};
use crate::twin_document::TwinDocument;

/// A device that goes away within this time of its answer has not proved that it came through: longer than
/// an agent waits for the service before it goes back, and than it takes to notice that a connection is gone.
const PROVED_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// A revision that is rolled out, as twins are counted for it.
#[derive(Debug)]
pub(super) struct Spread {
    /// The new revision.
    new: Arc<ActivePolicy>,
    /// The one that twins have until their wave begins.
    before: Option<Arc<ActivePolicy>>,
    waves: Arc<[Arc<WaveTally>]>,
}

impl Spread {
    /// Of a policy in force; none unless waves of it have begun.
    pub(super) fn of(
        set: &PolicySet,
        new: &Arc<ActivePolicy>,
        waves: &Arc<[Arc<WaveTally>]>,
    ) -> Option<Spread> {
        let course = &new.stage.as_ref()?.course;
        (course.released() > 0).then(|| Spread {
            new: Arc::clone(new),
            before: set.before(new).cloned(),
            waves: Arc::clone(waves),
        })
    }

    /// Whether this is its new revision.
    pub(super) fn is_new(&self, active: &Arc<ActivePolicy>) -> bool {
        Arc::ptr_eq(&self.new, active)
    }

    fn member(&self, twin: &TwinDocument) -> Option<Membership> {
        if self.new.policy.scope() != twin.scope() {
            return None;
        }
        membership(&self.new, self.before.as_deref(), twin)
    }
}

/// The counts of one wave.
#[derive(Debug, Default)]
pub(super) struct WaveTally {
    applied: AtomicU64,
    rejected: AtomicU64,
    timed_out: AtomicU64,
    reverted: AtomicU64,
    pending: AtomicU64,
    offline: AtomicU64,
    lost: AtomicU64,
    left: AtomicU64,
    incomplete: AtomicU64,
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
            lost: read(&self.lost),
            left: read(&self.left),
            incomplete: read(&self.incomplete),
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
            Place::Lost => &self.lost,
            Place::Left => &self.left,
            Place::Incomplete => &self.incomplete,
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
    pub(super) fn new(spread: &Spread, twin: &TwinDocument) -> Option<NumbersInWave> {
        let course = &spread.new.stage.as_ref()?.course;
        if course.numbers().len() == 0 || !spread.member(twin)?.is_changed() {
            return None;
        }
        let tally = Arc::clone(spread.waves.get(course.wave_of(twin)?)?);
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
    Lost,
    Left,
    Incomplete,
}

impl Place {
    /// Of a twin on which the revision, or that it is gone, stands so.
    fn of(standing: Standing, twin: &TwinDocument) -> Place {
        match standing {
            Standing::Applied if twin.is_gone_since_answering(PROVED_AFTER) => Place::Lost,
            // What others hold needs no answer.
            Standing::Applied | Standing::Overruled => Place::Applied,
            Standing::Rejected => Place::Rejected,
            // Wherever it is now: it was there, and was asked.
            Standing::TimedOut => Place::TimedOut,
            Standing::Reverted => Place::Reverted,
            Standing::Pending if twin.is_connected() => Place::Pending,
            Standing::Pending => Place::Offline,
        }
    }
}

/// One twin in the tally of its wave, for as long as it lives.
#[derive(Debug)]
pub(super) struct InWave {
    tally: Arc<WaveTally>,
    /// None: it is only watched.
    place: Option<Place>,
    flagged: bool,
}

impl InWave {
    /// Counts a twin whose wave has begun; none if the rollout is nothing to it. `standing` is that of the new
    /// revision, if that is in force there.
    pub(super) fn new(
        spread: &Spread,
        set: &PolicySet,
        standing: Option<Standing>,
        twin: &TwinDocument,
    ) -> Option<InWave> {
        let course = &spread.new.stage.as_ref()?.course;
        let place = if spread.new.gate.is_open() {
            match spread.member(twin)? {
                Membership::Gets => Some(Place::of(standing?, twin)),
                Membership::Lacks => Some(Place::Incomplete),
                Membership::Loses => {
                    let id = spread.new.policy.id();
                    let standing = standing_without(set, twin, id, course.began());
                    Some(match Place::of(standing, twin) {
                        Place::Applied => Place::Left,
                        other => other,
                    })
                }
                Membership::Out => None,
            }
        } else {
            // What is not there yet waits for the opening.
            Some(Place::of(standing?, twin))
        };
        let flagged = course.flags(twin);
        if place.is_none() && !flagged {
            return None;
        }
        let wave = course
            .wave_of(twin)
            .filter(|wave| *wave < course.released());
        let tally = Arc::clone(spread.waves.get(wave?)?);
        if let Some(place) = place {
            tally.of(place).fetch_add(1, Ordering::Relaxed);
        }
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
        if let Some(place) = self.place {
            self.tally.of(place).fetch_sub(1, Ordering::Relaxed);
        }
        let flagged = u64::from(self.flagged);
        self.tally.flagged.fetch_sub(flagged, Ordering::Relaxed);
    }
}
