//! What a policy is: parsed and checked once, valid ever after.
//!
//! Everything that enters (a gRPC request, a file, a stored row) becomes a [`PolicySpec`], and only
//! [`Policy::check`] turns one into a [`Policy`]. It reports every problem at once, each with its
//! field and the position inside it. This module knows neither protobuf nor YAML nor SQL.

use std::fmt;

use twin::query::{Lookup, Path};
use twin::{Condition, Map, Violations};

use crate::configuration_doc::ConfigurationId;
use crate::rollout::{Strategy, StrategySpec};
use crate::schedule::{Schedule, ScheduleSpec};

mod actions;
mod id;
pub mod labels;
mod own;
mod problem;
mod template;

pub(crate) use actions::{Action, Actions};
pub use actions::{ActionSpec, ActionsSpec};
pub use id::{ID_CHARS_MAX, PolicyId};
pub use labels::Labels;
pub(crate) use own::{check_device_tags, check_no_self_reference};
pub use problem::{Field, Problem, Problems};
pub(crate) use template::Incomplete;
use template::Templates;

/// Characters of a description: a page of text for people, not a place to store documents.
pub const DESCRIPTION_CHARS_MAX: usize = 4096;

/// Which twins a policy looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Twins of devices.
    Devices,
    /// Twins of modules. The default, because security agents are modules.
    #[default]
    Modules,
}

impl Scope {
    /// The scopes as files spell them.
    pub const NAMES: [&str; 2] = ["devices", "modules"];

    /// As files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Devices => "devices",
            Scope::Modules => "modules",
        }
    }

    /// The inverse of [`Scope::as_str`].
    pub fn parse(text: &str) -> Option<Scope> {
        match text {
            "devices" => Some(Scope::Devices),
            "modules" => Some(Scope::Modules),
            _ => None,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy as somebody wrote it: unchecked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicySpec {
    /// Its name.
    pub id: String,
    /// Free text for people.
    pub description: String,
    /// Words to find it by; they say nothing to twins.
    pub labels: Labels,
    /// Which kind of twin it looks at.
    pub scope: Scope,
    /// Which of them: the WHERE part of the query language. `*` is all, empty is none.
    pub target: String,
    /// When its settings apply: another WHERE part. Empty is always.
    pub when: String,
    /// The higher wins a leaf; at a tie the policy that was created later wins.
    pub priority: i32,
    /// What it sets: an object that is merged into desired.
    pub settings: Map,
    /// How a revision of it spreads; none: over all twins at once.
    pub rollout: Option<StrategySpec>,
    /// When it may change twins; none: always.
    pub schedule: Option<ScheduleSpec>,
    /// Which methods it calls; none: none.
    pub actions: Option<ActionsSpec>,
}

/// A policy that can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    id: PolicyId,
    spec: PolicySpec,
    target: Condition,
    when: Option<Condition>,
    strategy: Option<Strategy>,
    templates: Templates,
    schedule: Option<Schedule>,
    actions: Actions,
}

impl Policy {
    /// Checks everything and reports every problem at once.
    pub fn check(spec: PolicySpec) -> Result<Policy, Problems> {
        Policy::check_after(spec, Vec::new())
    }

    /// [`Policy::check`] after a conversion that already found problems: its fields hold no usable
    /// value, so they are not judged a second time.
    pub fn check_after(spec: PolicySpec, earlier: Vec<Problem>) -> Result<Policy, Problems> {
        let mut found = Found { problems: earlier };
        let id = found.take(Field::Id, || {
            PolicyId::parse(&spec.id).map_err(one(Field::Id))
        });
        found.take(Field::Description, || check_description(&spec.description));
        found.take(Field::Labels, || labels::check(&spec.labels));
        let target = found.take(Field::Target, || {
            parse_condition(Field::Target, &spec.target)
        });
        let when = found.take(Field::When, || match spec.when.trim() {
            "" => Ok(None),
            _ => parse_condition(Field::When, &spec.when).map(Some),
        });
        let templates = found.take(Field::Settings, || {
            check_settings(&spec.settings, spec.actions.is_some())?;
            Templates::read(&spec.settings, spec.scope)
        });
        let strategy = found.take(Field::Rollout, || match &spec.rollout {
            None => Ok(None),
            Some(strategy) => Strategy::check(strategy.clone(), &spec.settings).map(Some),
        });
        let schedule = found.take(Field::Schedule, || {
            spec.schedule.as_ref().map(Schedule::check).transpose()
        });
        let actions = found.take(Field::Actions, || match &spec.actions {
            None => Ok(Actions::default()),
            Some(actions) => Actions::check(actions, spec.scope),
        });
        let when = when.flatten();
        for (field, condition) in [
            (Field::Target, target.as_ref()),
            (Field::When, when.as_ref()),
        ] {
            if let Some(condition) = condition {
                found
                    .problems
                    .extend(check_no_self_reference(field, condition, &spec.settings));
                found
                    .problems
                    .extend(check_device_tags(field, condition, spec.scope));
            }
        }
        for condition in strategy.iter().flatten().flat_map(Strategy::conditions) {
            let problems = check_device_tags(Field::Rollout, &condition, spec.scope);
            found.problems.extend(problems);
        }
        let (Some(id), Some(target), true) = (id, target, found.problems.is_empty()) else {
            return Err(Problems::new(found.problems));
        };
        Ok(Policy {
            id,
            spec,
            target,
            when,
            strategy: strategy.flatten(),
            templates: templates.unwrap_or_default(),
            schedule: schedule.flatten(),
            actions: actions.unwrap_or_default(),
        })
    }

    /// What a configuration of IoT Hub says, which was checked as one.
    pub(crate) fn of_configuration(
        id: &ConfigurationId,
        (scope, target): (Scope, Condition),
        priority: i32,
        settings: Map,
    ) -> Policy {
        let id = PolicyId::of_configuration(id);
        Policy {
            spec: PolicySpec {
                id: id.to_string(),
                scope,
                target: target.to_string(),
                priority,
                settings,
                ..PolicySpec::default()
            },
            id,
            target,
            when: None,
            strategy: None,
            // IoT Hub knows none: `${` is a text like any other there.
            templates: Templates::default(),
            schedule: None,
            actions: Actions::default(),
        }
    }

    /// Its name.
    pub fn id(&self) -> &PolicyId {
        &self.id
    }

    /// What was written.
    pub fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    /// Which kind of twin it looks at.
    pub fn scope(&self) -> Scope {
        self.spec.scope
    }

    /// Which twins.
    pub fn target(&self) -> &Condition {
        &self.target
    }

    /// When its settings apply; none is always.
    pub fn when(&self) -> Option<&Condition> {
        self.when.as_ref()
    }

    /// The higher wins a leaf.
    pub fn priority(&self) -> i32 {
        self.spec.priority
    }

    /// How a revision of it spreads; none: over all twins at once.
    pub fn strategy(&self) -> Option<&Strategy> {
        self.strategy.as_ref()
    }

    /// When it may change twins; none: always.
    pub fn schedule(&self) -> Option<&Schedule> {
        self.schedule.as_ref()
    }

    /// Which methods it calls.
    pub(crate) fn actions(&self) -> &Actions {
        &self.actions
    }

    /// What it sets, with templates as they were written.
    pub fn settings(&self) -> &Map {
        &self.spec.settings
    }

    /// What it sets on a twin.
    pub(crate) fn settings_for(&self, twin: &dyn Lookup) -> Result<Map, Incomplete> {
        self.templates.fill(&self.spec.settings, twin)
    }

    /// What its settings look at.
    pub(crate) fn template_paths(&self) -> impl Iterator<Item = &Path> {
        self.templates.paths()
    }

    /// What the payloads of its actions look at.
    pub(crate) fn payload_paths(&self) -> impl Iterator<Item = &Path> {
        self.actions.paths()
    }
}

/// Collects problems and remembers which fields had one before.
struct Found {
    problems: Vec<Problem>,
}

impl Found {
    fn take<T>(
        &mut self,
        field: Field,
        check: impl FnOnce() -> Result<T, Vec<Problem>>,
    ) -> Option<T> {
        if self.problems.iter().any(|problem| problem.field == field) {
            return None;
        }
        match check() {
            Ok(value) => Some(value),
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }
}

fn one(field: Field) -> impl FnOnce(String) -> Vec<Problem> {
    move |message| vec![Problem::new(field, message)]
}

fn check_description(text: &str) -> Result<(), Vec<Problem>> {
    let chars = text.chars().count();
    if chars > DESCRIPTION_CHARS_MAX {
        let message =
            format!("has {chars} characters; at most {DESCRIPTION_CHARS_MAX} are allowed");
        return Err(vec![Problem::new(Field::Description, message)]);
    }
    Ok(())
}

/// Parses a condition; the problem has the position inside it.
pub(crate) fn parse_condition(field: Field, text: &str) -> Result<Condition, Vec<Problem>> {
    Condition::parse(text).map_err(|error| {
        let position = format!("line {}, column {}", error.line, error.column);
        let message = error.to_string();
        // The message leads with the position, which a problem has beside it.
        let message = message
            .strip_prefix(&format!("{position}: "))
            .unwrap_or(&message)
            .to_owned();
        vec![Problem {
            field,
            position: Some(position),
            message,
            rule: "",
        }]
    })
}

fn check_settings(settings: &Map, has_actions: bool) -> Result<(), Vec<Problem>> {
    if settings.is_empty() && has_actions {
        return Ok(());
    }
    if settings.is_empty() {
        let message = "sets nothing; at least one setting is needed, or actions";
        return Err(vec![Problem::new(Field::Settings, message)]);
    }
    twin::validate_settings(settings).map_err(|violations| explain(&violations))
}

/// What is wrong with settings, each breach for itself.
pub(crate) fn explain(violations: &Violations) -> Vec<Problem> {
    let mut problems: Vec<Problem> = violations
        .list()
        .iter()
        .map(|violation| Problem {
            field: Field::Settings,
            position: Some(violation.path.clone()),
            message: format!(
                "{} is not allowed; allowed: {}",
                violation.actual, violation.allowed
            ),
            rule: violation.rule.code(),
        })
        .collect();
    let more = violations.count() - problems.len();
    if more > 0 {
        problems.push(Problem::new(
            Field::Settings,
            format!("and {more} more problems"),
        ));
    }
    problems
}

#[cfg(test)]
mod tests;
