//! Why a call was refused, in the caller's words, with the one vocabulary of kinds.

use service_kit::auth::Denied;
use service_kit::error::{Classified, IotHubCode, Kind, Violation};
use service_kit::status::RemoteError;
use twin::{IdentityKey, Partition, TwinError, Violations, query::QueryErrorKind};
use wire::InvalidField;

use crate::provisioning::ProvisioningError;
use crate::record::Damaged;
use crate::secrets::SecretError;
use crate::store;

mod command;
mod iot_hub;
mod made;
mod read;

use made::{VIOLATIONS, broken_rules};

pub use command::CommandError;
pub use read::ReadError;

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request cannot be used.
    #[error("the request is invalid: {0}")]
    Field(InvalidField),
    /// A field of the request holds no document that a section can be.
    #[error("the request is invalid: {field}: {source}")]
    Document {
        /// Which field.
        field: String,
        /// What is wrong with it, with paths as in the twin.
        #[source]
        source: Violations,
    },
    /// A query or a condition cannot be read.
    #[error("the {field} cannot be run: {source}")]
    Query {
        /// Which field of the request holds it.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<twin::QueryError>,
    },
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
    /// The twin's service part changed since the caller read it, or the etag was never one of ours.
    #[error(
        "the twin of {} changed in between: its etag is {actual}, the request expects {expected}",
        name(.key)
    )]
    TwinEtagMismatch {
        /// Whose twin.
        key: IdentityKey,
        /// What the request expects.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The condition under which the caller wanted to write does not hold.
    #[error("{} is not written: `{condition}` does not hold of it", name(.key))]
    ConditionFalse {
        /// Whose twin.
        key: IdentityKey,
        /// In the caller's words.
        condition: String,
    },
    /// A module was to be made below a module.
    #[error("{parent:?} is a module; modules belong to devices, `devices/{{device}}`")]
    ModuleOfModule {
        /// What the request names as the parent.
        parent: String,
    },
    /// One call names the same identity twice.
    #[error("{} is named more than once in this call; name it once", name(.0))]
    DefinedTwice(IdentityKey),
    /// Keys of an identity were to be rotated that has none.
    #[error(
        "{} authenticates by {authentication} and has no keys; \
         set authentication_type to AUTHENTICATION_TYPE_SAS first",
        name(.key)
    )]
    NoKeys {
        /// Which.
        key: IdentityKey,
        /// How it proves itself.
        authentication: &'static str,
    },
    /// A request id was used before, for something else.
    #[error(
        "request_id {id:?} was used before with other content; \
         use a new UUID for each request and the same one only to repeat it"
    )]
    RequestReused {
        /// The id in question.
        id: String,
    },
    /// The caller lacks a permission that this call of the method needs.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Another replica owns the partition.
    #[error("partition {partition} is not owned by this twin-store; try again")]
    NotOwned {
        /// Which partition.
        partition: Partition,
    },
    /// Another replica changed what was decided on, or damage beside it kept it from being written.
    #[error("something has changed meanwhile, and nothing was written; try again")]
    Overtaken,
    /// Another replica was to do its part of a call, and did not.
    #[error("another replica did not do its part; repeat the call: {0}")]
    Replica(Box<RemoteError>),
    /// The device has as many modules as it may.
    #[error("devices/{device} has {allowed} modules already; no more are allowed")]
    TooManyModules {
        /// Which device.
        device: String,
        /// How many a device may have.
        allowed: usize,
    },
    /// The hub has as many devices or modules as it may.
    #[error(
        "the hub has {allowed} {what}, as many as twin-store's setting `{setting}` allows; remove some \
         or raise it"
    )]
    HubFull {
        /// `devices` or `modules`.
        what: &'static str,
        /// How many there may be.
        allowed: u64,
        /// The setting that says so.
        setting: &'static str,
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
    /// A patch breaks rules whatever twin it is written to.
    #[error("no twin can take the patch: {source}")]
    Bulk {
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
    /// A reading call, or an operation over many twins, was refused.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An enrolment was not changed, or a device not registered.
    #[error(transparent)]
    Provisioning(#[from] ProvisioningError),
    /// A device did not do what it was asked.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The service is stopping or has lost its partitions.
    #[error("twin-store is stopping; try again")]
    Stopping,
    /// A stored record cannot be read.
    #[error(transparent)]
    Damaged(Damaged),
    /// A condition takes too many steps on a twin.
    #[error(transparent)]
    Undecided(Damaged),
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

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Field(_)
            | Error::Document { .. }
            | Error::ModuleOfModule { .. }
            | Error::DefinedTwice(_)
            | Error::RequestReused { .. } => Kind::InvalidArgument,
            Error::Query { source, .. } => match source.kind {
                QueryErrorKind::Invalid | QueryErrorKind::Unsupported => Kind::InvalidArgument,
                QueryErrorKind::TooLong => Kind::FailedPrecondition,
            },
            Error::QueryTooSlow { .. } => Kind::DeadlineExceeded,
            Error::NotFound(_) => Kind::NotFound,
            Error::AlreadyExists(_) => Kind::AlreadyExists,
            Error::EtagMismatch { .. } | Error::TwinEtagMismatch { .. } => Kind::Aborted,
            Error::Twin { source, .. } | Error::Bulk { source } => match source {
                TwinError::Rules(_) => Kind::InvalidArgument,
                TwinError::EtagMismatch { .. } | TwinError::VersionMismatch { .. } => Kind::Aborted,
                TwinError::VersionsExhausted => Kind::FailedPrecondition,
            },
            Error::TooManyModules { .. }
            | Error::HubFull { .. }
            | Error::NeverDesired { .. }
            | Error::ConditionFalse { .. }
            | Error::NoKeys { .. }
            | Error::Undecided(_)
            | Error::TooManyGroups(_) => Kind::FailedPrecondition,
            Error::TokenRefused => Kind::Unauthenticated,
            Error::EnrollmentDenied { .. } => Kind::PermissionDenied,
            Error::Denied(denied) => denied.kind(),
            Error::Read(error) => error.kind(),
            Error::Provisioning(error) => error.kind(),
            Error::Command(error) => error.kind(),
            Error::Stopping | Error::NotOwned { .. } | Error::Overtaken | Error::Replica(_) => {
                Kind::Unavailable
            }
            Error::Damaged(_) => Kind::DataLoss,
            Error::Secret(_) => Kind::Internal,
            Error::Store(error) => match error {
                store::Error::Fenced { .. } | store::Error::TokenUsedUp | store::Error::Closed => {
                    Kind::Unavailable
                }
                store::Error::Damaged(_) | store::Error::Unwritable(_) => Kind::DataLoss,
                store::Error::PartitionCount { .. }
                | store::Error::Newer { .. }
                | store::Error::Engine { .. } => Kind::Internal,
            },
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::Field(_) | Error::Document { .. } => "INVALID_FIELD",
            Error::Query { source, .. } => match source.kind {
                QueryErrorKind::Invalid => "INVALID_QUERY",
                QueryErrorKind::Unsupported => "UNSUPPORTED_QUERY",
                QueryErrorKind::TooLong => "QUERY_TOO_LONG",
            },
            Error::TooManyGroups(_) => "TOO_MANY_GROUPS",
            Error::Undecided(_) => "CONDITION_TOO_COSTLY",
            Error::QueryTooSlow { .. } => "QUERY_TOO_SLOW",
            Error::NotFound(key) if key.module.is_some() => "MODULE_NOT_FOUND",
            Error::NotFound(_) => "DEVICE_NOT_FOUND",
            Error::AlreadyExists(key) if key.module.is_some() => "MODULE_ALREADY_EXISTS",
            Error::AlreadyExists(_) => "DEVICE_ALREADY_EXISTS",
            Error::EtagMismatch { .. } | Error::TwinEtagMismatch { .. } => "ETAG_MISMATCH",
            Error::ConditionFalse { .. } => "CONDITION_FALSE",
            Error::ModuleOfModule { .. } => "CANNOT_REGISTER_MODULE_TO_MODULE",
            Error::DefinedTwice(_) => "DEFINED_MULTIPLE_TIMES",
            Error::NoKeys { .. } => "NO_KEYS",
            Error::RequestReused { .. } => "REQUEST_ID_REUSED",
            Error::Denied(denied) => denied.reason(),
            Error::NotOwned { .. } => "PARTITION_ELSEWHERE",
            Error::Replica(_) => "REPLICA_FAILED",
            Error::HubFull { what, .. } if *what == "modules" => "TOO_MANY_MODULES_IN_HUB",
            Error::HubFull { .. } => "TOO_MANY_DEVICES",
            Error::TooManyModules { .. } => "TOO_MANY_MODULES",
            Error::Twin { source, .. } | Error::Bulk { source } => match source {
                TwinError::Rules(_) => "INVALID_TWIN",
                TwinError::EtagMismatch { .. } => "ETAG_MISMATCH",
                TwinError::VersionMismatch { .. } => "VERSION_MISMATCH",
                TwinError::VersionsExhausted => "VERSIONS_EXHAUSTED",
            },
            Error::TokenRefused => "ENROLLMENT_TOKEN_REFUSED",
            Error::EnrollmentDenied { .. } => "ENROLLMENT_DENIED",
            Error::NeverDesired { .. } => "VERSION_NEVER_DESIRED",
            Error::Read(error) => error.reason(),
            Error::Provisioning(error) => error.reason(),
            Error::Command(error) => error.reason(),
            Error::Stopping | Error::Store(store::Error::Closed) => "STOPPING",
            Error::Damaged(_) | Error::Store(store::Error::Damaged(_)) => "RECORD_DAMAGED",
            Error::Secret(_) => "KEY_UNUSABLE",
            Error::Overtaken | Error::Store(store::Error::TokenUsedUp) => "OVERTAKEN",
            Error::Store(store::Error::Fenced { .. }) => "PARTITION_LOST",
            Error::Store(
                store::Error::PartitionCount { .. }
                | store::Error::Newer { .. }
                | store::Error::Unwritable(_)
                | store::Error::Engine { .. },
            ) => "STORE_FAILED",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Error::Field(field) => vec![Violation::new(&field.field, &field.problem)],
            Error::Query { field, source } => vec![Violation::new(*field, source.summary())],
            Error::Twin {
                source: TwinError::Rules(rules),
                ..
            }
            | Error::Bulk {
                source: TwinError::Rules(rules),
            } => broken_rules(rules),
            // What is wrong as a whole is the request's field; what is inside has its path in the twin.
            Error::Document { field, source } => broken_rules(source)
                .into_iter()
                .map(|violation| match &*violation.subject {
                    "tags" | "properties.desired" | "properties.reported" => Violation {
                        subject: field.clone(),
                        ..violation
                    },
                    _ => violation,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let mut metadata = Vec::new();
        match self {
            Error::Denied(denied) => metadata = denied.metadata(),
            Error::Document { field, source } => {
                metadata.push(("field", field.clone()));
                metadata.push((VIOLATIONS, source.count().to_string()));
            }
            Error::EtagMismatch {
                expected, actual, ..
            }
            | Error::TwinEtagMismatch {
                expected, actual, ..
            } => {
                metadata.push(("expected_etag", expected.clone()));
                metadata.push(("actual_etag", actual.clone()));
            }
            Error::Twin { source, .. } | Error::Bulk { source } => match source {
                TwinError::EtagMismatch { expected, actual } => {
                    metadata.push(("expected_etag", expected.to_string()));
                    metadata.push(("actual_etag", actual.to_string()));
                }
                TwinError::VersionMismatch {
                    expected, actual, ..
                } => {
                    metadata.push(("expected_version", expected.to_string()));
                    metadata.push(("actual_version", actual.to_string()));
                }
                TwinError::Rules(rules) => {
                    metadata.push((VIOLATIONS, rules.count().to_string()));
                }
                TwinError::VersionsExhausted => {}
            },
            _ => {}
        }
        metadata
    }

    fn iot_hub(&self) -> IotHubCode {
        iot_hub::told(self.code())
    }
}
