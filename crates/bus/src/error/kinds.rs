//! What the bus's errors mean to a caller, in the services' common vocabulary. The bus is a part
//! of the service, so its refusals are the service's own trouble: never the remote caller's fault,
//! except that it may be asked to slow down.

use service_kit::error::{Classified, Kind};

use super::{ConnectError, EnsureError, HintError, PackError, PublishError, PullError};

impl Classified for ConnectError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoServers
            | Self::Credentials { .. }
            | Self::TooOld { .. }
            | Self::NoJetStream { .. } => Kind::FailedPrecondition,
            Self::Refused { .. } => Kind::PermissionDenied,
            Self::Unreachable { .. } | Self::JetStreamSilent { .. } => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::NoServers => "BUS_NOT_CONFIGURED",
            Self::Credentials { .. } => "BUS_CREDENTIALS_UNREADABLE",
            Self::Refused { .. } => "BUS_CREDENTIALS_REFUSED",
            Self::Unreachable { .. } => "BUS_UNREACHABLE",
            Self::TooOld { .. } => "BUS_TOO_OLD",
            Self::NoJetStream { .. } => "BUS_WITHOUT_JETSTREAM",
            Self::JetStreamSilent { .. } => "BUS_SILENT",
        }
    }
}

impl Classified for EnsureError {
    fn kind(&self) -> Kind {
        match self {
            Self::Incompatible { .. } | Self::Missing { .. } => Kind::FailedPrecondition,
            Self::Failed { .. } | Self::Status { .. } | Self::Trim { .. } => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Incompatible { .. } => "STREAM_INCOMPATIBLE",
            Self::Missing { .. } => "STREAM_MISSING",
            Self::Failed { .. } => "STREAM_NOT_ENSURED",
            Self::Status { .. } => "STREAM_UNREADABLE",
            Self::Trim { .. } => "STREAM_NOT_TRIMMED",
        }
    }
}

impl Classified for PublishError {
    fn kind(&self) -> Kind {
        match self {
            Self::Full { .. } | Self::QueueFull { .. } => Kind::ResourceExhausted,
            Self::NoStream { .. } => Kind::Unavailable,
            Self::TimedOut { .. } => Kind::DeadlineExceeded,
            Self::TooLarge { .. } | Self::Refused { .. } => Kind::Internal,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Full { .. } => "STREAM_FULL",
            Self::QueueFull { .. } => "QUEUE_FULL",
            Self::NoStream { .. } => "STREAM_MISSING",
            Self::TimedOut { .. } => "PUBLISH_TIMED_OUT",
            Self::TooLarge { .. } => "PUBLISH_TOO_LARGE",
            Self::Refused { .. } => "PUBLISH_REFUSED",
        }
    }
}

impl Classified for PackError {
    fn kind(&self) -> Kind {
        match self {
            Self::Publish(error) => error.kind(),
            Self::QueueFull => Kind::ResourceExhausted,
            Self::ItemTooLarge { .. } => Kind::InvalidArgument,
            Self::Closed => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Publish(error) => error.reason(),
            Self::QueueFull => "QUEUE_FULL",
            Self::ItemTooLarge { .. } => "ITEM_TOO_LARGE",
            Self::Closed => "SHUTTING_DOWN",
        }
    }
}

impl Classified for PullError {
    fn kind(&self) -> Kind {
        match self {
            // Acknowledged messages are gone, or the state is ahead of what made it.
            Self::Gap { .. } | Self::Ahead { .. } => Kind::DataLoss,
            Self::Missing { .. } => Kind::FailedPrecondition,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Gap { .. } => "STREAM_GAP",
            Self::Ahead { .. } => "STREAM_BEHIND_POSITION",
            Self::Missing { .. } => "STREAM_MISSING",
        }
    }
}

impl Classified for HintError {
    fn kind(&self) -> Kind {
        match self {
            Self::Send { .. } | Self::Listen { .. } => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Send { .. } => "HINT_NOT_SENT",
            Self::Listen { .. } => "HINT_NOT_HEARD",
        }
    }
}
