//! Rows that cannot be read: what they were is told, and whatever does not need them goes on.
//!
//! A policy or configuration whose row is damaged is not one that was deleted. Decisions leave what it has set
//! as it is (`PolicySet::with_unreadable`), and whoever asks for it is refused.

use std::collections::BTreeMap;

use service_kit::error::chain;
use tracing::error;

use super::Error;
use crate::policy_doc::PolicyId;

/// What of the store cannot be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unreadable {
    /// Policies and configurations, and why.
    pub policies: BTreeMap<PolicyId, String>,
    /// What else, in words.
    pub others: Vec<String>,
}

impl Unreadable {
    /// Notes a policy whose row is damaged, by the id as it stands there.
    ///
    /// # Errors
    /// It is not the row: the store failed as a whole.
    pub(super) fn policy(
        &mut self,
        id: Option<PolicyId>,
        text: &str,
        why: Error,
    ) -> Result<(), Error> {
        if !why.is_of_row() {
            return Err(why);
        }
        let problem = chain(&why);
        error!(
            policy_id = text,
            error = problem,
            "a policy cannot be read; what it has set stays as it is"
        );
        match id {
            Some(id) => {
                self.policies.insert(id, problem);
            }
            None => self.others.push(format!("a policy {text:?}: {problem}")),
        }
        Ok(())
    }

    /// Notes another row.
    pub(crate) fn other(&mut self, what: String) {
        error!(what, "a row of the policy store cannot be read");
        self.others.push(what);
    }

    /// All of it, for people; none: everything can be read.
    pub(crate) fn words(&self) -> Option<String> {
        const NAMED: usize = 5;
        let policies = self.policies.iter();
        let policies = policies.map(|(id, why)| format!("policy {id}: {why}"));
        let all: Vec<String> = policies.chain(self.others.iter().cloned()).collect();
        let more = all.len().saturating_sub(NAMED);
        let mut words = all.get(..NAMED.min(all.len()))?.join("; ");
        if more > 0 {
            words = format!("{words}; and {more} more");
        }
        (!all.is_empty()).then(|| format!("cannot be read: {words}"))
    }
}
