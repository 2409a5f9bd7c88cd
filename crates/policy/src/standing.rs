//! What became of the settings of policies on a twin: pending, applied, rejected, timed out or reverted.
//! Pure.
//!
//! A policy is judged by the leaves that carry its name in the desired section as it is to be, and by
//! the newest version of them. An answer of the device for that version or a later one is an answer
//! for the policy, whatever others have written to the twin since. A device of IoT Plug and Play answers
//! property by property: it may refuse one policy's and have applied another's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use posture::configuration::{ConfigurationState, PushState};
use twin::plug_and_play::{self, Answers, Says};
use twin::settings::PolicyChange;
use twin::{Map, NodeMeta, Writer};

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
    /// The device was there and has not answered for them in time.
    TimedOut,
    /// The device had applied them and went back to an older configuration by itself.
    Reverted,
}

impl Standing {
    /// The label of the metric.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Standing::Pending => "pending",
            Standing::Applied => "applied",
            Standing::Rejected => "rejected",
            Standing::Overruled => "overruled",
            Standing::TimedOut => "timed-out",
            Standing::Reverted => "reverted",
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
    let mut leaves = Leaves {
        document: section.document(),
        of: BTreeMap::new(),
    };
    leaves.note(section.metadata(), &mut Vec::new());
    let configuration = twin.configuration();
    let answers = plug_and_play::gives_answers(twin.reported())
        .then(|| plug_and_play::answers(section, twin.reported()));
    let judged = applicable.into_iter().map(|active| {
        let held = leaves.of.get(active.policy.id().as_str());
        let standing = held.map_or(Standing::Overruled, |held| match &answers {
            Some(answers) => judge_properties(held, answers, &configuration),
            None => judge(held.newest, &configuration),
        });
        (active, standing)
    });
    judged.collect()
}

/// The leaves that carry the names of policies.
struct Leaves<'m> {
    document: &'m Map,
    of: BTreeMap<Cow<'m, str>, Held>,
}

/// What a policy holds of a section.
#[derive(Default)]
struct Held {
    /// The newest version of its leaves.
    newest: u64,
    /// The properties, as IoT Plug and Play has them, in which they are.
    properties: BTreeSet<String>,
}

impl<'m> Leaves<'m> {
    fn note(&mut self, meta: &'m NodeMeta, path: &mut Vec<&'m str>) {
        for (key, child) in &meta.children {
            path.push(key);
            if child.children.is_empty() {
                self.note_leaf(&child.by, child.version.get(), path);
            } else {
                self.note(child, path);
            }
            path.pop();
        }
    }

    fn note_leaf(&mut self, by: &'m Writer, version: u64, path: &[&'m str]) {
        let name = match by {
            Writer::Policy { id, .. } => Cow::Borrowed(id.as_str()),
            // Its text is its name among policies.
            Writer::Configuration(_) => Cow::Owned(by.to_string()),
            Writer::Operator(_) | Writer::Device | Writer::System => return,
        };
        let property = plug_and_play::property_of(self.document, path);
        let held = self.of.entry(name).or_default();
        held.newest = version.max(held.newest);
        held.properties.insert(property);
    }
}

/// A policy stands as the worst of its properties does.
fn judge_properties(
    held: &Held,
    answers: &Answers,
    configuration: &ConfigurationState,
) -> Standing {
    let mut pending = false;
    for property in &answers.properties {
        if !held.properties.contains(&property.path) {
            continue;
        }
        match property.says {
            Says::Rejected { .. } => return Standing::Rejected,
            Says::Nothing | Says::InProgress => pending = true,
            // Whoever looks after drift mends it.
            Says::Applied | Says::Differs => {}
        }
    }
    let written = configuration.desired_version >= Some(held.newest);
    match configuration.state {
        _ if !pending => Standing::Applied,
        PushState::TimedOut if written => Standing::TimedOut,
        PushState::None
        | PushState::Pending
        | PushState::Applied
        | PushState::Rejected
        | PushState::TimedOut
        | PushState::Reverted
        | PushState::Drifted => Standing::Pending,
    }
}

fn judge(version: u64, configuration: &ConfigurationState) -> Standing {
    let has = |known: Option<u64>| known.is_some_and(|known| known >= version);
    if has(configuration.applied_version) {
        return Standing::Applied;
    }
    // What is not written yet has a version that nobody can have answered for.
    if !has(configuration.desired_version) {
        return Standing::Pending;
    }
    match configuration.state {
        PushState::Rejected => Standing::Rejected,
        PushState::TimedOut => Standing::TimedOut,
        PushState::Reverted => Standing::Reverted,
        PushState::Applied | PushState::Drifted | PushState::Pending | PushState::None => {
            Standing::Pending
        }
    }
}

#[cfg(test)]
mod tests;
