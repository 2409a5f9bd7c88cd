//! Why a rollout stands still: one answer for whoever brings it forward and whoever asks about it.
//!
//! It reads what others keep (whether the policy is open, how far the sweep is, what is counted) and
//! decides nothing: what comes of what is seen is `rollout`'s.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use service_kit::clock::SharedClock;

use crate::counts::Counts;
use crate::policies::Policies;
use crate::policy_doc::PolicyId;
use crate::progress::Progress;
use crate::rollout::{Phase, Seen, Step};
use crate::schedule::Gate;
use crate::store::{StoredPolicy, StoredRollout};

/// How the counting of new rollouts' twins goes, for people. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plans(Arc<Mutex<BTreeMap<PolicyId, String>>>);

impl Plans {
    /// Says how it goes; none: it has ended.
    pub(crate) fn say(&self, policy: &PolicyId, how: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match how {
            Some(how) => all.insert(policy.clone(), how),
            None => all.remove(policy),
        };
    }

    fn of(&self, policy: &PolicyId) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(policy).cloned()
    }
}

/// What can be seen of a rollout under way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Look {
    /// This, to judge it by.
    Sees(Seen),
    /// Only what has failed, for this reason.
    SeesPartly(Seen, String),
    /// Nothing, for this reason.
    SeesNothing(String),
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Standstill {
    /// What is in force.
    pub policies: Policies,
    /// What became of the devices.
    pub counts: Counts,
    /// Whether every twin was looked at.
    pub progress: Progress,
    /// How the counting of new rollouts goes.
    pub plans: Plans,
    /// What time it is.
    pub clock: SharedClock,
}

impl Standstill {
    /// What can be seen of a rollout whose waves are under way.
    pub(crate) fn look(&self, policy: &StoredPolicy, stored: &StoredRollout) -> Look {
        let Some(waves) = self.counts.waves(policy) else {
            let problem = self.counts.problem();
            let why =
                problem.unwrap_or_else(|| "its twins are being read to be counted".to_owned());
            return Look::SeesNothing(why);
        };
        let opening = self.policies.opening(policy);
        let seen = Seen {
            waves: waves.tallies,
            open_since: opening.and_then(|opening| opening.since),
            looked_since: None,
            partly: true,
        };
        let Some(opening) = opening else {
            let why = match self.policies.gate(policy) {
                Gate::Closed(why) => why.to_string(),
                Gate::Expired(since) => format!("the policy ended {since}"),
                Gate::Open => "the policy is about to open or to close".to_owned(),
            };
            return Look::SeesPartly(seen, why);
        };
        if self.progress.done() < stored.sweep.max(opening.sweep) {
            let so_far = self.progress.of(policy).twins_evaluated;
            let why = format!("not every twin was looked at since its last step, {so_far} were");
            return Look::SeesPartly(seen, why);
        }
        if !waves.open {
            let why = "its twins are being read again, since the policy opened";
            return Look::SeesPartly(seen, why.to_owned());
        }
        Look::Sees(Seen {
            partly: false,
            looked_since: self.progress.since(stored.sweep.max(opening.sweep)),
            ..seen
        })
    }

    /// Whether a rollout that is begun anew has to wait until nothing of it is left from before.
    pub(crate) fn is_leaving(&self, stored: &StoredRollout) -> bool {
        stored.rollout.again && self.progress.done() < stored.sweep
    }

    /// Why a rollout that is in force stands still though nobody told it to; none: it does not.
    pub(crate) fn why(&self, policy: &StoredPolicy, stored: &StoredRollout) -> Option<String> {
        let phase = stored.rollout.phase;
        if phase.has_ended() {
            return None;
        }
        match self.policies.gate(policy) {
            Gate::Closed(why) => return Some(why.to_string()),
            Gate::Expired(since) => return Some(format!("the policy ended {since}")),
            Gate::Open => {}
        }
        match phase {
            Phase::Planning if self.is_leaving(stored) => {
                Some("it is being taken out of every device first".to_owned())
            }
            Phase::Planning => self.plans.of(policy.policy.id()),
            Phase::Rolling | Phase::Soaking => match self.look(policy, stored) {
                Look::SeesPartly(_, why) | Look::SeesNothing(why) => Some(why),
                Look::Sees(seen) => match stored.rollout.judge(&seen, self.clock.now()) {
                    Step::Waits(why) => Some(why),
                    Step::Goes(_) | Step::Stays => None,
                },
            },
            Phase::AwaitingApproval
            | Phase::Paused
            | Phase::Completed
            | Phase::RolledBack
            | Phase::Superseded => None,
        }
    }
}
