//! Why provisioning refuses.

use service_kit::error::Kind;
use twin::ErrorCode;

/// Why an enrolment is not changed, or a device not registered. What a device proves wrongly is told
/// in one and the same way, so that nobody learns which enrolments there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProvisioningError {
    /// There is no such enrolment.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The id is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// The enrolment changed since the caller read it.
    #[error("{name} changed in between: its etag is {actual}, the request expects {expected}")]
    Etag {
        /// Which.
        name: String,
        /// What the request expects.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// There are as many groups as there may be.
    #[error("the hub has {allowed} enrolment groups already; remove one, no more are allowed")]
    TooManyGroups {
        /// How many.
        allowed: usize,
    },
    /// There are as many of single devices as there may be.
    #[error(
        "the hub has {allowed} enrolments of single devices already, as many as `enrollments_max` \
         allows; remove one, or enrol devices as a group"
    )]
    TooManyIndividuals {
        /// How many.
        allowed: u64,
    },
    /// Keys were to be derived from a group that has none.
    #[error("{0} does not prove itself by keys, so there are none to derive others from")]
    NoKeys(String),
    /// The device has proven nothing.
    #[error(
        "the registration is refused: the id scope, the registration id and the proof do not belong \
         to an enrolment of this hub"
    )]
    Refused,
    /// The enrolment may not be used.
    #[error("the registration is refused: the enrolment of {registration} is disabled")]
    Disabled {
        /// Who registers.
        registration: String,
    },
    /// The device that was to be made is another one's.
    #[error(
        "devices/{device} exists already, was not registered through this enrolment and has other \
         credentials; delete it, make an enrolment for it alone, or give the enrolment another \
         device_id"
    )]
    DeviceTaken {
        /// Which.
        device: String,
    },
    /// The device has not registered, or not with this operation.
    #[error("{registration} has no such registration; register first")]
    NotRegistered {
        /// Who asks.
        registration: String,
    },
}

impl ProvisioningError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            ProvisioningError::NotFound(_) | ProvisioningError::NotRegistered { .. } => {
                Kind::NotFound
            }
            ProvisioningError::Exists(_) | ProvisioningError::DeviceTaken { .. } => {
                Kind::AlreadyExists
            }
            ProvisioningError::Etag { .. } => Kind::Aborted,
            ProvisioningError::TooManyGroups { .. }
            | ProvisioningError::TooManyIndividuals { .. }
            | ProvisioningError::NoKeys(_) => Kind::FailedPrecondition,
            ProvisioningError::Refused => Kind::Unauthenticated,
            ProvisioningError::Disabled { .. } => Kind::PermissionDenied,
        }
    }

    pub(crate) fn reason(&self) -> &'static str {
        match self {
            ProvisioningError::NotFound(_) => "ENROLLMENT_NOT_FOUND",
            ProvisioningError::Exists(_) => "ENROLLMENT_ALREADY_EXISTS",
            ProvisioningError::Etag { .. } => "ETAG_MISMATCH",
            ProvisioningError::TooManyGroups { .. } => "TOO_MANY_ENROLLMENT_GROUPS",
            ProvisioningError::TooManyIndividuals { .. } => "TOO_MANY_ENROLLMENTS",
            ProvisioningError::NoKeys(_) => "NO_KEYS",
            ProvisioningError::Refused => "REGISTRATION_REFUSED",
            ProvisioningError::Disabled { .. } => "ENROLLMENT_DISABLED",
            ProvisioningError::DeviceTaken { .. } => "DEVICE_ALREADY_EXISTS",
            ProvisioningError::NotRegistered { .. } => "NOT_REGISTERED",
        }
    }

    /// The number that the provisioning service has for it, as far as it is known; else the status
    /// with zeros.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            ProvisioningError::NotFound(_) => ErrorCode::new(404_201, "EnrollmentNotFound"),
            ProvisioningError::NotRegistered { .. } => {
                ErrorCode::new(404_000, "RegistrationNotFound")
            }
            ProvisioningError::Exists(_) => ErrorCode::new(409_201, "EnrollmentConflict"),
            ProvisioningError::DeviceTaken { .. } => ErrorCode::new(409_001, "DeviceAlreadyExists"),
            ProvisioningError::Etag { .. } => ErrorCode::PRECONDITION_FAILED,
            ProvisioningError::TooManyGroups { .. }
            | ProvisioningError::TooManyIndividuals { .. }
            | ProvisioningError::NoKeys(_) => ErrorCode::new(400_003, "InvalidOperation"),
            ProvisioningError::Refused | ProvisioningError::Disabled { .. } => {
                ErrorCode::new(401_002, "Unauthorized")
            }
        }
    }
}
