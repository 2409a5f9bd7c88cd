//! What a failure means over gRPC: the one place that turns an error into a `tonic::Status` with
//! machine-readable details, and reads those details back from a peer's answer.
//!
//! A cause we did not foresee is logged here with its whole chain and answered with a fixed
//! sentence and a correlation id; the peer learns nothing of our insides.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

use crate::error::{Classified, IotHubCode, Kind, Violation, chain, iot_hub};
use crate::trace;

/// The `domain` of every `ErrorInfo` we answer with.
pub const DOMAIN: &str = "twinward";
/// The key, in the metadata of an `ErrorInfo`, under which the log has the cause.
pub const CORRELATION_ID: &str = "correlation_id";

// A refusal travels in the header block of HTTP/2, of which a peer takes 16 KiB as a whole; from a
// longer one it learns nothing but that the connection was misused. Messages can hold what a caller
// sent, so both parts have a share, and what is over it is cut.

/// Bytes of a message as it travels.
const MESSAGE_BYTES_MAX: usize = 3 * 1024;
/// Bytes of all violations together; base64 makes a third more of them.
const VIOLATIONS_BYTES_MAX: usize = 4 * 1024;
/// Bytes of one text of a violation, or of one fact.
const TEXT_BYTES_MAX: usize = 1024;
/// Stands for what was cut.
const CUT: &str = " (cut)";

impl Kind {
    /// The gRPC code of an answer to a call that failed this way.
    pub fn code(self) -> Code {
        match self {
            Self::InvalidArgument => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::FailedPrecondition => Code::FailedPrecondition,
            Self::OutOfRange => Code::OutOfRange,
            Self::Aborted => Code::Aborted,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::ResourceExhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Unimplemented => Code::Unimplemented,
            Self::Internal => Code::Internal,
            Self::DataLoss => Code::DataLoss,
        }
    }

    /// What a peer's answer means to us. `Cancelled` is our own doing or a peer that stops, so
    /// trying again is right.
    pub fn from_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::InvalidArgument,
            Code::OutOfRange => Self::OutOfRange,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::Aborted => Self::Aborted,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::Unavailable | Code::Cancelled => Self::Unavailable,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Unimplemented => Self::Unimplemented,
            Code::DataLoss => Self::DataLoss,
            Code::Ok | Code::Unknown | Code::Internal => Self::Internal,
        }
    }
}

/// Answers a call with an error: code by its kind, message in its own words, and the details
/// `ErrorInfo` (with the number and the name that IoT Hub has for it), `BadRequest` or
/// `PreconditionFailure`, and `RetryInfo`.
#[must_use]
pub fn to_status<E: Classified + 'static>(error: &E) -> Status {
    let kind = error.kind();
    let mut metadata: HashMap<String, String> = error
        .metadata()
        .into_iter()
        .map(|(key, value)| (key.to_owned(), cut(value, TEXT_BYTES_MAX, char::len_utf8)))
        .collect();
    let code = error.iot_hub();
    metadata.insert(iot_hub::CODE.to_owned(), code.number().to_string());
    metadata.insert(iot_hub::NAME.to_owned(), code.name().to_owned());
    let mut details = ErrorDetails::new();
    let message = if kind.is_private() {
        let id = trace::correlation_id();
        tracing::error!(
            error = chain(error),
            reason = error.reason(),
            correlation_id = id,
            "a call failed for an unforeseen cause"
        );
        let message =
            format!("internal error; the server's log has it under {CORRELATION_ID} {id}");
        metadata.insert(CORRELATION_ID.to_owned(), id);
        message
    } else {
        add_violations(&mut details, kind, error.reason(), error.violations());
        cut(error.to_string(), MESSAGE_BYTES_MAX, escaped)
    };
    details.set_error_info(error.reason(), DOMAIN, metadata);
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(kind.code(), message, details)
}

fn add_violations(
    details: &mut ErrorDetails,
    kind: Kind,
    reason: &str,
    violations: Vec<Violation>,
) {
    let violations = fitting(violations);
    if violations.is_empty() {
        return;
    }
    if kind == Kind::FailedPrecondition {
        let violations: Vec<_> = violations
            .into_iter()
            .map(|v| PreconditionViolation::new(reason, v.subject, v.description))
            .collect();
        details.set_precondition_failure(violations);
    } else {
        let violations: Vec<_> = violations
            .into_iter()
            .map(|v| {
                let mut field = FieldViolation::new(v.subject, v.description);
                field.reason = v.rule;
                field
            })
            .collect();
        details.set_bad_request(violations);
    }
}

/// The first violations, as many as have room.
fn fitting(violations: Vec<Violation>) -> Vec<Violation> {
    let mut room = VIOLATIONS_BYTES_MAX;
    let mut kept = Vec::new();
    for violation in violations {
        let violation = Violation {
            subject: cut(violation.subject, TEXT_BYTES_MAX, char::len_utf8),
            description: cut(violation.description, TEXT_BYTES_MAX, char::len_utf8),
            ..violation
        };
        let bytes = violation.subject.len() + violation.description.len() + violation.rule.len();
        let Some(left) = room.checked_sub(bytes) else {
            break;
        };
        room = left;
        kept.push(violation);
    }
    kept
}

/// Bytes of a character in `grpc-message`, which escapes all but printable ASCII.
fn escaped(character: char) -> usize {
    if (character.is_ascii_graphic() || character == ' ') && character != '%' {
        1
    } else {
        3 * character.len_utf8()
    }
}

/// A text of at most so many bytes, as `bytes` counts them.
fn cut(mut text: String, max: usize, bytes: fn(char) -> usize) -> String {
    let mut taken = 0;
    let over = text.char_indices().find(|(_, character)| {
        taken += bytes(*character);
        taken > max
    });
    if let Some((place, _)) = over {
        text.truncate(place);
        text.push_str(CUT);
    }
    text
}

/// A peer's refusal, read back from its `tonic::Status`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    kind: Kind,
    reason: String,
    message: String,
    violations: Vec<Violation>,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
}

impl RemoteError {
    /// A fact the peer added for programs, such as the version it found.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }
}

impl Classified for RemoteError {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn reason(&self) -> &str {
        &self.reason
    }

    fn violations(&self) -> Vec<Violation> {
        self.violations.clone()
    }

    fn iot_hub(&self) -> IotHubCode {
        let number = self.fact(iot_hub::CODE).and_then(|text| text.parse().ok());
        match (number, self.fact(iot_hub::NAME)) {
            (Some(number), Some(name)) => IotHubCode::told(number, name),
            _ => self.kind.iot_hub(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl From<Status> for RemoteError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let mut violations = Vec::new();
        if let Some(bad) = details.bad_request() {
            violations.extend(
                bad.field_violations
                    .iter()
                    .map(|v| Violation::new(&v.field, &v.description).of_rule(&v.reason)),
            );
        }
        if let Some(failure) = details.precondition_failure() {
            violations.extend(
                failure
                    .violations
                    .iter()
                    .map(|v| Violation::new(&v.subject, &v.description)),
            );
        }
        let info = details.error_info();
        Self {
            kind: kind_of(&status),
            reason: info.map_or_else(|| "UNKNOWN".to_owned(), |info| info.reason.clone()),
            message: if status.message().is_empty() {
                status.code().description().to_owned()
            } else {
                status.message().to_owned()
            },
            violations,
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

/// What a peer's answer means to us, or that there was none: a connection that breaks while a call is
/// under way has no code of its own, and is no mistake of anybody's.
fn kind_of(status: &Status) -> Kind {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if status.code() == Code::Unknown && error.is::<tonic::transport::Error>() {
            return Kind::Unavailable;
        }
        source = error.source();
    }
    Kind::from_code(status.code())
}

#[cfg(test)]
mod tests;
