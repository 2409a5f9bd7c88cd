//! How much work an evaluation has been.

use std::borrow::Cow;
use std::cell::Cell;

use crate::limits::QUERY_STEPS_MAX;
use crate::query::datum::Datum;

/// Bytes of a text that are looked through in the time of a step.
const BYTES_PER_STEP: usize = 16;
/// Steps in which a date is read or written.
const DATE_STEPS: usize = 16;

/// Steps taken so far.
#[derive(Default)]
pub(super) struct Steps(Cell<usize>);

impl Steps {
    /// Takes steps; false once they are too many.
    pub(super) fn take(&self, count: usize) -> bool {
        self.0.set(self.0.get().saturating_add(count));
        !self.are_used_up()
    }

    /// Whether they were too many.
    pub(super) fn are_used_up(&self) -> bool {
        self.0.get() > QUERY_STEPS_MAX
    }
}

/// Steps that it takes to look through a value.
pub(super) fn weight(value: &Datum<'_>) -> usize {
    match value {
        Datum::Text(text) => text.len() / BYTES_PER_STEP,
        Datum::Instant(_) => DATE_STEPS,
        // One that was made for the occasion.
        Datum::Array(Cow::Owned(elements)) => elements.len(),
        Datum::Object(Cow::Owned(members)) => members.len(),
        Datum::Undefined
        | Datum::Null
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::Array(Cow::Borrowed(_))
        | Datum::Object(Cow::Borrowed(_)) => 0,
    }
}
