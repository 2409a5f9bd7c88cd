//! The queue of a device on the bus: reads and removes its messages, and keeps how often they went
//! out in vain. It decides nothing.
//!
//! twin-store fills the queue. One generation of a device has one queue, so nothing of an older one
//! is ever read.

use std::time::Duration;

use bus::{Bus, EnsureError, Outgoing, PublishError, Sequence};
use jiff::Timestamp;
use prost::Message as _;
use service_kit::backoff::{Backoff, Policy};
use wire::bus::v1 as bus_wire;
use wire::subjects::{self, DEVICE_MESSAGES_STREAM, MQTT_SESSIONS_STREAM};

use super::inbox::{Counts, Look};
use crate::auth::Proof;

/// How often it is tried to remove a message: what is left comes again with the next connection.
const REMOVE: Policy = Policy {
    first: Duration::from_millis(100),
    cap: Duration::from_secs(2),
    budget: Some(10),
};

/// What was read.
#[derive(Debug)]
pub(super) struct Found {
    /// If they were asked for.
    pub(super) counts: Option<Counts>,
    /// The next message; none: there is none.
    pub(super) next: Option<Next>,
}

/// A message of the queue.
#[derive(Debug)]
pub(super) struct Next {
    /// Its place.
    pub(super) sequence: Sequence,
    /// None: it has ended, or is no message.
    pub(super) message: Option<bus_wire::DeviceBoundMessage>,
}

/// Reads what is asked for.
pub(super) async fn read(
    bus: &Bus,
    proof: &Proof,
    look: Look,
    now: Timestamp,
) -> Result<Found, EnsureError> {
    let counts = if look.counts {
        Some(counts(bus, proof).await?)
    } else {
        None
    };
    let queue = subjects::device_messages_subject(&proof.identity, &proof.generation_id);
    let queued = bus
        .next_queued(DEVICE_MESSAGES_STREAM, &queue, look.after)
        .await?;
    let next = queued.map(|queued| Next {
        sequence: queued.sequence,
        message: usable(queued.payload, now),
    });
    Ok(Found { counts, next })
}

/// Removes a message that is done with.
pub(super) async fn remove(bus: &Bus, sequence: Sequence) {
    let mut backoff = Backoff::new(REMOVE);
    while let Err(error) = bus.remove_queued(DEVICE_MESSAGES_STREAM, sequence).await {
        let Some(delay) = backoff.next_delay() else {
            let error = service_kit::error::chain(&error);
            tracing::warn!(%sequence, error, "a message was not removed and comes again");
            return;
        };
        tokio::time::sleep(delay).await;
    }
}

/// Keeps how often messages went out in vain; returns once it is durable.
pub(super) async fn keep(bus: &Bus, proof: &Proof, counts: Counts) -> Result<(), PublishError> {
    let counts = counts.into_iter().map(|(it, count)| (it.get(), count));
    let record = bus_wire::MessageDeliveries {
        generation_id: proof.generation_id.clone(),
        counts: counts.collect(),
    };
    let subject = subjects::mqtt_deliveries_subject(&proof.identity);
    let record = Outgoing::new(subject, record.encode_to_vec());
    bus.publish(record).await.map(|_published| ())
}

async fn counts(bus: &Bus, proof: &Proof) -> Result<Counts, EnsureError> {
    let subject = subjects::mqtt_deliveries_subject(&proof.identity);
    let kept = bus.newest(MQTT_SESSIONS_STREAM, &subject).await?;
    let kept = kept.and_then(|bytes| bus_wire::MessageDeliveries::decode(bytes).ok());
    let kept = kept.filter(|kept| kept.generation_id == proof.generation_id);
    let counts = kept.unwrap_or_default().counts.into_iter();
    Ok(counts
        .map(|(it, count)| (Sequence::new(it), count))
        .collect())
}

fn usable(bytes: bytes::Bytes, now: Timestamp) -> Option<bus_wire::DeviceBoundMessage> {
    let message = bus_wire::DeviceBoundMessage::decode(bytes).ok()?;
    let ends = wire::time::required("expire_time", message.expire_time).ok()?;
    (ends > now).then_some(message)
}
