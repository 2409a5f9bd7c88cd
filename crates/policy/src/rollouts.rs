//! Brings rollouts forward: has the devices of a new one counted, and begins, ends and takes back waves by
//! what the counts say.
//!
//! What to do is decided in `rollout`; here it is kept, and what follows from it in force is the
//! sweep's and the consumers' work. A stop at any point loses nothing: the phase is in the store before
//! anything follows from it, and what was seen is seen again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::planning::{self, Planned};
use crate::policies::Policies;
use crate::rollout::{Finding, Phase, PlannedWave, Refusal, Rollout};
use crate::schedule::Gate;
use crate::standstill::{Look, Standstill};
use crate::store::{By, Cause, RolloutError, StoredPolicy, StoredRollout};
use crate::touch::Touch;
use crate::twin_store::{Failure, TwinStore};

/// Between two looks at the counts, while a rollout is under way.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Before twins are asked for again that twin-store failed to list.
const LIST_AGAIN: Duration = Duration::from_secs(5);

/// Rollouts whose twins are counted at the same time; a further one waits for its turn, while those
/// that are planned go on. Each keeps 24 bytes a twin until it is planned.
const PLANS_AT_ONCE: usize = 4;

/// Who does it when nobody said so.
const BY_ITSELF: &str = "twinward";

/// What rollouts are brought forward with.
#[derive(Debug)]
pub(crate) struct Rollouts {
    /// What is in force, rollouts included.
    pub policies: Policies,
    /// What can be seen of them.
    pub standstill: Standstill,
    /// Where twins are counted.
    pub twins: TwinStore,
    /// What the mass-change guard has to say of those that nobody could count.
    pub touch: Touch,
    /// Where it is told what becomes of them.
    pub metrics: Metrics,
    /// What time it is.
    pub clock: SharedClock,
    /// Ends it.
    pub shutdown: ShutdownToken,
}

impl Rollouts {
    /// Works until the service stops.
    pub(crate) async fn run(self) {
        let mut changes = self.policies.changes();
        let mut plans = FuturesUnordered::new();
        let mut planning = BTreeSet::new();
        loop {
            // What changes from here on wakes us again.
            changes.set();
            self.metrics
                .show_rollouts(self.policies.rollout_phases().into_iter());
            let rolling = self.policies.rolling();
            let mut is_under_way = false;
            for policy in rolling {
                let Some(stored) = policy.rollout.clone() else {
                    continue;
                };
                if let Gate::Expired(since) = self.policies.gate(&policy) {
                    let at = self.clock.now();
                    let expired = move |now: &Rollout| Ok(now.expired(since, at));
                    self.keep(&policy, &stored, expired).await;
                    continue;
                }
                if stored.rollout.phase != Phase::Planning {
                    self.bring_forward(&policy, &stored).await;
                    is_under_way = true;
                    continue;
                }
                // A policy that is closed begins no wave. Its opening is a change that wakes us.
                if self.policies.opening(&policy).is_none() {
                    continue;
                }
                if self.standstill.is_leaving(&stored) {
                    is_under_way = true;
                    continue;
                }
                let key = (policy.policy.id().clone(), stored.revision, stored.version);
                if planning.contains(&key) {
                    continue;
                }
                if planning.len() >= PLANS_AT_ONCE {
                    let how = "the twins of other rollouts are counted first".to_owned();
                    self.standstill.plans.say(&key.0, Some(how));
                } else {
                    planning.insert(key.clone());
                    plans.push(async {
                        let goes_on = self.plan(policy, stored).await;
                        (key, goes_on)
                    });
                }
            }
            let pause = async {
                if is_under_way {
                    tokio::time::sleep(LOOK_EVERY).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let woken = async {
                tokio::select! {
                    () = pause => true,
                    more = changes.changed() => more,
                    Some((key, goes_on)) = plans.next() => {
                        planning.remove(&key);
                        self.standstill.plans.say(&key.0, None);
                        goes_on
                    }
                }
            };
            match self.shutdown.run_until(woken).await {
                Some(true) => {}
                Some(false) | None => return,
            }
        }
    }

    /// Plans one rollout, however long that takes; false if the service stops.
    async fn plan(&self, policy: StoredPolicy, stored: Arc<StoredRollout>) -> bool {
        let is_wanted = || {
            let present = self.policies.get(policy.policy.id());
            let rollout = present.and_then(|present| present.rollout.clone());
            rollout.is_some_and(|rollout| {
                (rollout.revision, rollout.version) == (stored.revision, stored.version)
            })
        };
        let say = |how: String| self.standstill.plans.say(policy.policy.id(), Some(how));
        let counted = |twins: u64| say(format!("its twins are counted, {twins} by now"));
        loop {
            counted(0);
            match planning::waves(&self.twins, &policy, &stored, is_wanted, counted).await {
                Ok(None) => return true,
                Ok(Some(Planned { waves, answers })) => {
                    let is_small = self.is_small(&policy, &stored, &waves).await;
                    let at = self.clock.now();
                    let seen_as = stored.rollout.clone();
                    let planned = move |now: &Rollout| {
                        // Somebody may have ended it while we counted.
                        Ok(if *now == seen_as && is_small {
                            now.small_after_all(waves, at)
                        } else if *now == seen_as {
                            let waits = answers || now.guarded.is_none();
                            let now = if waits { now } else { &now.unanswered() };
                            now.planned(waves, at)
                        } else {
                            now.clone()
                        })
                    };
                    self.keep(&policy, &stored, planned).await;
                    // Whoever waits is woken by the change itself; if it could not be kept, it is not
                    // tried again at once.
                    tokio::time::sleep(LOOK_EVERY).await;
                    return true;
                }
                Err(Failure::Stopped) => return false,
                Err(failure) => {
                    warn!(
                        policy_id = %policy.policy.id(),
                        revision = stored.revision,
                        error = chain(&failure),
                        "the twins of a rollout cannot be counted; trying again"
                    );
                    say(format!("its twins cannot be counted: {}", chain(&failure)));
                    tokio::time::sleep(LIST_AGAIN).await;
                }
            }
        }
    }

    /// Whether a rollout that the guard began without counting changes few enough twins after all.
    async fn is_small(
        &self,
        policy: &StoredPolicy,
        stored: &StoredRollout,
        waves: &[PlannedWave],
    ) -> bool {
        let guarded = stored.rollout.guarded.as_ref();
        if guarded.is_none_or(|guarded| guarded.counted) {
            return false;
        }
        let touched = waves.iter().map(|wave| wave.twins).sum();
        let finding = self.touch.judge(touched, &policy.active()).await;
        finding == Finding::Fine
    }

    /// Judges one rollout by what is counted of its devices.
    async fn bring_forward(&self, policy: &StoredPolicy, stored: &StoredRollout) {
        let seen = match stored.rollout.phase {
            Phase::Rolling | Phase::Soaking => match self.standstill.look(policy, stored) {
                // What has failed is taken back at any time.
                Look::Sees(seen) | Look::SeesPartly(seen, _) => seen,
                Look::SeesNothing(_) => return,
            },
            Phase::Planning
            | Phase::AwaitingApproval
            | Phase::Paused
            | Phase::Completed
            | Phase::RolledBack
            | Phase::Superseded => return,
        };
        let at = self.clock.now();
        if stored.rollout.step(&seen, at).is_some() {
            let seen_as = stored.rollout.clone();
            let step = move |now: &Rollout| {
                let next = now.step_as(&seen_as, &seen, at);
                Ok(next.ending_with(now, &seen.waves))
            };
            self.keep(policy, stored, step).await;
        }
    }

    /// Keeps what becomes of a rollout and puts it in force.
    async fn keep(
        &self,
        policy: &StoredPolicy,
        stored: &StoredRollout,
        change: impl FnOnce(&Rollout) -> Result<Rollout, Refusal> + Send + 'static,
    ) {
        let id = policy.policy.id();
        let before = stored.rollout.phase;
        let cause = Cause {
            action: "rollout.step".to_owned(),
            by: By {
                actor: BY_ITSELF.to_owned(),
                request_id: uuid::Uuid::now_v7().to_string(),
                trace_parent: String::new(),
            },
            at: self.clock.now(),
        };
        let changed = self
            .policies
            .change_rollout(id.clone(), stored.revision, cause, change);
        match changed.await {
            Ok(policy) => {
                let after = policy.rollout.as_ref();
                if let Some(after) = after.filter(|after| after.version != stored.version) {
                    tell(&policy, before, after);
                    let (id, phase) = (policy.policy.id(), after.rollout.phase);
                    let has_expired = matches!(self.policies.gate(&policy), Gate::Expired(_));
                    if matches!(phase, Phase::Paused | Phase::RolledBack) && !has_expired {
                        self.metrics.gate_failed(id, phase);
                    }
                }
            }
            // A newer revision took its place meanwhile.
            Err(RolloutError::NotFound { .. } | RolloutError::Refused(_)) => {}
            Err(RolloutError::Store(error)) => warn!(
                policy_id = %id,
                revision = stored.revision,
                error = chain(&error),
                "a rollout cannot be kept; trying again"
            ),
        }
    }
}

/// Says in the log what became of a rollout.
fn tell(policy: &StoredPolicy, before: Phase, after: &StoredRollout) {
    let rollout = &after.rollout;
    let (id, phase) = (policy.policy.id(), rollout.phase.as_str());
    match rollout.phase {
        Phase::RolledBack | Phase::Paused => warn!(
            policy_id = %id,
            revision = after.revision,
            phase,
            reason = rollout.reason,
            "a rollout was ended or stopped by itself"
        ),
        _ => info!(
            policy_id = %id,
            revision = after.revision,
            before = before.as_str(),
            phase,
            wave = rollout.released,
            waves = rollout.waves.len(),
            "a rollout goes on"
        ),
    }
}
