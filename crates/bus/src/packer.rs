//! Group commit of one partition: gathers what callers hand over while the last publish is on its
//! way, packs it into one message, publishes it, and answers every caller after the server has
//! stored it.
//!
//! JetStream costs per message and hardly per byte, and with a sync before each acknowledgement a
//! message costs milliseconds; one pack carries tens of items for the price of one. There is never
//! more than one publish in flight, so the order of handing over is the order in the stream, also
//! when a publish has to be repeated.
//!
//! A failed publish fails exactly the items of its pack; the next pack goes on. The packer never
//! repeats a pack beyond the publish's own budget, because the callers' callers hold the data and
//! repeat with their own identity.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::error::PackError;
use crate::message::{Headers, Outgoing};
use crate::publish::{DurablePublisher, PublishOptions, Published};

/// Bounds of a packer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackerOptions {
    /// Items that may wait. Over it callers wait, and so do the devices behind them.
    pub queue_items: usize,
    /// Bytes that may wait or be on their way, over all items: the packer's memory.
    pub queue_bytes: usize,
    /// Items in one pack.
    pub pack_items: usize,
    /// Bytes in one pack, as the callers count them. Must leave room below the server's message
    /// limit for what encoding adds.
    pub pack_bytes: usize,
    /// How long the first item of a pack waits for company when no publish is on its way.
    pub linger: Duration,
    /// Budget of one publish.
    pub publish: PublishOptions,
}

impl Default for PackerOptions {
    /// A pack of at most 512 KiB stays below NATS's default message limit of 1 MiB; two
    /// milliseconds cost a lone item less than the server's disk sync does.
    fn default() -> Self {
        Self {
            queue_items: 4096,
            queue_bytes: 8 << 20,
            pack_items: 1024,
            pack_bytes: 512 << 10,
            linger: Duration::from_millis(2),
            publish: PublishOptions::default(),
        }
    }
}

/// What an encoder makes of the items of a pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Headers of the message; a missing message id is made up.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

/// Hands items over to a packer. Cheap to clone.
pub struct Packer<T> {
    queue: mpsc::Sender<Entry<T>>,
    room: Arc<Semaphore>,
    pack_bytes: usize,
}

/// Performs the publishes; the caller runs it as a supervised task.
pub struct PackerWorker<T, E, P> {
    queue: mpsc::Receiver<Entry<T>>,
    subject: String,
    options: PackerOptions,
    encode: E,
    publisher: P,
    /// An item that did not fit into the last pack.
    carried: VecDeque<Entry<T>>,
}

/// The answer to one item; resolves after its pack was stored, or failed.
#[must_use = "an item is durable only after its receipt has resolved"]
pub struct Receipt {
    answer: oneshot::Receiver<Result<Published, PackError>>,
}

impl Future for Receipt {
    type Output = Result<Published, PackError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A dropped sender means that the worker ended before it came to the item.
        Pin::new(&mut self.answer)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(PackError::Closed)))
    }
}

struct Entry<T> {
    item: T,
    bytes: usize,
    queued_at: Instant,
    answer: oneshot::Sender<Result<Published, PackError>>,
    /// Gives the bytes back to the queue when the entry is dropped, after its answer.
    _room: OwnedSemaphorePermit,
}

/// Makes a packer that publishes to `subject`, and the worker that must run for it.
///
/// `encode` turns the items of one pack, in order, into one message.
pub fn packer<T, E, P>(
    subject: impl Into<String>,
    options: PackerOptions,
    encode: E,
    publisher: P,
) -> (Packer<T>, PackerWorker<T, E, P>)
where
    E: FnMut(Vec<T>) -> Encoded,
    P: DurablePublisher,
{
    let (sender, receiver) = mpsc::channel(options.queue_items.max(1));
    let packer = Packer {
        queue: sender,
        room: Arc::new(Semaphore::new(options.queue_bytes.max(options.pack_bytes))),
        pack_bytes: options.pack_bytes,
    };
    let worker = PackerWorker {
        queue: receiver,
        subject: subject.into(),
        options,
        encode,
        publisher,
        carried: VecDeque::new(),
    };
    (packer, worker)
}

impl<T> Packer<T> {
    /// Queues an item of about `bytes` bytes, waiting while the queue is full, and returns its
    /// receipt. Items of one caller keep their order. Safe to cancel: the item is queued or not.
    pub async fn enqueue(&self, item: T, bytes: usize) -> Result<Receipt, PackError> {
        let permits = self.permits(bytes)?;
        let room = self.room.clone().acquire_many_owned(permits).await;
        let room = room.map_err(|_| PackError::Closed)?;
        let slot = self.queue.reserve().await.map_err(|_| PackError::Closed)?;
        let (entry, receipt) = entry(item, bytes, room);
        slot.send(entry);
        Ok(receipt)
    }

    /// Queues an item if there is room at once.
    pub fn try_enqueue(&self, item: T, bytes: usize) -> Result<Receipt, PackError> {
        let permits = self.permits(bytes)?;
        let room = self.room.clone().try_acquire_many_owned(permits);
        let room = room.map_err(|_| PackError::QueueFull)?;
        let slot = self.queue.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => PackError::QueueFull,
            mpsc::error::TrySendError::Closed(()) => PackError::Closed,
        })?;
        let (entry, receipt) = entry(item, bytes, room);
        slot.send(entry);
        Ok(receipt)
    }

    /// Queues an item and waits until it is stored.
    pub async fn store(&self, item: T, bytes: usize) -> Result<Published, PackError> {
        self.enqueue(item, bytes).await?.await
    }

    /// Items waiting, for a gauge.
    pub fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    fn permits(&self, bytes: usize) -> Result<u32, PackError> {
        if bytes > self.pack_bytes {
            return Err(PackError::ItemTooLarge {
                size: bytes,
                limit: self.pack_bytes,
            });
        }
        u32::try_from(bytes).map_err(|_| PackError::ItemTooLarge {
            size: bytes,
            limit: self.pack_bytes,
        })
    }
}

impl<T> Clone for Packer<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            room: self.room.clone(),
            pack_bytes: self.pack_bytes,
        }
    }
}

fn entry<T>(item: T, bytes: usize, room: OwnedSemaphorePermit) -> (Entry<T>, Receipt) {
    let (sender, receiver) = oneshot::channel();
    let entry = Entry {
        item,
        bytes,
        queued_at: Instant::now(),
        answer: sender,
        _room: room,
    };
    (entry, Receipt { answer: receiver })
}

impl<T, E, P> PackerWorker<T, E, P>
where
    T: Send,
    E: FnMut(Vec<T>) -> Encoded + Send,
    P: DurablePublisher,
{
    /// Publishes until `stop` is cancelled or every [`Packer`] is gone. Then it takes no more
    /// items, publishes what it holds, and returns.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(pack) = self.gather(&stop).await {
            self.publish(pack).await;
        }
        debug!(subject = %self.subject, "packer drained");
    }

    /// Takes the next pack: all that waits, up to the bounds, and company for `linger` after the
    /// first item was queued. Items that waited through the last publish have lingered already.
    async fn gather(&mut self, stop: &CancellationToken) -> Option<Vec<Entry<T>>> {
        let first = match self.carried.pop_front() {
            Some(carried) => carried,
            None => self.next_entry(stop).await?,
        };
        let closes_at = first.queued_at + self.options.linger;
        let mut bytes = first.bytes;
        let mut pack = vec![first];
        while pack.len() < self.options.pack_items {
            let next = match self.queue.try_recv() {
                Ok(entry) => entry,
                Err(_) if stop.is_cancelled() => break,
                Err(_) => match timeout_at(closes_at, self.queue.recv()).await {
                    Ok(Some(entry)) => entry,
                    // All handles are gone, or nobody came in time.
                    Ok(None) | Err(_) => break,
                },
            };
            if bytes + next.bytes > self.options.pack_bytes {
                self.carried.push_back(next);
                break;
            }
            bytes += next.bytes;
            pack.push(next);
        }
        Some(pack)
    }

    /// Waits for an item. After `stop` the queue is closed, and what is left in it still comes.
    async fn next_entry(&mut self, stop: &CancellationToken) -> Option<Entry<T>> {
        // Receiving loses nothing when the other branch wins.
        tokio::select! {
            biased;
            () = stop.cancelled() => self.queue.close(),
            next = self.queue.recv() => return next,
        }
        self.queue.recv().await
    }

    async fn publish(&mut self, pack: Vec<Entry<T>>) {
        let mut items = Vec::with_capacity(pack.len());
        let mut answers = Vec::with_capacity(pack.len());
        for Entry {
            item,
            answer,
            _room: room,
            ..
        } in pack
        {
            items.push(item);
            answers.push((answer, room));
        }
        let Encoded { headers, payload } = (self.encode)(items);
        let message = Outgoing {
            subject: self.subject.clone(),
            headers,
            payload,
        };
        let outcome = self.publisher.publish(message, self.options.publish).await;
        for (answer, room) in answers {
            // A caller that no longer waits has lost interest, not the item.
            let _gone = answer.send(outcome.clone().map_err(PackError::from));
            drop(room);
        }
    }
}

#[cfg(test)]
mod tests;
