//! One disposable consumer behind a [`Pull`](super::Pull): takes its messages, notices when one
//! was lost on the way, and paces the making of the next consumer.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::{MessagesError, Stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::connection::Link;
use crate::error::Cause;
use crate::message::{Headers, Sequence};
use crate::pull::Fetched;

/// Pauses between attempts to make a consumer.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// One consumer and the messages from it.
pub(super) struct Source {
    pub(super) messages: Stream,
    pub(super) link: watch::Receiver<Link>,
    /// The link's generation at the making; at another one the consumer may be gone.
    pub(super) generation: u64,
    /// How many messages it has delivered, as the server counts them.
    delivered: u64,
}

impl Source {
    pub(super) fn new(messages: Stream, link: watch::Receiver<Link>, generation: u64) -> Self {
        Self {
            messages,
            link,
            generation,
            delivered: 0,
        }
    }

    /// Converts a received message and its number of messages behind it. An error means that the
    /// source is of no more use.
    pub(super) fn accept(
        &mut self,
        received: Option<Result<jetstream::Message, MessagesError>>,
    ) -> Result<(Fetched, u64), Cause> {
        let message = received.ok_or("the consumer ended")??;
        let info = message.info()?;
        // The server numbers what it delivers. A jump here is a message lost on the way to us, and
        // a new consumer brings it again; a jump in the stream's own numbers is a hole for good.
        if info.consumer_sequence != self.delivered + 1 {
            return Err("a message was lost on its way".into());
        }
        let published_at = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos())?;
        let (sequence, pending) = (Sequence::new(info.stream_sequence), info.pending);
        self.delivered += 1;
        let jetstream::Message { message, .. } = message;
        let fetched = Fetched {
            sequence,
            published_at,
            subject: message.subject.to_string(),
            headers: Headers::from_nats(message.headers.as_ref()),
            payload: message.payload,
        };
        Ok((fetched, pending))
    }
}

/// Growing pauses between attempts to make a consumer.
pub(super) struct Retry {
    pause: Duration,
    next_at: Option<Instant>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            pause: RETRY_FIRST,
            next_at: None,
        }
    }
}

impl Retry {
    /// Waits until the next attempt may be made; false if the deadline comes before it.
    pub(super) async fn wait(&mut self, deadline: Instant) -> bool {
        let Some(next_at) = self.next_at else {
            return true;
        };
        sleep_until(next_at.min(deadline)).await;
        if next_at > deadline {
            return false;
        }
        self.next_at = None;
        true
    }

    pub(super) fn failed(&mut self, stream: &str, cause: &Cause) {
        self.next_at = Some(Instant::now() + self.pause);
        // A restarting server refuses a few times; only a long refusal concerns an operator.
        if self.pause == RETRY_LONGEST {
            warn!(stream, error = %cause, "cannot read the stream, trying on");
        } else {
            debug!(stream, error = %cause, "cannot read the stream yet");
        }
        self.pause = (self.pause * 2).min(RETRY_LONGEST);
    }
}
