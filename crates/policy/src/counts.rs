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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::{Came, Informer, InformerConfig, Kept, Runner, What};
use jiff::Timestamp;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::metrics::{Family, Gauge, Scope};
use service_kit::shutdown::ShutdownToken;
use tracing::{debug, warn};
use wire::names::identity_from_ids;
use wire::policy::v1 as proto;
use wire::time::to_wire;
use wire::twin::v1::Change;

use crate::configured;
use crate::evaluate::{ActivePolicy, Interest, PolicySet};
use crate::metrics::{Metrics, StandingLabel};
use crate::policies::Policies;
use crate::policy_doc::PolicyId;
use crate::rollout::{self, Phase, Rollout};
use crate::standing::standings;
use crate::store::{StoredConfiguration, StoredPolicy};
use crate::sweep::TWIN_FIELDS;
use crate::twin_document::{TwinDocument, scope_of};
use crate::twin_store::TwinStore;

mod tally;
mod waves;

use tally::{Counted, Tally};
use waves::{InWave, NumbersInWave, WaveTally};

/// What is kept of a twin that policies apply to.
#[derive(Debug)]
pub(crate) struct OfTwin {
    /// One for each of the policies. Only its life matters.
    _counted: Box<[Counted]>,
    /// One for each rollout that looks at numbers, also where its wave has not begun.
    _numbers: Box<[NumbersInWave]>,
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
    tally: Arc<Tally>,
    /// If it is rolled out: of each wave.
    waves: Arc<[Arc<WaveTally>]>,
}

/// The handle to the counts. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    informer: Informer<OfTwin>,
    followed: Arc<Mutex<Followed>>,
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

    /// The waves of a policy's rollout, from the first, and since when they have followed every
    /// change; none: they do not now.
    pub(crate) fn waves(&self, policy: &StoredPolicy) -> Option<(Vec<rollout::Tally>, Timestamp)> {
        // As above, the lock first.
        let followed = self.followed();
        let since = self.in_step_since()?;
        let of_policy = followed.get(policy.policy.id())?;
        let waves = of_policy.waves.iter().map(|wave| wave.read());
        of_policy.is(policy).then(|| (waves.collect(), since))
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
            filter: set.targets(),
            fields: TWIN_FIELDS.map(str::to_owned).to_vec(),
            ..What::default()
        };
        // Held until both are new, so that nobody takes the old counts for those of the new policies.
        let mut followed = self.counts.followed();
        retally(&mut followed, set, &self.metrics.policy_twins);
        let maker = Maker {
            set: set.clone(),
            followed: followed.clone(),
            rolling: set.policies().any(|active| active.stage.is_some()),
            clock: self.counts.clock.clone(),
        };
        self.runner.refocus(what, move |came| maker.make(&came));
        if followed.is_empty() {
            self.runner.clear();
        }
        !followed.is_empty()
    }
}

/// The policies, as far as counts depend on them: id, revision, whether it is open, and of a rollout how many waves it has
/// and how many of them have the revision.
type Signature = BTreeMap<PolicyId, (u64, bool, Option<(usize, usize)>)>;

fn signature(set: &PolicySet) -> Signature {
    let of = |active: &Arc<ActivePolicy>| {
        let course = active.stage.as_ref().map(|stage| &stage.course);
        let course = course.map(|course| (course.waves(), course.released()));
        let open = active.gate.is_open();
        (active.policy.id().clone(), (active.revision, open, course))
    };
    set.newest().map(of).collect()
}

/// Makes of a twin what is kept of it.
struct Maker {
    set: Arc<PolicySet>,
    followed: Followed,
    /// Whether there are rollouts: then it also counts whether a device is there.
    rolling: bool,
    clock: SharedClock,
}

impl Maker {
    fn make(&self, came: &Came<'_, OfTwin>) -> Kept<OfTwin> {
        let twin = came.twin;
        let Ok(key) = identity_from_ids(&twin.device_id, &twin.module_id) else {
            return Kept::Nothing;
        };
        let scope = scope_of(&key);
        if came.before.is_some() && !came.changes.is_empty() && !self.rolling {
            let answered = came.changes.contains(&Change::ConfigurationState);
            let changed = Interest::of_changes(came.changes.iter().copied());
            if !answered && !self.set.is_concerned(scope, changed) {
                return Kept::Same;
            }
        }
        let document = match TwinDocument::from_wire(twin) {
            Ok(document) => document,
            // Whoever decides on it rejects it, with all that is to be known.
            Err(error) => {
                debug!(twin = %key, %error, "a twin cannot be counted");
                return Kept::Nothing;
            }
        };
        let standings = standings(&self.set, &document, self.clock.now());
        let counted: Box<[Counted]> = standings
            .into_iter()
            .filter_map(|(active, standing)| {
                let of_policy = self.followed.get(active.policy.id())?;
                let in_wave = InWave::new(&of_policy.waves, &active, standing, &document);
                let counted = Counted::new(&of_policy.tally, standing, in_wave);
                Some(if configured::is_applied(&active, &document) {
                    counted.noted()
                } else {
                    counted
                })
            })
            .collect();
        let numbers = self.set.newest().filter_map(|active| {
            let of_policy = self.followed.get(active.policy.id())?;
            NumbersInWave::new(&of_policy.waves, active, &document)
        });
        let numbers: Box<[NumbersInWave]> = numbers.collect();
        if counted.is_empty() && numbers.is_empty() {
            return Kept::Nothing;
        }
        Kept::New(OfTwin {
            _counted: counted,
            _numbers: numbers,
        })
    }
}

#[cfg(test)]
mod tests;
