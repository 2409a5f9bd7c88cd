//! Why a text is no condition or query, told so that its author can mend it without the manual.

use std::fmt;

use crate::code::ErrorCode;

/// Characters shown on either side of the place, so that a condition of 8192 characters on one
/// line still gives an error that fits a terminal.
const EXCERPT_CHARS: usize = 36;

/// What is wrong with a text altogether.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueryErrorKind {
    /// It breaks the grammar, or names what does not exist.
    Invalid,
    /// It is longer than 8192 characters, which IoT Hub tells apart (spec 2.6).
    TooLong,
    /// It is right, but asks for what is not served here.
    Unsupported,
}

/// Where a text stops being a condition or a query, what stands there, what could, and what to try.
///
/// `Display` gives several lines, the last two being the place with a caret below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    /// What is wrong altogether.
    pub kind: QueryErrorKind,
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
    picture: Box<str>,
}

impl QueryError {
    pub(super) fn new(
        text: &str,
        offset: usize,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> QueryError {
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[offset..]
            .find('\n')
            .map_or(text.len(), |length| offset + length);
        let column = text[line_start..offset].chars().count();
        let from = column.saturating_sub(EXCERPT_CHARS);
        let shown = text[line_start..line_end]
            .chars()
            .skip(from)
            .take(2 * EXCERPT_CHARS);
        // A tab or an escape sequence would move the caret, or do worse to a terminal.
        let excerpt: String = shown
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let width = column - from + 1;
        QueryError {
            kind: QueryErrorKind::Invalid,
            offset,
            line: before.matches('\n').count() + 1,
            column: column + 1,
            found: found.into(),
            expected: expected.into(),
            hint: None,
            picture: format!("  {excerpt}\n  {:>width$}", '^').into_boxed_str(),
        }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> QueryError {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn of_kind(mut self, kind: QueryErrorKind) -> QueryError {
        self.kind = kind;
        self
    }

    /// The code and name under which IoT Hub reports it.
    pub fn error_code(&self) -> ErrorCode {
        match self.kind {
            QueryErrorKind::Invalid | QueryErrorKind::Unsupported => ErrorCode::ARGUMENT_INVALID,
            QueryErrorKind::TooLong => ErrorCode::PRECONDITION_FAILED,
        }
    }

    /// The message without the picture, for places that take one line.
    pub fn summary(&self) -> String {
        let QueryError {
            line,
            column,
            found,
            expected,
            ..
        } = self;
        let mut summary =
            format!("line {line}, column {column}: found {found}, expected {expected}");
        if let Some(hint) = &self.hint {
            summary.push_str(" (");
            summary.push_str(hint);
            summary.push(')');
        }
        summary
    }
}

impl std::error::Error for QueryError {}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QueryError {
            line,
            column,
            found,
            expected,
            ..
        } = self;
        writeln!(
            f,
            "line {line}, column {column}: found {found}, expected {expected}"
        )?;
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {hint}")?;
        }
        f.write_str(&self.picture)
    }
}
