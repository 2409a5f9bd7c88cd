//! The query language of twins: IoT Hub's (spec 8) on `devices` and `devices.modules`, with
//! posture, arrays, a quantifier, `ORDER BY` and dates added.
//!
//! One language serves target conditions, posture conditions, gates and search. It is parsed once;
//! the tree is evaluated in memory here, and knows nothing of any store. A condition holds only if
//! it is exactly true: a missing value, or a comparison of different types, makes it undefined, and
//! undefined does not hold. Nor does one whose evaluation takes more steps than any reasonable one.
//!
//! ```text
//! condition  = and { OR and }                    and     = not { AND not }
//! not        = NOT not | comparison
//! comparison = sum [ (= | != | <> | < | > | <= | >=) sum | (IN | NIN) (list | path) ]
//! sum        = product { (+ | -) product }       product = sign { (* | / | %) sign }
//! sign       = (- | +) sign | primary
//! primary    = literal | path | function "(" … ")" | "(" condition ")"
//!            | EXISTS "(" name IN path WHERE condition ")"
//! path       = name { "." (word | "[[" any text "]]" | text) }
//! ```
//!
//! What stands around a condition in a query is in [`statement`]. Keywords, functions and the
//! attributes beside the sections are read in any case; keys of a twin are case-sensitive.
//!
//! # Functions
//!
//! All that IoT Hub documents for routes, in every place (its queries have only the first):
//! `IS_DEFINED`, `IS_NULL`, `IS_STRING`, `IS_NUMBER`, `IS_BOOL`, `IS_ARRAY`, `IS_OBJECT`,
//! `IS_PRIMITIVE`; `STARTSWITH`, `ENDSWITH`, `CONTAINS`, `INDEX_OF`, `LENGTH`, `LOWER`, `UPPER`,
//! `CONCAT`, `SUBSTRING`; `ABS`, `EXP`, `POWER`, `SQUARE`, `CEILING`, `FLOOR`, `SIGN`, `SQRT`,
//! `AS_NUMBER`. Ours: `ARRAY_CONTAINS`, `ARRAY_LENGTH`, and those of dates. Underscores are
//! optional. An argument of another type makes a function undefined.
//!
//! # Dates
//!
//! Two texts are compared as texts, which is right for dates of one form and offset. Instants are
//! compared as instants, with each other and with any text that shows a date; the times of a twin
//! (`lastActivityTime`, `$lastUpdated`, …) are instants, and so is what these functions give:
//!
//! - `NOW()`: the time of evaluation, which the caller passes. Nothing here reads a clock.
//! - `AS_DATE(text)`: the instant of an RFC 3339 date; without an offset it is UTC.
//! - `DATE_ADD(unit, number, date)` and `DATE_DIFF(unit, from, to)`, where unit is one of
//!   `'second'`, `'minute'`, `'hour'`, `'day'`, `'week'`; differences have fractions. `DATE_ADD` takes
//!   whole `'month'`s and `'year'`s of the calendar in UTC as well, to the last day of a shorter month.
//!
//! So `lastActivityTime < DATE_ADD('hour', -1, NOW())` finds who was silent for an hour.

pub mod aggregate;
pub mod ast;
pub mod datum;
mod error;
mod eval;
mod group;
mod hint;
mod lexer;
pub mod lookup;
pub mod order;
mod parser;
mod row;
pub mod statement;
pub mod window;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde_json::Value;

use crate::Map;
use crate::id::IdentityKey;
use crate::twin::Twin;

pub use aggregate::{Aggregator, TooManyGroups};
pub use ast::{Attribute, CompareOp, Expr, Literal, Path, Root};
pub use datum::Datum;
pub use error::{QueryError, QueryErrorKind};
pub use group::GroupPosition;
pub use lookup::{Damage, LazyPosture, LazySection, LazyTags, LazyTwin, Lookup};
pub use order::{Direction, Position, PositionError, SortValue};
pub use statement::{ItemValue, Select, Source, Statement};
pub use window::{Page, Window};

/// Which names a condition may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vocabulary {
    /// All: every attribute, `$metadata`, `NOW()`.
    Query,
    /// What the changes of a twin carry, so that a condition can be evaluated with each change and
    /// holds until the next.
    Changes,
}

/// A parsed condition.
///
/// ```
/// use serde_json::json;
/// use twin::{Condition, Map, TwinView};
///
/// let text = "EXISTS(p IN posture.listeningPorts WHERE p.port NIN [22, 443])";
/// let condition = Condition::parse(text).expect("it is well-formed");
/// let nothing = Map::new();
/// let view = TwinView {
///     device_id: "d1",
///     module_id: None,
///     status: "enabled",
///     tags: &nothing,
///     desired: &nothing,
///     desired_version: 1,
///     reported: &nothing,
///     reported_version: 1,
///     posture: &json!({"listeningPorts": [{"port": 22}, {"port": 8080}]}),
///     device_tags: None,
/// };
/// assert!(condition.matches(&view));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    text: String,
    scope: Scope,
}

/// What a condition holds for.
#[derive(Debug, Clone, PartialEq)]
pub enum Scope {
    /// `*`: every twin.
    Everything,
    /// An empty text: no twin.
    Nothing,
    /// The twins of which this is true.
    Where(Expr),
}

/// What there is to say of a condition on a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is exactly true.
    Holds,
    /// It is false, or undefined.
    HoldsNot,
    /// Judging it took more steps than a twin may take
    /// ([`crate::limits::QUERY_STEPS_MAX`]): nobody knows.
    Undecided,
}

impl Scope {
    /// Whether it holds for a twin at a time, which is what `NOW()` means.
    pub fn holds_at(&self, twin: &dyn Lookup, now: Timestamp) -> bool {
        self.holds(twin, Some(now))
    }

    fn holds(&self, twin: &dyn Lookup, now: Option<Timestamp>) -> bool {
        match self {
            Scope::Everything => true,
            Scope::Nothing => false,
            Scope::Where(expr) => eval::holds(expr, twin, now),
        }
    }
}

/// A parsed twin, borrowed, as far as changes carry it. A store that keeps more, or keeps it as
/// text, implements [`Lookup`] or uses [`LazyTwin`].
#[derive(Debug, Clone, Copy)]
pub struct TwinView<'a> {
    /// `deviceId`.
    pub device_id: &'a str,
    /// `moduleId`; none on a device's own twin.
    pub module_id: Option<&'a str>,
    /// `status`: `enabled` or `disabled`.
    pub status: &'a str,
    /// `tags`.
    pub tags: &'a Map,
    /// `properties.desired`.
    pub desired: &'a Map,
    /// `properties.desired.$version`.
    pub desired_version: u64,
    /// `properties.reported`.
    pub reported: &'a Map,
    /// `properties.reported.$version`.
    pub reported_version: u64,
    /// `posture`; an object, or `null` before the first event.
    pub posture: &'a Value,
    /// `device.tags`; none on a device's own twin.
    pub device_tags: Option<&'a Map>,
}

impl<'a> TwinView<'a> {
    /// The view of a whole twin and the posture beside it; nothing is known of a module's device.
    pub fn new(
        key: &'a IdentityKey,
        status: &'a str,
        twin: &'a Twin,
        posture: &'a Value,
    ) -> TwinView<'a> {
        TwinView {
            device_id: key.device.as_str(),
            module_id: key.module.as_ref().map(crate::id::ModuleId::as_str),
            status,
            tags: twin.tags.document(),
            desired: twin.desired.document(),
            desired_version: twin.desired.version().get(),
            reported: twin.reported.document(),
            reported_version: twin.reported.version().get(),
            posture,
            device_tags: None,
        }
    }
}

impl Condition {
    /// Reads a condition over what changes of a twin carry, as policies have it. `*` holds for
    /// everything, an empty text for nothing (spec 9.2).
    pub fn parse(text: &str) -> Result<Condition, QueryError> {
        Condition::parse_in(text, Vocabulary::Changes)
    }

    /// Reads a condition over whatever that vocabulary names.
    pub fn parse_in(text: &str, vocabulary: Vocabulary) -> Result<Condition, QueryError> {
        let scope = match text.trim() {
            "*" => Scope::Everything,
            "" => Scope::Nothing,
            _ => Scope::Where(parser::parse(text, vocabulary)?),
        };
        Ok(Condition {
            text: text.to_owned(),
            scope,
        })
    }

    /// Whether it is exactly true of the twin, whenever that is: `NOW()` is undefined.
    pub fn matches(&self, twin: &dyn Lookup) -> bool {
        self.holds(twin, None)
    }

    /// What there is to say of it, whenever that is. For whoever must not take a condition that was
    /// not decided for one that does not hold.
    pub fn judge(&self, twin: &dyn Lookup) -> Judgement {
        match &self.scope {
            Scope::Everything => Judgement::Holds,
            Scope::Nothing => Judgement::HoldsNot,
            Scope::Where(expr) => eval::judge(expr, twin, None),
        }
    }

    /// Whether it is exactly true of the twin at a time, which is what `NOW()` means.
    pub fn matches_at(&self, twin: &dyn Lookup, now: Timestamp) -> bool {
        self.holds(twin, Some(now))
    }

    fn holds(&self, twin: &dyn Lookup, now: Option<Timestamp>) -> bool {
        self.scope.holds(twin, now)
    }

    /// What it looks at: if nothing at or below these paths changes, neither does its result.
    pub fn paths(&self) -> BTreeSet<Path> {
        match &self.scope {
            Scope::Everything | Scope::Nothing => BTreeSet::new(),
            Scope::Where(expr) => expr.paths(),
        }
    }

    /// What a twin has at each of [`Condition::paths`]; none where it is undefined. For people who
    /// wonder why a condition does not hold.
    pub fn facts(&self, twin: &dyn Lookup) -> Vec<(Path, Option<Value>)> {
        let facts = eval::Facts::new(twin, None);
        let fact = |path: Path| {
            let value = eval::resolve_json(&path, &facts);
            (path, value)
        };
        self.paths().into_iter().map(fact).collect()
    }

    /// The text as it was written. Store this one: the canonical text of `Display` may be longer.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it holds for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl Path {
    /// Reads a path over what changes of a twin carry, as conditions of policies name it.
    ///
    /// ```
    /// use twin::query::Path;
    ///
    /// assert_eq!(Path::parse("properties.reported.x").expect("a path").to_string(), "properties.reported.x");
    /// assert!(Path::parse("tags.site = 1").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Path, QueryError> {
        parser::parse_path(text, Vocabulary::Changes)
    }

    /// What a twin has there, as it is stored; none where it is undefined.
    pub fn value(&self, twin: &dyn Lookup) -> Option<Value> {
        eval::resolve_json(self, &eval::Facts::new(twin, None))
    }
}

impl FromStr for Condition {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Condition, QueryError> {
        Condition::parse(text)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::Everything => f.write_str("*"),
            Scope::Nothing => Ok(()),
            Scope::Where(expr) => expr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
