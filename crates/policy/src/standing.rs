//! What became of the settings of policies on a twin: pending, applied or rejected. Pure.
//!
//! A policy is judged by the leaves that carry its name in the desired section as it is to be, and by
//! the newest version of them. An answer of the device for that version or a later one is an answer
//! for the policy, whatever others have written to the twin since.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use posture::configuration::{ConfigurationState, PushState};
use twin::settings::PolicyChange;
use twin::{NodeMeta, Writer};

use crate::evaluate::{ActivePolicy, PolicySet, Wanted};
use crate::twin_document::TwinDocument;

/// What became of a policy's settings on a twin that it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// They are not written yet, or the device has not answered for them yet.
    Pending,
    /// The device has applied them.
    Applied,
    /// The device has rejected them, or they cannot be on this twin.
    Rejected,
    /// Operators and other policies hold every leaf that it wants.
    Overruled,
}

impl Standing {
    /// The label of the metric.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Standing::Pending => "pending",
            Standing::Applied => "applied",
            Standing::Rejected => "rejected",
            Standing::Overruled => "overruled",
        }
    }
}

/// Every policy that applies to a twin, with its standing there. `at` does not change it.
pub(crate) fn standings(
    policies: &PolicySet,
    twin: &TwinDocument,
    at: Timestamp,
) -> Vec<(Arc<ActivePolicy>, Standing)> {
    let Wanted {
        applicable, writes, ..
    } = policies.wanted(twin);
    if applicable.is_empty() {
        return Vec::new();
    }
    let outcome = twin::apply_policy_settings(twin.desired(), &writes, at);
    let section = match &outcome {
        Err(_) => None,
        Ok(outcome) => Some(match &outcome.change {
            PolicyChange::Unchanged => twin.desired(),
            // Its new leaves have a version that no device can have answered for.
            PolicyChange::Changed { section, .. } => section,
        }),
    };
    let Some(section) = section else {
        let rejected = |policy| (policy, Standing::Rejected);
        return applicable.into_iter().map(rejected).collect();
    };
    let mut newest = BTreeMap::new();
    note_leaves(section.metadata(), &mut newest);
    let configuration = twin.configuration();
    let judged = applicable.into_iter().map(|active| {
        let version = newest.get(active.policy.id().as_str());
        let standing = version.map_or(Standing::Overruled, |version| {
            judge(*version, &configuration)
        });
        (active, standing)
    });
    judged.collect()
}

/// Notes the newest version of each policy's leaves.
fn note_leaves<'m>(meta: &'m NodeMeta, newest: &mut BTreeMap<Cow<'m, str>, u64>) {
    for child in meta.children.values() {
        if !child.children.is_empty() {
            note_leaves(child, newest);
            continue;
        }
        let name = match &child.by {
            Writer::Policy { id, .. } => Cow::Borrowed(id.as_str()),
            // Its text is its name among policies.
            by @ Writer::Configuration(_) => Cow::Owned(by.to_string()),
            Writer::Operator(_) | Writer::Device | Writer::System => continue,
        };
        let version = newest.entry(name).or_default();
        *version = child.version.get().max(*version);
    }
}

fn judge(version: u64, configuration: &ConfigurationState) -> Standing {
    let has = |known: Option<u64>| known.is_some_and(|known| known >= version);
    if has(configuration.applied_version) {
        return Standing::Applied;
    }
    match configuration.state {
        PushState::Rejected if has(configuration.desired_version) => Standing::Rejected,
        PushState::Rejected | PushState::Applied | PushState::Pending | PushState::None => {
            Standing::Pending
        }
    }
}

#[cfg(test)]
mod tests;
