//! The decision: which policies apply to a twin, in which order, and whether the twin has to be
//! written at all.
//!
//! Pure. It depends on the policies and the twin alone, never on what was decided before, so a
//! lost, repeated or late evaluation ends in the same settings. What a policy may overwrite is
//! `twin::settings`' rule; here it is asked and not repeated.

use std::sync::Arc;

use jiff::Timestamp;
use twin::query::{self, Attribute, Path, Root, Vocabulary};
use twin::settings::{PolicyChange, PolicyOutcome};
use twin::{Condition, PolicyWrite, Violations};
use wire::twin::v1::Change;

use crate::policy_doc::{Policy, Scope};
use crate::twin_document::TwinDocument;

/// A policy in force.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivePolicy {
    /// What it says.
    pub policy: Policy,
    /// Which of its revisions.
    pub revision: u64,
    /// Its place in the order of creation: of two with the same priority the later one wins.
    pub created_order: u64,
}

/// Whether a policy applies to a twin, and if not, why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does.
    Applies,
    /// It looks at twins of another kind.
    OtherScope,
    /// Its target does not take the twin.
    NotTargeted,
    /// Its target takes the twin, but `when` does not hold.
    NotWhen,
}

impl ActivePolicy {
    /// Whether it applies to a twin.
    pub(crate) fn verdict(&self, twin: &TwinDocument) -> Verdict {
        let view = twin.view();
        if self.policy.scope() != twin.scope() {
            Verdict::OtherScope
        } else if !self.policy.target().matches(&view) {
            Verdict::NotTargeted
        } else if self.policy.when().is_some_and(|when| !when.matches(&view)) {
            Verdict::NotWhen
        } else {
            Verdict::Applies
        }
    }
}

/// All policies in force, in the order of precedence, with what they look at. It never changes; a
/// change of a policy makes a new set.
#[derive(Debug, Clone, Default)]
pub(crate) struct PolicySet {
    devices: ScopeSet,
    modules: ScopeSet,
}

#[derive(Debug, Clone, Default)]
struct ScopeSet {
    policies: Vec<Arc<ActivePolicy>>,
    looks_at: Interest,
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
            scope.looks_at = scope.looks_at.with(Interest::of(&active.policy));
            scope.policies.push(Arc::new(active));
        }
        for scope in [&mut set.devices, &mut set.modules] {
            scope.policies.sort_by_key(|active| {
                std::cmp::Reverse((active.policy.priority(), active.created_order))
            });
        }
        set
    }

    /// How many policies there are.
    pub(crate) fn len(&self) -> usize {
        self.devices.policies.len() + self.modules.policies.len()
    }

    /// Whether a change of these parts of a twin can change what is decided on it.
    pub(crate) fn is_concerned(&self, scope: Scope, changed: Interest) -> bool {
        // A new twin has never been looked at, and a change of desired may have undone (or be)
        // what policies set; no condition is needed for that.
        changed.created || changed.desired || self.scope(scope).looks_at.meets(changed)
    }

    /// The policies that apply to a twin, in the order of precedence: the first that sets a leaf
    /// wins it.
    pub(crate) fn applicable(&self, twin: &TwinDocument) -> Vec<Arc<ActivePolicy>> {
        let all = &self.scope(twin.scope()).policies;
        all.iter()
            .filter(|active| active.verdict(twin) == Verdict::Applies)
            .cloned()
            .collect()
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
        PolicySet::new(others.into_iter().chain([active]))
    }

    /// What must hold of a twin that a decision may find something to do on, in the query language:
    /// a policy applies to it, or one has set something in it. Empty: it cannot be said in so few
    /// characters, every twin must be looked at.
    pub(crate) fn filter(&self) -> String {
        self.said(vec!["IS_DEFINED(configurations)".to_owned()])
    }

    /// What must hold of a twin that a policy applies to, in the query language. Empty: it cannot be
    /// said in so few characters.
    pub(crate) fn targets(&self) -> String {
        self.said(Vec::new())
    }

    /// One of these parts holds, or a policy applies.
    fn said(&self, mut parts: Vec<String>) -> String {
        let applies = |scope: &ScopeSet| -> Vec<String> {
            let conditions = scope.policies.iter().map(|active| {
                let target = said(active.policy.target());
                match active.policy.when() {
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
            if !scope.policies.is_empty() {
                parts.push(format!("({kind} AND ({}))", applies(scope).join(" OR ")));
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
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    /// Everything holds already. No call is made, so the loop ends.
    Holds,
    /// It must be written: these policies apply (none: what policies set is taken out).
    Write(Vec<Arc<ActivePolicy>>),
    /// The settings would break a limit of this twin.
    Breaks(Violations),
}

/// What policies make of a twin: the one evaluation behind decisions, explanations and previews.
#[derive(Debug)]
pub(crate) struct Evaluated {
    /// The policies that apply, in the order of precedence.
    pub applicable: Vec<Arc<ActivePolicy>>,
    /// What they make of its desired section, or which of its limits they would break.
    pub outcome: Result<PolicyOutcome, Violations>,
}

/// Evaluates one twin. `at` is the time of what would be written.
pub(crate) fn evaluate(policies: &PolicySet, twin: &TwinDocument, at: Timestamp) -> Evaluated {
    let applicable = policies.applicable(twin);
    let outcome = twin::apply_policy_settings(twin.desired(), &writes(&applicable), at);
    Evaluated {
        applicable,
        outcome,
    }
}

/// Decides on one twin. `at` does not change the decision.
pub(crate) fn decide(policies: &PolicySet, twin: &TwinDocument, at: Timestamp) -> Decision {
    let Evaluated {
        applicable,
        outcome,
    } = evaluate(policies, twin, at);
    match outcome {
        Err(violations) => Decision::Breaks(violations),
        Ok(outcome) => match outcome.change {
            PolicyChange::Unchanged => Decision::Holds,
            PolicyChange::Changed { .. } => Decision::Write(applicable),
        },
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

/// What policies want, in the same order.
pub(crate) fn writes(applicable: &[Arc<ActivePolicy>]) -> Vec<PolicyWrite> {
    let write = |active: &Arc<ActivePolicy>| PolicyWrite {
        policy: active.policy.id().to_string(),
        revision: active.revision,
        settings: active.policy.settings().clone(),
    };
    applicable.iter().map(write).collect()
}

/// Parts of a twin: that conditions look at, or that a commit changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set with one flag per part of a twin"
)]
pub(crate) struct Interest {
    created: bool,
    tags: bool,
    desired: bool,
    reported: bool,
    posture: bool,
    configuration: bool,
    status: bool,
}

impl Interest {
    /// Everything: for a change that we do not know.
    pub(crate) const ALL: Interest = Interest {
        created: true,
        tags: true,
        desired: true,
        reported: true,
        posture: true,
        configuration: true,
        status: true,
    };

    /// What the conditions of a policy look at. Ids never change, so they are not part of it.
    pub(crate) fn of(policy: &Policy) -> Interest {
        let mut interest = Interest::default();
        let conditions = [Some(policy.target()), policy.when()];
        for path in conditions
            .into_iter()
            .flatten()
            .flat_map(twin::Condition::paths)
        {
            interest = interest.with(Interest::of_path(&path));
        }
        interest
    }

    fn of_path(path: &Path) -> Interest {
        let none = Interest::default();
        match path.root {
            Root::Attribute(Attribute::Status) => Interest {
                status: true,
                ..none
            },
            // Ids never change, and a condition over changes can name no other attribute.
            Root::Attribute(_) | Root::Variable { .. } => none,
            Root::Tags => Interest { tags: true, ..none },
            Root::Desired => Interest {
                desired: true,
                ..none
            },
            Root::Reported => Interest {
                reported: true,
                ..none
            },
            // The state of the configuration changes with every push, most of posture does not.
            Root::Posture => {
                let configuration = path.keys.first().is_none_or(|key| key == "configuration");
                Interest {
                    posture: true,
                    configuration,
                    ..none
                }
            }
        }
    }

    /// What a commit changed.
    pub(crate) fn of_changes(changes: impl IntoIterator<Item = Change>) -> Interest {
        let none = Interest::default();
        changes.into_iter().fold(none, |all, change| {
            all.with(match change {
                Change::Unspecified => Interest::ALL,
                Change::Created => Interest {
                    created: true,
                    ..none
                },
                // That one is gone, a change says by itself.
                Change::Deleted => none,
                Change::Tags => Interest { tags: true, ..none },
                Change::Desired => Interest {
                    desired: true,
                    ..none
                },
                Change::Reported => Interest {
                    reported: true,
                    ..none
                },
                Change::Posture => Interest {
                    posture: true,
                    ..none
                },
                Change::ConfigurationState => Interest {
                    configuration: true,
                    ..none
                },
                Change::Status | Change::Identity => Interest {
                    status: true,
                    ..none
                },
            })
        })
    }

    /// Both together.
    #[must_use]
    pub(crate) fn with(self, other: Interest) -> Interest {
        Interest {
            created: self.created || other.created,
            tags: self.tags || other.tags,
            desired: self.desired || other.desired,
            reported: self.reported || other.reported,
            posture: self.posture || other.posture,
            configuration: self.configuration || other.configuration,
            status: self.status || other.status,
        }
    }

    /// Whether both have a part in common.
    fn meets(self, other: Interest) -> bool {
        (self.created && other.created)
            || (self.tags && other.tags)
            || (self.desired && other.desired)
            || (self.reported && other.reported)
            || (self.posture && other.posture)
            || (self.configuration && other.configuration)
            || (self.status && other.status)
    }
}

#[cfg(test)]
mod tests;
