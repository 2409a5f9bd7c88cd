//! What an agent is told when twin-store refuses its request.

use service_kit::error::{Classified, Kind};
use wire::agent::v1 as agent;

use crate::text::shorten;
use crate::twins::Refused;

/// Most bytes of a refusal's text that go to the agent.
const TEXT_BYTES_MAX: usize = 2048;

/// A request that twin-store refused.
pub(super) struct Refusal {
    /// As the agent named it; empty if it did not.
    pub(super) request_id: String,
    /// What twin-store said.
    pub(super) error: Refused,
}

impl Refusal {
    /// Tells the agent what twin-store said, or that it said nothing.
    pub(super) fn to_message(&self) -> agent::MessageError {
        let Self { request_id, error } = self;
        let kind = error.kind();
        let (reason, message) = if kind.is_transient() {
            (
                "TWIN_STORE_UNAVAILABLE".to_owned(),
                "the twin cannot be reached at the moment".to_owned(),
            )
        } else if kind.is_private() {
            ("INTERNAL".to_owned(), error.to_string())
        } else {
            let mut words = error.to_string();
            for violation in error.violations() {
                words.push_str("; ");
                words.push_str(&violation.subject);
                words.push_str(": ");
                words.push_str(&violation.description);
            }
            (error.reason().to_owned(), words)
        };
        let code = error.iot_hub();
        agent::MessageError {
            request_id: request_id.clone(),
            reason,
            message: shorten(message, TEXT_BYTES_MAX),
            retryable: kind.is_transient() || kind == Kind::Aborted,
            iot_hub_code: i32::try_from(code.number()).unwrap_or_default(),
            iot_hub_name: code.name().to_owned(),
        }
    }
}
