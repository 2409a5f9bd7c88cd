//! Why a connection of a device ended, or was not let in.

use std::io;
use std::time::Duration;

use bus::PackError;
use iot_hub::mqtt::{BagError, TopicError};
use rmqtt_codec::error::{DecodeError, EncodeError};

use crate::auth::AuthError;
use crate::twins::Refused;

/// The reason. MQTT 3.1.1 has no way to tell it to the device, so it goes into the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// It said goodbye.
    #[error("the device disconnected")]
    Disconnected,
    /// The connection is gone.
    #[error("the connection was lost")]
    Lost,
    /// Reading or writing failed.
    #[error("the connection broke")]
    Broke(#[source] io::Error),
    /// It did not get as far as a CONNACK in time.
    #[error("no CONNECT within {seconds} s")]
    Late {
        /// How long was waited.
        seconds: u64,
    },
    /// It had shown nothing for longest when another needed its place.
    #[error("it made room for another before its CONNECT")]
    MadeRoom,
    /// The handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// What it sent is no packet.
    #[error("what was sent is no MQTT 3.1.1")]
    Malformed(#[source] DecodeError),
    /// The packet has no place here.
    #[error("a packet of the kind {kind:#04x} has no place here")]
    Unexpected {
        /// The first byte of its kind.
        kind: u8,
    },
    /// It wants exactly-once delivery.
    #[error("QoS 2 is not served")]
    Qos2,
    /// It used a topic that it may not.
    #[error(transparent)]
    Topic(TopicError),
    /// A message has too many properties, or too large ones.
    #[error("a message's properties: {0}")]
    Properties(BagError),
    /// It has too many subscriptions.
    #[error("more than {max} subscriptions")]
    Subscriptions {
        /// That many are allowed.
        max: usize,
    },
    /// A message is too large.
    #[error("a message of {bytes} bytes; at most {max} are allowed")]
    TooLarge {
        /// It has that many.
        bytes: usize,
        /// Allowed are that many.
        max: usize,
    },
    /// Its will is for a topic that a will may not have, or of `QoS` 2.
    #[error("the will is no message to the cloud of QoS 0 or 1")]
    Will,
    /// It was silent for too long.
    #[error("nothing was heard for one and a half times the keep-alive of {seconds} s")]
    Silent {
        /// Its keep-alive.
        seconds: u16,
    },
    /// It was registered, or not, and stayed.
    #[error("the {seconds} s for registering are over")]
    Overstayed {
        /// How long it may take.
        seconds: u64,
    },
    /// It asked too often.
    #[error("more than {max} requests to the provisioning service in one connection")]
    TooManyRequests {
        /// So many are allowed.
        max: usize,
    },
    /// It is not proven (any more).
    #[error(transparent)]
    NotProven(#[from] AuthError),
    /// The identity connected again.
    #[error("a newer session of this identity has begun")]
    TakenOver,
    /// A message was not made durable.
    #[error("a message cannot be stored at the moment")]
    NotStored(#[source] PackError),
    /// A patch was not made durable, and the device hears no answers.
    #[error("a patch of the reported section cannot be stored at the moment")]
    NotPatched(#[source] Refused),
    /// What it subscribed to cannot be read or kept.
    #[error("subscriptions cannot be kept at the moment")]
    NotRemembered(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Twin-store did not say which version is the present one.
    #[error("the twin cannot be followed at the moment")]
    NotFollowed(#[source] Refused),
    /// The service stops.
    #[error("the service stops")]
    Stopping,
    /// It connects too often.
    #[error("it connects too often; try again in {} s", .wait.as_secs() + 1)]
    TooOften {
        /// How long it must wait.
        wait: Duration,
    },
    /// There are too many sessions.
    #[error("this instance has its {max} sessions")]
    TooMany {
        /// That many.
        max: usize,
    },
    /// We made a packet that is none.
    #[error("a packet of ours cannot be written")]
    Encode(#[source] EncodeError),
}

/// What an end still does of that which the device has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finishes {
    /// Everything that was read.
    Everything,
    /// Messages and patches. What it asked to know and to hear is the next session's business.
    Patches,
    /// What is on its way is acknowledged, and nothing else is begun.
    Acknowledgements,
    /// Nothing.
    Nothing,
}

impl From<TopicError> for End {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Bag(error @ (BagError::TooMany | BagError::TooLarge)) => {
                Self::Properties(error)
            }
            TopicError::Bag(BagError::Malformed { .. })
            | TopicError::Unknown { .. }
            | TopicError::Malformed { .. } => Self::Topic(error),
        }
    }
}

impl End {
    /// The stable code of the end, for logs and counters.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Disconnected => "FINISHED",
            Self::Lost | Self::Broke(_) => "CONNECTION_LOST",
            Self::Late { .. } => "CONNECT_MISSING",
            Self::MadeRoom => "MADE_ROOM",
            Self::Handshake(_) => "HANDSHAKE_FAILED",
            Self::Malformed(_) => "MALFORMED_PACKET",
            Self::Unexpected { .. } => "UNEXPECTED_PACKET",
            Self::Qos2 => "QOS_2",
            Self::Topic(_) => "TOPIC_UNKNOWN",
            Self::Subscriptions { .. } => "TOO_MANY_SUBSCRIPTIONS",
            Self::TooLarge { .. } | Self::Properties(_) => "MESSAGE_TOO_LARGE",
            Self::Will => "WILL_REFUSED",
            Self::Silent { .. } => "KEEP_ALIVE_MISSED",
            Self::Overstayed { .. } => "REGISTRATION_OVER",
            Self::TooManyRequests { .. } => "TOO_MANY_REQUESTS",
            Self::NotProven(error) => error.code(),
            Self::TakenOver => "SESSION_TAKEN_OVER",
            Self::NotStored(_) => "MESSAGE_NOT_STORED",
            Self::NotPatched(_) => "PATCH_NOT_STORED",
            Self::NotRemembered(_) => "SUBSCRIPTIONS_NOT_KEPT",
            Self::NotFollowed(_) => "TWIN_UNAVAILABLE",
            Self::Stopping => "SERVICE_STOPPING",
            Self::TooOften { .. } => "TOO_MANY_CONNECTS",
            Self::TooMany { .. } => "TOO_MANY_SESSIONS",
            Self::Encode(_) => "DEFECT",
        }
    }

    /// Whether whoever looks after the device would ask why, once it was let in.
    pub(super) fn is_told(&self) -> bool {
        match self {
            Self::Malformed(_)
            | Self::Unexpected { .. }
            | Self::Qos2
            | Self::Topic(_)
            | Self::Subscriptions { .. }
            | Self::TooLarge { .. }
            | Self::Properties(_)
            | Self::Will
            | Self::TooManyRequests { .. }
            | Self::Silent { .. }
            | Self::Overstayed { .. }
            | Self::Handshake(_)
            | Self::NotProven(_)
            | Self::TakenOver
            | Self::NotStored(_)
            | Self::NotPatched(_)
            | Self::NotRemembered(_)
            | Self::NotFollowed(_)
            | Self::TooOften { .. }
            | Self::TooMany { .. }
            | Self::Encode(_) => true,
            // Devices leave, networks break, ports are scanned, and a service that stops says so.
            Self::Disconnected
            | Self::Lost
            | Self::Broke(_)
            | Self::Late { .. }
            | Self::MadeRoom
            | Self::Stopping => false,
        }
    }

    /// The same of one that was not let in. Whoever judges proofs tells of those that fail.
    pub(super) fn is_told_before_the_connack(&self) -> bool {
        self.is_told() && !matches!(self, Self::NotProven(_))
    }

    /// What of that which was read of the device is still done.
    pub(super) fn finishes(&self) -> Finishes {
        match self {
            Self::TakenOver => Finishes::Patches,
            // What it has sent while it had a right to is acknowledged; it has none to more.
            Self::NotProven(_) => Finishes::Acknowledgements,
            // Those that we wait for are away, or the session has not begun.
            Self::NotStored(_)
            | Self::NotPatched(_)
            | Self::NotRemembered(_)
            | Self::NotFollowed(_)
            | Self::Encode(_)
            | Self::Late { .. }
            | Self::MadeRoom
            | Self::Handshake(_)
            | Self::Overstayed { .. }
            | Self::TooManyRequests { .. }
            | Self::TooOften { .. }
            | Self::TooMany { .. } => Finishes::Nothing,
            Self::Disconnected
            | Self::Lost
            | Self::Broke(_)
            | Self::Malformed(_)
            | Self::Unexpected { .. }
            | Self::Qos2
            | Self::Topic(_)
            | Self::Subscriptions { .. }
            | Self::TooLarge { .. }
            | Self::Properties(_)
            | Self::Will
            | Self::Silent { .. }
            | Self::Stopping => Finishes::Everything,
        }
    }

    /// Whether the device's will is to be published: it did not say goodbye, it is not us who leave,
    /// and nobody has taken its right to send from it.
    pub(super) fn opens_the_will(&self) -> bool {
        if let Self::NotProven(error) = self {
            return !error.says_it_may_not_send();
        }
        !matches!(self, Self::Disconnected | Self::Stopping)
    }
}
