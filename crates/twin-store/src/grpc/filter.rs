//! Which twins a caller asks for, and how they are shown.

use std::collections::BTreeSet;

use jiff::Timestamp;
use twin::query::ast::Function;
use twin::query::{Attribute, Expr, Root, Scope, Vocabulary};
use twin::{Condition, SectionKind};
use wire::InvalidField;
use wire::twin::v1 as proto;

use super::read_mask::ReadMask;
use crate::encode;
use crate::error::Error;
use crate::lookup;
use crate::record::{Damaged, Record};

/// Which twins a caller asks for.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    /// All.
    All,
    /// Those for which a condition holds.
    Where(Box<Condition>),
}

impl Filter {
    /// Reads the filter of a list; empty: all.
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Filter, Error> {
        if text.trim().is_empty() {
            return Ok(Filter::All);
        }
        let condition = Condition::parse_in(text, Vocabulary::Query)
            .map_err(|error| Error::query(field, error))?;
        Ok(match condition.scope() {
            Scope::Everything => Filter::All,
            Scope::Nothing | Scope::Where(_) => Filter::Where(Box::new(condition)),
        })
    }

    /// Reads the filter of a watch. It is evaluated on each change and holds until the next, so it
    /// may not name what moves by itself, or what changes do not carry.
    pub(super) fn parse_for_changes(field: &'static str, text: &str) -> Result<Filter, Error> {
        let filter = Filter::parse(field, text)?;
        let Filter::Where(condition) = &filter else {
            return Ok(filter);
        };
        if let Scope::Where(expr) = condition.scope()
            && names_now(expr)
        {
            let problem = "names NOW(), and a twin does not change when time passes; \
                           a watch may compare with fixed dates only";
            return Err(InvalidField::new(field, problem).into());
        }
        for path in condition.paths() {
            if let Root::Attribute(attribute) = path.root
                && !lookup::in_log(attribute)
            {
                let problem = format!(
                    "names {}, which changes do not carry; a watch cannot be filtered by it",
                    attribute.name()
                );
                return Err(InvalidField::new(field, problem).into());
            }
        }
        Ok(filter)
    }

    /// What the store is to look for.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Filter::All => Scope::Everything,
            Filter::Where(condition) => condition.scope().clone(),
        }
    }

    /// Whether a record passes.
    pub(super) fn passes(&self, record: &Record, now: Timestamp) -> Result<bool, Damaged> {
        let Filter::Where(condition) = self else {
            return Ok(true);
        };
        let twin = lookup::of_record(record);
        let passes = condition.matches_at(&twin, now);
        lookup::undamaged(&record.key.to_string(), &twin)?;
        Ok(passes)
    }

    /// Whether a twin of the log passes.
    pub(super) fn passes_logged(&self, twin: &proto::Twin) -> Result<bool, Damaged> {
        let Filter::Where(condition) = self else {
            return Ok(true);
        };
        let lazy = lookup::of_logged(twin);
        let passes = condition.matches(&lazy);
        lookup::undamaged(&twin.name, &lazy)?;
        Ok(passes)
    }

    /// What can make a twin pass or not pass any more.
    pub(super) fn interest(&self) -> Interest {
        let mut kinds = BTreeSet::from([proto::Change::Created]);
        let Filter::Where(condition) = self else {
            return Interest::Some(kinds);
        };
        for path in condition.paths() {
            match path.root {
                Root::Tags => kinds.insert(proto::Change::Tags),
                Root::DeviceTags => kinds.insert(proto::Change::DeviceTags),
                Root::Desired => kinds.insert(proto::Change::Desired),
                Root::Reported => kinds.insert(proto::Change::Reported),
                Root::Posture => {
                    kinds.insert(proto::Change::ConfigurationState);
                    kinds.insert(proto::Change::Posture)
                }
                Root::Attribute(Attribute::DeviceId | Attribute::ModuleId)
                | Root::Variable { .. } => false,
                Root::Attribute(Attribute::Status) => kinds.insert(proto::Change::Status),
                // Counters and times move with whatever happens.
                Root::Attribute(_) => return Interest::Everything,
            };
        }
        Interest::Some(kinds)
    }
}

/// Which changes can change whether a twin passes a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interest {
    Everything,
    Some(BTreeSet<proto::Change>),
}

impl Interest {
    /// Whether one of these is among them. An unknown one may be anything.
    pub(super) fn meets(&self, changes: &BTreeSet<i32>) -> bool {
        match self {
            Interest::Everything => true,
            Interest::Some(kinds) => changes.iter().any(|change| {
                proto::Change::try_from(*change).map_or(true, |change| kinds.contains(&change))
            }),
        }
    }
}

fn names_now(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(_) | Expr::Path(_) => false,
        Expr::Any(parts) | Expr::All(parts) => parts.iter().any(names_now),
        Expr::Not(part) | Expr::Negate(part) => names_now(part),
        Expr::Compare { left, right, .. } => names_now(left) || names_now(right),
        Expr::Member { value, .. } => names_now(value),
        Expr::Chain { first, rest } => {
            names_now(first) || rest.iter().any(|(_, part)| names_now(part))
        }
        Expr::Call { function, args } => *function == Function::Now || args.iter().any(names_now),
        Expr::Exists { condition, .. } => names_now(condition),
    }
}

/// A record as a caller sees it.
pub(super) fn show(record: &Record, mask: &ReadMask) -> Result<proto::Twin, Damaged> {
    let twin = encode::stored_twin(record).map_err(|error| Damaged {
        key: record.key.to_string(),
        part: "posture",
        problem: error.to_string(),
    })?;
    show_logged(twin, mask)
}

/// A twin of the log as a caller sees it: with its metadata in their public form.
pub(super) fn show_logged(mut twin: proto::Twin, mask: &ReadMask) -> Result<proto::Twin, Damaged> {
    mask.apply(&mut twin);
    if mask.desired_metadata() {
        twin.desired_metadata_json = public(
            &twin.name,
            SectionKind::Desired,
            &twin.desired_metadata_json,
        )?;
    }
    if mask.reported_metadata() {
        twin.reported_metadata_json = public(
            &twin.name,
            SectionKind::Reported,
            &twin.reported_metadata_json,
        )?;
    }
    Ok(twin)
}

fn public(name: &str, kind: SectionKind, stored: &str) -> Result<String, Damaged> {
    let damaged = |problem: String| Damaged {
        key: name.to_owned(),
        part: kind.path(),
        problem: format!("$metadata: {problem}"),
    };
    twin::metadata::public_text(stored, kind).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use service_kit::error::{Classified as _, Kind};

    use super::*;

    fn interest(filter: &str) -> Interest {
        let filter = Filter::parse_for_changes("filter", filter).expect("a filter");
        filter.interest()
    }

    #[test]
    fn a_change_matters_only_to_filters_that_look_at_it() {
        let posture = BTreeSet::from([i32::from(proto::Change::Posture)]);
        let unknown = BTreeSet::from([999]);
        assert!(!interest("tags.site = 'a' AND deviceId = 'd'").meets(&posture));
        assert!(interest("tags.site = 'a' OR posture.eventCount > 1").meets(&posture));
        assert!(interest("connectionState = 'Connected'").meets(&posture));
        assert!(interest("tags.site = 'a'").meets(&unknown));
        assert!(!interest("").meets(&posture), "nothing stops passing");
    }

    #[test]
    fn a_condition_that_cannot_be_read_is_told_as_a_query_is() {
        let long = format!("tags.a = '{}'", "x".repeat(8192));
        for (text, number, reason) in [
            (long.as_str(), 412_001, "QUERY_TOO_LONG"),
            ("tags.a = ", 400_004, "INVALID_QUERY"),
        ] {
            let error = Filter::parse("only_if", text).expect_err("no condition");
            assert_eq!(error.reason(), reason, "{error}");
            assert_eq!(error.violations()[0].subject, "only_if");
            assert_eq!(error.iot_hub().number(), number, "{error}");
        }
    }

    #[test]
    fn a_twin_that_is_too_costly_to_judge_is_refused_and_no_damage() {
        let mut record = crate::testing::record("d", "g");
        let array = serde_json::json!({ "a": vec![true; 8191] });
        record.twin.reported.document = array.to_string();
        let text = "EXISTS(x IN reported.a WHERE EXISTS(y IN reported.a WHERE y != x))";
        let filter = Filter::parse("only_if", text).expect("a filter");
        let undecided = filter.passes(&record, crate::testing::now());
        let undecided = undecided.expect_err("more steps than a twin may take");
        assert_eq!(
            undecided.to_string(),
            "the condition cannot be decided for d in time: judging it takes more than 500000 \
             steps; look at fewer elements, for example with one EXISTS instead of one within another"
        );
        let error = Error::from(undecided);
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert_eq!(error.reason(), "CONDITION_TOO_COSTLY");
    }

    #[test]
    fn a_watch_cannot_be_filtered_by_what_changes_do_not_tell() {
        for bad in [
            "lastActivityTime < DATE_ADD('hour', -1, NOW())",
            "NOT (tags.a IN ['x'] AND updateTime > NOW())",
            "generationId = 'x'",
        ] {
            let refused = Filter::parse_for_changes("filter", bad).expect_err("refused");
            assert!(refused.to_string().contains("filter"), "{refused}");
            Filter::parse("filter", bad).expect("a list can");
        }
    }
}
