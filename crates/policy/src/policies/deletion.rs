//! Deleting a policy, in step with the store.

use std::sync::Arc;

use super::Policies;
use crate::policy_doc::PolicyId;
use crate::store::{self, By, SweepNumber};

impl Policies {
    /// Deletes the policy if it is still at `expected`.
    pub(crate) async fn delete(
        &self,
        id: PolicyId,
        expected: Option<String>,
        by: By,
    ) -> Result<(), store::Error> {
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
        self.store.delete(id, expected, when, out_of_force).await
    }
}
