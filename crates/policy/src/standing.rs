//! What became of the settings of policies on a twin: pending, applied, rejected, timed out or reverted.
//! Pure.
//!
//! A policy is judged by the leaves that carry its name in the desired section as it is to be, and by
//! the newest version of them. An answer of the device for that version or a later one is an answer
//! for the policy, whatever others have written to the twin since. A device of IoT Plug and Play answers
//! property by property: it may refuse one policy's and have applied another's. What a rollout takes out
//! leaves no leaf behind, and is judged by the newest version.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use posture::configuration::{ConfigurationState, PushState};
use twin::plug_and_play::{self, Answers, Says};
use twin::settings::PolicyChange;
use twin::{Map, NodeMeta, Writer};

use crate::active::kept;
use crate::evaluate::{ActivePolicy, Evaluated, PolicySet, Side, Wanted, evaluate};
use crate::policy_doc::PolicyId;
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

/// Every policy that applies to a twin, or is closed and has something there, with its standing there. Of a closed
/// one it is the revision of what is there. `at` does not change it.
pub(crate) fn standings(
    policies: &PolicySet,
    twin: &TwinDocument,
    at: Timestamp,
) -> Vec<(Arc<ActivePolicy>, Standing)> {
    let Evaluated {
        wanted,
        outcome,
        too_much,
    } = evaluate(policies, twin, at);
    let Wanted {
        applicable, closed, ..
    } = wanted;
    if applicable.is_empty() && closed.is_empty() {
        return Vec::new();
    }
    let section = match &outcome {
        Err(_) => None,
        Ok(outcome) => Some(match &outcome.change {
            PolicyChange::Unchanged => twin.desired(),
            // Its new leaves have a version that no device can have answered for.
            PolicyChange::Changed { section, .. } => section,
        }),
    };
    // What breaks a limit is not written: what is there stays.
    let judged = section.unwrap_or(twin.desired());
    let mut leaves = Leaves {
        document: judged.document(),
        of: BTreeMap::new(),
    };
    leaves.note(judged.metadata(), &mut Vec::new());
    let configuration = twin.configuration();
    let answers = plug_and_play::gives_answers(twin.reported())
        .then(|| plug_and_play::answers(judged, twin.reported()));
    let stands = |held: &Held| match &answers {
        Some(answers) => judge_properties(held, answers, &configuration),
        None => judge(held.newest, &configuration),
    };
    let is_left_out = |active: &ActivePolicy| {
        let left_out = too_much.as_ref().map(|too_much| &too_much.left_out);
        left_out.is_some_and(|ids| ids.contains(active.policy.id().as_str()))
    };
    let mut all = Vec::with_capacity(applicable.len());
    for active in applicable {
        let held = leaves.of.get(active.policy.id().as_str());
        let standing = match section {
            None => Standing::Rejected,
            Some(_) if is_left_out(&active) => Standing::Rejected,
            // It wants no leaf: there is nothing to answer.
            Some(_) if held.is_none() && active.policy.settings().is_empty() => Standing::Applied,
            Some(_) => held.map_or(Standing::Overruled, stands),
        };
        all.push((active, standing));
    }
    let mut told = BTreeSet::new();
    for active in &closed {
        let id = active.policy.id();
        let Some(held) = leaves.of.get(id.as_str()) else {
            continue;
        };
        if told.insert(id) {
            let revisions = closed.iter().filter(|other| other.policy.id() == id);
            let of_leaves = |other: &&Arc<ActivePolicy>| other.revision == held.revision;
            // For an older revision the one speaks that twins have until their wave begins.
            let is_older = |other: &&Arc<ActivePolicy>| {
                let stage = other.stage.as_ref();
                stage.is_none_or(|stage| stage.side == Side::Before)
            };
            let whose = revisions.clone().find(of_leaves);
            let whose = whose.or_else(|| revisions.clone().find(is_older));
            all.extend(whose.map(|whose| (Arc::clone(whose), stands(held))));
        }
    }
    all
}

/// Where a policy stands on a twin from which a rollout that began then takes its settings: applied is
/// that the device runs without them.
pub(crate) fn standing_without(
    policies: &PolicySet,
    twin: &TwinDocument,
    id: &PolicyId,
    began: Timestamp,
) -> Standing {
    let stays = !policies.frozen().of(twin.key()).is_empty();
    if !stays && !kept(id, twin.desired()).is_empty() {
        return Standing::Pending;
    }
    let configuration = twin.configuration();
    let committed = configuration.timeline.committed_at;
    if committed.is_some_and(|committed| committed < began) {
        // Others held all of it: nothing was taken out, and what the device says is of something else.
        return Standing::Applied;
    }
    judge(twin.desired().version().get(), &configuration)
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
    /// The newest of its revisions that set any of them; 0: a configuration of IoT Hub has none.
    revision: u64,
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
        let (name, revision) = match by {
            Writer::Policy { id, revision } => (Cow::Borrowed(id.as_str()), *revision),
            // Its text is its name among policies.
            Writer::Configuration(_) => (Cow::Owned(by.to_string()), 0),
            Writer::Operator(_) | Writer::Device | Writer::System => return,
        };
        let property = plug_and_play::property_of(self.document, path);
        let held = self.of.entry(name).or_default();
        held.newest = version.max(held.newest);
        held.revision = revision.max(held.revision);
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
