//! Several policies, a line each.

use serde::Serialize;
use wire::policy::v1 as api;

use super::{PolicyView, condition, in_step, scope, target};
use crate::output::{Paper, View, table};

/// Several policies.
pub(in crate::verbs::policy) struct Policies(pub(in crate::verbs::policy) Vec<PolicyView>);

impl View for Policies {
    fn data(&self) -> impl Serialize {
        self.0.iter().map(PolicyView::document).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no policies; `twinward policy apply -f FILE` makes one\n".to_owned();
        }
        let rows = self.0.iter().map(|view| {
            let policy = &view.policy;
            let status = in_step(policy);
            let count = |of: fn(&api::PolicyStatus) -> u64| {
                status.map_or_else(|| "-".to_owned(), |status| of(status).to_string())
            };
            vec![
                policy.policy_id.clone(),
                policy.revision.to_string(),
                policy.priority.to_string(),
                scope(policy.scope()).to_owned(),
                status.map_or_else(
                    || "-".to_owned(),
                    |status| format!("{}/{}", status.twins_applied, status.twins_targeted),
                ),
                count(|status| status.twins_pending),
                count(|status| status.twins_rejected),
                target(&policy.target).to_owned(),
                condition(&policy.when).to_owned(),
            ]
        });
        table::table(
            paper,
            &[
                "POLICY", "REVISION", "PRIORITY", "SCOPE", "APPLIED", "PENDING", "REJECTED",
                "TARGET", "WHEN",
            ],
            rows.collect(),
        )
    }
}
