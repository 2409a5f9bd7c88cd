//! What stands on twins and was never given by this store, for whoever looks at a twin or asks for it.

use std::collections::BTreeMap;

use service_kit::error::chain;
use tracing::{error, warn};
use twin::IdentityKey;

use super::Policies;
use crate::policy_doc::PolicyId;
use crate::store;

impl Policies {
    /// Notes what was seen on a twin; of all else there it is forgotten.
    pub(crate) async fn note_strays(&self, twin: &IdentityKey, seen: &BTreeMap<PolicyId, u64>) {
        self.strays.note(twin, seen);
        for (id, revision) in seen {
            if let Err(error) = self.note_stray(twin, id, *revision).await {
                // It stays on the twin all the same, and the next twin says it again.
                warn!(policy_id = %id, error = chain(&error), "what stands on twins was not noted");
            }
        }
    }

    async fn note_stray(
        &self,
        twin: &IdentityKey,
        id: &PolicyId,
        revision: u64,
    ) -> Result<(), store::Error> {
        let known = |present: &super::Present| {
            let stray = present.strays.get(id);
            stray.is_some_and(|stray| *stray >= revision)
        };
        if known(&self.present.borrow()) {
            return Ok(());
        }
        error!(
            policy_id = %id,
            revision,
            %twin,
            "twins have settings of a revision that the policy store never gave; they stay as they are"
        );
        let (this, of) = (self.clone(), id.clone());
        let noted = move |sweep| {
            this.present.send_modify(|present| {
                // Somebody may have said meanwhile what becomes of it.
                if present.given.is_behind(&of, revision) {
                    let stray = present.strays.entry(of).or_insert(revision);
                    *stray = revision.max(*stray);
                }
            });
            this.raise(sweep);
        };
        self.store.note_stray(id.clone(), revision, noted).await
    }

    /// The newest revision of a policy that twins have and the store never gave, for people.
    pub(crate) fn stray(&self, id: &PolicyId) -> Option<String> {
        let revision = *self.present.borrow().strays.get(id)?;
        Some(self.told(id, revision))
    }

    /// All of them, for people; none: there are none.
    pub(super) fn strays_told(&self) -> Option<String> {
        const NAMED: usize = 20;
        let strays = self.present.borrow().strays.clone();
        let (policies, configurations): (Vec<_>, Vec<_>) =
            strays.iter().partition(|(id, _)| !id.is_of_configuration());
        let named = policies.iter().chain(&configurations).take(NAMED);
        let named: Vec<String> = named
            .map(|(id, revision)| self.told(id, **revision))
            .collect();
        let more = match strays.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        (!named.is_empty()).then(|| {
            format!(
                "twins have settings of which this policy.db knows nothing, so it was lost or is older than \
                 they are; they stay as they are until their policies are applied again, or deleted \
                 with `--force` (configurations: created again): {}{more}",
                named.join(", ")
            )
        })
    }

    fn told(&self, id: &PolicyId, revision: u64) -> String {
        let twins = self.strays.count(id);
        if id.is_of_configuration() {
            return format!("{id} on {twins}");
        }
        format!("{id}@{revision} on {twins}")
    }
}
