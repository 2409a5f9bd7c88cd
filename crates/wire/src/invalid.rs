//! The one error of every conversion from the wire.

/// A field of a message that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// Dotted path of the field, as the contract spells it.
    pub field: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl InvalidField {
    /// Names a field and what is wrong with it.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers give an error they are done with, or a literal"
    )]
    pub fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }

    /// Puts the name of the message around the field's own name.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}
