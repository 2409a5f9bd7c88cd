//! What applying a policy did, and how contents differ.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use wire::policy::v1 as api;

use crate::output::{Paper, View};

/// What applying a policy did.
pub(in crate::verbs::policy) struct Applied {
    pub(in crate::verbs::policy) id: String,
    pub(in crate::verbs::policy) answer: api::ApplyPolicyResponse,
    pub(in crate::verbs::policy) dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AppliedData<'a> {
    name: &'a str,
    outcome: &'static str,
    revision: Option<u64>,
    dry_run: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    guard: &'a str,
    changes: Vec<ChangeData<'a>>,
}

/// One difference between two contents.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::verbs::policy) struct ChangeData<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<Value>,
}

/// Differences for programs.
pub(in crate::verbs::policy) fn change_data(changes: &[api::ContentChange]) -> Vec<ChangeData<'_>> {
    // What is no JSON is shown as it came.
    let value = |text: &str| match text {
        "" => None,
        text => Some(serde_json::from_str(text).unwrap_or_else(|_| text.into())),
    };
    let mut data = Vec::with_capacity(changes.len());
    for one in changes {
        data.push(ChangeData {
            path: &one.path,
            old: value(&one.old_json),
            new: value(&one.new_json),
        });
    }
    data
}

/// Differences for people: a line each, below what they belong to.
pub(in crate::verbs::policy) fn change_lines(
    paper: &Paper,
    changes: &[api::ContentChange],
) -> String {
    let mut text = String::new();
    for one in changes {
        if !one.old_json.is_empty() {
            let line = format!("  - {}: {}", one.path, one.old_json);
            let _ = writeln!(text, "{}", paper.red(&line));
        }
        if !one.new_json.is_empty() {
            let line = format!("  + {}: {}", one.path, one.new_json);
            let _ = writeln!(text, "{}", paper.green(&line));
        }
    }
    text
}

impl Applied {
    /// That it spreads in waves though nobody said so.
    fn guard(&self) -> String {
        if self.answer.guard.is_empty() {
            return String::new();
        }
        let id = &self.id;
        format!(
            "  it spreads in waves, since {}; see `twinward rollout get {id}`\n",
            self.answer.guard
        )
    }

    /// That nothing happens for now.
    fn waits(&self) -> String {
        let policy = self.answer.policy.as_ref();
        let state = policy.and_then(|policy| policy.schedule_state.as_ref());
        match state.filter(|state| !state.reason.is_empty()) {
            Some(state) => format!(
                "  it is {}: {}\n",
                super::schedule_state(state),
                state.reason
            ),
            None => String::new(),
        }
    }

    fn outcome(&self) -> &'static str {
        match self.answer.outcome() {
            api::apply_policy_response::Outcome::Created => "created",
            api::apply_policy_response::Outcome::Updated => "updated",
            api::apply_policy_response::Outcome::Unchanged => "unchanged",
            api::apply_policy_response::Outcome::Unspecified => "applied",
        }
    }

    fn revision(&self) -> Option<u64> {
        self.answer.policy.as_ref().map(|policy| policy.revision)
    }
}

impl View for Applied {
    fn data(&self) -> impl Serialize {
        AppliedData {
            name: &self.id,
            outcome: self.outcome(),
            revision: self.revision(),
            dry_run: self.dry_run,
            guard: &self.answer.guard,
            changes: change_data(&self.answer.changes),
        }
    }

    fn text(&self, paper: &Paper) -> String {
        if self.dry_run {
            let mut text = format!(
                "policy {} is good and would be {}; nothing was written\n",
                self.id,
                self.outcome()
            );
            text.push_str(&change_lines(paper, &self.answer.changes));
            text.push_str(&self.guard());
            text.push_str(&self.waits());
            return text;
        }
        let revision = match self.revision() {
            Some(revision) => format!(", revision {revision}"),
            None => String::new(),
        };
        let mut text = format!("policy {} {}{revision}\n", self.id, self.outcome());
        text.push_str(&self.guard());
        text.push_str(&self.waits());
        text
    }
}
