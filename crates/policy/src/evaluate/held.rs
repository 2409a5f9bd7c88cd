//! Which policies leave a twin as it is, because nobody knows what they say. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::active::ActivePolicy;
use crate::policy_doc::PolicyId;
use crate::twin_document::TwinDocument;

use super::PolicySet;

impl PolicySet {
    /// The policies that leave a twin as it is: those that nobody can read, and those that have set something there
    /// of which nobody knows, until a newer revision is for the twin.
    pub(super) fn held(&self, twin: &TwinDocument) -> BTreeSet<PolicyId> {
        let mut held = BTreeSet::clone(&self.unreadable);
        for (id, revision) in self.strays(twin) {
            let known = self.newest_of(&id);
            let is_over = known.is_some_and(|known| {
                known.revision > revision
                    && known.stage.as_ref().is_none_or(|stage| stage.takes(twin))
            });
            if !is_over {
                held.insert(id);
            }
        }
        held
    }

    /// What stands on a twin of which nobody knows, and which no newer revision is to replace: the policies,
    /// each with the newest of its revisions there.
    pub(crate) fn unknown_on(&self, twin: &TwinDocument) -> BTreeMap<PolicyId, u64> {
        let mut strays = self.strays(twin);
        strays.retain(|id, revision| {
            // It is told of those already.
            if self.unreadable.contains(id) {
                return false;
            }
            let known = self.newest_of(id);
            known.is_none_or(|known| known.revision < *revision)
        });
        strays
    }

    fn strays(&self, twin: &TwinDocument) -> BTreeMap<PolicyId, u64> {
        let given = self.given.as_ref();
        let strays = given.map_or_else(BTreeMap::new, |given| given.strays(twin.desired()));
        // A draft that is looked at was not given yet.
        let is_ours = |id: &PolicyId, revision: u64| {
            let mut ours = self.policies();
            ours.any(|active| active.policy.id() == id && active.revision == revision)
        };
        let strays = strays.into_iter();
        strays
            .filter(|(id, revision)| !is_ours(id, *revision))
            .collect()
    }

    fn newest_of(&self, id: &PolicyId) -> Option<&Arc<ActivePolicy>> {
        self.newest().find(|active| active.policy.id() == id)
    }
}
