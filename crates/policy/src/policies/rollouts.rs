//! Reading rollouts: those in force from memory, ended ones from the store.

use super::Policies;
use crate::policy_doc::PolicyId;
use crate::rollout::Phase;
use crate::store::{self, StoredPolicy, StoredRollout};

impl Policies {
    /// The rollouts that have not ended.
    pub(crate) fn rolling(&self) -> Vec<StoredPolicy> {
        let present = self.present.borrow();
        let under_way = present.by_id.values().filter(|stored| {
            let rollout = stored.rollout.as_ref();
            rollout.is_some_and(|stored| !stored.rollout.phase.has_ended())
        });
        under_way.cloned().collect()
    }

    /// Where the rollouts of the revisions in force stand.
    pub(crate) fn rollout_phases(&self) -> Vec<Phase> {
        let present = self.present.borrow();
        let rollouts = present
            .by_id
            .values()
            .filter_map(|stored| stored.rollout.as_ref());
        rollouts.map(|stored| stored.rollout.phase).collect()
    }

    /// One rollout, also an ended one.
    pub(crate) async fn rollout(
        &self,
        id: PolicyId,
        revision: u64,
    ) -> Result<Option<StoredRollout>, store::Error> {
        self.store.rollout(id, revision).await
    }

    /// At most `limit` rollouts, ended ones too: of one policy or of all, in the order of the policies
    /// and the newest first, from behind `after`.
    pub(crate) async fn rollouts(
        &self,
        id: Option<PolicyId>,
        after: Option<(PolicyId, u64)>,
        limit: usize,
    ) -> Result<Vec<(PolicyId, StoredRollout)>, store::Error> {
        self.store.rollouts(id, after, limit).await
    }

    /// As [`Policies::rollouts`], but of the revisions in force alone, from memory.
    pub(crate) fn rollouts_in_force(
        &self,
        id: Option<&PolicyId>,
        after: Option<(PolicyId, u64)>,
        limit: usize,
    ) -> Vec<(PolicyId, StoredRollout)> {
        let after = after.map(|(id, _)| id);
        let present = self.present.borrow();
        let all = present.by_id.iter().filter(|(one, _)| {
            id.is_none_or(|id| id == *one) && after.as_ref().is_none_or(|id| *one > id)
        });
        let all =
            all.filter_map(|(id, stored)| Some((id.clone(), stored.rollout.as_deref()?.clone())));
        all.take(limit).collect()
    }
}
