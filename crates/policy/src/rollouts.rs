//! Brings rollouts forward: counts the devices of a new one, and begins, ends and takes back waves by
//! what the counts say.
//!
//! What to do is decided in `rollout`; here it is kept, and what follows from it in force is the
//! sweep's and the consumers' work. A stop at any point loses nothing: the phase is in the store before
//! anything follows from it, and what was seen is seen again.

use std::time::Duration;

use prost_types::FieldMask;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{info, warn};
use wire::twin::v1::ListTwinsRequest;

use crate::counts::Counts;
use crate::evaluate::{ActivePolicy, PolicySet, Side, Verdict};
use crate::policies::Policies;
use crate::progress::Progress;
use crate::rollout::{
    Candidate, Phase, PlannedWave, Refusal, Rollout, Seen, draw, flag, labels, plan,
};
use crate::store::{By, Cause, RolloutError, StoredPolicy, StoredRollout};
use crate::sweep::TWIN_FIELDS;
use crate::twin_document::TwinDocument;
use crate::twin_store::{Failure, TwinStore};

/// Between two looks at the counts, while a rollout is under way.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Before twins are asked for again that twin-store failed to list.
const LIST_AGAIN: Duration = Duration::from_secs(5);

/// Twins of one page; halved when a page of the largest twins does not fit a message.
const PAGE_TWINS: i32 = 100;

/// Who does it when nobody said so.
const BY_ITSELF: &str = "twinward";

/// What rollouts are brought forward with.
#[derive(Debug)]
pub(crate) struct Rollouts {
    /// What is in force, rollouts included.
    pub policies: Policies,
    /// What became of the devices.
    pub counts: Counts,
    /// Whether every twin was looked at.
    pub progress: Progress,
    /// Where twins are counted.
    pub twins: TwinStore,
    /// What time it is.
    pub clock: SharedClock,
    /// Ends it.
    pub shutdown: ShutdownToken,
}

impl Rollouts {
    /// Works until the service stops.
    pub(crate) async fn run(self) {
        let mut changes = self.policies.changes();
        loop {
            // What changes from here on wakes us again.
            changes.set();
            let rolling = self.policies.rolling();
            let mut pause = None;
            for policy in &rolling {
                let Some(wait) = self.bring_forward(policy).await else {
                    return;
                };
                pause = Some(pause.map_or(wait, |pause: Duration| pause.min(wait)));
            }
            let woken = async {
                match pause {
                    Some(pause) => tokio::select! {
                        () = tokio::time::sleep(pause) => true,
                        more = changes.changed() => more,
                    },
                    None => changes.changed().await,
                }
            };
            match self.shutdown.run_until(woken).await {
                Some(true) => {}
                Some(false) | None => return,
            }
        }
    }

    /// Looks at one rollout; answers when to look again, none if the service stops.
    async fn bring_forward(&self, policy: &StoredPolicy) -> Option<Duration> {
        let Some(stored) = &policy.rollout else {
            return Some(LOOK_EVERY);
        };
        match stored.rollout.phase {
            Phase::Planning => match self.count(policy, stored).await {
                Ok(waves) => {
                    let at = self.clock.now();
                    let planned = move |now: &Rollout| {
                        // Somebody may have ended it while we counted.
                        Ok(match now.phase {
                            Phase::Planning => now.planned(waves, at),
                            _ => now.clone(),
                        })
                    };
                    self.keep(policy, stored, planned).await;
                }
                Err(Failure::Stopped) => return None,
                Err(failure) => {
                    warn!(
                        policy_id = %policy.policy.id(),
                        revision = stored.revision,
                        error = chain(&failure),
                        "the twins of a rollout cannot be counted; trying again"
                    );
                    return Some(LIST_AGAIN);
                }
            },
            Phase::Rolling | Phase::Soaking => {
                // Nothing is judged before every twin was looked at with what is in force, and every
                // change since has been counted.
                if self.progress.done() < stored.sweep {
                    return Some(LOOK_EVERY);
                }
                let Some((waves, _)) = self.counts.waves(policy) else {
                    return Some(LOOK_EVERY);
                };
                let seen = Seen { waves };
                let at = self.clock.now();
                if stored.rollout.step(&seen, at).is_some() {
                    let seen_as = stored.rollout.clone();
                    let step = move |now: &Rollout| Ok(now.step_as(&seen_as, &seen, at));
                    self.keep(policy, stored, step).await;
                }
            }
            Phase::AwaitingApproval
            | Phase::Paused
            | Phase::Completed
            | Phase::RolledBack
            | Phase::Superseded => {}
        }
        Some(LOOK_EVERY)
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

    /// Counts the twins that a revision changes, and plans its waves.
    async fn count(
        &self,
        policy: &StoredPolicy,
        stored: &StoredRollout,
    ) -> Result<Vec<PlannedWave>, Failure> {
        let everywhere = |active: ActivePolicy| ActivePolicy {
            stage: None,
            ..active
        };
        let new = policy.active();
        let before = policy.in_force().into_iter().filter(|active| {
            let stage = active.stage.as_ref();
            stage.is_some_and(|stage| stage.side == Side::Before)
        });
        let before: Option<ActivePolicy> = before.map(everywhere).next();
        let both = before.iter().chain([&new]).cloned();
        let mut request = ListTwinsRequest {
            page_size: PAGE_TWINS,
            filter: PolicySet::new(both).targets(),
            read_mask: Some(FieldMask {
                paths: TWIN_FIELDS.map(str::to_owned).to_vec(),
            }),
            ..ListTwinsRequest::default()
        };
        let strategy = &stored.rollout.strategy;
        let fail_if = flag(&strategy.fail_if);
        let labels = labels(strategy);
        let mut candidates = Vec::new();
        loop {
            let page = match self.twins.list(&request).await {
                Err(Failure::Refused(_)) if request.page_size > 1 => {
                    request.page_size /= 2;
                    continue;
                }
                other => other?,
            };
            let twins = page.twins.iter();
            // One that cannot be read is rejected by whoever decides on it.
            for twin in twins.filter_map(|twin| TwinDocument::from_wire(twin).ok()) {
                let applies = |active: &ActivePolicy| active.verdict(&twin) == Verdict::Applies;
                if !applies(&new) && !before.as_ref().is_some_and(applies) {
                    continue;
                }
                let view = twin.view();
                candidates.push(Candidate {
                    draw: draw(policy.policy.id(), stored.revision, twin.key()),
                    labelled: labels
                        .iter()
                        .find(|(_, condition)| condition.matches(&view))
                        .map(|(wave, _)| *wave),
                    flagged: fail_if
                        .as_ref()
                        .is_some_and(|condition| condition.matches(&view)),
                });
            }
            if page.next_page_token.is_empty() {
                return Ok(plan(strategy, &candidates));
            }
            request.page_token = page.next_page_token;
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
            "a rollout failed a gate"
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
