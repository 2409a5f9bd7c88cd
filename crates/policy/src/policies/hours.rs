//! The times of policies: whether each may change twins now, when that changes, and who froze them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use wire::policy::v1 as proto;

use super::{Policies, Present};
use crate::configuration_doc::ConfigurationId;
use crate::policy_doc::{PolicyId, Problems};
use crate::resource::schedule::{check_end, print_state};
use crate::schedule::{Freeze, Gate, Hours, Schedule};
use crate::store::{
    self, Applied, By, FreezeChange, FreezeError, StoredFreeze, StoredPolicy, SweepNumber,
};

/// What a rollout has to know of a policy that is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    /// Since when; none: for longer than anything waits.
    pub(crate) since: Option<Timestamp>,
    /// The sweep that must be done before every twin has been looked at since.
    pub(crate) sweep: SweepNumber,
}

impl Present {
    /// Takes the gates as they are now. What opened or ended is remembered until a sweep is wanted for it,
    /// whoever it was that came upon it: every change looks at the clock, and few of them want a sweep.
    pub(super) fn look_at_the_clock(&mut self, now: Timestamp) {
        store::forget(&mut self.freezes, now);
        let gates = self.gates_at(now);
        self.owed |= self.opens_by(&gates);
        self.gates = gates;
    }

    /// Whether a policy that is known opens or ends by these gates. One that closes changes nothing any
    /// more, and one that is new has a sweep of its own.
    fn opens_by(&self, gates: &BTreeMap<PolicyId, Gate>) -> bool {
        gates.iter().any(|(id, gate)| {
            let before = self.gates.get(id);
            !matches!(gate, Gate::Closed(_)) && before.is_some_and(|before| !gate.is_like(before))
        })
    }

    /// A sweep that begins after this covers what opened or ended.
    pub(super) fn cover(&mut self, fresh: Option<SweepNumber>) {
        if let Some(sweep) = fresh
            && std::mem::take(&mut self.owed)
        {
            self.edge = self.edge.max(sweep);
        }
    }

    /// Whether each policy may change twins at a time.
    pub(super) fn gates_at(&self, now: Timestamp) -> BTreeMap<PolicyId, Gate> {
        let gate = |(id, schedule)| {
            // An end waits for freezes that are over by now, too, if others took them up.
            let all = Timestamp::MIN;
            let gate = self.with_hours((&id, schedule), all, |hours| hours.gate(now));
            (id, gate)
        };
        self.all_hours().map(gate).collect()
    }

    /// All policies with their own times, and configurations, which have none.
    fn all_hours(&self) -> impl Iterator<Item = (PolicyId, Option<&Schedule>)> {
        let policies = self.by_id.iter();
        let policies = policies.map(|(id, stored)| (id.clone(), stored.policy.schedule()));
        let configurations = self.configurations.keys();
        let configurations = configurations.map(|id| (PolicyId::of_configuration(id), None));
        policies.chain(configurations)
    }

    /// Asks the times of a policy; freezes that were over at `since` are not among them.
    fn with_hours<T>(
        &self,
        (id, schedule): (&PolicyId, Option<&Schedule>),
        since: Timestamp,
        ask: impl FnOnce(Hours<'_>) -> T,
    ) -> T {
        let freezes = self.freezes.iter();
        let freezes = freezes.filter(|freeze| freeze.is_for(id) && !freeze.has_ended(since));
        let freezes: Vec<Freeze> = freezes.map(StoredFreeze::freeze).collect();
        ask(Hours {
            schedule,
            freezes: &freezes,
        })
    }
}

impl Policies {
    /// Whether a policy may change twins, as decisions have it now.
    pub(crate) fn gate(&self, stored: &StoredPolicy) -> Gate {
        let present = self.present.borrow();
        let gate = present.gates.get(stored.policy.id());
        gate.cloned().unwrap_or_default()
    }

    /// As [`Policies::gate`], of a configuration.
    pub(crate) fn gate_of_configuration(&self, id: &ConfigurationId) -> Gate {
        let present = self.present.borrow();
        let gate = present.gates.get(&PolicyId::of_configuration(id));
        gate.cloned().unwrap_or_default()
    }

    /// Since when a policy has been open; none: it is not, or decisions do not know it yet.
    pub(crate) fn opening(&self, stored: &StoredPolicy) -> Option<Opening> {
        let now = self.clock.now();
        let present = self.present.borrow();
        let known = present.gates.get(stored.policy.id())?;
        let (id, schedule) = (stored.policy.id(), stored.policy.schedule());
        let ask = |hours: Hours<'_>| (hours.gate(now), hours.open_since(now));
        // Since when it is open is known by what ended, too.
        let (gate, since) = present.with_hours((id, schedule), Timestamp::MIN, ask);
        (known.is_open() && gate.is_open() && !present.owed).then_some(Opening {
            since,
            sweep: present.edge.max(stored.sweep),
        })
    }

    /// Whether a policy may change twins, for its callers, also of one that is not kept yet; none: it
    /// always may.
    pub(crate) fn schedule_state(&self, stored: &StoredPolicy) -> Option<proto::ScheduleState> {
        let now = self.clock.now();
        let present = self.present.borrow();
        let (id, schedule) = (stored.policy.id(), stored.policy.schedule());
        present.with_hours((id, schedule), now, |hours| {
            print_state(&hours.gate(now), hours.next_edge(now))
        })
    }

    /// Refuses a change that would end the policy at once.
    pub(crate) fn check_end(&self, applied: &Applied) -> Result<(), Problems> {
        check_end(applied, self.clock.now())
    }

    /// Whether anything here depends on the time.
    pub(crate) fn has_hours(&self) -> bool {
        let present = self.present.borrow();
        let mut policies = present.by_id.values();
        !present.freezes.is_empty() || policies.any(|stored| stored.policy.schedule().is_some())
    }

    /// When a policy may open, close or end next; none: never.
    pub(crate) fn next_edge(&self, now: Timestamp) -> Option<Timestamp> {
        let present = self.present.borrow();
        let edges = present.all_hours().filter_map(|(id, schedule)| {
            present.with_hours((&id, schedule), now, |hours| hours.next_edge(now))
        });
        edges.min()
    }

    /// Whether a policy opened, closed or ended since what is in force was put together, or has not been
    /// followed by a sweep yet.
    pub(crate) fn is_behind(&self, now: Timestamp) -> bool {
        let present = self.present.borrow();
        present.owed || present.gates_at(now) != present.gates
    }

    /// Puts in force what opened, closed or ended; `unseen`: perhaps while the service was down.
    pub(crate) async fn pass_edge(&self, unseen: bool) -> Result<(), store::Error> {
        let wanted = unseen || {
            let present = self.present.borrow();
            present.owed || present.opens_by(&present.gates_at(self.clock.now()))
        };
        if !wanted {
            self.put(None, |_| ());
            return Ok(());
        }
        // First the sweep, durably: a crash in between repeats it.
        let this = self.clone();
        let then = move |sweep: SweepNumber| {
            this.put(Some(sweep), |present| present.owed = true);
        };
        self.store.want_sweep_for(then).await
    }

    /// All freezes that matter, in the order of their numbers.
    pub(crate) fn freezes(&self) -> Vec<StoredFreeze> {
        self.present.borrow().freezes.clone()
    }

    /// Freezes policies.
    pub(crate) async fn create_freeze(
        &self,
        freeze: StoredFreeze,
        by: By,
    ) -> Result<StoredFreeze, FreezeError> {
        let this = self.clone();
        let then = move |(freeze, sweep): &FreezeChange| this.take(freeze, *sweep);
        self.store.create_freeze(freeze, by, then).await
    }

    /// Ends a freeze.
    pub(crate) async fn end_freeze(
        &self,
        number: u64,
        by: By,
    ) -> Result<StoredFreeze, FreezeError> {
        let this = self.clone();
        let then = move |(freeze, sweep): &FreezeChange| this.take(freeze, *sweep);
        self.store
            .end_freeze(number, (self.clock.now(), by), then)
            .await
    }

    /// Puts a changed freeze in force.
    fn take(&self, freeze: &StoredFreeze, sweep: Option<SweepNumber>) {
        self.put(sweep, |present| {
            let freezes = &mut present.freezes;
            freezes.retain(|other| other.number != freeze.number);
            freezes.push(freeze.clone());
            freezes.sort_by_key(|freeze| freeze.number);
        });
        self.noted.notify_one();
    }

    /// Puts a change in force, with the sweep that carries it out if there is one.
    pub(super) fn put(&self, sweep: Option<SweepNumber>, change: impl FnOnce(&mut Present)) {
        let fresh = sweep.and_then(|sweep| self.fresh(sweep));
        self.present.send_modify(|present| {
            change(present);
            present.index(self.clock.now());
            present.cover(fresh);
        });
        if let Some(sweep) = sweep {
            self.raise(sweep);
        }
    }

    /// The sweep, unless it may have begun: it has if it was wanted before.
    pub(super) fn fresh(&self, sweep: SweepNumber) -> Option<SweepNumber> {
        (sweep > self.wanted.borrow().now).then_some(sweep)
    }
}

#[cfg(test)]
mod tests;
