//! Durable publish of one message: returns after the stream has stored it, repeats within a budget
//! under one message id, and says which kind of failure it was.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError as NatsError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use tokio::time::Instant;
use tracing::debug;

use crate::connection::{Bus, came_up_again};
use crate::error::{Cause, PublishError};
use crate::message::{Headers, Outgoing, Sequence};

/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long and how often to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishOptions {
    /// How long one attempt waits for its acknowledgement.
    pub timeout: Duration,
    /// No attempt begins later than this after the first.
    pub budget: Duration,
    /// Pause before the second attempt; it doubles for each further one, up to a second.
    pub pause: Duration,
}

impl Default for PublishOptions {
    /// Twenty seconds in all: outlasts a server restart and a leader election, and stays far inside
    /// the streams' duplicate window, so a repeat cannot be stored twice.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            budget: Duration::from_secs(15),
            pause: Duration::from_millis(50),
        }
    }
}

/// Where a message is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its position in the stream.
    pub sequence: Sequence,
    /// Whether the server had it already, by its message id.
    pub duplicate: bool,
}

/// The durable publish as a port, so that a packer can be tested without a server.
pub trait DurablePublisher: Send + Sync + 'static {
    /// Publishes a message and returns after it is stored.
    fn publish(
        &self,
        message: Outgoing,
        options: PublishOptions,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send;
}

impl DurablePublisher for Bus {
    async fn publish(
        &self,
        message: Outgoing,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        self.publish_with(message, options).await
    }
}

impl Bus {
    /// Publishes a message with the default budget; see [`Bus::publish_with`].
    pub async fn publish(&self, message: Outgoing) -> Result<Published, PublishError> {
        self.publish_with(message, PublishOptions::default()).await
    }

    /// Publishes a message and returns after the stream has stored it.
    ///
    /// A full stream is reported at once: waiting is the caller's decision, since its own caller
    /// should slow down too. After [`PublishError::TimedOut`] the message may or may not be stored.
    pub async fn publish_with(
        &self,
        message: Outgoing,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        let Outgoing {
            subject,
            mut headers,
            payload,
        } = message;
        if headers.get(Headers::MESSAGE_ID).is_none() {
            headers.insert(Headers::MESSAGE_ID, self.client().new_inbox());
        }
        let headers = headers.to_nats();
        let gives_up_at = Instant::now() + options.budget;
        let mut pause = options.pause;
        let mut attempt = 1;
        loop {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .headers(headers.clone());
            let failure = match self.attempt(&subject, message, options.timeout).await {
                Ok(published) => return Ok(published),
                Err(failure) => failure,
            };
            debug!(%subject, attempt, error = ?failure, "publish attempt failed");
            let fatal = self.judge(&subject, failure, payload.len(), attempt);
            let retriable = matches!(
                fatal,
                PublishError::NoStream { .. } | PublishError::TimedOut { .. }
            );
            if !retriable || Instant::now() + pause >= gives_up_at {
                return Err(fatal);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            attempt += 1;
        }
    }

    async fn attempt(
        &self,
        subject: &str,
        message: PublishMessage,
        timeout: Duration,
    ) -> Result<Published, Failure> {
        let stored = async {
            let acknowledgement = self
                .context()
                .send_publish(subject.to_owned(), message)
                .await?
                .await?;
            Ok(Published {
                sequence: Sequence::new(acknowledgement.sequence),
                duplicate: acknowledgement.duplicate,
            })
        };
        let mut link = self.link();
        let generation = link.borrow().generation;
        tokio::select! {
            biased;
            answer = tokio::time::timeout(timeout, stored) => match answer {
                Ok(answer) => answer.map_err(Failure::Nats),
                Err(_elapsed) => Err(Failure::NoAnswer),
            },
            // What was on its way is lost with its connection. Waiting for the timeout would make a
            // restart of the server seconds longer for every device.
            () = came_up_again(&mut link, generation) => Err(Failure::NoAnswer),
        }
    }

    /// Names the kind of a failure.
    fn judge(&self, subject: &str, failure: Failure, size: usize, attempts: u32) -> PublishError {
        let subject = subject.to_owned();
        let error = match failure {
            Failure::NoAnswer => return PublishError::TimedOut { subject, attempts },
            Failure::Nats(error) => error,
        };
        match error.kind() {
            PublishErrorKind::StreamNotFound => PublishError::NoStream { subject },
            // A broken pipe is a request that was dropped with its connection; too many
            // unanswered ones are the same trouble seen earlier.
            PublishErrorKind::TimedOut
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::MaxAckPending => PublishError::TimedOut { subject, attempts },
            PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge {
                subject,
                size,
                limit: self.max_message_bytes(),
            },
            PublishErrorKind::Other
            | PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::WrongLastSequence => judge_refusal(subject, error.into()),
        }
    }
}

#[derive(Debug)]
enum Failure {
    NoAnswer,
    Nats(NatsError),
}

fn judge_refusal(subject: String, cause: Cause) -> PublishError {
    let refusal = find_refusal(cause.as_ref()).map(|error| (error.error_code(), error.to_string()));
    let source = Arc::from(cause);
    let Some((code, words)) = refusal else {
        return PublishError::Refused { subject, source };
    };
    // The store reports every failure under one code, and only the words tell a bound from a
    // broken disk.
    if code == ErrorCode::STREAM_STORE_FAILED && words.contains("per subject") {
        return PublishError::QueueFull { subject, source };
    }
    let at_bound = code == ErrorCode::STREAM_STORE_FAILED && words.contains("maximum");
    let no_space = code == ErrorCode::STORAGE_RESOURCES_EXCEEDED
        || code == ErrorCode::INSUFFICIENT_RESOURCES
        || code == ErrorCode::ACCOUNT_RESOURCES_EXCEEDED;
    if at_bound || no_space {
        return PublishError::Full { subject, source };
    }
    PublishError::Refused { subject, source }
}

/// The server's own words, somewhere below the client library's error.
fn find_refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a jetstream::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = error.downcast_ref() {
            return Some(refusal);
        }
        next = error.source();
    }
    None
}
