//! What a section may hold (spec 2), and how a breach is told.
//!
//! A write is refused as a whole, with every rule it breaks: path, rule, what was found, what is
//! allowed. This module judges; it never repairs.

mod cost;
mod judge;

use std::fmt;

use crate::code::ErrorCode;
use crate::limits::{
    BOOLEAN_BYTES, DEPTH_MAX, INTEGER_MAX, INTEGER_MIN, KEY_BYTES_MAX, NUMBER_BYTES,
    QUOTE_CHARS_MAX, STRING_BYTES_MAX, VIOLATIONS_LISTED_MAX,
};
use crate::section::SectionKind;

pub use cost::Cost;
pub(crate) use judge::{Judge, Step, WriteForm, is_ignored, path_below};

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
    /// The text of a section does not grow above its length.
    SectionText,
    /// A section does not come to hold more values than it may.
    SectionValues,
    /// A section can be written 2^63 − 1 times.
    WriteCount,
    /// A document is JSON.
    Malformed,
    /// A document is an object.
    NotAnObject,
    /// An object has each key once.
    DuplicateKey,
}

impl Rule {
    /// What the caller can do about a breach of it.
    pub fn kind(self) -> ViolationKind {
        match self {
            Rule::KeyEmpty
            | Rule::KeyLength
            | Rule::KeyCharacters
            | Rule::Depth
            | Rule::IntegerRange
            | Rule::StringLength
            | Rule::NullInArray
            | Rule::NullInSettings
            | Rule::Malformed
            | Rule::NotAnObject
            | Rule::DuplicateKey => ViolationKind::Invalid,
            Rule::SectionSize | Rule::SectionText | Rule::SectionValues | Rule::WriteCount => {
                ViolationKind::TooLarge
            }
        }
    }

    /// A stable name for programs, as in `BadRequest` and `ErrorInfo` details.
    pub fn code(self) -> &'static str {
        match self {
            Rule::KeyEmpty => "KEY_EMPTY",
            Rule::KeyLength => "KEY_LENGTH",
            Rule::KeyCharacters => "KEY_CHARACTERS",
            Rule::Depth => "DEPTH",
            Rule::IntegerRange => "INTEGER_RANGE",
            Rule::StringLength => "STRING_LENGTH",
            Rule::NullInArray => "NULL_IN_ARRAY",
            Rule::NullInSettings => "NULL_IN_SETTINGS",
            Rule::SectionSize => "SECTION_SIZE",
            Rule::SectionText => "SECTION_TEXT",
            Rule::SectionValues => "SECTION_VALUES",
            Rule::WriteCount => "WRITE_COUNT",
            Rule::Malformed => "MALFORMED",
            Rule::NotAnObject => "NOT_AN_OBJECT",
            Rule::DuplicateKey => "DUPLICATE_KEY",
        }
    }

    /// The code and name under which IoT Hub reports a breach of it (spec 2.5).
    pub fn error_code(self) -> ErrorCode {
        match self.kind() {
            ViolationKind::Invalid if self == Rule::Malformed => ErrorCode::FORMAT_ERROR,
            ViolationKind::Invalid => ErrorCode::ARGUMENT_INVALID,
            ViolationKind::TooLarge => ErrorCode::TWIN_SECTION_TOO_LARGE,
        }
    }

    /// What the rule allows, as the end of a sentence.
    fn allowed(self, kind: SectionKind) -> String {
        match self {
            Rule::KeyEmpty => "a key needs at least one character".into(),
            Rule::KeyLength => format!("a key has at most {KEY_BYTES_MAX} bytes"),
            Rule::KeyCharacters => {
                "a key holds no control character, no white space and none of . $ #".into()
            }
            Rule::Depth => format!("objects and arrays nest at most {DEPTH_MAX} deep"),
            Rule::IntegerRange => format!("an integer lies from {INTEGER_MIN} to {INTEGER_MAX}"),
            Rule::StringLength => format!("a string has at most {STRING_BYTES_MAX} bytes"),
            Rule::NullInArray => "null is not allowed inside an array, at any depth".into(),
            Rule::NullInSettings => {
                "a policy removes a setting by not stating it, so null is not allowed".into()
            }
            Rule::SectionSize => format!(
                "at most {} bytes: keys and strings count without control characters, \
                 a number {NUMBER_BYTES}, a boolean {BOOLEAN_BYTES}",
                kind.bytes_max()
            ),
            Rule::SectionText => format!(
                "at most {} bytes of JSON text, with quotes, brackets and escapes",
                kind.text_bytes_max()
            ),
            Rule::SectionValues => format!(
                "at most {} values: members of objects and elements of arrays, at any depth",
                kind.values_max()
            ),
            Rule::WriteCount => "this section cannot be written any more".into(),
            Rule::Malformed => "the text of a JSON object".into(),
            Rule::NotAnObject => "a JSON object".into(),
            Rule::DuplicateKey => "an object has each key once".into(),
        }
    }
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

impl Violation {
    /// A breach at a place in a section.
    pub(crate) fn new(
        rule: Rule,
        kind: SectionKind,
        path: &[Step<'_>],
        actual: String,
    ) -> Violation {
        Violation {
            path: judge::path_text(kind, path),
            rule,
            actual,
            allowed: rule.allowed(kind),
        }
    }

    /// The code and name under which IoT Hub reports it.
    pub fn error_code(&self) -> ErrorCode {
        self.rule.error_code()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.path, self.actual, self.allowed)
    }
}

/// Every breach of one write. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations {
    listed: Vec<Violation>,
    more: usize,
    kind: ViolationKind,
}

impl Violations {
    /// Breaches that are at least one.
    pub(crate) fn of(mut breaches: Vec<Violation>) -> Violations {
        debug_assert!(!breaches.is_empty(), "a refusal has a reason");
        let more = breaches.len().saturating_sub(VIOLATIONS_LISTED_MAX);
        breaches.truncate(VIOLATIONS_LISTED_MAX);
        let wrong = breaches
            .iter()
            .any(|v| v.rule.kind() == ViolationKind::Invalid);
        Violations {
            listed: breaches,
            more,
            kind: if wrong {
                ViolationKind::Invalid
            } else {
                ViolationKind::TooLarge
            },
        }
    }

    /// The code and name under which IoT Hub reports the whole: that of the first breach, where what
    /// is wrong goes before what is too large.
    pub fn error_code(&self) -> ErrorCode {
        let mut listed = self.listed.iter();
        let first = listed.find(|violation| violation.rule.kind() == self.kind);
        first.map_or(ErrorCode::ARGUMENT_INVALID, Violation::error_code)
    }

    /// The breaches of two sections that were written together.
    #[must_use]
    pub(crate) fn and(mut self, other: Violations) -> Violations {
        let count = self.count() + other.count();
        // What is wrong goes before what is too large.
        self.kind = self.kind.min(other.kind);
        self.listed.extend(other.listed);
        self.listed.truncate(VIOLATIONS_LISTED_MAX);
        self.more = count - self.listed.len();
        self
    }

    /// The breaches, in order of path; at most the first 64.
    pub fn list(&self) -> &[Violation] {
        &self.listed
    }

    /// How many there are altogether.
    pub fn count(&self) -> usize {
        self.listed.len() + self.more
    }

    /// What the caller can do about it. A write that is wrong and too large is wrong first.
    pub fn kind(&self) -> ViolationKind {
        self.kind
    }
}

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count() > 1 {
            write!(f, "{} rules are broken: ", self.count())?;
        }
        for (index, violation) in self.listed.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{violation}")?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

/// A text as it may stand in an error: quoted, escaped, shortened.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTE_CHARS_MAX).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    format!("{quoted:?}")
}

#[cfg(test)]
mod tests;
