//! Deleting a policy, in step with the store.

use std::sync::Arc;

use super::Policies;
use crate::policy_doc::PolicyId;
use crate::schedule::Gate;
use crate::store::{self, By, SweepNumber};

impl Policies {
    /// Deletes the policy if it is still at `expected`, and if `check` has nothing against it at the moment at
    /// which that is done: it is told whether the policy may change twins then.
    pub(crate) async fn delete<E: From<store::Error> + Send + 'static>(
        &self,
        id: PolicyId,
        expected: Option<String>,
        by: By,
        check: impl FnOnce(Gate) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E> {
        let this = self.clone();
        let asked = id.clone();
        let check = move || match this.get(&asked) {
            Some(stored) => check(this.gate(&stored)),
            None => Ok(()),
        };
        let this = self.clone();
        let gone = id.clone();
        let out_of_force = move |sweep: SweepNumber| {
            this.put(Some(sweep), |present| {
                present.by_id.remove(&gone);
                present.unreadable.policies.remove(&gone);
                let stray = present.strays.remove(&gone).unwrap_or(0);
                let given = Arc::make_mut(&mut present.given);
                let last = given.newest(&gone).max(stray);
                given.delete(&gone, last);
                present.frozen = present.frozen.without(gone.as_str());
            });
            this.noted.notify_one();
        };
        let when = (self.clock.now(), by);
        self.store
            .delete(id, expected, when, (check, out_of_force))
            .await
    }
}
