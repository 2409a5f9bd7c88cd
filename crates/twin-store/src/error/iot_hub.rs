//! The number and the name that IoT Hub gives each failure (spec iot-hub-twins §2.5, §6.3): its
//! SDKs branch on them, and whoever knows IoT Hub looks them up.

use service_kit::error::IotHubCode;
use twin::ErrorCode;

use super::{Error, ReadError};

const fn code(number: u32, name: &'static str) -> ErrorCode {
    ErrorCode::new(number, name)
}

const INVALID_OPERATION: ErrorCode = code(400_003, "InvalidOperation");
const ARGUMENT_INVALID: ErrorCode = ErrorCode::ARGUMENT_INVALID;
const DEFINED_MULTIPLE_TIMES: ErrorCode = code(400_011, "DeviceDefinedMultipleTimes");
const MODULE_TO_MODULE: ErrorCode = code(400_301, "CannotRegisterModuleToModule");
const UNAUTHORIZED_ACCESS: ErrorCode = code(401_002, "IotHubUnauthorizedAccess");
const UNAUTHORIZED: ErrorCode = code(401_003, "IotHubUnauthorized");
const DEVICE_NOT_FOUND: ErrorCode = code(404_001, "DeviceNotFound");
const JOB_NOT_FOUND: ErrorCode = code(404_002, "JobNotFound");
const MODULE_NOT_FOUND: ErrorCode = code(404_010, "ModuleNotFound");
const DEVICE_EXISTS: ErrorCode = code(409_001, "DeviceAlreadyExists");
const JOB_EXISTS: ErrorCode = code(409_002, "JobAlreadyExists");
const MODULE_EXISTS: ErrorCode = code(409_301, "ModuleAlreadyExistsOnDevice");
const PRECONDITION_FAILED: ErrorCode = ErrorCode::PRECONDITION_FAILED;
const TOO_MANY_DEVICES: ErrorCode = code(413_002, "TooManyDevices");
const TOO_MANY_MODULES: ErrorCode = code(413_003, "TooManyModulesOnDevice");
const THROTTLED: ErrorCode = code(429_001, "ThrottlingException");
const TOO_MANY_JOBS: ErrorCode = code(429_004, "ThrottlingMaxActiveJobCountExceeded");
const SERVER_ERROR: ErrorCode = ErrorCode::SERVER_ERROR;
const UNAVAILABLE: ErrorCode = code(503_001, "ServiceUnavailable");
const TIMEOUT: ErrorCode = code(504_101, "GatewayTimeout");

/// As `service_kit` passes it on.
pub(super) fn told(code: ErrorCode) -> IotHubCode {
    IotHubCode::new(code.number(), code.name())
}

impl Error {
    /// What IoT Hub calls it.
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Error::Field(_) | Error::RequestReused { .. } => ARGUMENT_INVALID,
            Error::Document { source, .. } => source.error_code(),
            Error::Query { source, .. } => source.error_code(),
            Error::QueryTooSlow { .. } => TIMEOUT,
            Error::NotFound(key) if key.module.is_some() => MODULE_NOT_FOUND,
            Error::NotFound(_) => DEVICE_NOT_FOUND,
            Error::AlreadyExists(key) if key.module.is_some() => MODULE_EXISTS,
            Error::AlreadyExists(_) => DEVICE_EXISTS,
            Error::EtagMismatch { .. }
            | Error::TwinEtagMismatch { .. }
            | Error::ConditionFalse { .. }
            | Error::NeverDesired { .. } => PRECONDITION_FAILED,
            Error::HubFull { .. } => TOO_MANY_DEVICES,
            Error::TooManyModules { .. } => TOO_MANY_MODULES,
            Error::ModuleOfModule { .. } => MODULE_TO_MODULE,
            Error::DefinedTwice(_) => DEFINED_MULTIPLE_TIMES,
            Error::NoKeys { .. } | Error::TooManyGroups(_) | Error::Undecided(_) => {
                INVALID_OPERATION
            }
            Error::Twin { source, .. } | Error::Bulk { source } => source.error_code(),
            Error::TokenRefused => UNAUTHORIZED_ACCESS,
            Error::EnrollmentDenied { .. } | Error::Denied(_) => UNAUTHORIZED,
            Error::Read(error) => read_code(error),
            Error::Provisioning(error) => error.code(),
            Error::Command(error) => error.code(),
            Error::Stopping
            | Error::NotOwned { .. }
            | Error::Overtaken
            | Error::Replica(_)
            | Error::Store(
                crate::store::Error::Fenced { .. }
                | crate::store::Error::TokenUsedUp
                | crate::store::Error::Closed,
            ) => UNAVAILABLE,
            Error::Damaged(_) | Error::Secret(_) | Error::Store(_) => SERVER_ERROR,
        }
    }
}

fn read_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::WatchTooOld
        | ReadError::WatchToken { .. }
        | ReadError::Trimmed { .. }
        | ReadError::RevisionNotYet { .. }
        | ReadError::TimeNotYet { .. } => ARGUMENT_INVALID,
        ReadError::NotThen(key) if key.module.is_some() => MODULE_NOT_FOUND,
        ReadError::NotThen(_) => DEVICE_NOT_FOUND,
        ReadError::NoOperation(_) => JOB_NOT_FOUND,
        ReadError::OperationRuns(_) => INVALID_OPERATION,
        ReadError::JobExists(_) => JOB_EXISTS,
        ReadError::TooManyJobs { .. } => TOO_MANY_JOBS,
        ReadError::TooFast(_) => UNAVAILABLE,
        ReadError::History(_) => SERVER_ERROR,
        ReadError::TooManyOperations { .. } => THROTTLED,
    }
}

#[cfg(test)]
mod tests;
