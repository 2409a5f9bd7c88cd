//! Renders views of fixed data for comparison with reviewed files: no colours, a fixed present.

use jiff::Timestamp;

use super::{Paper, View};

/// The present of every golden file.
fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

/// What a person sees on a terminal of 100 columns.
pub(crate) fn text(view: &impl View) -> String {
    view.text(&Paper {
        width: Some(100),
        color: false,
        now: now(),
    })
}

/// What a program gets.
pub(crate) fn json(view: &impl View) -> String {
    super::json(&view.data()).unwrap()
}

/// What a program, or a person with an editor, gets.
pub(crate) fn yaml(view: &impl View) -> String {
    super::yaml(&view.data()).unwrap()
}
