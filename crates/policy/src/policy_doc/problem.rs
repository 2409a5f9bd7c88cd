//! What is wrong with a policy, told so that its author can mend it: the field, the place inside it,
//! what was found and what is allowed. Files and gRPC name fields differently; both names are here.

use std::fmt;

/// A part of a policy that can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// [`PolicySpec::id`](super::PolicySpec::id).
    Id,
    /// [`PolicySpec::description`](super::PolicySpec::description).
    Description,
    /// [`PolicySpec::labels`](super::PolicySpec::labels).
    Labels,
    /// [`PolicySpec::scope`](super::PolicySpec::scope).
    Scope,
    /// [`PolicySpec::target`](super::PolicySpec::target).
    Target,
    /// [`PolicySpec::when`](super::PolicySpec::when).
    When,
    /// [`PolicySpec::settings`](super::PolicySpec::settings).
    Settings,
    /// [`PolicySpec::rollout`](super::PolicySpec::rollout).
    Rollout,
    /// [`PolicySpec::schedule`](super::PolicySpec::schedule).
    Schedule,
    /// [`PolicySpec::actions`](super::PolicySpec::actions).
    Actions,
}

impl Field {
    /// The key in a policy file.
    pub fn file_key(self) -> &'static str {
        match self {
            Field::Id => "name",
            Field::Description => "description",
            Field::Labels => "labels",
            Field::Scope => "scope",
            Field::Target => "target",
            Field::When => "when",
            Field::Settings => "settings",
            Field::Rollout => "rollout",
            Field::Schedule => "schedule",
            Field::Actions => "actions",
        }
    }

    /// The field in the gRPC contract.
    pub fn wire_field(self) -> &'static str {
        match self {
            Field::Id => "policy_id",
            Field::Description => "description",
            Field::Labels => "labels",
            Field::Scope => "scope",
            Field::Target => "target",
            Field::When => "when",
            Field::Settings => "settings_json",
            Field::Rollout => "rollout",
            Field::Schedule => "schedule",
            Field::Actions => "actions",
        }
    }
}

/// One thing that is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which part.
    pub field: Field,
    /// Where inside it, for instance `line 1, column 7` of a condition or the path of a setting.
    pub position: Option<String>,
    /// What was found and what is allowed.
    pub message: String,
    /// The stable name of the rule that a setting breaks; empty: it is no setting's.
    pub rule: &'static str,
}

impl Problem {
    /// A problem of a whole field.
    pub fn new(field: Field, message: impl Into<String>) -> Problem {
        Problem {
            field,
            position: None,
            message: message.into(),
            rule: "",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field.file_key())?;
        if let Some(position) = &self.position {
            write!(f, " ({position})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a policy. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Puts problems in the order of their fields.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Problems {
        debug_assert!(
            !problems.is_empty(),
            "without a problem there is nothing to report"
        );
        problems.sort_by_key(|problem| problem.field);
        Problems(problems)
    }

    /// The problems, in the order of the fields.
    pub fn list(&self) -> &[Problem] {
        &self.0
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
