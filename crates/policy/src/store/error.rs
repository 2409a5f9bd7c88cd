//! Why the store did not do as asked, and what that means to a caller.

use service_kit::error::{Classified, IotHubCode, Kind};

use super::POLICIES_MAX;
use crate::policy_doc::{PolicyId, Problems};

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such policy.
    #[error("there is no policy {id}")]
    NotFound {
        /// Which one.
        id: PolicyId,
    },
    /// The policy never had such a revision.
    #[error("policy {id} has no revision {asked}; it has 1 to {newest}")]
    NoRevision {
        /// Of which policy.
        id: PolicyId,
        /// Which one.
        asked: u64,
        /// The last that there is.
        newest: u64,
    },
    /// Somebody else changed the policy in between.
    #[error("policy {id} changed in between: its etag is {found}, the request expects {expected}")]
    Etag {
        /// Which one.
        id: PolicyId,
        /// What it has.
        found: String,
        /// What the request names.
        expected: String,
    },
    /// A newer revision would take back one that is on its way and goes on well.
    #[error(
        "revision {revision} of policy {id} is on its way, in {released} of {waves} waves with {twins} \
         twins, which would get back what they had before it; wait for its end, or pause or abort its \
         rollout first"
    )]
    UnderWay {
        /// Of which policy.
        id: PolicyId,
        /// Which revision.
        revision: u64,
        /// Waves that have it.
        released: usize,
        /// Of so many.
        waves: usize,
        /// Twins in those that have it, as they were planned.
        twins: u64,
    },
    /// There are as many policies as there may be.
    #[error("there are {POLICIES_MAX} policies, which is the most; delete one first")]
    TooMany,
    /// A stored policy cannot be used by this program. What it has set stays until it can, or is deleted: to go
    /// on without it would take its settings out of the whole fleet.
    #[error("the stored policy {id} cannot be used")]
    Policy {
        /// Which one.
        id: String,
        /// What is wrong with it.
        #[source]
        source: Problems,
    },
    /// A stored value is not what we write.
    #[error("the policy store is damaged: {what}")]
    Damaged {
        /// Where and how.
        what: String,
    },
    /// The store was made by a newer version of Twinward.
    #[error("the policy store has schema {found}, this program knows {known}; use a newer program")]
    Newer {
        /// Of the store.
        found: i64,
        /// Of this program.
        known: i64,
    },
    /// The data directory cannot be used.
    #[error("cannot use the folder {path}")]
    Folder {
        /// The folder.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The engine failed.
    #[error("the policy store cannot {action}")]
    Engine {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
    /// The thread that did the work is gone.
    #[error("the policy store was stopped in the middle of its work")]
    Stopped,
}

impl Error {
    /// Whether a row is damaged, and nothing beside it; else the store as a whole has failed.
    pub(super) fn is_of_row(&self) -> bool {
        match self {
            Error::Policy { .. } | Error::Damaged { .. } => true,
            Error::Engine { source, .. } => matches!(
                source,
                rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
                    | rusqlite::Error::Utf8Error(..)
                    | rusqlite::Error::QueryReturnedNoRows
            ),
            _ => false,
        }
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NotFound { .. } | Error::NoRevision { .. } => Kind::NotFound,
            Error::Etag { .. } => Kind::Aborted,
            Error::UnderWay { .. } => Kind::FailedPrecondition,
            Error::TooMany => Kind::ResourceExhausted,
            Error::Stopped => Kind::Unavailable,
            Error::Policy { .. } | Error::Damaged { .. } | Error::Newer { .. } => Kind::DataLoss,
            Error::Folder { .. } | Error::Engine { .. } => Kind::Internal,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::NotFound { .. } => "POLICY_NOT_FOUND",
            Error::NoRevision { .. } => "REVISION_NOT_FOUND",
            Error::Etag { .. } => "ETAG_MISMATCH",
            Error::UnderWay { .. } => "ROLLOUT_UNDER_WAY",
            Error::TooMany => "TOO_MANY_POLICIES",
            Error::Stopped => "STOPPING",
            Error::Policy { .. } | Error::Damaged { .. } => "STORE_DAMAGED",
            Error::Newer { .. } => "STORE_NEWER",
            Error::Folder { .. } | Error::Engine { .. } => "STORE_FAILED",
        }
    }

    fn iot_hub(&self) -> IotHubCode {
        match self {
            Error::NotFound { .. } => IotHubCode::new(404_301, "ConfigurationNotFound"),
            Error::TooMany => IotHubCode::new(413_101, "ConfigurationCountLimitExceeded"),
            Error::NoRevision { .. }
            | Error::Etag { .. }
            | Error::UnderWay { .. }
            | Error::Stopped
            | Error::Policy { .. }
            | Error::Damaged { .. }
            | Error::Newer { .. }
            | Error::Folder { .. }
            | Error::Engine { .. } => self.kind().iot_hub(),
        }
    }
}
