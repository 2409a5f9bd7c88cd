//! Why a configuration was not written, and what that means to a caller.

use service_kit::error::{Classified, IotHubCode, Kind};

use super::CONFIGURATIONS_MAX;
use crate::configuration_doc::{ConfigurationId, Part};
use crate::store::Error;

/// Why a configuration was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigurationError {
    /// There is none of this id.
    #[error("there is no configuration {0}")]
    NotFound(ConfigurationId),
    /// There is one of this id.
    #[error("there is a configuration {0} already; an update names its etag, or `*`")]
    Exists(ConfigurationId),
    /// Somebody else changed it in between.
    #[error("the configuration {id} changed in between: it is at version {found}")]
    Changed {
        /// Which one.
        id: ConfigurationId,
        /// Its present revision.
        found: u64,
    },
    /// What can never change would.
    #[error(
        "the {} of the configuration {id} can never change; delete it and create it again, or \
         create another with a higher priority",
        part.wire_field()
    )]
    Immutable {
        /// Which one.
        id: ConfigurationId,
        /// What of it.
        part: Part,
    },
    /// There are as many as there may be.
    #[error("there are {CONFIGURATIONS_MAX} configurations, which is the most; delete one first")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Classified for ConfigurationError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Exists(_) => Kind::AlreadyExists,
            Self::Changed { .. } => Kind::Aborted,
            Self::Immutable { .. } => Kind::FailedPrecondition,
            Self::TooMany => Kind::ResourceExhausted,
            Self::Store(error) => error.kind(),
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::NotFound(_) => "CONFIGURATION_NOT_FOUND",
            Self::Exists(_) => "CONFIGURATION_EXISTS",
            Self::Changed { .. } => "ETAG_MISMATCH",
            Self::Immutable { .. } => "CONFIGURATION_IMMUTABLE",
            Self::TooMany => "TOO_MANY_CONFIGURATIONS",
            Self::Store(error) => error.reason(),
        }
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Self::NotFound(_) => IotHubCode::new(404_301, "ConfigurationNotFound"),
            Self::Exists(_) => IotHubCode::new(409_401, "ConfigurationAlreadyExists"),
            Self::Immutable { .. } => {
                IotHubCode::new(400_403, "CannotModifyImmutableConfigurationContent")
            }
            Self::TooMany => IotHubCode::new(413_101, "ConfigurationCountLimitExceeded"),
            Self::Changed { .. } => self.kind().iot_hub(),
            Self::Store(error) => error.iot_hub(),
        }
    }
}
