//! How far the evaluation of all twins is, for those who ask about a policy.

use std::sync::Arc;

use tokio::sync::watch;
use wire::policy::v1 as proto;

use crate::store::{StoredPolicy, SweepCounts, SweepNumber, SweepState};

/// What is known of sweeps at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    /// The last complete sweep and what it found.
    done: SweepNumber,
    done_counts: SweepCounts,
    /// The running sweep, if there is one, and what it has found so far.
    running: Option<(SweepNumber, SweepCounts)>,
}

/// The handle to the progress. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<watch::Sender<Known>>);

impl Progress {
    /// What the store knows from before.
    pub(crate) fn new(state: SweepState) -> Progress {
        let known = Known {
            done: state.done,
            done_counts: state.counts,
            running: None,
        };
        Progress(Arc::new(watch::Sender::new(known)))
    }

    /// The last sweep that is complete.
    pub(crate) fn done(&self) -> SweepNumber {
        self.0.borrow().done
    }

    /// A sweep has found this so far.
    pub(crate) fn running(&self, sweep: SweepNumber, counts: SweepCounts) {
        self.0
            .send_modify(|known| known.running = Some((sweep, counts)));
    }

    /// A sweep is complete.
    pub(crate) fn complete(&self, sweep: SweepNumber, counts: SweepCounts) {
        self.0.send_modify(|known| {
            *known = Known {
                done: known.done.max(sweep),
                done_counts: counts,
                running: None,
            };
        });
    }

    /// How far the evaluation after the policy's last change is.
    pub(crate) fn of(&self, policy: &StoredPolicy) -> proto::Evaluation {
        let known = *self.0.borrow();
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
