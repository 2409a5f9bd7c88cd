//! The decision: which policies apply to a twin, in which order, and whether the twin has to be
//! written at all.
//!
//! Pure. It depends on the policies and the twin alone, never on what was decided before, so a
//! lost, repeated or late evaluation ends in the same settings. What a policy may overwrite is
//! `twin::settings`' rule; here it is asked and not repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use twin::query::{self, Vocabulary};
use twin::settings::{PolicyChange, PolicyOutcome};
use twin::{Condition, ConfigurationStates, PolicyWrite, Violations};

use crate::active::kept;
pub(crate) use crate::active::{ActivePolicy, Part, Side, Stage, Verdict};
use crate::configured;
pub(crate) use crate::interest::Interest;
use crate::keep::FrozenSet;
use crate::policy_doc::{PolicyId, Scope};
use crate::schedule::Gate;
use crate::stray::Given;
use crate::twin_document::TwinDocument;

mod fits;
mod held;

pub(crate) use fits::TooMuch;

/// What the policies of a set want of a twin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Those that apply, in the order of precedence.
    pub applicable: Vec<Arc<ActivePolicy>>,
    /// Those of which nobody knows, and why.
    pub undecided: Vec<(Arc<ActivePolicy>, Part)>,
    /// Those that may not change it now.
    pub closed: Vec<Arc<ActivePolicy>>,
    /// Those that would apply if the twin had what their templates name.
    pub incomplete: Vec<Arc<ActivePolicy>>,
    /// Those that leave the twin as it is, because nobody knows what they say, or what they said there.
    pub held: BTreeSet<PolicyId>,
    /// What is to be there, in the order of precedence: what the one want, and what the others have
    /// set already.
    pub writes: Vec<PolicyWrite>,
}

/// All policies in force, in the order of precedence, with what they look at. It never changes; a
/// change of a policy makes a new set.
#[derive(Debug, Clone, Default)]
pub(crate) struct PolicySet {
    devices: ScopeSet,
    modules: ScopeSet,
    frozen: FrozenSet,
    /// Policies that nobody can read: what they have set stays as it is.
    unreadable: Arc<BTreeSet<PolicyId>>,
    /// What was ever given; none: whatever stands on twins.
    given: Option<Arc<Given>>,
}

#[derive(Debug, Clone, Default)]
struct ScopeSet {
    policies: Vec<Arc<ActivePolicy>>,
    /// What each of them looks at.
    looks_at: Vec<Interest>,
}

impl PolicySet {
    /// Orders and indexes policies; their order here does not matter.
    pub(crate) fn new(policies: impl IntoIterator<Item = ActivePolicy>) -> PolicySet {
        let mut set = PolicySet::default();
        for active in policies {
            let scope = match active.policy.scope() {
                Scope::Devices => &mut set.devices,
                Scope::Modules => &mut set.modules,
            };
            scope.policies.push(Arc::new(active));
        }
        for scope in [&mut set.devices, &mut set.modules] {
            scope.policies.sort_by_key(|active| {
                std::cmp::Reverse((active.policy.priority(), active.created_order))
            });
            let looks_at = scope.policies.iter().map(|active| Interest::of(active));
            scope.looks_at = looks_at.collect();
        }
        set
    }

    /// The set that leaves these paths alone.
    #[must_use]
    pub(crate) fn with_frozen(self, frozen: FrozenSet) -> PolicySet {
        PolicySet { frozen, ..self }
    }

    /// The set beside these policies, which nobody can read.
    #[must_use]
    pub(crate) fn with_unreadable(self, unreadable: BTreeSet<PolicyId>) -> PolicySet {
        PolicySet {
            unreadable: Arc::new(unreadable),
            ..self
        }
    }

    /// The set beside which settings stay on twins of which the store never knew.
    #[must_use]
    pub(crate) fn with_given(self, given: Arc<Given>) -> PolicySet {
        PolicySet {
            given: Some(given),
            ..self
        }
    }

    /// The paths that it leaves alone.
    pub(crate) fn frozen(&self) -> &FrozenSet {
        &self.frozen
    }

    /// How many policies there are, without configurations; one that is being rolled out is one.
    pub(crate) fn len(&self) -> usize {
        let ids = self.newest().map(|active| active.policy.id());
        ids.filter(|id| !id.is_of_configuration()).count()
    }

    /// The newest revision of each, in no order.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Arc<ActivePolicy>> {
        self.policies().filter(|active| {
            let stage = active.stage.as_ref();
            stage.is_none_or(|stage| stage.side == Side::New)
        })
    }

    /// Whether a change of these parts of a twin can change what is decided on it.
    pub(crate) fn is_concerned(&self, scope: Scope, changed: Interest) -> bool {
        // A new twin has never been looked at, and a change of desired may have undone (or be)
        // what policies set; no condition is needed for that.
        changed.created || changed.desired || {
            let mut looks_at = self.scope(scope).looks_at.iter();
            looks_at.any(|one| one.meets(changed))
        }
    }

    /// The policies that look at any of these parts of a twin.
    pub(crate) fn concerned(
        &self,
        scope: Scope,
        changed: Interest,
    ) -> impl Iterator<Item = &Arc<ActivePolicy>> {
        let scope = self.scope(scope);
        let both = scope.policies.iter().zip(&scope.looks_at);
        both.filter_map(move |(active, looks_at)| looks_at.meets(changed).then_some(active))
    }

    /// The policies that look at nothing that can change.
    pub(crate) fn indifferent(&self, scope: Scope) -> impl Iterator<Item = &Arc<ActivePolicy>> {
        let scope = self.scope(scope);
        let both = scope.policies.iter().zip(&scope.looks_at);
        both.filter_map(|(active, one)| (!one.meets(Interest::ALL)).then_some(active))
    }

    /// How many revisions are in force for twins of this kind.
    pub(crate) fn count(&self, scope: Scope) -> usize {
        self.scope(scope).policies.len()
    }

    /// The policies that apply to a twin, in the order of precedence.
    #[cfg(test)]
    pub(crate) fn applicable(&self, twin: &TwinDocument) -> Vec<Arc<ActivePolicy>> {
        self.wanted(twin).applicable
    }

    /// What the policies want of a twin; of two that want the same leaf the first wins it.
    pub(crate) fn wanted(&self, twin: &TwinDocument) -> Wanted {
        // First of all: whoever comes after it may have had less to say, which nobody knows.
        let held = self.held(twin);
        let stay = held.iter().flat_map(|id| kept(id, twin.desired()));
        let mut wanted = Wanted {
            writes: stay.collect(),
            held,
            ..Wanted::default()
        };
        for active in &self.scope(twin.scope()).policies {
            if wanted.held.contains(active.policy.id()) {
                continue;
            }
            match active.verdict(twin) {
                Verdict::Applies => {
                    let write = active.write(twin);
                    // One that has nothing but actions sets nothing.
                    let write = write.filter(|write| !write.settings.is_empty());
                    wanted.writes.extend(write);
                    wanted.applicable.push(Arc::clone(active));
                }
                Verdict::Undecided(part) => {
                    let kept = kept(active.policy.id(), twin.desired());
                    wanted.writes.extend(kept);
                    wanted.undecided.push((Arc::clone(active), part));
                }
                Verdict::Closed => {
                    // Both revisions of a rollout may be closed; what is kept is that of either.
                    let id = active.policy.id();
                    if wanted.closed.iter().all(|other| other.policy.id() != id) {
                        wanted.writes.extend(kept(id, twin.desired()));
                    }
                    wanted.closed.push(Arc::clone(active));
                }
                Verdict::Incomplete => wanted.incomplete.push(Arc::clone(active)),
                Verdict::OtherScope
                | Verdict::NotTargeted
                | Verdict::NotWhen
                | Verdict::Expired
                | Verdict::HeldBack => {}
            }
        }
        self.hold(twin, &wanted.held, &mut wanted.writes);
        wanted
    }

    /// Whether any of them holds back what it has set there.
    fn hold_pushes(&self, twin: &TwinDocument) -> bool {
        let mut policies = self.scope(twin.scope()).policies.iter();
        let is_there = |id: &PolicyId| !kept(id, twin.desired()).is_empty();
        policies.any(|active| active.holds_pushes(twin)) || self.held(twin).iter().any(is_there)
    }

    /// Leaves frozen paths of a twin as they are.
    fn hold(&self, twin: &TwinDocument, held: &BTreeSet<PolicyId>, writes: &mut Vec<PolicyWrite>) {
        let policies = &self.scope(twin.scope()).policies;
        let is_held = |id: &str| held.iter().any(|one| one.as_str() == id);
        let exists =
            |id: &str| policies.iter().any(|one| one.policy.id().as_str() == id) || is_held(id);
        self.frozen.hold(twin.key(), twin.desired(), exists, writes);
    }

    /// Those for twins of this kind, in the order of precedence.
    pub(crate) fn in_scope(&self, scope: Scope) -> impl Iterator<Item = &Arc<ActivePolicy>> {
        self.scope(scope).policies.iter()
    }

    /// All of them, in no order.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Arc<ActivePolicy>> {
        self.devices.policies.iter().chain(&self.modules.policies)
    }

    /// All of them in the order of precedence, first those that look at twins of this kind.
    pub(crate) fn in_order(&self, first: Scope) -> impl Iterator<Item = &Arc<ActivePolicy>> {
        let second = match first {
            Scope::Devices => Scope::Modules,
            Scope::Modules => Scope::Devices,
        };
        let of = |scope| self.scope(scope).policies.iter();
        of(first).chain(of(second))
    }

    /// The set in which this policy takes the place of the one of its id, if there is one.
    pub(crate) fn with(&self, active: ActivePolicy) -> PolicySet {
        let others = self.policies();
        let others = others.filter(|other| other.policy.id() != active.policy.id());
        let others: Vec<ActivePolicy> = others.map(|other| (**other).clone()).collect();
        let frozen = self.frozen.without(active.policy.id().as_str());
        PolicySet {
            unreadable: Arc::clone(&self.unreadable),
            given: self.given.clone(),
            ..PolicySet::new(others.into_iter().chain([active])).with_frozen(frozen)
        }
    }

    /// What must hold of a twin that a decision may find something to do on, in the query language:
    /// a policy applies to it, or one has set something in it. Empty: it cannot be said in so few
    /// characters, every twin must be looked at.
    pub(crate) fn filter(&self) -> String {
        self.said(vec!["IS_DEFINED(configurations)".to_owned()], |_| true)
    }

    /// What must hold of a twin that a policy applies to, in the query language. Empty: it cannot be
    /// said in so few characters.
    pub(crate) fn targets(&self) -> String {
        self.said(Vec::new(), |_| true)
    }

    /// As [`PolicySet::targets`], and also twins that only `target` takes, of policies whose rollout is watched by
    /// `failIf`: a twin may go out of `when` by what the settings do to it.
    pub(crate) fn watched(&self) -> String {
        self.said(Vec::new(), |active| {
            let stage = active.stage.as_ref();
            !stage.is_some_and(|stage| stage.course.watches())
        })
    }

    /// What must hold of a twin that the target of a policy takes, whatever `when` says. Empty: it cannot be
    /// said in so few characters.
    pub(crate) fn takes(&self) -> String {
        self.said(Vec::new(), |_| false)
    }

    /// The revision that twins have that do not have this one yet, if it is rolled out.
    pub(crate) fn before(&self, new: &ActivePolicy) -> Option<&Arc<ActivePolicy>> {
        self.policies().find(|active| {
            let stage = active.stage.as_ref();
            let is_before = stage.is_some_and(|stage| stage.side == Side::Before);
            is_before && active.policy.id() == new.policy.id()
        })
    }

    /// One of these parts holds, or a policy applies.
    fn said(&self, mut parts: Vec<String>, with_when: impl Fn(&ActivePolicy) -> bool) -> String {
        let applies = |scope: &ScopeSet| -> Vec<String> {
            let alive = |active: &&Arc<ActivePolicy>| !matches!(active.gate, Gate::Expired(_));
            let conditions = scope.policies.iter().filter(alive).map(|active| {
                let target = said(active.policy.target());
                let when = active.policy.when().filter(|_| with_when(active));
                match when {
                    None => target,
                    Some(when) => format!("({target} AND {})", said(when)),
                }
            });
            conditions.collect()
        };
        for (scope, kind) in [
            (&self.devices, "NOT IS_DEFINED(moduleId)"),
            (&self.modules, "IS_DEFINED(moduleId)"),
        ] {
            let applies = applies(scope);
            if !applies.is_empty() {
                parts.push(format!("({kind} AND ({}))", applies.join(" OR ")));
            }
        }
        let filter = parts.join(" OR ");
        // A question may be too long or too deep, however good its parts are.
        let whole = Condition::parse_in(&filter, Vocabulary::Query);
        whole.map(|_| filter).unwrap_or_default()
    }

    fn scope(&self, scope: Scope) -> &ScopeSet {
        match scope {
            Scope::Devices => &self.devices,
            Scope::Modules => &self.modules,
        }
    }
}

/// What has to happen to a twin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Everything holds already. No call is made, so the loop ends.
    Holds,
    /// It must be written: this is to be there (nothing: what policies set is taken out).
    Write(Vec<PolicyWrite>),
    /// Some settings would break a limit of this twin; everything else holds.
    Breaks(Violations),
}

/// What policies make of a twin: the one evaluation behind decisions, explanations and previews.
#[derive(Debug)]
pub(crate) struct Evaluated {
    /// What is wanted, and by whom.
    pub wanted: Wanted,
    /// What they make of its desired section as far as that fits, or that nothing can be written there.
    pub outcome: Result<PolicyOutcome, Violations>,
    /// What is not among it, because it does not fit.
    pub too_much: Option<TooMuch>,
}

/// Evaluates one twin. `at` is the time of what would be written.
pub(crate) fn evaluate(policies: &PolicySet, twin: &TwinDocument, at: Timestamp) -> Evaluated {
    let mut wanted = policies.wanted(twin);
    let outcome = twin::apply_policy_settings(twin.desired(), &wanted.writes, at);
    let Err(violations) = outcome else {
        return Evaluated {
            wanted,
            outcome,
            too_much: None,
        };
    };
    let too_much = fits::leave_out(policies, &mut wanted, violations, (twin, at));
    let outcome = twin::apply_policy_settings(twin.desired(), &wanted.writes, at);
    Evaluated {
        wanted,
        outcome,
        too_much: Some(too_much),
    }
}

/// What is decided on a twin.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    /// What has to happen.
    pub decision: Decision,
    /// Whether what is there is to be pushed once more: the device did not stay with it, and no policy holds
    /// that back.
    pub push_again: bool,
    /// Where configurations are to stand.
    pub configurations: ConfigurationStates,
    /// The policies of which nobody knows whether they apply, and why.
    pub undecided: Vec<(Arc<ActivePolicy>, Part)>,
    /// The policies that do not apply because the twin lacks what their templates name.
    pub incomplete: Vec<Arc<ActivePolicy>>,
    /// Policies of which the twin has a revision that was never given.
    pub unknown: BTreeMap<PolicyId, u64>,
}

/// Decides on one twin. `at` does not change the decision.
pub(crate) fn decide(policies: &PolicySet, twin: &TwinDocument, at: Timestamp) -> Decided {
    let Evaluated {
        wanted,
        outcome,
        too_much,
    } = evaluate(policies, twin, at);
    let configurations = configured::states(&wanted, (&outcome, too_much.as_ref()), twin);
    let decision = match (outcome, too_much) {
        (Err(violations), _) => Decision::Breaks(violations),
        // What fits comes first, and what is to go goes all the same.
        (Ok(outcome), Some(too_much)) if outcome.change == PolicyChange::Unchanged => {
            Decision::Breaks(too_much.violations)
        }
        (Ok(outcome), _) => match outcome.change {
            PolicyChange::Unchanged if policies.frozen.is_told(twin) => Decision::Holds,
            // Also if all holds, but what is frozen of it is not said there yet, or still is.
            PolicyChange::Unchanged | PolicyChange::Changed { .. } => {
                Decision::Write(wanted.writes)
            }
        },
    };
    let writes = matches!(decision, Decision::Write(_));
    Decided {
        unknown: policies.unknown_on(twin),
        push_again: !writes && twin.asks_for_push() && !policies.hold_pushes(twin),
        decision,
        configurations,
        undecided: wanted.undecided,
        incomplete: wanted.incomplete,
    }
}

/// A condition as part of a longer one.
fn said(condition: &Condition) -> String {
    match condition.scope() {
        query::Scope::Everything => "(1 = 1)".to_owned(),
        query::Scope::Nothing => "(1 = 0)".to_owned(),
        query::Scope::Where(_) => format!("({condition})"),
    }
}

#[cfg(test)]
mod tests;
