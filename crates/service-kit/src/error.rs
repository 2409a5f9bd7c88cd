//! The one small vocabulary of failures, shared by every service and every protocol.
//!
//! A service's error types say which [`Kind`] each of their variants is; what a kind means to a
//! caller is said exactly once per protocol: [`crate::status`] (gRPC), [`crate::http_status`],
//! [`crate::exit`] (process). Nothing here logs or answers.

use std::error::Error;
use std::time::Duration;

pub mod iot_hub;

pub use iot_hub::IotHubCode;

/// What kind of failure it is, from the caller's point of view: what should it do next?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request can never succeed as it is; change it.
    InvalidArgument,
    /// What was named does not exist.
    NotFound,
    /// What should be created exists already.
    AlreadyExists,
    /// The system is not in the state the request needs; change the state first.
    FailedPrecondition,
    /// What was asked for lies outside what is kept (a place in a log, a revision); start anew or
    /// ask for less.
    OutOfRange,
    /// Somebody else was faster (etag or version conflict); read again and retry.
    Aborted,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// The caller has not proven who it is.
    Unauthenticated,
    /// A limit or quota is reached; retry later or ask for less.
    ResourceExhausted,
    /// A part is away for the moment; retry with back-off.
    Unavailable,
    /// It took too long; the effect may or may not have happened.
    DeadlineExceeded,
    /// This server does not offer that.
    Unimplemented,
    /// A cause we did not foresee. Logged here, answered vaguely.
    Internal,
    /// Stored data is damaged. Logged here, answered vaguely.
    DataLoss,
}

impl Kind {
    /// True if the same request may succeed later without anybody changing anything.
    pub fn is_transient(self) -> bool {
        match self {
            Self::ResourceExhausted | Self::Unavailable | Self::DeadlineExceeded => true,
            Self::InvalidArgument
            | Self::NotFound
            | Self::AlreadyExists
            | Self::FailedPrecondition
            | Self::OutOfRange
            | Self::Aborted
            | Self::PermissionDenied
            | Self::Unauthenticated
            | Self::Unimplemented
            | Self::Internal
            | Self::DataLoss => false,
        }
    }

    /// True if the caller must not be told the cause, only where to ask for it.
    pub fn is_private(self) -> bool {
        matches!(self, Self::Internal | Self::DataLoss)
    }
}

/// One thing that is wrong with a request: a field, or a precondition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Dotted path of the field, or the name of what is in the wrong state.
    pub subject: String,
    /// What is wrong and what is allowed.
    pub description: String,
    /// The stable `UPPER_SNAKE_CASE` name of the rule that is broken; empty: it has none.
    pub rule: String,
}

impl Violation {
    /// Names a subject and what is wrong with it.
    pub fn new(subject: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            description: description.into(),
            rule: String::new(),
        }
    }

    /// Names the rule.
    #[must_use]
    pub fn of_rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = rule.into();
        self
    }
}

/// An error that knows what it means to the caller.
pub trait Classified: Error {
    /// What the caller should make of it.
    fn kind(&self) -> Kind;

    /// A stable `UPPER_SNAKE_CASE` code that programs and the documentation refer to.
    fn reason(&self) -> &str;

    /// Everything that is wrong with the request, if it is the request.
    fn violations(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// Facts for programs, such as the version that was found; never a secret.
    fn metadata(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What IoT Hub calls it.
    fn iot_hub(&self) -> IotHubCode {
        self.kind().iot_hub()
    }

    /// When it makes sense to try again, if that is known.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// Prints an error and its sources, `outer: inner: innermost`, leaving out a source whose text the
/// line already ends with. (Some libraries print their source themselves; a plain walk over the
/// chain would say everything twice.)
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !text.is_empty() && !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("cannot reach the bus")]
        Quiet(#[source] Inner),
        #[error("cannot reach the bus: {0}")]
        Talkative(#[source] Inner),
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        for error in [Outer::Quiet(Inner), Outer::Talkative(Inner)] {
            assert_eq!(chain(&error), "cannot reach the bus: connection refused");
        }
    }
}
