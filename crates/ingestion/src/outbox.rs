//! The way to the bus: packs what sessions admit into the `TELEMETRY` stream of its partition, and
//! what devices send for applications into `APPLICATION`.
//!
//! One packer per partition with one publish in flight, so the order of a device's entries is the
//! order in the stream. An entry is answered only after the stream has stored it; the hop after is
//! twin-store's fold, which ignores what it has seen, so sending twice is harmless.

use std::sync::Arc;

use bus::{Encoded, Headers, PackError, Packer, PackerOptions, PackerWorker, Receipt};
use bytes::{BufMut, Bytes};
use prost::Message as _;
use twin::{IdentityKey, Partition, PartitionCount, partition_of};
use wire::bus::v1 as bus_wire;

use crate::inlet::Inlets;

/// The key of `TelemetryMessage.entries` and of `ApplicationMessages.messages` (field 1,
/// length-delimited) on the wire.
const ENTRIES_KEY: u8 = (1 << 3) | 2;

/// An encoded entry that waits for its pack.
#[derive(Debug)]
pub(crate) struct Item {
    encoded: Bytes,
    trace_parent: String,
}

/// A packer's worker, to be run as a task.
pub(crate) type Worker = PackerWorker<Item, fn(Vec<Item>) -> Encoded, bus::Bus>;

/// Takes entries. Clones share the packers.
#[derive(Clone)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
}

struct Shared {
    count: PartitionCount,
    packers: Vec<Packer<Item>>,
    inlets: Inlets,
}

impl Outbox {
    /// An outbox to a subject per partition, and the workers that must run for it.
    pub(crate) fn new(
        bus: &bus::Bus,
        count: PartitionCount,
        subject: fn(Partition) -> String,
        inlets: Inlets,
    ) -> (Self, Vec<Worker>) {
        let mut packers = Vec::with_capacity(usize::from(count.get()));
        let mut workers = Vec::with_capacity(usize::from(count.get()));
        for partition in count.partitions() {
            let encode: fn(Vec<Item>) -> Encoded = encode;
            let (packer, worker) = bus::packer(
                subject(partition),
                PackerOptions::default(),
                encode,
                bus.clone(),
            );
            packers.push(packer);
            workers.push(worker);
        }
        (
            Self {
                shared: Arc::new(Shared {
                    count,
                    packers,
                    inlets,
                }),
            },
            workers,
        )
    }

    /// The partition of an identity.
    pub(crate) fn partition_of(&self, identity: &IdentityKey) -> Partition {
        partition_of(&identity.device, self.shared.count)
    }

    /// Makes an entry durable. While the stream is full it closes the partition's inlet and waits
    /// for room, so agents are slowed and not disconnected.
    pub(crate) async fn store(
        &self,
        partition: Partition,
        entry: bus_wire::TelemetryEntry,
    ) -> Result<(), PackError> {
        let encoded = Bytes::from(entry.encode_to_vec());
        self.store_encoded(partition, encoded, entry.trace_parent)
            .await
    }

    /// The same, of an encoded entry or message of an application that continues no trace.
    pub(crate) async fn store_message(
        &self,
        partition: Partition,
        encoded: Bytes,
    ) -> Result<(), PackError> {
        self.store_encoded(partition, encoded, String::new()).await
    }

    async fn store_encoded(
        &self,
        partition: Partition,
        encoded: Bytes,
        trace_parent: String,
    ) -> Result<(), PackError> {
        let _waiting = self.shared.inlets.wait(encoded.len());
        loop {
            let item = Item {
                encoded: encoded.clone(),
                trace_parent: trace_parent.clone(),
            };
            match self.enqueue(partition, item).await?.await {
                Ok(_published) => return Ok(()),
                Err(PackError::Publish(error)) if error.is_full() => {
                    tracing::debug!(%partition, %error, "entry waits for room in its stream");
                    self.shared.inlets.note_full(partition);
                    self.shared.inlets.of(partition).backlog_is_small().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn enqueue(&self, partition: Partition, item: Item) -> Result<Receipt, PackError> {
        let bytes = framed_len(item.encoded.len());
        self.shared.packers[usize::from(partition.get())]
            .enqueue(item, bytes)
            .await
    }
}

/// Bytes of an entry with its key and length, whose varint has at most five.
fn framed_len(bytes: usize) -> usize {
    bytes + 6
}

/// Joins entries to one `TelemetryMessage`: a repeated field is its elements one after the other.
/// The message continues the trace of its first entry; each entry carries its own.
fn encode(items: Vec<Item>) -> Encoded {
    let bytes = items
        .iter()
        .map(|item| framed_len(item.encoded.len()))
        .sum();
    let mut payload = Vec::with_capacity(bytes);
    let mut headers = Headers::new();
    for item in items {
        if headers.is_empty() && !item.trace_parent.is_empty() {
            headers.insert(Headers::TRACEPARENT, item.trace_parent);
        }
        payload.put_u8(ENTRIES_KEY);
        prost::encode_length_delimiter(item.encoded.len(), &mut payload)
            .expect("a vector grows as needed");
        payload.put_slice(&item.encoded);
    }
    Encoded {
        headers,
        payload: payload.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(device_id: String, trace_parent: String) -> bus_wire::TelemetryEntry {
        bus_wire::TelemetryEntry {
            device_id,
            trace_parent,
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn joined_entries_are_a_telemetry_message(
            given in prop::collection::vec((".{0,300}", "[a-f0-9-]{0,55}"), 0..20),
        ) {
            let entries: Vec<_> =
                given.into_iter().map(|(id, trace)| entry(id, trace)).collect();
            let items = entries.iter().map(|entry| Item {
                encoded: entry.encode_to_vec().into(),
                trace_parent: entry.trace_parent.clone(),
            });
            let encoded = encode(items.collect());
            let decoded = bus_wire::TelemetryMessage::decode(encoded.payload).unwrap();
            let first = entries.iter().map(|it| &it.trace_parent).find(|it| !it.is_empty());
            prop_assert_eq!(encoded.headers.get(Headers::TRACEPARENT), first.map(String::as_str));
            prop_assert_eq!(decoded.entries, entries);
        }
    }
}
