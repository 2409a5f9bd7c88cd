//! The direct method that an operation calls, and what became of one call.

use std::time::Duration;

use iot_hub::MethodName;

/// A direct method that an operation calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub method: MethodName,
    /// JSON.
    pub payload: String,
    /// How long a device may take.
    pub response_within: Duration,
    /// How long to wait for a device that is not connected.
    pub connect_within: Duration,
}

/// What a device answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As the device chose it.
    pub status: i32,
    /// JSON.
    pub payload: String,
}

/// How far the call of a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Called {
    /// It has begun, and nobody knows yet what came of it.
    Begun,
    /// The device answered; a payload that is too large to be kept is `null`.
    Answered(Answer),
}

/// Largest payload of an answer that is kept with an operation, so that the results of a job over
/// a hundred thousand devices stay below a gigabyte.
pub(super) const ANSWER_BYTES_MAX: usize = 8 << 10;

impl Called {
    /// An answer as it is kept, and what is said if not all of it is.
    pub(super) fn answered(answer: Answer) -> (Called, String) {
        let bytes = answer.payload.len();
        if bytes <= ANSWER_BYTES_MAX {
            return (Called::Answered(answer), String::new());
        }
        let kept = Answer {
            payload: "null".to_owned(),
            ..answer
        };
        let reason = format!(
            "the payload of its answer has {bytes} bytes; {ANSWER_BYTES_MAX} at most are kept"
        );
        (Called::Answered(kept), reason)
    }
}
