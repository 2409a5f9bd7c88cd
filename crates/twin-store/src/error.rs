//! Why a call was refused, in the caller's words, with the one vocabulary of kinds.

use service_kit::error::{Classified, Kind, Violation};
use twin::query::QueryErrorKind;
use twin::{IdentityKey, TwinError, Violations};
use wire::InvalidField;

use crate::record::Damaged;
use crate::secrets::SecretError;
use crate::store;

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request cannot be used.
    #[error("the request is invalid: {0}")]
    Field(InvalidField),
    /// A query cannot be read.
    #[error("the query cannot be run: {0}")]
    Query(twin::QueryError),
    /// A query makes too many groups.
    #[error(transparent)]
    TooManyGroups(twin::query::TooManyGroups),
    /// A query looks at too much.
    #[error(
        "the query was stopped after {seconds} s; take fewer twins with a condition that an index \
         serves, such as `tags.site = 'paris'` or `STARTSWITH(deviceId, 'plant1-')` \
         (ExplainQuery shows what serves a query)"
    )]
    QueryTooSlow {
        /// What a query may take.
        seconds: u64,
    },
    /// There is no such identity.
    #[error("{} does not exist", name(.0))]
    NotFound(IdentityKey),
    /// The id is taken.
    #[error("{} exists already", name(.0))]
    AlreadyExists(IdentityKey),
    /// The identity changed since the caller read it.
    #[error("{} changed in between: its etag is {actual}, the request expects {expected}", name(.key))]
    EtagMismatch {
        /// Whose.
        key: IdentityKey,
        /// What the request expects.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The device has as many modules as it may.
    #[error("devices/{device} has {allowed} modules already; no more are allowed")]
    TooManyModules {
        /// Which device.
        device: String,
        /// How many a device may have.
        allowed: usize,
    },
    /// The write breaks rules of the document, or somebody was faster.
    #[error("{} cannot be written: {source}", name(.key))]
    Twin {
        /// Whose twin.
        key: IdentityKey,
        /// Why.
        #[source]
        source: TwinError,
    },
    /// The enrolment token opens nothing.
    #[error("the enrolment token is unknown, expired or used up; ask an operator for a new one")]
    TokenRefused,
    /// The enrolment token is for another device, or the device is already somebody's.
    #[error("the enrolment token does not let {device:?} in: {why}")]
    EnrollmentDenied {
        /// Which device asked.
        device: String,
        /// Why not.
        why: &'static str,
    },
    /// The agent answered for a desired version that the twin never had.
    #[error("{} never had desired version {version}", name(.key))]
    NeverDesired {
        /// Whose twin.
        key: IdentityKey,
        /// What the agent answered for.
        version: u64,
    },
    /// A watcher reads too slowly.
    #[error("the watch fell {missed} changes behind and was ended; start it again")]
    WatchTooSlow {
        /// How many changes it missed.
        missed: u64,
    },
    /// The service is stopping or has lost its partitions.
    #[error("twin-store is stopping; try again")]
    Stopping,
    /// A stored record cannot be read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A stored key cannot be opened.
    #[error("a key cannot be sealed or opened")]
    Secret(#[from] SecretError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] store::Error),
}

fn name(key: &IdentityKey) -> String {
    wire::names::identity_name(key)
}

impl From<InvalidField> for Error {
    fn from(field: InvalidField) -> Error {
        Error::Field(field)
    }
}

impl Error {
    /// Wraps what `twin` says about a write.
    pub(crate) fn twin(key: &IdentityKey, source: TwinError) -> Error {
        Error::Twin {
            key: key.clone(),
            source,
        }
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Field(_) => Kind::InvalidArgument,
            Error::Query(error) => match error.kind {
                QueryErrorKind::Invalid | QueryErrorKind::Unsupported => Kind::InvalidArgument,
                QueryErrorKind::TooLong => Kind::FailedPrecondition,
            },
            Error::QueryTooSlow { .. } => Kind::DeadlineExceeded,
            Error::NotFound(_) => Kind::NotFound,
            Error::AlreadyExists(_) => Kind::AlreadyExists,
            Error::EtagMismatch { .. } => Kind::Aborted,
            Error::Twin { source, .. } => match source {
                TwinError::Rules(_) => Kind::InvalidArgument,
                TwinError::EtagMismatch { .. } | TwinError::VersionMismatch { .. } => Kind::Aborted,
                TwinError::VersionsExhausted => Kind::FailedPrecondition,
            },
            Error::TooManyModules { .. } | Error::NeverDesired { .. } | Error::TooManyGroups(_) => {
                Kind::FailedPrecondition
            }
            Error::TokenRefused => Kind::Unauthenticated,
            Error::EnrollmentDenied { .. } => Kind::PermissionDenied,
            Error::WatchTooSlow { .. } => Kind::ResourceExhausted,
            Error::Stopping => Kind::Unavailable,
            Error::Damaged(_) => Kind::DataLoss,
            Error::Secret(_) => Kind::Internal,
            Error::Store(error) => match error {
                store::Error::Fenced { .. } | store::Error::Closed => Kind::Unavailable,
                store::Error::Damaged(_) => Kind::DataLoss,
                store::Error::PartitionCount { .. }
                | store::Error::Newer { .. }
                | store::Error::Engine { .. } => Kind::Internal,
            },
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::Field(_) => "INVALID_FIELD",
            Error::Query(error) => match error.kind {
                QueryErrorKind::Invalid => "INVALID_QUERY",
                QueryErrorKind::Unsupported => "UNSUPPORTED_QUERY",
                QueryErrorKind::TooLong => "QUERY_TOO_LONG",
            },
            Error::TooManyGroups(_) => "TOO_MANY_GROUPS",
            Error::QueryTooSlow { .. } => "QUERY_TOO_SLOW",
            Error::NotFound(key) if key.module.is_some() => "MODULE_NOT_FOUND",
            Error::NotFound(_) => "DEVICE_NOT_FOUND",
            Error::AlreadyExists(key) if key.module.is_some() => "MODULE_ALREADY_EXISTS",
            Error::AlreadyExists(_) => "DEVICE_ALREADY_EXISTS",
            Error::EtagMismatch { .. } => "ETAG_MISMATCH",
            Error::TooManyModules { .. } => "TOO_MANY_MODULES",
            Error::Twin { source, .. } => match source {
                TwinError::Rules(_) => "INVALID_TWIN",
                TwinError::EtagMismatch { .. } => "ETAG_MISMATCH",
                TwinError::VersionMismatch { .. } => "VERSION_MISMATCH",
                TwinError::VersionsExhausted => "VERSIONS_EXHAUSTED",
            },
            Error::TokenRefused => "ENROLLMENT_TOKEN_REFUSED",
            Error::EnrollmentDenied { .. } => "ENROLLMENT_DENIED",
            Error::NeverDesired { .. } => "VERSION_NEVER_DESIRED",
            Error::WatchTooSlow { .. } => "WATCH_TOO_SLOW",
            Error::Stopping | Error::Store(store::Error::Closed) => "STOPPING",
            Error::Damaged(_) | Error::Store(store::Error::Damaged(_)) => "RECORD_DAMAGED",
            Error::Secret(_) => "KEY_UNUSABLE",
            Error::Store(store::Error::Fenced { .. }) => "PARTITION_LOST",
            Error::Store(
                store::Error::PartitionCount { .. }
                | store::Error::Newer { .. }
                | store::Error::Engine { .. },
            ) => "STORE_FAILED",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Error::Field(field) => vec![Violation::new(&field.field, &field.problem)],
            Error::Query(error) => vec![Violation::new("query", error.summary())],
            Error::Twin {
                source: TwinError::Rules(rules),
                ..
            } => broken_rules(rules),
            _ => Vec::new(),
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Error::EtagMismatch {
                expected, actual, ..
            } => {
                vec![
                    ("expected_etag", expected.clone()),
                    ("actual_etag", actual.clone()),
                ]
            }
            Error::Twin { source, .. } => match source {
                TwinError::EtagMismatch { expected, actual } => vec![
                    ("expected_etag", expected.to_string()),
                    ("actual_etag", actual.to_string()),
                ],
                TwinError::VersionMismatch {
                    expected, actual, ..
                } => vec![
                    ("expected_version", expected.to_string()),
                    ("actual_version", actual.to_string()),
                ],
                TwinError::Rules(_) | TwinError::VersionsExhausted => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

fn broken_rules(rules: &Violations) -> Vec<Violation> {
    rules
        .list()
        .iter()
        .map(|rule| {
            let text = format!("is {}; allowed is {}", rule.actual, rule.allowed);
            Violation::new(&rule.path, text)
        })
        .collect()
}
