//! The twins of a rollout, wave by wave, counted like everything here by what lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::evaluate::{ActivePolicy, Side};
use crate::rollout::Tally;
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
