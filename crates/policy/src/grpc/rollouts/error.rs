//! Why a call of the rollout API is refused.

use service_kit::error::{Classified, Kind, Violation};
use thiserror::Error;
use wire::InvalidField;

use crate::policy_doc::PolicyId;
use crate::rollout::Refusal;
use crate::store;

/// Why a call is refused.
#[derive(Debug, Error)]
pub(in crate::grpc) enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// The rollout stands where this cannot be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// There never was one.
    #[error("policy {id} has no rollout of revision {revision}")]
    NotFound {
        /// Of which policy.
        id: PolicyId,
        /// Of which revision.
        revision: u64,
    },
    /// The policy's revision was put on all twins at once.
    #[error("the revision of policy {id} that is in force has no rollout: it is on all twins")]
    NoRollout {
        /// Of which policy.
        id: PolicyId,
    },
    /// Something newer is in force.
    #[error("the rollout of revision {revision} of policy {id} has been superseded")]
    NotInForce {
        /// Of which policy.
        id: PolicyId,
        /// Of which revision.
        revision: u64,
    },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Field(_) => Kind::InvalidArgument,
            Error::Refused(Refusal::OwnRevision { .. }) => Kind::PermissionDenied,
            Error::Refused(Refusal::Changed { .. }) => Kind::Aborted,
            Error::Refused(
                Refusal::Phase { .. } | Refusal::OtherWave { .. } | Refusal::StillFails { .. },
            )
            | Error::NotInForce { .. } => Kind::FailedPrecondition,
            Error::Store(error) => error.kind(),
            Error::NotFound { .. } | Error::NoRollout { .. } => Kind::NotFound,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::Field(_) => "INVALID_FIELD",
            Error::Refused(Refusal::OwnRevision { .. }) => "OWN_REVISION",
            Error::Refused(Refusal::Phase { .. }) | Error::NotInForce { .. } => "ROLLOUT_PHASE",
            Error::Refused(Refusal::OtherWave { .. }) => "ROLLOUT_WAVE",
            Error::Refused(Refusal::Changed { .. }) => "ETAG_MISMATCH",
            Error::Refused(Refusal::StillFails { .. }) => "ROLLOUT_GATE",
            Error::Store(error) => error.reason(),
            Error::NotFound { .. } | Error::NoRollout { .. } => "ROLLOUT_NOT_FOUND",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Error::Field(field) => vec![Violation::new(&field.field, &field.problem)],
            Error::Refused(_)
            | Error::Store(_)
            | Error::NotFound { .. }
            | Error::NoRollout { .. }
            | Error::NotInForce { .. } => Vec::new(),
        }
    }
}
