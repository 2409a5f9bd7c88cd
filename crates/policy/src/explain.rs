//! Why a twin holds what it holds: which policies apply to it, who set each leaf, and who lost it to
//! whom. Pure.
//!
//! It reads the outcome of the very evaluation by which the service acts ([`evaluate`]) and decides
//! nothing by itself, so that an explanation cannot differ from what happens.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use twin::query::Path;
use twin::settings::{LostLeaf, PolicyChange};
use twin::{Condition, Map, NodeMeta, Section, Violations, Writer};

use crate::evaluate::{ActivePolicy, Part, PolicySet, Verdict, Wanted, evaluate};
use crate::policy_doc::Incomplete;
use crate::standing::{Standing, standings};
use crate::twin_document::TwinDocument;

/// Bytes of a value of a condition's path that are shown: a list of ports, not a whole posture.
const FACT_BYTES_MAX: usize = 512;

/// What there is to say of one twin.
#[derive(Debug)]
pub(crate) struct Explanation {
    /// Whether the twin holds all of it.
    pub state: State,
    /// Every desired leaf as it is to be, in the order of the paths.
    pub leaves: Vec<Leaf>,
    /// Every policy, in the order of precedence; first those of the twin's scope.
    pub policies: Vec<Judged>,
}

/// Whether a twin holds what policies want of it.
#[derive(Debug)]
pub(crate) enum State {
    /// It does.
    Settled,
    /// It is about to be written.
    Pending,
    /// The settings would break a limit of the twin, and none is written. Leaves are as they are
    /// now, and who lost what is not known.
    Rejected(Violations),
}

/// A leaf; or an object, where a policy wanted a value and lost it to the object.
#[derive(Debug, PartialEq)]
pub(crate) struct Leaf {
    /// Its keys.
    pub path: Vec<String>,
    /// What it holds.
    pub value: Value,
    /// Who set it.
    pub writer: Writer,
    /// The version of the section that it came with.
    pub version: u64,
    /// Whether the twin does not hold it like this yet.
    pub pending: bool,
    /// Who wanted it as well, in the order of precedence.
    pub overruled: Vec<Overruled>,
}

/// What a policy wanted and did not get.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Overruled {
    /// The policy.
    pub policy_id: String,
    /// Which revision of it.
    pub revision: u64,
    /// Where.
    pub path: Vec<String>,
    /// What.
    pub value: Value,
    /// Why not.
    pub reason: Reason,
    /// Whether the place holds the same all the same.
    pub same_value: bool,
}

/// Why a policy lost a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// An operator wrote there, whom no policy overwrites.
    Operator,
    /// The winner has a higher priority.
    Priority,
    /// The winner has the same priority and was created later.
    CreatedLater,
}

/// A policy and what becomes of it on the twin.
#[derive(Debug)]
pub(crate) struct Judged {
    /// The policy.
    pub active: Arc<ActivePolicy>,
    /// Whether it applies, and if not, why not.
    pub verdict: Verdict,
    /// If it applies: how far its settings are.
    pub standing: Option<Standing>,
    /// If a condition does not hold, or nobody knows: what it looks at.
    pub facts: Vec<Fact>,
    /// Why its settings cannot be filled in, if that is why it does not apply.
    pub incomplete: Option<Incomplete>,
    /// Which of the two revisions of a rollout the twin has, if that is why it does not apply; empty: it is not.
    pub held_back: String,
}

/// What a twin has at a path of a condition.
#[derive(Debug, PartialEq)]
pub(crate) struct Fact {
    /// As the query language writes it.
    pub path: String,
    /// JSON; none: it is undefined there. Cut if it is long.
    pub value: Option<String>,
}

/// Explains one twin. `at` does not change what is said.
pub(crate) fn explain(policies: &PolicySet, twin: &TwinDocument, at: Timestamp) -> Explanation {
    let evaluated = evaluate(policies, twin, at);
    let too_much = evaluated.too_much.as_ref();
    let outcome = match (&evaluated.outcome, too_much) {
        (Ok(_), Some(too_much)) => Err(&too_much.violations),
        (outcome, _) => outcome.as_ref(),
    };
    let (state, section, lost) = match outcome {
        Err(violations) => (State::Rejected(violations.clone()), twin.desired(), &[][..]),
        Ok(outcome) => match &outcome.change {
            PolicyChange::Unchanged => (State::Settled, twin.desired(), &*outcome.lost),
            PolicyChange::Changed { section, .. } => (State::Pending, &**section, &*outcome.lost),
        },
    };
    let mut leaves = leaves_of(section);
    for leaf in &mut leaves {
        leaf.pending = is_pending(leaf, twin.desired());
    }
    for lost in lost {
        if let Some(overruled) = overruled(lost, &evaluated.wanted) {
            place(overruled, section, &mut leaves);
        }
    }
    leaves.sort_by(|a, b| a.path.cmp(&b.path));
    Explanation {
        state,
        leaves,
        policies: judge(policies, twin, at),
    }
}

/// Every leaf of a section. Arrays and empty objects are leaves.
pub(crate) fn leaves_of(section: &Section) -> Vec<Leaf> {
    let mut found = Vec::new();
    collect(
        section.document(),
        section.metadata(),
        &mut Vec::new(),
        &mut found,
    );
    found
}

fn collect(document: &Map, meta: &NodeMeta, path: &mut Vec<String>, found: &mut Vec<Leaf>) {
    for (key, value) in document {
        let Some(node) = meta.children.get(key) else {
            continue;
        };
        path.push(key.clone());
        match value {
            Value::Object(object) if !object.is_empty() => collect(object, node, path, found),
            _ => found.push(Leaf {
                path: path.clone(),
                value: value.clone(),
                writer: node.by.clone(),
                version: node.version.get(),
                pending: false,
                overruled: Vec::new(),
            }),
        }
        path.pop();
    }
}

fn is_pending(leaf: &Leaf, now: &Section) -> bool {
    let node = now.metadata().at(leaf.path.iter().map(String::as_str));
    let same = value_at(now.document(), &leaf.path) == Some(&leaf.value);
    !same || node.is_none_or(|node| node.by != leaf.writer)
}

fn value_at<'d>(document: &'d Map, path: &[String]) -> Option<&'d Value> {
    let (first, rest) = path.split_first()?;
    let first = document.get(first)?;
    rest.iter().try_fold(first, |value, key| value.get(key))
}

/// What was lost, as the loser wanted it.
pub(crate) fn overruled(lost: &LostLeaf, wanted: &Wanted) -> Option<Overruled> {
    fn of<'p>(
        writer: &Writer,
        mut policies: impl Iterator<Item = &'p Arc<ActivePolicy>>,
    ) -> Option<&'p Arc<ActivePolicy>> {
        policies.find(|active| writer.is_of(active.policy.id().as_str()))
    }
    // One of which nobody knows, or that is closed, wants nothing new, but holds what it has.
    let loser = of(&lost.writer, wanted.applicable.iter())?;
    let write = wanted
        .writes
        .iter()
        .find(|write| write.writer() == lost.writer)?;
    let holders = wanted.undecided.iter().map(|(active, _)| active);
    let holders = holders.chain(&wanted.closed);
    let winner = of(&lost.winner, wanted.applicable.iter().chain(holders));
    // An object that stays without any policy counts as an operator's, whoever is noted for it.
    let reason = winner.map_or(Reason::Operator, |winner| {
        match winner.policy.priority().cmp(&loser.policy.priority()) {
            Ordering::Greater => Reason::Priority,
            Ordering::Equal | Ordering::Less => Reason::CreatedLater,
        }
    });
    Some(Overruled {
        policy_id: loser.policy.id().to_string(),
        revision: loser.revision,
        path: lost.path.clone(),
        value: value_at(&write.settings, &lost.path)?.clone(),
        reason,
        same_value: lost.same_value,
    })
}

/// Puts a loss to the leaf that is there instead: at its path, above it, or an object.
fn place(overruled: Overruled, section: &Section, leaves: &mut Vec<Leaf>) {
    let holder = leaves
        .iter_mut()
        .find(|leaf| overruled.path.starts_with(&leaf.path));
    if let Some(leaf) = holder {
        leaf.overruled.push(overruled);
        return;
    }
    let below = leaves.iter().filter(|leaf| {
        leaf.path.len() > overruled.path.len() && leaf.path.starts_with(&overruled.path)
    });
    // The object is there because of its first leaf that no policy of lower precedence added.
    let maker = below.min_by_key(|leaf| leaf.writer.is_policy());
    let Some((maker, value)) = maker.zip(value_at(section.document(), &overruled.path)) else {
        return;
    };
    leaves.push(Leaf {
        path: overruled.path.clone(),
        value: value.clone(),
        writer: maker.writer.clone(),
        version: maker.version,
        pending: maker.pending,
        overruled: vec![overruled],
    });
}

fn judge(policies: &PolicySet, twin: &TwinDocument, at: Timestamp) -> Vec<Judged> {
    let standings = standings(policies, twin, at);
    let judged = policies.in_order(twin.scope()).map(|active| {
        let verdict = active.verdict(twin);
        let standing = standings
            .iter()
            .find(|(other, _)| Arc::ptr_eq(other, active));
        let failing = match verdict {
            Verdict::Applies
            | Verdict::Closed
            | Verdict::Expired
            | Verdict::OtherScope
            | Verdict::HeldBack
            | Verdict::Incomplete => None,
            Verdict::NotTargeted | Verdict::Undecided(Part::Target) => Some(active.policy.target()),
            Verdict::NotWhen | Verdict::Undecided(Part::When) => active.policy.when(),
        };
        Judged {
            active: Arc::clone(active),
            verdict,
            standing: standing.map(|(_, standing)| *standing),
            incomplete: match verdict {
                Verdict::Incomplete => active.incomplete(twin),
                _ => None,
            },
            held_back: match (verdict, &active.stage) {
                (Verdict::HeldBack, Some(stage)) => stage.why_not(twin),
                _ => String::new(),
            },
            facts: failing.map_or_else(Vec::new, |condition| facts(condition, twin)),
        }
    });
    judged.collect()
}

fn facts(condition: &Condition, twin: &TwinDocument) -> Vec<Fact> {
    let view = twin.view();
    let fact = |(path, value): (Path, Option<Value>)| Fact {
        path: path.to_string(),
        value: value.map(|value| shortened(value.to_string())),
    };
    condition.facts(&view).into_iter().map(fact).collect()
}

fn shortened(mut text: String) -> String {
    if text.len() > FACT_BYTES_MAX {
        let end = (0..=FACT_BYTES_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
