//! What can go wrong, one enum per family of operations. A variant names the operation and its
//! subject; the cause is the source, never repeated in the text.

mod kinds;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::message::Sequence;

/// The client library's error, kept as source only.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The bus could not be reached, or is not one we can use.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The configuration names no server.
    #[error("no NATS server address is configured")]
    NoServers,
    /// A file that the configuration names could not be used.
    #[error("cannot read the NATS credentials file {path}")]
    Credentials {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server refused who we are; trying again will not help.
    #[error("NATS at {servers} refused our credentials")]
    Refused {
        /// The configured servers.
        servers: String,
        /// The server's words.
        #[source]
        source: Cause,
    },
    /// No server answered in time.
    #[error("cannot reach NATS at {servers} within {within:?}")]
    Unreachable {
        /// The configured servers.
        servers: String,
        /// How long was tried.
        within: Duration,
        /// The last failure.
        #[source]
        source: Cause,
    },
    /// The server is older than we can use.
    #[error(
        "NATS at {servers} is version {found}, but at least {needed} is needed; `cargo xtask tools` \
         fetches a good one"
    )]
    TooOld {
        /// The configured servers.
        servers: String,
        /// What it says it is.
        found: String,
        /// The oldest accepted.
        needed: &'static str,
    },
    /// The server runs without JetStream.
    #[error(
        "NATS at {servers} runs without JetStream; start it with `-js` or a `jetstream` block in its \
         configuration"
    )]
    NoJetStream {
        /// The configured servers.
        servers: String,
    },
    /// JetStream did not answer.
    #[error("JetStream at {servers} does not answer")]
    JetStreamSilent {
        /// The configured servers.
        servers: String,
        /// Why.
        #[source]
        source: Cause,
    },
}

/// A stream could not be created, read, or brought to its specification.
#[derive(Debug, Error)]
pub enum EnsureError {
    /// An existing stream differs in something that cannot be changed in place.
    #[error(
        "stream {stream} exists with {what} {found}, but {wanted} is needed; remove or rename it"
    )]
    Incompatible {
        /// The stream.
        stream: String,
        /// Which property.
        what: &'static str,
        /// What it has.
        found: String,
        /// What we need.
        wanted: String,
    },
    /// The server refused or did not answer.
    #[error("cannot create or update stream {stream}")]
    Failed {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A stream is not there.
    #[error("stream {stream} does not exist")]
    Missing {
        /// The stream.
        stream: String,
    },
    /// Reading a stream's state failed.
    #[error("cannot read the state of stream {stream}")]
    Status {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Removing what was consumed failed.
    #[error("cannot trim stream {stream} up to {up_to}")]
    Trim {
        /// The stream.
        stream: String,
        /// Up to and with this message.
        up_to: Sequence,
        /// Why.
        #[source]
        source: Cause,
    },
}

/// A message was not stored, or it is not known that it was.
///
/// It can be cloned because a packed publish answers many callers.
#[derive(Clone, Debug, Error)]
pub enum PublishError {
    /// The stream is at its bound and refuses new messages: slow down and try later.
    #[error("the stream behind {subject} is full")]
    Full {
        /// Published to.
        subject: String,
        /// The server's words.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The queue is at its bound and refuses new messages until some are removed.
    #[error("the queue {subject} is full")]
    QueueFull {
        /// Published to.
        subject: String,
        /// The server's words.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// No stream takes the subject, or JetStream is not up yet.
    #[error("no stream takes {subject}")]
    NoStream {
        /// Published to.
        subject: String,
    },
    /// No answer came within the whole budget; the message may or may not be stored.
    #[error("no acknowledgement for {subject} after {attempts} attempts")]
    TimedOut {
        /// Published to.
        subject: String,
        /// How often it was sent.
        attempts: u32,
    },
    /// The message is larger than the server takes; it will never be stored.
    #[error("a message of {size} bytes to {subject} is over the server's limit of {limit}")]
    TooLarge {
        /// Published to.
        subject: String,
        /// Payload size.
        size: usize,
        /// The server's limit, headers included.
        limit: usize,
    },
    /// The server refused for another reason.
    #[error("the server refused a message to {subject}")]
    Refused {
        /// Published to.
        subject: String,
        /// The server's words.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl PublishError {
    /// Whether the caller should slow down rather than give up.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::QueueFull { .. })
    }

    /// Whether the same message may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::QueueFull { .. }
            | Self::NoStream { .. }
            | Self::TimedOut { .. } => true,
            Self::TooLarge { .. } | Self::Refused { .. } => false,
        }
    }
}

/// An item handed to a packer was not stored.
#[derive(Clone, Debug, Error)]
pub enum PackError {
    /// The publish of the pack with this item failed.
    #[error("the pack with this item was not published")]
    Publish(#[from] PublishError),
    /// The queue is full (only from the call that does not wait).
    #[error("the packer's queue is full")]
    QueueFull,
    /// The item alone is larger than a pack may be.
    #[error("an item of {size} bytes is over a pack's limit of {limit}")]
    ItemTooLarge {
        /// Its size.
        size: usize,
        /// A pack's limit.
        limit: usize,
    },
    /// The packer has shut down, or its worker is gone.
    #[error("the packer is closed")]
    Closed,
}

/// Reading a stream in order cannot go on.
#[derive(Debug, Error)]
pub enum PullError {
    /// Messages between the position and the next one are gone. Reported again until
    /// [`Pull::accept_gap`](crate::Pull::accept_gap) is called.
    #[error("stream {stream} continues at {got}, but {expected} was expected")]
    Gap {
        /// The stream.
        stream: String,
        /// The message after the last one delivered.
        expected: Sequence,
        /// The next one there is (or will be).
        got: Sequence,
    },
    /// The position lies beyond the stream's end: the stream was emptied, recreated or lost its
    /// tail while the reader's state was kept. Going on would skip what is published next.
    #[error("the position {position} lies beyond the end {last} of stream {stream}")]
    Ahead {
        /// The stream.
        stream: String,
        /// The reader's position.
        position: Sequence,
        /// The stream's last message.
        last: Sequence,
    },
    /// The stream is not there.
    #[error("stream {stream} does not exist")]
    Missing {
        /// The stream.
        stream: String,
    },
}

/// A hint could not be sent, or cannot be listened for. Hints may be lost, so no one retries.
#[derive(Debug, Error)]
pub enum HintError {
    /// Sending failed.
    #[error("cannot send a hint to {subject}")]
    Send {
        /// Where to.
        subject: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Listening failed.
    #[error("cannot listen for hints on {subject}")]
    Listen {
        /// What for.
        subject: String,
        /// Why.
        #[source]
        source: Cause,
    },
}

/// A question was not answered. Whether anybody has read it is known only of [`AskError::Nobody`].
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens on the subject.
    #[error("nobody listens on {subject}")]
    Nobody {
        /// Where to.
        subject: String,
    },
    /// No answer came in time.
    #[error("no answer from {subject} within {within:?}")]
    Silent {
        /// Where to.
        subject: String,
        /// How long was waited.
        within: Duration,
    },
    /// Asking failed.
    #[error("cannot ask {subject}")]
    Send {
        /// Where to.
        subject: String,
        /// Why.
        #[source]
        source: Cause,
    },
}
