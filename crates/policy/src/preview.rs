//! What a draft of a policy would do to a twin. Pure.
//!
//! The draft is evaluated among the policies in force by the evaluation that the service acts by
//! ([`evaluate`]), again and again until everything holds: what one policy sets may be what another
//! one looks at. What devices answer to it is not foreseen.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use twin::settings::PolicyChange;
use twin::{Section, Violations, Writer};

use crate::evaluate::{PolicySet, Verdict, evaluate};
use crate::explain::{Overruled, leaves_of, overruled};
use crate::policy_doc::{Incomplete, PolicyId};
use crate::twin_document::TwinDocument;

/// Writes to one twin that are followed. Policies that switch each other on and off never end, and
/// more than this many that build on each other nobody writes.
const WRITES_MAX: usize = 16;

/// What would become of one twin.
#[derive(Debug)]
pub(crate) struct Forecast {
    /// Whether the draft applies to it as it is now.
    pub applies: bool,
    /// Why it does not apply though its conditions hold: the twin lacks what a template names.
    pub incomplete: Option<Incomplete>,
    /// Every leaf that would have another value or writer, in the order of the paths.
    pub changes: Vec<LeafChange>,
    /// What the draft would not get.
    pub overruled: Vec<Overruled>,
    /// How it ends.
    pub end: End,
}

/// How it ends.
#[derive(Debug)]
pub(crate) enum End {
    /// Everything holds.
    Settled,
    /// Then settings would break a limit of the twin.
    Breaks(Violations),
    /// Policies would switch each other on and off.
    Unsettled,
}

/// A leaf before and after.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LeafChange {
    /// Its keys.
    pub path: Vec<String>,
    /// What it holds, and who set it.
    pub old: Option<(Value, Writer)>,
    /// What it would hold, and who would have set it.
    pub new: Option<(Value, Writer)>,
}

impl LeafChange {
    /// Whether the value is another one, and not only who set it.
    pub(crate) fn is_of_value(&self) -> bool {
        let value = |side: &Option<(Value, Writer)>| side.as_ref().map(|(value, _)| value.clone());
        value(&self.old) != value(&self.new)
    }
}

/// Foresees what happens to a twin once `after` is in force; `id` is the policy that the draft is
/// of. `at` does not change what is said.
pub(crate) fn forecast(
    after: &PolicySet,
    id: &PolicyId,
    twin: &TwinDocument,
    at: Timestamp,
) -> Forecast {
    let draft = after.policies().find(|active| active.policy.id() == id);
    let applies = draft.is_some_and(|draft| draft.verdict(twin) == Verdict::Applies);
    let incomplete = draft.filter(|draft| draft.verdict(twin) == Verdict::Incomplete);
    let incomplete = incomplete.and_then(|draft| draft.incomplete(twin));
    let mut now = twin.clone();
    let mut lost = Vec::new();
    let mut end = End::Unsettled;
    for _ in 0..WRITES_MAX {
        let evaluated = evaluate(after, &now, at);
        let outcome = match evaluated.outcome {
            Err(violations) => {
                end = End::Breaks(violations);
                break;
            }
            Ok(outcome) => outcome,
        };
        if let Some(too_much) = evaluated.too_much {
            // The others get what they want all the same.
            if let PolicyChange::Changed { section, .. } = outcome.change {
                now = now.with_desired(*section);
            }
            end = End::Breaks(too_much.violations);
            break;
        }
        lost = outcome
            .lost
            .iter()
            .filter_map(|lost| overruled(lost, &evaluated.wanted))
            .filter(|lost| lost.policy_id == id.as_str())
            .collect();
        match outcome.change {
            PolicyChange::Unchanged => {
                end = End::Settled;
                break;
            }
            PolicyChange::Changed { section, .. } => now = now.with_desired(*section),
        }
    }
    Forecast {
        applies,
        incomplete,
        changes: changes(twin.desired(), now.desired()),
        overruled: lost,
        end,
    }
}

fn changes(old: &Section, new: &Section) -> Vec<LeafChange> {
    let mut both: BTreeMap<Vec<String>, LeafChange> = BTreeMap::new();
    for leaf in leaves_of(old) {
        let change = LeafChange {
            path: leaf.path.clone(),
            old: Some((leaf.value, leaf.writer)),
            new: None,
        };
        both.insert(leaf.path, change);
    }
    for leaf in leaves_of(new) {
        let change = both.entry(leaf.path.clone()).or_insert(LeafChange {
            path: leaf.path,
            old: None,
            new: None,
        });
        change.new = Some((leaf.value, leaf.writer));
    }
    let all = both.into_values();
    all.filter(|change| change.old != change.new).collect()
}

#[cfg(test)]
mod tests;
