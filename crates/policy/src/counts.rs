//! On how many twins each policy is targeted, and what became of its settings there, counted as twins
//! change.
//!
//! A cache of twin-store's twins (list and watch, crate `client`) holds of each twin that a policy
//! applies to one small entry per policy, and each entry is in its policy's tally for exactly as long
//! as it lives. So the counts are right by construction: what replaces or removes an entry moves
//! them. When the policies change, the twins that they now apply to are read anew; until they all
//! came the counts are said not to be in step.
//!
//! No twin is decided on by these counts, and readiness does not depend on them: those decisions are
//! the consumers' and the sweep's, which twin-store's stream feeds in order. Whether a rollout goes on
//! is judged by them (`rollouts`), as long as they are in step.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::{Informer, InformerConfig, Runner, What};
use jiff::Timestamp;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::metrics::{Family, Gauge, Scope};
use service_kit::shutdown::ShutdownToken;
use tracing::warn;
use wire::policy::v1 as proto;
use wire::time::to_wire;

use crate::evaluate::{ActivePolicy, PolicySet};
use crate::metrics::{Metrics, StandingLabel};
use crate::policies::Policies;
use crate::policy_doc::PolicyId;
use crate::rollout::{self, Phase, Rollout};
use crate::schedule::Gate;
use crate::store::{StoredConfiguration, StoredPolicy};
use crate::sweep::TWIN_FIELDS;
use crate::twin_store::TwinStore;

mod maker;
mod tally;
mod waves;

use maker::Maker;
use tally::{Counted, Tally};
use waves::{InWave, NumbersInWave, WaveTally};

/// What is kept of a twin that policies apply to.
#[derive(Debug)]
pub(crate) struct OfTwin {
    /// One for each of the policies. Only its life matters.
    _counted: Box<[Counted]>,
    /// One for each rollout in which its wave has begun.
    _in_waves: Box<[InWave]>,
    /// One for each rollout that looks at numbers, also where its wave has not begun.
    _numbers: Box<[NumbersInWave]>,
    /// Whether the device was there.
    connected: bool,
}

/// What is counted of the waves of a rollout.
#[derive(Debug, Clone)]
pub(crate) struct Waves {
    /// Of each, from the first.
    pub(crate) tallies: Vec<rollout::Tally>,
    /// Since when they have followed every change.
    pub(crate) since: Timestamp,
    /// Whether the policy was open when it was last looked who is in them.
    pub(crate) open: bool,
}

/// The policies whose twins are followed.
type Followed = BTreeMap<PolicyId, OfPolicy>;

/// What is counted of a policy.
#[derive(Debug, Clone)]
struct OfPolicy {
    /// Its newest revision.
    revision: u64,
    /// If that is rolled out: how many waves have it.
    released: Option<usize>,
    /// Whether it was open.
    open: bool,
    tally: Arc<Tally>,
    /// If it is rolled out: of each wave.
    waves: Arc<[Arc<WaveTally>]>,
}

/// The handle to the counts. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    informer: Informer<OfTwin>,
    followed: Arc<Mutex<Followed>>,
    /// Why nothing is counted; none: it is.
    problem: Arc<Mutex<Option<String>>>,
    clock: SharedClock,
}

impl Counts {
    /// Makes the counts, and what keeps them in step.
    pub(crate) fn new(
        twins: &TwinStore,
        policies: Policies,
        twins_max: u32,
        clock: SharedClock,
        scope: &Scope,
        metrics: Metrics,
    ) -> (Counts, Follower) {
        let config = InformerConfig {
            entries_max: usize::try_from(twins_max).unwrap_or(usize::MAX),
            ..InformerConfig::of(What::default())
        };
        // It follows nothing before it knows the policies.
        let (informer, runner) = Informer::new(twins.to_watch(), config, scope, |_| None);
        let counts = Counts {
            informer,
            followed: Arc::default(),
            problem: Arc::default(),
            clock,
        };
        let follower = Follower {
            runner,
            counts: counts.clone(),
            policies,
            metrics,
        };
        (counts, follower)
    }

    /// The counts of a policy.
    pub(crate) fn of(&self, policy: &StoredPolicy) -> proto::PolicyStatus {
        // First, so that what is in step is this and not what was followed before.
        let followed = self.followed();
        let in_step = self.in_step_since();
        let Some(of_policy) = followed.get(policy.policy.id()) else {
            return proto::PolicyStatus::default();
        };
        let is_this = of_policy.is(policy);
        let tally = &of_policy.tally;
        let count = |gauge: &Gauge| u64::try_from(gauge.get()).unwrap_or(0);
        proto::PolicyStatus {
            twins_targeted: count(&tally.targeted),
            twins_applied: count(&tally.applied),
            twins_pending: count(&tally.pending),
            twins_rejected: count(&tally.rejected),
            twins_timed_out: count(&tally.timed_out),
            twins_reverted: count(&tally.reverted),
            in_step_time: in_step.filter(|_| is_this).map(to_wire),
            // Told by whoever decides; what is followed here does not match.
            ..proto::PolicyStatus::default()
        }
    }

    /// On how many twins a configuration stands; none: they are not counted, or not now.
    pub(crate) fn of_configuration(
        &self,
        configuration: &StoredConfiguration,
    ) -> Option<proto::ConfigurationCounts> {
        // As above, the lock first.
        let followed = self.followed();
        let since = self.in_step_since()?;
        let of_policy = followed.get(&PolicyId::of_configuration(&configuration.id))?;
        let count = |gauge: &Gauge| u64::try_from(gauge.get()).unwrap_or(0);
        (of_policy.revision == configuration.revision).then(|| proto::ConfigurationCounts {
            twins_targeted: count(&of_policy.tally.targeted),
            twins_applied: count(&of_policy.tally.noted),
            in_step_time: Some(to_wire(since)),
        })
    }

    /// The waves of a policy's rollout; none: they do not follow every change now.
    pub(crate) fn waves(&self, policy: &StoredPolicy) -> Option<Waves> {
        // As above, the lock first.
        let followed = self.followed();
        let since = self.in_step_since()?;
        let of_policy = followed.get(policy.policy.id())?;
        let waves = of_policy.waves.iter().map(|wave| wave.read());
        of_policy.is(policy).then(|| Waves {
            tallies: waves.collect(),
            since,
            open: of_policy.open,
        })
    }

    /// Why nothing is counted; none: it is, or will be in a while.
    pub(crate) fn problem(&self) -> Option<String> {
        let problem = self.problem.lock();
        problem.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, problem: Option<String>) {
        let mut noted = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = problem;
    }

    fn in_step_since(&self) -> Option<Timestamp> {
        let ago = jiff::SignedDuration::try_from(self.informer.in_step_for()?).ok()?;
        self.clock.now().checked_sub(ago).ok()
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfPolicy {
    fn new(active: &ActivePolicy, tally: Arc<Tally>, before: &[Arc<WaveTally>]) -> OfPolicy {
        let course = active.stage.as_ref().map(|stage| &stage.course);
        let wave = |index| before.get(index).cloned().unwrap_or_default();
        let waves = course.map_or(0, |course| course.waves());
        OfPolicy {
            revision: active.revision,
            released: course.map(|course| course.released()),
            open: active.gate.is_open(),
            tally,
            waves: (0..waves).map(wave).collect(),
        }
    }

    /// Whether this is counted by what is in force of the policy.
    fn is(&self, policy: &StoredPolicy) -> bool {
        let rollout = policy.rollout.as_ref().map(|stored| &stored.rollout);
        let under_way = rollout.filter(|rollout| rollout.phase != Phase::Completed);
        self.revision == policy.effective_revision
            && self.released == under_way.map(Rollout::in_force)
            && under_way.is_none_or(|rollout| rollout.waves.len() == self.waves.len())
    }
}

/// Gives each of these policies its tally; those of policies that stay go on counting.
fn retally(followed: &mut Followed, set: &PolicySet, twins: &Family<StandingLabel, Gauge>) {
    let mut before = std::mem::take(followed);
    for active in set.newest() {
        let id = active.policy.id();
        let of_policy = match before.remove(id) {
            Some(old) if old.revision == active.revision => {
                OfPolicy::new(active, old.tally, &old.waves)
            }
            Some(old) => OfPolicy::new(active, old.tally, &[]),
            None => OfPolicy::new(active, Arc::new(Tally::new(twins, id)), &[]),
        };
        followed.insert(id.clone(), of_policy);
    }
    for id in before.keys() {
        Tally::forget(twins, id);
    }
}

/// Keeps the counts in step.
#[derive(Debug)]
pub(crate) struct Follower {
    runner: Runner<OfTwin>,
    counts: Counts,
    policies: Policies,
    metrics: Metrics,
}

impl Follower {
    /// Works until the service stops.
    pub(crate) async fn run(mut self, shutdown: ShutdownToken) {
        let mut changes = self.policies.changes();
        let mut focus = None;
        let mut works = false;
        loop {
            let set = changes.set();
            // Better wording is no other policy.
            let wanted = signature(&set);
            if focus.as_ref() != Some(&wanted) {
                works = self.focus(&set);
                focus = Some(wanted);
            }
            // What is dropped here goes on where it was.
            tokio::select! {
                () = shutdown.triggered() => return,
                goes_on = changes.changed() => {
                    if !goes_on {
                        return;
                    }
                }
                error = self.runner.follow(), if works => {
                    works = false;
                    self.runner.clear();
                    self.counts.note(Some(format!(
                        "its twins are not counted: {}",
                        chain(&error)
                    )));
                    warn!(
                        error = chain(&error),
                        "twins of policies are not counted until a policy changes"
                    );
                }
            }
        }
    }

    /// Follows the twins of these policies; false if there is nothing to follow.
    fn focus(&mut self, set: &Arc<PolicySet>) -> bool {
        let what = What {
            filter: set.watched(),
            // And whether the device is there, as it is told without looking into the posture.
            fields: [&TWIN_FIELDS[..], &["connected"]]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            ..What::default()
        };
        // Held until both are new, so that nobody takes the old counts for those of the new policies.
        let mut followed = self.counts.followed();
        retally(&mut followed, set, &self.metrics.policy_twins);
        self.counts.note(None);
        let policies = self.policies.clone();
        let frozen = move || policies.set().frozen().clone();
        let maker = Maker::new(set, &followed, frozen, self.counts.clock.clone());
        self.runner.refocus(what, move |came| maker.make(&came));
        if followed.is_empty() {
            self.runner.clear();
        }
        !followed.is_empty()
    }
}

/// The policies, as far as counts depend on them: id, revision, whether it is open, closed or over, and of a rollout how
/// many waves it has and how many of them have the revision.
type Signature = BTreeMap<PolicyId, (u64, Discriminant<Gate>, Option<(usize, usize)>)>;

fn signature(set: &PolicySet) -> Signature {
    let of = |active: &Arc<ActivePolicy>| {
        let course = active.stage.as_ref().map(|stage| &stage.course);
        let course = course.map(|course| (course.waves(), course.released()));
        let gate = discriminant(&active.gate);
        (active.policy.id().clone(), (active.revision, gate, course))
    };
    set.newest().map(of).collect()
}

#[cfg(test)]
mod tests;
