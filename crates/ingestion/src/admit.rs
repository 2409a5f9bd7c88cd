//! Decides which events of a batch are taken in, and says why the others are not.
//!
//! Pure: a batch and the limits in, an admission out. Every sequence of an accepted batch is either
//! admitted or rejected, exactly once. A batch whose sequences cannot be told apart is refused as a
//! whole, because there is nothing that could be acknowledged.
//!
//! Before it comes the agent's stream; after it `outbox` makes the admission durable.

use std::fmt;

use posture::{Lane, LaneEpoch, limits};
use prost::Message as _;
use wire::InvalidField;
use wire::agent::v1 as agent;

use crate::text::shorten;

/// Most bytes of the message that explains a rejection. It may quote what the agent sent, and up to
/// five hundred of them go back in one acknowledgement.
const MESSAGE_BYTES_MAX: usize = 256;

/// What one batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // limits end in `_max` everywhere
pub(crate) struct BatchLimits {
    /// Bytes of one encoded event.
    pub(crate) event_bytes_max: usize,
    /// Bytes of the encoded batch.
    pub(crate) batch_bytes_max: usize,
    /// Events in the batch.
    pub(crate) batch_events_max: usize,
}

/// A batch after the decision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Admission {
    /// The lane of all its events.
    pub(crate) lane: Lane,
    /// The lane's epoch.
    pub(crate) epoch: LaneEpoch,
    /// The epoch as the agent spelled it: it comes back so in the acknowledgement.
    pub(crate) epoch_text: String,
    /// The highest sequence of the batch, admitted or not.
    pub(crate) through_sequence: u64,
    /// What is taken in, in the order of sequences.
    pub(crate) events: Vec<agent::SecurityEvent>,
    /// What is not, in the order of sequences.
    pub(crate) rejected: Vec<Rejection>,
    /// Events that the agent had to drop, as it says.
    pub(crate) dropped_total: u64,
    /// What the agent does not wait for any more.
    pub(crate) settled_through: u64,
}

/// An event that is not taken in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rejection {
    /// Which one.
    pub(crate) reason: Reason,
    /// What, where, and what is allowed.
    pub(crate) message: String,
    /// The event itself, for a person to look at.
    pub(crate) event: agent::SecurityEvent,
}

/// Why an event is not taken in. The names are stable: agents and operators see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// It is over the size of an event.
    EventTooLarge,
    /// It has no payload, or one of a kind unknown here.
    UnknownKind,
    /// A field has no valid form or is over its limit.
    InvalidField,
}

impl Reason {
    /// The code on the wire, in `REJECTS` and in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::EventTooLarge => "EVENT_TOO_LARGE",
            Self::UnknownKind => "UNKNOWN_KIND",
            Self::InvalidField => "INVALID_FIELD",
        }
    }
}

/// A batch that is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BatchProblem {
    /// It is over a limit of batches.
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much is allowed.
        max: usize,
    },
    /// Its frame has no valid form.
    Invalid(InvalidField),
}

impl BatchProblem {
    /// The code on the wire and in metrics.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "MESSAGE_TOO_LARGE",
            Self::Invalid(_) => "INVALID_BATCH",
        }
    }
}

impl fmt::Display for BatchProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { what, found, max } => {
                write!(
                    f,
                    "events: the batch has {found} {what}; at most {max} are allowed"
                )
            }
            Self::Invalid(problem) => problem.fmt(f),
        }
    }
}

impl From<InvalidField> for BatchProblem {
    fn from(problem: InvalidField) -> Self {
        Self::Invalid(problem)
    }
}

/// Decides on a batch.
pub(crate) fn admit(
    batch: agent::EventBatch,
    limits: &BatchLimits,
) -> Result<Admission, BatchProblem> {
    let lane = check_size(&batch, limits)
        .and_then(|()| Ok(wire::events::lane_from_wire("events.lane", batch.lane)?))?;
    let epoch = batch
        .epoch
        .parse()
        .map_err(|error| InvalidField::new("events.epoch", format!("{error}")))?;
    let through_sequence = check_sequences(&batch.events)?;
    if batch.dropped_total > limits::SEQUENCE_MAX {
        return Err(InvalidField::new(
            "events.dropped_total",
            format!(
                "is {}; at most {} is allowed",
                batch.dropped_total,
                limits::SEQUENCE_MAX
            ),
        )
        .into());
    }

    let first = batch
        .events
        .first()
        .map_or(through_sequence, |event| event.sequence);
    if batch.settled_through >= first {
        return Err(InvalidField::new(
            "events.settled_through",
            format!(
                "is {}; it must be below the batch's first sequence, {first}",
                batch.settled_through
            ),
        )
        .into());
    }

    let mut events = Vec::with_capacity(batch.events.len());
    let mut rejected = Vec::new();
    for event in batch.events {
        match judge(&event, limits) {
            Ok(()) => events.push(event),
            Err((reason, message)) => {
                let message = shorten(message, MESSAGE_BYTES_MAX);
                rejected.push(Rejection {
                    reason,
                    message,
                    event,
                });
            }
        }
    }
    Ok(Admission {
        lane,
        epoch,
        epoch_text: batch.epoch,
        through_sequence,
        events,
        rejected,
        dropped_total: batch.dropped_total,
        settled_through: batch.settled_through,
    })
}

fn check_size(batch: &agent::EventBatch, limits: &BatchLimits) -> Result<(), BatchProblem> {
    let too_large = |what, found, max| BatchProblem::TooLarge { what, found, max };
    if batch.events.len() > limits.batch_events_max {
        return Err(too_large(
            "events",
            batch.events.len(),
            limits.batch_events_max,
        ));
    }
    let bytes = batch.encoded_len();
    if bytes > limits.batch_bytes_max {
        return Err(too_large("bytes", bytes, limits.batch_bytes_max));
    }
    Ok(())
}

/// Sequences rise from event to event; returns the last.
fn check_sequences(events: &[agent::SecurityEvent]) -> Result<u64, InvalidField> {
    let mut last = 0;
    for (index, event) in events.iter().enumerate() {
        let field = || format!("events.events[{index}].sequence");
        if event.sequence == 0 || event.sequence > limits::SEQUENCE_MAX {
            return Err(InvalidField::new(
                field(),
                format!(
                    "is {}; allowed are 1 to {}",
                    event.sequence,
                    limits::SEQUENCE_MAX
                ),
            ));
        }
        if event.sequence <= last {
            return Err(InvalidField::new(
                field(),
                format!("is {} after {last}; sequences must rise", event.sequence),
            ));
        }
        last = event.sequence;
    }
    if last == 0 {
        return Err(InvalidField::new(
            "events.events",
            "is empty; a batch has at least one event",
        ));
    }
    Ok(last)
}

fn judge(event: &agent::SecurityEvent, limits: &BatchLimits) -> Result<(), (Reason, String)> {
    let bytes = event.encoded_len();
    if bytes > limits.event_bytes_max {
        let max = limits.event_bytes_max;
        let message = format!("the event has {bytes} bytes; at most {max} are allowed");
        return Err((Reason::EventTooLarge, message));
    }
    if event.payload.is_none() {
        let message = "payload: is absent or of a kind unknown here".to_owned();
        return Err((Reason::UnknownKind, message));
    }
    // The event travels on as it came; the domain's form only proves that it can be folded.
    let parsed = wire::events::event_from_wire(event.clone())
        .map_err(|problem| (Reason::InvalidField, problem.to_string()))?;
    parsed
        .validate()
        .map_err(|problem| (Reason::InvalidField, problem.to_string()))
}

#[cfg(test)]
mod tests;
