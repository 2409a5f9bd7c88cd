//! How errors of other crates become ours, and what is told of them.

use service_kit::error::Violation;
use twin::{IdentityKey, TwinError, Violations};
use wire::InvalidField;

use super::Error;
use crate::record::Damaged;

impl From<InvalidField> for Error {
    fn from(field: InvalidField) -> Error {
        Error::Field(field)
    }
}

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Error {
        if damaged.is_undecided() {
            return Error::Undecided(damaged);
        }
        Error::Damaged(damaged)
    }
}

impl Error {
    /// Wraps what `twin` says about the query or condition in a field.
    pub(crate) fn query(field: &'static str, source: twin::QueryError) -> Error {
        Error::Query {
            field,
            source: Box::new(source),
        }
    }

    /// Wraps what `twin` says about a write.
    pub(crate) fn twin(key: &IdentityKey, source: TwinError) -> Error {
        Error::Twin {
            key: key.clone(),
            source,
        }
    }
}

/// How many rules are broken altogether; an answer lists the first of them only.
pub(super) const VIOLATIONS: &str = "violations";

pub(super) fn broken_rules(rules: &Violations) -> Vec<Violation> {
    rules
        .list()
        .iter()
        .map(|rule| {
            let text = format!("is {}; allowed is {}", rule.actual, rule.allowed);
            Violation::new(&rule.path, text).of_rule(rule.rule.code())
        })
        .collect()
}
