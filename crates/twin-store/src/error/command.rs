//! Why a device did not do what it was asked.

use service_kit::error::Kind;
use twin::{ErrorCode, IdentityKey};
use wire::names::identity_name;

/// Why a device did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Nothing was sent: it is not there.
    #[error(
        "{} is not connected, or takes no calls of this method; nothing was sent. Call again when \
         it is connected, or with a connect timeout to wait for it",
        identity_name(.0)
    )]
    NotOnline(IdentityKey),
    /// It was sent, and nothing came back.
    #[error(
        "{} has not answered within {seconds} s; whether it carried the call out is not known",
        identity_name(.key)
    )]
    NotAnswered {
        /// Who.
        key: IdentityKey,
        /// How long was waited.
        seconds: u64,
    },
    /// As many calls as allowed wait already.
    #[error("too many calls wait for {} or for this hub; call again later", identity_name(.0))]
    Busy(IdentityKey),
    /// It answered with something that cannot be passed on.
    #[error(
        "{} has carried the call out with status {status}, but the payload of its answer {problem}",
        identity_name(.key)
    )]
    BadAnswer {
        /// Who.
        key: IdentityKey,
        /// What it said.
        status: i32,
        /// What is wrong.
        problem: String,
    },
    /// The payload of a call is too large.
    #[error(
        "the payload has {bytes} bytes; at most {} are allowed",
        iot_hub::method::PAYLOAD_BYTES_MAX
    )]
    PayloadTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// As many messages as allowed wait already.
    #[error(
        "{} messages wait for {} already; no more are allowed until it takes some, they end, or the \
         queue is purged",
        iot_hub::message::QUEUE_MAX,
        identity_name(.0)
    )]
    QueueFull(IdentityKey),
    /// The queues are nearly full, and this one has its share of them.
    #[error(
        "the queues of all devices are more than half full, and {} may then have {max} bytes waiting; no \
         more are allowed until it takes some, they end, or the queue is purged",
        identity_name(key)
    )]
    QueueTooLarge {
        /// Whose queue.
        key: IdentityKey,
        /// Its share in bytes.
        max: u64,
    },
    /// A message is too large.
    #[error(
        "the message has {bytes} bytes with its properties; at most {} are allowed",
        iot_hub::message::MESSAGE_BYTES_MAX
    )]
    MessageTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A message did not get into its queue, or nobody knows whether it did.
    #[error("the message was not sent, or it is not known that it was; try again")]
    NotSent(#[source] bus::PublishError),
    /// A queue cannot be looked at.
    #[error("the queues of devices cannot be reached at the moment; try again")]
    Queue(#[source] bus::EnsureError),
    /// The bus is away, which is known without asking it.
    #[error("the queues of devices cannot be reached at the moment; try again")]
    QueuesAway,
    /// The bus is away.
    #[error("devices cannot be reached at the moment; try again")]
    Bus(#[source] bus::AskError),
}

impl CommandError {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::NotOnline(_) | Self::BadAnswer { .. } => Kind::FailedPrecondition,
            Self::NotAnswered { .. } => Kind::DeadlineExceeded,
            Self::Busy(_) | Self::QueueFull(_) | Self::QueueTooLarge { .. } => {
                Kind::ResourceExhausted
            }
            Self::PayloadTooLarge { .. } | Self::MessageTooLarge { .. } => Kind::InvalidArgument,
            Self::Bus(_) | Self::NotSent(_) | Self::Queue(_) | Self::QueuesAway => {
                Kind::Unavailable
            }
        }
    }

    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotOnline(_) => "DEVICE_NOT_ONLINE",
            Self::NotAnswered { .. } => "METHOD_NOT_ANSWERED",
            Self::Busy(_) => "TOO_MANY_CALLS",
            Self::BadAnswer { .. } => "METHOD_ANSWER_UNUSABLE",
            Self::PayloadTooLarge { .. } => "PAYLOAD_TOO_LARGE",
            Self::QueueFull(_) => "QUEUE_FULL",
            Self::QueueTooLarge { .. } => "QUEUE_TOO_LARGE",
            Self::MessageTooLarge { .. } => "MESSAGE_TOO_LARGE",
            Self::NotSent(_) => "MESSAGE_NOT_SENT",
            Self::Bus(_) | Self::Queue(_) | Self::QueuesAway => "BUS_UNREACHABLE",
        }
    }

    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::NotOnline(_) => ErrorCode::new(404_103, "DeviceNotOnline"),
            Self::NotAnswered { .. } => ErrorCode::new(504_101, "GatewayTimeout"),
            Self::Busy(_) => ErrorCode::new(429_001, "ThrottlingException"),
            // No status that a client tries again on: the device has done it.
            Self::BadAnswer { .. } => ErrorCode::new(400_012, "DeserializationError"),
            Self::QueueFull(_) | Self::QueueTooLarge { .. } => {
                ErrorCode::new(403_004, "DeviceMaximumQueueDepthExceeded")
            }
            Self::PayloadTooLarge { .. } | Self::MessageTooLarge { .. } => {
                ErrorCode::new(413_001, "MessageTooLarge")
            }
            Self::Bus(_) | Self::NotSent(_) | Self::Queue(_) | Self::QueuesAway => {
                ErrorCode::new(503_001, "ServiceUnavailable")
            }
        }
    }
}
