//! How much of the queues' stream one device may take when there is little left of it.
//!
//! The stream has one bound for all queues, and some eighty queues of the largest messages fill it.
//! While it is more than half full, a device therefore has a share, and what goes beyond is refused
//! to its senders alone. Looked at before a message is sent, without a lock: calls that are under way
//! at the same time may each be the last that fits. A message that lies there already is no further
//! one: who sends it again had no answer.

use bus::Sequence;
use iot_hub::message::MESSAGE_BYTES_MAX;
use twin::IdentityKey;
use wire::subjects::DEVICE_MESSAGES_STREAM;

use super::super::Api;
use crate::error::{CommandError, Error};

/// One device may take this part of the stream.
const PART: u64 = 256;

impl Api {
    /// That the queue of a device may take so many bytes more, or has the message with this id already.
    pub(super) async fn has_room(
        &self,
        key: &IdentityKey,
        more: usize,
        id_in: impl Fn(&str) -> Option<String>,
    ) -> Result<(), Error> {
        // Who is away says so when the message is sent.
        if !self.bus.is_up() {
            return Ok(());
        }
        let status = self.bus.stream_status(DEVICE_MESSAGES_STREAM).await;
        let status = status.map_err(CommandError::Queue)?;
        if status.bytes <= self.device_messages_bytes / 2 {
            return Ok(());
        }
        let queue = match self.queue(key).await {
            // That is said when it is decided on.
            Err(Error::NotFound(_)) => return Ok(()),
            queue => queue?,
        };
        let max = share_of(self.device_messages_bytes);
        let id = id_in(&queue);
        let (mut bytes, mut position) = (as_u64(more), Sequence::ZERO);
        // As many as a queue may have, in the worst case.
        while bytes <= max || id.is_some() {
            let next = self
                .bus
                .next_queued(DEVICE_MESSAGES_STREAM, &queue, position);
            match next.await.map_err(CommandError::Queue)? {
                Some(queued) if id.is_some() && queued.message_id == id => return Ok(()),
                Some(queued) => {
                    position = queued.sequence;
                    bytes += as_u64(queued.payload.len());
                }
                None if bytes <= max => return Ok(()),
                None => break,
            }
        }
        Err(CommandError::QueueTooLarge {
            key: key.clone(),
            max,
        }
        .into())
    }
}

/// At least one message of the largest.
fn share_of(total: u64) -> u64 {
    (total / PART).max(2 * as_u64(MESSAGE_BYTES_MAX))
}

fn as_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
