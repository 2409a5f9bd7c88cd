//! Freezing paths of twins and thawing them, in step with the store.

use std::sync::Arc;

use twin::IdentityKey;

use super::Policies;
use crate::evaluate::PolicySet;
use crate::keep::{Frozen, FrozenSet};
use crate::store::{self, By, FROZEN_MAX, SweepNumber};

impl Policies {
    /// Leaves paths of a twin alone from now on, durably, as far as there is room for them; answers of how many.
    pub(crate) async fn freeze(
        &self,
        twin: IdentityKey,
        paths: Vec<Frozen>,
    ) -> Result<usize, store::Error> {
        // A fight all over a fleet comes here again and again.
        if self.set().frozen().len() >= FROZEN_MAX {
            return Ok(0);
        }
        let this = self.clone();
        let in_force = move |twin: &IdentityKey, frozen: Vec<Frozen>| {
            this.present.send_modify(|present| {
                // The policies are the same, and in the same order.
                present.frozen = std::mem::take(&mut present.frozen).with(twin, frozen);
                let set = PolicySet::clone(&present.set);
                present.set = Arc::new(set.with_frozen(present.frozen.clone()));
            });
        };
        self.store.freeze(twin, paths, in_force).await
    }

    /// Lets policies write to a path of a twin again, or to all; answers how many were frozen. `by` is who
    /// said so; none: nobody, the twin is gone.
    pub(crate) async fn thaw(
        &self,
        twin: IdentityKey,
        path: Option<String>,
        by: Option<By>,
    ) -> Result<usize, store::Error> {
        let this = self.clone();
        let in_force = move |frozen: FrozenSet, sweep: SweepNumber| {
            this.leave_alone(frozen);
            this.raise(sweep);
            this.noted.notify_one();
        };
        let by = by.map(|by| (self.clock.now(), by));
        self.store.thaw(twin, path, by, in_force).await
    }

    fn leave_alone(&self, frozen: FrozenSet) {
        self.present.send_modify(|present| {
            present.frozen = frozen;
            present.index(self.clock.now());
        });
    }
}
