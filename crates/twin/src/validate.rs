//! What a section may hold (spec 2), and how a breach is told.
//!
//! A write is refused as a whole, with every rule it breaks: path, rule, what was found, what is
//! allowed. This module judges; it never repairs.

use std::fmt;

use serde_json::Value;

use crate::Map;
use crate::limits::{QUOTE_CHARS_MAX, VIOLATIONS_LISTED_MAX};
use crate::section::SectionKind;

/// A rule that a write can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A key is not empty.
    KeyEmpty,
    /// A key is at most 1024 bytes long.
    KeyLength,
    /// A key holds no control character, white space, `.`, `$` or `#`.
    KeyCharacters,
    /// Objects and arrays nest at most ten deep.
    Depth,
    /// An integer lies within ±2^52.
    IntegerRange,
    /// A string is at most 4096 bytes long.
    StringLength,
    /// `null` deletes a key of an object; within an array it means nothing.
    NullInArray,
    /// A policy states what is set; it deletes by no longer stating it.
    NullInSettings,
    /// A section does not grow above its size.
    SectionSize,
    /// A section can be written 2^63 − 1 times.
    WriteCount,
}

/// What a caller can do about a refused write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ViolationKind {
    /// The write itself is wrong (IoT Hub: 400, 400004).
    Invalid,
    /// The write is well-formed, but the section has no room (IoT Hub: 403, 403100).
    TooLarge,
}

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where, from the twin's root: `properties.desired.net.ports[2]`.
    pub path: String,
    /// Which rule.
    pub rule: Rule,
    /// What was found there, shortened.
    pub actual: String,
    /// What is allowed there.
    pub allowed: String,
}

/// Every breach of one write. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations {
    listed: Vec<Violation>,
    more: usize,
}

impl Violations {
    /// The breaches, in order of path; at most the first 64.
    pub fn list(&self) -> &[Violation] {
        &self.listed
    }

    /// How many there are altogether.
    pub fn count(&self) -> usize {
        self.listed.len() + self.more
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ViolationKind {
        unimplemented!("{VIOLATIONS_LISTED_MAX}")
    }
}

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

/// The size of a document by the documented rule (spec 2.1).
pub fn counted_bytes(document: &Map) -> usize {
    unimplemented!("{document:?} {:?} {:?}", Value::Null, SectionKind::Tags)
}

/// A text as it may stand in an error: quoted, escaped, shortened.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTE_CHARS_MAX).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    format!("{quoted:?}")
}
