//! The policies in force, in memory, in step with the store.
//!
//! Everybody who evaluates takes the present [`PolicySet`] from here at the moment of the decision;
//! a change of a policy is visible to all of them before the call that made it is answered. It
//! never evaluates anything itself.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bus::Sequence;
use jiff::Timestamp;
use service_kit::clock::SharedClock;
use tokio::sync::{Notify, watch};
use twin::Writer;

use crate::configuration_doc::ConfigurationId;
use crate::evaluate::{ActivePolicy, PolicySet};
use crate::keep::FrozenSet;
use crate::policy_doc::{Labels, Policy, PolicyId};
use crate::rollout::{Guarded, Refusal, Rollout};
use crate::schedule::Gate;
use crate::store::{
    self, Applied, By, Cause, Change, ConfigurationChange, Contents, RolloutError, Store,
    StoredConfiguration, StoredFreeze, StoredPolicy, StoredRevision, SweepCounts, SweepNumber,
    Unreadable,
};
use crate::stray::{Given, Strays};

mod deletion;
mod frozen;
mod hours;
mod rollouts;
mod strays;
mod unreadable;

pub(crate) use unreadable::tell;

/// What is in force at a moment.
#[derive(Debug, Clone, Default)]
struct Present {
    by_id: BTreeMap<PolicyId, StoredPolicy>,
    configurations: BTreeMap<ConfigurationId, StoredConfiguration>,
    frozen: FrozenSet,
    set: Arc<PolicySet>,
    /// What of the store cannot be read.
    unreadable: Unreadable,
    /// All revisions that were ever given.
    given: Arc<Given>,
    /// What stands on twins and was never given, until somebody says what becomes of it.
    strays: BTreeMap<PolicyId, u64>,
    /// In the order of their numbers.
    freezes: Vec<StoredFreeze>,
    /// Whether each policy may change twins, as `set` has it.
    gates: BTreeMap<PolicyId, Gate>,
    /// The sweep for what opened or ended last.
    edge: SweepNumber,
    /// Whether a policy opened or ended since, so that a further sweep has to be wanted.
    owed: bool,
}

impl Present {
    fn new(contents: &Contents, now: Timestamp) -> Present {
        let by_id = contents.policies.iter().cloned();
        let by_id = by_id.map(|one| (one.policy.id().clone(), one)).collect();
        let configurations = contents.configurations.iter().cloned();
        let mut present = Present {
            by_id,
            configurations: configurations.map(|one| (one.id.clone(), one)).collect(),
            frozen: contents.frozen.clone(),
            unreadable: contents.unreadable.clone(),
            given: Arc::new(contents.given.clone()),
            strays: contents.strays.clone(),
            freezes: contents.freezes.clone(),
            ..Present::default()
        };
        present.index(now);
        present
    }

    fn index(&mut self, now: Timestamp) {
        self.look_at_the_clock(now);
        let in_force = self.by_id.iter().flat_map(|(id, stored)| {
            let gate = self.gates.get(id).cloned().unwrap_or_default();
            stored.in_force_at(&gate).collect::<Vec<_>>()
        });
        let configurations = self.configurations.values();
        let configurations = configurations.filter_map(|stored| {
            let active = stored.active()?;
            let gate = self.gates.get(active.policy.id());
            let gate = gate.cloned().unwrap_or_default();
            Some(ActivePolicy { gate, ..active })
        });
        let set = PolicySet::new(in_force.chain(configurations));
        let unreadable = self.unreadable.policies.keys().cloned();
        let set = set.with_unreadable(unreadable.collect());
        let set = set.with_given(Arc::clone(&self.given));
        self.set = Arc::new(set.with_frozen(self.frozen.clone()));
    }
}

/// Changes of what is in force, for one who follows them.
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<Present>);

impl Changes {
    /// The policies to evaluate with, from where [`Changes::changed`] goes on.
    pub(crate) fn set(&mut self) -> Arc<PolicySet> {
        Arc::clone(&self.0.borrow_and_update().set)
    }

    /// Waits for a change; false if there will be none. May be dropped at any time.
    pub(crate) async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// Which sweeps somebody waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Must start at once: a policy changed, or changes were missed.
    pub now: SweepNumber,
    /// May wait: twins could not be written, and trying at once would fail again.
    pub later: SweepNumber,
}

impl Wanted {
    /// The last of both.
    pub(crate) fn last(self) -> SweepNumber {
        self.now.max(self.later)
    }
}

/// The handle to the policies in force. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Policies {
    store: Store,
    clock: SharedClock,
    present: Arc<watch::Sender<Present>>,
    wanted: Arc<watch::Sender<Wanted>>,
    /// Told when there is something new for the audit log.
    noted: Arc<Notify>,
    /// The twins on which there is something of which the store knows nothing.
    strays: Strays,
}

impl Policies {
    /// Takes over what the store holds.
    pub(crate) fn new(store: Store, clock: SharedClock, contents: &Contents) -> Policies {
        let wanted = Wanted {
            now: contents.sweep.wanted,
            later: SweepNumber::default(),
        };
        Policies {
            store,
            present: Arc::new(watch::Sender::new(Present::new(contents, clock.now()))),
            wanted: Arc::new(watch::Sender::new(wanted)),
            clock,
            noted: Arc::default(),
            strays: Strays::default(),
        }
    }

    /// The policies to evaluate with.
    pub(crate) fn set(&self) -> Arc<PolicySet> {
        Arc::clone(&self.present.borrow().set)
    }

    /// Tells when it may be another one than [`Policies::set`] answered before.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.present.subscribe())
    }

    /// One policy.
    pub(crate) fn get(&self, id: &PolicyId) -> Option<StoredPolicy> {
        self.present.borrow().by_id.get(id).cloned()
    }

    /// At most `limit` policies that have these labels, in the order of their ids, from behind `after`.
    pub(crate) fn list(
        &self,
        after: Option<&PolicyId>,
        labels: &Labels,
        limit: usize,
    ) -> Vec<StoredPolicy> {
        let fits = |stored: &StoredPolicy| {
            let own = &stored.policy.spec().labels;
            labels
                .iter()
                .all(|(key, value)| own.get(key) == Some(value))
        };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let present = self.present.borrow();
        present
            .by_id
            .range((start, Bound::Unbounded))
            .filter(|(_, one)| fits(one))
            .take(limit)
            .map(|(_, one)| one.clone())
            .collect()
    }

    /// Creates the policy or replaces its content, if it is at `expected`, and puts it in force.
    pub(crate) async fn apply(
        &self,
        policy: Policy,
        by: By,
        (note, guarded): (String, Option<Guarded>),
        expected: Option<String>,
    ) -> Result<Applied, store::Error> {
        let this = self.clone();
        let in_force = move |stored: &StoredPolicy| {
            this.put(Some(stored.sweep), |present| {
                let id = stored.policy.id();
                Arc::make_mut(&mut present.given).give(id, stored.revision);
                let effective = stored.effective_revision;
                present
                    .strays
                    .retain(|one, stray| one != id || *stray > effective);
                // Only another revision that acts on twins thaws: as the store has it.
                if stored.effective_revision == stored.revision {
                    present.frozen = present.frozen.without(stored.policy.id().as_str());
                }
                present
                    .by_id
                    .insert(stored.policy.id().clone(), stored.clone());
            });
            this.noted.notify_one();
        };
        let at = self.clock.now();
        let change = Change {
            by,
            at,
            note,
            guarded,
            expected,
        };
        self.store.apply(policy, change, in_force).await
    }

    /// What [`Policies::apply`] would do now.
    pub(crate) async fn rehearse(
        &self,
        policy: Policy,
        expected: Option<String>,
    ) -> Result<Applied, store::Error> {
        let now = self.clock.now();
        self.store.rehearse(policy, expected, now).await
    }

    /// At most `limit` revisions of a policy, also of a deleted one: the newest first, of those
    /// below `before`.
    pub(crate) async fn revisions(
        &self,
        id: PolicyId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredRevision>, store::Error> {
        self.store.revisions(id, before, limit).await
    }

    /// Changes the rollout that is in force for a policy, and puts in force what follows from it. If
    /// `change` changes nothing nothing is written.
    pub(crate) async fn change_rollout(
        &self,
        id: PolicyId,
        revision: u64,
        cause: Cause,
        change: impl FnOnce(&Rollout) -> Result<Rollout, Refusal> + Send + 'static,
    ) -> Result<StoredPolicy, RolloutError> {
        let this = self.clone();
        let in_force = move |stored: &StoredPolicy| {
            let fresh = this.fresh(stored.sweep);
            this.present.send_if_modified(|present| {
                let before = present
                    .by_id
                    .insert(stored.policy.id().clone(), stored.clone());
                let changed = before.as_ref() != Some(stored);
                let in_force = |one: &StoredPolicy| {
                    one.rollout.as_ref().map(|stored| stored.rollout.in_force())
                };
                if before.as_ref().map(in_force) != Some(in_force(stored)) {
                    present.frozen = present.frozen.without(stored.policy.id().as_str());
                }
                if changed {
                    present.index(this.clock.now());
                    present.cover(fresh);
                }
                changed
            });
            this.raise(stored.sweep);
            this.noted.notify_one();
        };
        self.store
            .change_rollout(id, revision, cause, change, in_force)
            .await
    }

    /// One configuration.
    pub(crate) fn configuration(&self, id: &ConfigurationId) -> Option<StoredConfiguration> {
        self.present.borrow().configurations.get(id).cloned()
    }

    /// All configurations, in the order of their ids.
    pub(crate) fn configurations(&self) -> Vec<StoredConfiguration> {
        let present = self.present.borrow();
        present.configurations.values().cloned().collect()
    }

    /// Puts changes of configurations in force, as they become durable.
    pub(crate) fn follow_configurations(
        &self,
    ) -> impl FnOnce(ConfigurationChange) + Send + 'static + use<> {
        let this = self.clone();
        move |change| {
            this.put(change.sweep, |present| {
                if change.sweep.is_some() {
                    let name = format!("{}{}", Writer::CONFIGURATION, change.id);
                    present.frozen = present.frozen.without(&name);
                }
                let id = PolicyId::of_configuration(&change.id);
                present.strays.remove(&id);
                Arc::make_mut(&mut present.given).meet(&id);
                if let Some(now) = change.now {
                    present.configurations.insert(change.id, now);
                } else {
                    present.unreadable.policies.remove(&id);
                    present.configurations.remove(&change.id);
                }
            });
            this.noted.notify_one();
        }
    }

    /// Wakes whoever brings changes into the audit log.
    pub(crate) fn noted(&self) -> Arc<Notify> {
        Arc::clone(&self.noted)
    }

    /// Wants all twins evaluated because changes of a partition were missed; the partition is read
    /// on after `after`.
    pub(crate) async fn changes_missed(
        &self,
        partition: u16,
        after: Sequence,
    ) -> Result<(), store::Error> {
        let sweep = self.store.want_sweep(Some((partition, after))).await?;
        self.raise(sweep);
        Ok(())
    }

    /// Wants all twins evaluated at some later time, because twins could not be written.
    pub(crate) async fn twins_unfinished(&self) -> Result<(), store::Error> {
        let sweep = self.store.want_sweep(None).await?;
        self.wanted
            .send_modify(|wanted| wanted.later = wanted.later.max(sweep));
        Ok(())
    }

    /// Notes durably that a sweep is complete.
    pub(crate) async fn sweep_done(
        &self,
        sweep: SweepNumber,
        counts: SweepCounts,
    ) -> Result<(), store::Error> {
        self.store.sweep_done(sweep, counts).await
    }

    /// Which sweeps are wanted, now and as it changes.
    pub(crate) fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    pub(super) fn raise(&self, sweep: SweepNumber) {
        self.wanted.send_if_modified(|wanted| {
            let raised = sweep > wanted.now;
            wanted.now = wanted.now.max(sweep);
            raised
        });
    }
}
