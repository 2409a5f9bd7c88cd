//! Makes of a twin what is kept of it, as long as it is as it is.

use std::sync::{Arc, Mutex, PoisonError};

use client::{Came, Kept};
use service_kit::clock::SharedClock;
use tracing::debug;
use wire::names::identity_from_ids;
use wire::twin::v1::Change;

use super::tally::Counted;
use super::waves::{InWave, NumbersInWave, Spread};
use super::{Followed, OfTwin};
use crate::configured;
use crate::evaluate::{Interest, PolicySet};
use crate::keep::FrozenSet;
use crate::policy_doc::Scope;
use crate::standing::standings;
use crate::twin_document::{TwinDocument, scope_of};

/// Makes of a twin what is kept of it.
pub(super) struct Maker {
    /// What is in force, with the paths that are frozen by now.
    set: Mutex<Arc<PolicySet>>,
    /// Which paths are frozen now. That changes one twin at a time, and each of them is told: no reason to read
    /// all twins anew.
    frozen: Box<dyn Fn() -> FrozenSet + Send + Sync>,
    followed: Followed,
    /// The revisions of which waves have begun.
    spreads: Vec<Spread>,
    /// What their gates look at, beside answers and whether a device is there.
    gates: Interest,
    clock: SharedClock,
}

impl Maker {
    pub(super) fn new(
        set: &Arc<PolicySet>,
        followed: &Followed,
        frozen: impl Fn() -> FrozenSet + Send + Sync + 'static,
        clock: SharedClock,
    ) -> Maker {
        let spreads = set.newest().filter_map(|new| {
            let of_policy = followed.get(new.policy.id())?;
            Spread::of(set, new, &of_policy.waves)
        });
        let gates = set.newest().map(|active| Interest::of_gates(active));
        Maker {
            spreads: spreads.collect(),
            gates: gates.fold(Interest::default(), Interest::with),
            set: Mutex::new(Arc::clone(set)),
            frozen: Box::new(frozen),
            followed: followed.clone(),
            clock,
        }
    }

    /// What is in force.
    fn set(&self) -> Arc<PolicySet> {
        let frozen = (self.frozen)();
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        if *set.frozen() != frozen {
            *set = Arc::new(PolicySet::clone(&set).with_frozen(frozen));
        }
        Arc::clone(&set)
    }

    /// Whether a change can move no count: most of what devices send does not.
    fn is_no_matter(&self, came: &Came<'_, OfTwin>, set: &PolicySet, scope: Scope) -> bool {
        let Some(before) = came.before.filter(|_| !came.changes.is_empty()) else {
            return false;
        };
        let answered = came.changes.contains(&Change::ConfigurationState);
        let changed = Interest::of_changes(came.changes.iter().copied());
        let gone = !self.spreads.is_empty() && before.connected != came.twin.connected;
        !answered && !gone && !self.gates.meets(changed) && !set.is_concerned(scope, changed)
    }

    pub(super) fn make(&self, came: &Came<'_, OfTwin>) -> Kept<OfTwin> {
        let twin = came.twin;
        let Ok(key) = identity_from_ids(&twin.device_id, &twin.module_id) else {
            return Kept::Nothing;
        };
        let set = self.set();
        if self.is_no_matter(came, &set, scope_of(&key)) {
            return Kept::Same;
        }
        let document = match TwinDocument::from_wire(twin) {
            Ok(document) => document,
            // Whoever decides on it rejects it, with all that is to be known.
            Err(error) => {
                debug!(twin = %key, %error, "a twin cannot be counted");
                return Kept::Nothing;
            }
        };
        let standings = standings(&set, &document, self.clock.now());
        let counted: Box<[Counted]> = standings
            .iter()
            .filter_map(|(active, standing)| {
                let of_policy = self.followed.get(active.policy.id())?;
                let counted = Counted::new(&of_policy.tally, *standing);
                Some(if configured::is_applied(active, &document) {
                    counted.noted()
                } else {
                    counted
                })
            })
            .collect();
        let in_waves = self.spreads.iter().filter_map(|spread| {
            let mut all = standings.iter();
            let own = all.find(|(active, _)| spread.is_new(active));
            let standing = own.map(|(_, standing)| *standing);
            InWave::new(spread, &set, standing, &document)
        });
        let in_waves: Box<[InWave]> = in_waves.collect();
        let numbers = self.spreads.iter();
        let numbers = numbers.filter_map(|spread| NumbersInWave::new(spread, &document));
        let numbers: Box<[NumbersInWave]> = numbers.collect();
        if counted.is_empty() && in_waves.is_empty() && numbers.is_empty() {
            return Kept::Nothing;
        }
        Kept::New(OfTwin {
            _counted: counted,
            _in_waves: in_waves,
            _numbers: numbers,
            connected: twin.connected,
        })
    }
}
