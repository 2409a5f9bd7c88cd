//! Conditions over a twin: the WHERE part of IoT Hub's query language (spec 8.3), with posture,
//! arrays and a quantifier added.
//!
//! One language serves target conditions, posture conditions, gates and search. It is parsed once;
//! the tree is evaluated in memory here, and knows nothing of any store. A condition holds only if
//! it is exactly true: a missing value, or a comparison of different types, makes it undefined, and
//! undefined does not hold.
//!
//! ```text
//! condition  = and { OR and }                    and     = not { AND not }
//! not        = NOT not | comparison
//! comparison = sum [ (= | != | <> | < | > | <= | >=) sum | (IN | NIN) (list | path) ]
//! sum        = product { (+ | -) product }       product = sign { (* | / | %) sign }
//! sign       = (- | +) sign | primary
//! primary    = literal | path | function "(" … ")" | "(" condition ")"
//!            | EXISTS "(" name IN path WHERE condition ")"
//! path       = name { "." (word | "[[" any text "]]") }
//! ```
//!
//! Keywords, functions and `deviceId`, `moduleId`, `status` are read in any case; keys of a twin
//! are case-sensitive.

pub mod ast;
mod error;
mod eval;
mod lexer;
mod parser;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::Map;
use crate::id::IdentityKey;
use crate::twin::Twin;

pub use ast::{Expr, Path, Root};
pub use error::QueryError;

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

/// What a condition can see of a twin, borrowed.
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
}

impl<'a> TwinView<'a> {
    /// The view of a whole twin and the posture beside it.
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
        }
    }
}

impl Condition {
    /// Reads a condition. `*` holds for everything, an empty text for nothing (spec 9.2).
    pub fn parse(text: &str) -> Result<Condition, QueryError> {
        let scope = match text.trim() {
            "*" => Scope::Everything,
            "" => Scope::Nothing,
            _ => Scope::Where(parser::parse(text)?),
        };
        Ok(Condition {
            text: text.to_owned(),
            scope,
        })
    }

    /// Whether it is exactly true of the twin.
    pub fn matches(&self, twin: &TwinView<'_>) -> bool {
        match &self.scope {
            Scope::Everything => true,
            Scope::Nothing => false,
            Scope::Where(expr) => eval::holds(expr, twin),
        }
    }

    /// What it looks at: if nothing at or below these paths changes, neither does its result.
    pub fn paths(&self) -> BTreeSet<Path> {
        match &self.scope {
            Scope::Everything | Scope::Nothing => BTreeSet::new(),
            Scope::Where(expr) => expr.paths(),
        }
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
