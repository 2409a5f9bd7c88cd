//! How far the evaluation of all twins is, for those who ask about a policy.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use service_kit::clock::SharedClock;
use tokio::sync::watch;
use wire::policy::v1 as proto;

use crate::store::{StoredPolicy, SweepCounts, SweepNumber, SweepState};

/// Sweeps whose end is remembered. Of more than so many the oldest count as one.
const ENDS_MAX: usize = 1000;

/// What is known of sweeps at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// The last complete sweep and what it found.
    done: SweepNumber,
    done_counts: SweepCounts,
    /// The running sweep, if there is one, and what it has found so far.
    running: Option<(SweepNumber, SweepCounts)>,
    /// When sweeps ended; of those before the start of the service, that.
    ends: VecDeque<(SweepNumber, Timestamp)>,
}

/// The handle to the progress. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<watch::Sender<Known>>, SharedClock);

impl Progress {
    /// What the store knows from before.
    pub(crate) fn new(state: SweepState, clock: SharedClock) -> Progress {
        let known = Known {
            done: state.done,
            done_counts: state.counts,
            running: None,
            ends: [(state.done, clock.now())].into(),
        };
        Progress(Arc::new(watch::Sender::new(known)), clock)
    }

    /// The last sweep that is complete.
    pub(crate) fn done(&self) -> SweepNumber {
        self.0.borrow().done
    }

    /// Since when this service has known every twin looked at by this sweep or a later one; none: they are not yet.
    pub(crate) fn since(&self, sweep: SweepNumber) -> Option<Timestamp> {
        let known = self.0.borrow();
        let end = known.ends.iter().find(|(done, _)| *done >= sweep);
        end.map(|(_, at)| *at)
    }

    /// A sweep has found this so far.
    pub(crate) fn running(&self, sweep: SweepNumber, counts: SweepCounts) {
        self.0
            .send_modify(|known| known.running = Some((sweep, counts)));
    }

    /// A sweep is complete.
    pub(crate) fn complete(&self, sweep: SweepNumber, counts: SweepCounts) {
        let at = self.1.now();
        self.0.send_modify(|known| {
            known.done = known.done.max(sweep);
            known.done_counts = counts;
            known.running = None;
            known.ends.push_back((sweep, at));
            if known.ends.len() > ENDS_MAX
                && let Some((_, first)) = known.ends.pop_front()
                && let Some((_, next)) = known.ends.front_mut()
            {
                *next = first;
            }
        });
    }

    /// How far the evaluation after the policy's last change is.
    pub(crate) fn of(&self, policy: &StoredPolicy) -> proto::Evaluation {
        let known = self.0.borrow();
        if known.done >= policy.sweep {
            return evaluation(true, known.done_counts);
        }
        match known.running {
            Some((sweep, counts)) if sweep >= policy.sweep => evaluation(false, counts),
            // The sweep for this change has not begun.
            Some(_) | None => evaluation(false, SweepCounts::default()),
        }
    }
}

fn evaluation(complete: bool, counts: SweepCounts) -> proto::Evaluation {
    proto::Evaluation {
        complete,
        twins_evaluated: counts.evaluated,
        twins_changed: counts.changed,
        twins_failed: counts.failed,
    }
}
