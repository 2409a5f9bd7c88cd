//! What a caller is told whose call could neither be decided here nor handed over.

use service_kit::error::{Classified, IotHubCode, Kind};

/// Why a call was not carried out, as far as is known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Undelivered {
    /// It has more bytes than any call may have.
    #[error("the request has more than {allowed} bytes, which is the most that is taken")]
    TooLarge {
        /// The most.
        allowed: usize,
    },
    /// It broke off.
    #[error("the request cannot be read: {problem}")]
    Unreadable {
        /// Why.
        problem: String,
    },
    /// Its partition has no owner that answers.
    #[error("the owner of the partition does not answer; try again")]
    NoOwner,
    /// The way to the owner was lost while the call was under way.
    #[error(
        "the connection to the owner of the partition was lost; \
         whether the call was carried out is not known"
    )]
    InDoubt,
}

impl Classified for Undelivered {
    fn kind(&self) -> Kind {
        match self {
            Self::TooLarge { .. } | Self::Unreadable { .. } => Kind::InvalidArgument,
            Self::NoOwner | Self::InDoubt => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "MESSAGE_TOO_LARGE",
            Self::Unreadable { .. } => "MALFORMED_MESSAGE",
            Self::NoOwner => "PARTITION_WITHOUT_OWNER",
            Self::InDoubt => "OUTCOME_UNKNOWN",
        }
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Self::TooLarge { .. } => IotHubCode::MESSAGE_TOO_LARGE,
            Self::Unreadable { .. } => IotHubCode::FORMAT_ERROR,
            Self::NoOwner | Self::InDoubt => self.kind().iot_hub(),
        }
    }
}
