//! Freezing paths of twins and thawing them, in step with the store.

use twin::IdentityKey;

use super::Policies;
use crate::keep::{Frozen, FrozenSet};
use crate::store::{self, SweepNumber};

impl Policies {
    /// Leaves paths of a twin alone from now on, durably, as far as there is room for them.
    pub(crate) async fn freeze(
        &self,
        twin: IdentityKey,
        paths: Vec<Frozen>,
    ) -> Result<(), store::Error> {
        let this = self.clone();
        let in_force = move |frozen: FrozenSet| this.leave_alone(frozen);
        self.store.freeze(twin, paths, in_force).await
    }

    /// Lets policies write to a path of a twin again, or to all; answers how many were frozen.
    pub(crate) async fn thaw(
        &self,
        twin: IdentityKey,
        path: Option<String>,
    ) -> Result<usize, store::Error> {
        let this = self.clone();
        let in_force = move |frozen: FrozenSet, sweep: SweepNumber| {
            this.leave_alone(frozen);
            this.raise(sweep);
        };
        self.store.thaw(twin, path, in_force).await
    }

    fn leave_alone(&self, frozen: FrozenSet) {
        self.present.send_modify(|present| {
            present.frozen = frozen;
            present.index(self.clock.now());
        });
    }
}
