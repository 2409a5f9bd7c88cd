//! What is wrong with a message of an agent, apart from batches.

use wire::InvalidField;
use wire::agent::v1 as agent;
use wire::agent::v1::acknowledge_desired::Outcome;

use crate::text::shorten;

/// Most characters of a request id: it is only echoed, a UUID needs 36.
pub(super) const REQUEST_ID_BYTES_MAX: usize = 128;

pub(super) fn check_request_id(id: &str) -> Result<(), InvalidField> {
    check_length("request_id", id, REQUEST_ID_BYTES_MAX)
}

pub(super) fn check_length(field: &str, text: &str, max: usize) -> Result<(), InvalidField> {
    if text.len() <= max {
        return Ok(());
    }
    let problem = format!("has {} bytes; at most {max} are allowed", text.len());
    Err(InvalidField::new(field, problem))
}

pub(super) fn check_hello(hello: &agent::Hello) -> Result<(), InvalidField> {
    check_length(
        "hello.agent_version",
        &hello.agent_version,
        posture::limits::NAME_BYTES_MAX,
    )?;
    check_length(
        "hello.generation_id",
        &hello.generation_id,
        posture::limits::NAME_BYTES_MAX,
    )?;
    match uuid::Uuid::try_parse(&hello.session_id) {
        Ok(_) => Ok(()),
        Err(error) => Err(InvalidField::new(
            "hello.session_id",
            format!("is no UUID: {error}"),
        )),
    }
}

pub(super) fn check_acknowledge(
    acknowledge: &agent::AcknowledgeDesired,
) -> Result<(), InvalidField> {
    match acknowledge.outcome() {
        Outcome::Applied | Outcome::Rejected | Outcome::Reverted => {}
        Outcome::Unspecified => {
            let problem = format!(
                "is {}; allowed are OUTCOME_APPLIED (1), OUTCOME_REJECTED (2) and OUTCOME_REVERTED (3)",
                acknowledge.outcome
            );
            return Err(InvalidField::new("acknowledge_desired.outcome", problem));
        }
    }
    wire::time::optional("acknowledge_desired.apply_time", acknowledge.apply_time)?;
    Ok(())
}

/// Cuts what the agent says about its decision: refusing a long reason would leave the operator
/// without any.
pub(super) fn cut_to_limits(acknowledge: &mut agent::AcknowledgeDesired) {
    use posture::limits::{INVALID_FIELDS_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX};

    let reason = std::mem::take(&mut acknowledge.reason);
    acknowledge.reason = shorten(reason, REASON_BYTES_MAX);
    acknowledge.invalid_fields.truncate(INVALID_FIELDS_MAX);
    for field in &mut acknowledge.invalid_fields {
        *field = shorten(std::mem::take(field), NAME_BYTES_MAX);
    }
}
