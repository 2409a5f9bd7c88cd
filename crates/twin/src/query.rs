//! Conditions over a twin: the WHERE part of IoT Hub's query language (spec 8.3), with posture,
//! arrays and a quantifier added.
//!
//! One language serves target conditions, posture conditions, gates and search. It is parsed once;
//! the tree is evaluated in memory here. A condition holds only if it is exactly true: a missing
//! value or a comparison of different types makes it undefined, and undefined does not hold.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::Map;

/// A path as a condition refers to it, for instance `tags.site`.
pub type PathText = String;

/// A parsed condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    text: String,
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

/// Why a text is no condition: where, what was found, what was expected, and what to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    /// Byte of the text at which it stands.
    pub offset: usize,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// What stands there.
    pub found: String,
    /// What could stand there.
    pub expected: String,
    /// What to try.
    pub hint: Option<String>,
    /// The line, or the part of it around the place.
    excerpt: String,
    /// Where in the excerpt the caret belongs, in characters.
    caret: usize,
}

impl std::error::Error for QueryError {}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.excerpt, self.caret)
    }
}

impl Condition {
    /// Reads a condition. `*` holds for everything, an empty text for nothing (spec 9.2).
    pub fn parse(text: &str) -> Result<Condition, QueryError> {
        unimplemented!("{text}")
    }

    /// Whether it is exactly true of the twin.
    pub fn matches(&self, twin: &TwinView<'_>) -> bool {
        unimplemented!("{twin:?}")
    }

    /// The paths it looks at, in canonical text: what must change for its result to change.
    pub fn paths(&self) -> BTreeSet<PathText> {
        unimplemented!()
    }
}
