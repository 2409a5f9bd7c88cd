//! The times of policies: whether each may change twins now, when that changes, and who froze them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use wire::policy::v1 as proto;

use super::{Policies, Present};
use crate::policy_doc::PolicyId;
use crate::resource::schedule::print_state;
use crate::schedule::{Freeze, Gate, Hours, Schedule};
use crate::store::{self, By, FreezeError, StoredFreeze, StoredPolicy, SweepNumber};

/// What a rollout has to know of a policy that is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    /// Since when; none: for longer than anything waits.
    pub(crate) since: Option<Timestamp>,
    /// The sweep that must be done before every twin has been looked at since.
    pub(crate) sweep: SweepNumber,
}

impl Present {
    /// Whether each policy may change twins at a time.
    pub(super) fn gates_at(&self, now: Timestamp) -> BTreeMap<PolicyId, Gate> {
        let gate = |(id, schedule)| {
            let gate = self.with_hours(&id, schedule, |hours| hours.gate(now));
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

    /// Asks the times of a policy.
    fn with_hours<T>(
        &self,
        id: &PolicyId,
        schedule: Option<&Schedule>,
        ask: impl FnOnce(Hours<'_>) -> T,
    ) -> T {
        let freezes = self.freezes.iter().filter(|freeze| freeze.is_for(id));
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

    /// Since when a policy has been open; none: it is not, or decisions do not know it yet.
    pub(crate) fn opening(&self, stored: &StoredPolicy) -> Option<Opening> {
        let now = self.clock.now();
        let present = self.present.borrow();
        let known = present.gates.get(stored.policy.id())?;
        let (id, schedule) = (stored.policy.id(), stored.policy.schedule());
        let ask = |hours: Hours<'_>| (hours.gate(now), hours.open_since(now));
        let (gate, since) = present.with_hours(id, schedule, ask);
        (known.is_open() && gate.is_open()).then_some(Opening {
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
        present.with_hours(id, schedule, |hours| {
            print_state(&hours.gate(now), hours.next_edge(now))
        })
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
            present.with_hours(&id, schedule, |hours| hours.next_edge(now))
        });
        edges.min()
    }

    /// Whether a policy opened, closed or ended since what is in force was put together.
    pub(crate) fn is_behind(&self, now: Timestamp) -> bool {
        let present = self.present.borrow();
        present.gates_at(now) != present.gates
    }

    /// Puts in force what opened, closed or ended; `unseen`: perhaps while the service was down.
    pub(crate) async fn pass_edge(&self, unseen: bool) -> Result<(), store::Error> {
        let now = self.clock.now();
        let wanted = unseen || {
            let present = self.present.borrow();
            let gates = present.gates_at(now);
            // A policy that closes changes nothing any more.
            gates.iter().any(|(id, gate)| {
                let before = present.gates.get(id).cloned().unwrap_or_default();
                !matches!(gate, Gate::Closed(_)) && !gate.is_like(&before)
            })
        };
        // First the sweep, durably: a crash in between repeats it.
        let sweep = if wanted {
            Some(self.store.want_sweep(None).await?)
        } else {
            None
        };
        self.in_force(sweep, |_| ());
        Ok(())
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
        let then = move |(freeze, sweep): &(StoredFreeze, SweepNumber)| {
            this.take(freeze, *sweep);
        };
        self.store.create_freeze(freeze, by, then).await
    }

    /// Ends a freeze.
    pub(crate) async fn end_freeze(
        &self,
        number: u64,
        by: By,
    ) -> Result<StoredFreeze, FreezeError> {
        let this = self.clone();
        let then = move |(freeze, sweep): &(StoredFreeze, SweepNumber)| {
            this.take(freeze, *sweep);
        };
        self.store
            .end_freeze(number, (self.clock.now(), by), then)
            .await
    }

    /// Puts a changed freeze in force.
    fn take(&self, freeze: &StoredFreeze, sweep: SweepNumber) {
        self.in_force(Some(sweep), |freezes| {
            freezes.retain(|other| other.number != freeze.number);
            freezes.push(freeze.clone());
            freezes.sort_by_key(|freeze| freeze.number);
        });
        self.noted.notify_one();
    }

    fn in_force(&self, sweep: Option<SweepNumber>, change: impl FnOnce(&mut Vec<StoredFreeze>)) {
        self.present.send_modify(|present| {
            change(&mut present.freezes);
            present.edge = present.edge.max(sweep.unwrap_or_default());
            present.index(self.clock.now());
        });
        if let Some(sweep) = sweep {
            self.raise(sweep);
        }
    }
}
