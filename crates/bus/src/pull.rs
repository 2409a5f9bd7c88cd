//! Reads one stream in order, from a position that the caller keeps with its own state.
//!
//! The consumer on the server is disposable: without acknowledgements, in memory, made anew after
//! every lost connection or server restart from the last message delivered. What makes the promise
//! is the check of every sequence here: the next one is delivered, an old one is dropped, and a
//! hole is reported and not stepped over.

mod source;

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::{Config, MessagesError, Stream};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, ReplayPolicy};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use crate::connection::{Bus, LinkState, came_up_again};
use crate::error::{Cause, EnsureError, PullError};
use crate::message::{Headers, Sequence};
use crate::pull::source::{Retry, Source};

/// The server forgets a consumer that nobody pulls from after this; we make a new one then.
const CONSUMER_FORGOTTEN_AFTER: Duration = Duration::from_mins(1);

/// How long one pull request stands open at the server.
const REQUEST_OPEN: Duration = Duration::from_secs(30);

/// While there is nothing to deliver the server says every so often that it still knows us. Two
/// missed ones mean that it does not (a restart that the connection survived, a lost leader).
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Bounds of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullOptions {
    /// Messages that the server may send ahead; with the packs' size, the reader's memory.
    pub ahead_messages: usize,
}

impl Default for PullOptions {
    /// 32 packs of at most 512 KiB: 16 MiB at worst, and enough to keep a reader busy through a
    /// round trip.
    fn default() -> Self {
        Self { ahead_messages: 32 }
    }
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its position; the caller stores it together with what the message caused.
    pub sequence: Sequence,
    /// When the server stored it.
    pub published_at: Timestamp,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

/// An ordered reader of one stream.
pub struct Pull {
    bus: Bus,
    stream: String,
    options: PullOptions,
    /// The last message delivered to the caller.
    position: Sequence,
    /// Messages at the server behind the last one received.
    pending: u64,
    source: Option<Source>,
    /// The message behind a hole, kept until the hole is accepted.
    held: Option<Fetched>,
    retry: Retry,
}

impl Bus {
    /// Opens a reader of `stream` that continues after the message `after`.
    ///
    /// Nothing is asked of the server yet; the first [`Pull::next_batch`] does.
    pub fn pull(&self, stream: impl Into<String>, after: Sequence, options: PullOptions) -> Pull {
        Pull {
            bus: self.clone(),
            stream: stream.into(),
            options,
            position: after,
            pending: 0,
            source: None,
            held: None,
            retry: Retry::default(),
        }
    }
}

impl Pull {
    /// Waits about `max_wait` for a message, then returns it with whatever else is there already,
    /// at most `max`. Empty when nothing came in time, also while the server is away.
    ///
    /// A message is either returned or comes again, so the call may be cancelled; but opening a
    /// consumer starts over then, so do not cancel it in a tight loop. For the same reason an
    /// opening is finished even when it takes longer than `max_wait`.
    pub async fn next_batch(
        &mut self,
        max: usize,
        max_wait: Duration,
    ) -> Result<Vec<Fetched>, PullError> {
        let deadline = Instant::now() + max_wait;
        let mut batch = Vec::new();
        let Some(first) = self.wait(deadline).await? else {
            return Ok(batch);
        };
        self.admit(first, &mut batch)?;
        // From here nothing waits, so that a cancelled call cannot lose what is in the batch.
        while batch.len() < max {
            let Some(next) = self.ready() else { break };
            if self.admit(next, &mut batch).is_err() {
                // The hole is behind good messages; the next call finds it again.
                break;
            }
        }
        Ok(batch)
    }

    /// The last message delivered.
    pub fn position(&self) -> Sequence {
        self.position
    }

    /// Messages that waited at the server behind the last one received.
    pub fn backlog(&self) -> u64 {
        self.pending
    }

    /// Steps over a hole that was reported, after the caller has taken note of it: the next batch
    /// begins with the message `got`.
    pub fn accept_gap(&mut self, got: Sequence) {
        let before = Sequence::new(got.get().saturating_sub(1));
        self.position = self.position.max(before);
    }

    /// Puts a message into the batch if it is the next one, else keeps it and reports the hole.
    fn admit(&mut self, message: Fetched, batch: &mut Vec<Fetched>) -> Result<(), PullError> {
        let expected = self.position.next();
        let got = message.sequence;
        if got > expected {
            self.held = Some(message);
            return Err(PullError::Gap {
                stream: self.stream.clone(),
                expected,
                got,
            });
        }
        if got == expected {
            self.position = got;
            batch.push(message);
        }
        // An older one was delivered before (a gap was accepted beyond it).
        Ok(())
    }

    /// Waits for a message; `None` at the deadline.
    async fn wait(&mut self, deadline: Instant) -> Result<Option<Fetched>, PullError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            let Some(mut source) = self.source.take() else {
                match self.open(deadline).await? {
                    Some(source) => self.source = Some(source),
                    None => return Ok(None),
                }
                continue;
            };
            // Only the first branch takes something, and then it wins.
            tokio::select! {
                biased;
                received = source.messages.next() => {
                    if let Some(message) = self.take(source, received) {
                        return Ok(Some(message));
                    }
                }
                () = came_up_again(&mut source.link, source.generation) => {
                    debug!(stream = self.stream, "connection was restored, renewing the consumer");
                }
                () = sleep_until(deadline) => {
                    self.source = Some(source);
                    return Ok(None);
                }
            }
        }
    }

    /// A message that is here already.
    fn ready(&mut self) -> Option<Fetched> {
        let mut source = self.source.take()?;
        let Some(received) = source.messages.next().now_or_never() else {
            self.source = Some(source);
            return None;
        };
        self.take(source, received)
    }

    /// Takes what a source gave. A source that gave no message, or not its next one, is dropped.
    fn take(
        &mut self,
        mut source: Source,
        received: Option<Result<jetstream::Message, MessagesError>>,
    ) -> Option<Fetched> {
        match source.accept(received) {
            Ok((message, pending)) => {
                self.pending = pending;
                self.source = Some(source);
                Some(message)
            }
            Err(reason) => {
                debug!(stream = self.stream, error = %reason, "renewing the consumer");
                None
            }
        }
    }

    /// Makes a consumer behind the position; `None` if the deadline came first.
    async fn open(&mut self, deadline: Instant) -> Result<Option<Source>, PullError> {
        loop {
            if !self.retry.wait(deadline).await {
                return Ok(None);
            }
            let mut link = self.bus.link();
            let up = link.wait_for(|link| link.state == LinkState::Up);
            let generation = match timeout_at(deadline, up).await {
                Ok(Ok(link)) => link.generation,
                // The sender lives in the bus that we hold, so this is the deadline.
                Ok(Err(_)) | Err(_) => return Ok(None),
            };
            match self.try_open().await {
                Ok(messages) => {
                    self.retry = Retry::default();
                    return Ok(Some(Source::new(messages, link, generation)));
                }
                Err(OpenError::Position(error)) => return Err(error),
                Err(OpenError::Transient(cause)) => self.retry.failed(&self.stream, &cause),
            }
        }
    }

    async fn try_open(&self) -> Result<Stream, OpenError> {
        let status = self
            .bus
            .stream_status(&self.stream)
            .await
            .map_err(|error| match error {
                EnsureError::Missing { stream } => {
                    OpenError::Position(PullError::Missing { stream })
                }
                other => OpenError::Transient(other.into()),
            })?;
        let (stream, position) = (self.stream.clone(), self.position);
        if status.last < position {
            let last = status.last;
            return Err(OpenError::Position(PullError::Ahead {
                stream,
                position,
                last,
            }));
        }
        // With messages in the stream the first of them shows the hole; without, only this does.
        if status.messages == 0 && status.first > position.next() {
            let (expected, got) = (position.next(), status.first);
            return Err(OpenError::Position(PullError::Gap {
                stream,
                expected,
                got,
            }));
        }
        let config = Config {
            description: Some("ordered reader; made anew when it is gone".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: position.next().get(),
            },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold: CONSUMER_FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        let consumer: PullConsumer = self
            .bus
            .context()
            .create_consumer_on_stream(config, stream)
            .await
            .map_err(|error| OpenError::Transient(error.into()))?;
        consumer
            .stream()
            .max_messages_per_batch(self.options.ahead_messages)
            .expires(REQUEST_OPEN)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| OpenError::Transient(error.into()))
    }
}

enum OpenError {
    /// The caller must decide.
    Position(PullError),
    /// Trying again helps.
    Transient(Cause),
}
