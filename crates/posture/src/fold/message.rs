//! Folds security messages of IoT Hub, as their devices send them by MQTT.
//!
//! Their events have no lane and no sequence, so nothing is known to be missing; a message has
//! effect once ([`crate::posture::MessageDelivery`]), all of its events together.

use jiff::Timestamp;

use super::{FoldOutcome, payload, seen};
use crate::event::SecurityEvent;
use crate::posture::{MessageKey, Posture};

/// What one security message came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageBatch {
    /// What tells it from other messages of the identity.
    pub key: MessageKey,
    /// Its events; their sequences are places in the message.
    pub events: Vec<SecurityEvent>,
    /// How much of it is no event of ours.
    pub rejected: u64,
    /// When ingestion received it.
    pub received_at: Timestamp,
}

/// Folds one message. `stream_sequence` is that of the message of the stream that it came in.
pub fn fold_message(
    posture: &mut Posture,
    batch: &MessageBatch,
    stream_sequence: u64,
) -> FoldOutcome {
    let mut outcome = FoldOutcome::default();
    let events = u64::try_from(batch.events.len()).unwrap_or(u64::MAX);
    let delivery = posture.delivery.messages.get_or_insert_default();
    if delivery.admit(batch.key) {
        delivery.received = delivery.received.saturating_add(events);
        delivery.rejected = delivery.rejected.saturating_add(batch.rejected);
        outcome.applied = events;
        for event in &batch.events {
            let observed_at = event.observed_at.min(batch.received_at);
            let first = outcome.first_observed_at.get_or_insert(observed_at);
            *first = observed_at.min(*first);
            payload::apply(posture, event, observed_at, &mut outcome.changes);
        }
    } else {
        outcome.duplicates = events.saturating_add(batch.rejected);
        delivery.duplicates = delivery.duplicates.saturating_add(outcome.duplicates);
    }
    seen(posture, batch.received_at, stream_sequence);
    outcome
}
