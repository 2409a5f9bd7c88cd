//! The number and the name under which IoT Hub reports a failure: its SDKs branch on them, and
//! whoever knows IoT Hub looks them up. Every answer of ours carries them, so each [`Kind`] has a
//! default; an error that knows better says so ([`super::Classified::iot_hub`]).

use std::borrow::Cow;
use std::fmt;

use super::Kind;

/// Key of the number in the metadata of an `ErrorInfo`.
pub const CODE: &str = "iot_hub_code";
/// Key of the name there.
pub const NAME: &str = "iot_hub_name";

/// A numeric error code of IoT Hub and its name. The first three digits are the HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IotHubCode {
    number: u32,
    name: Cow<'static, str>,
}

impl IotHubCode {
    /// What is called in a way that this server does not offer.
    pub const INVALID_OPERATION: IotHubCode = IotHubCode::new(400_003, "InvalidOperation");
    /// A value that breaks a rule.
    pub const ARGUMENT_INVALID: IotHubCode = IotHubCode::new(400_004, "ArgumentInvalid");
    /// Bytes that are no message at all.
    pub const FORMAT_ERROR: IotHubCode = IotHubCode::new(400_006, "IotHubFormatError");
    /// A caller that has not proven who it is.
    pub const UNAUTHORIZED_ACCESS: IotHubCode =
        IotHubCode::new(401_002, "IotHubUnauthorizedAccess");
    /// A known caller that may not do this.
    pub const UNAUTHORIZED: IotHubCode = IotHubCode::new(401_003, "IotHubUnauthorized");
    /// A message over the limit.
    pub const MESSAGE_TOO_LARGE: IotHubCode = IotHubCode::new(413_001, "MessageTooLarge");

    /// Any other code of the table. The name is part of the contract: write it as the table does.
    pub const fn new(number: u32, name: &'static str) -> IotHubCode {
        IotHubCode {
            number,
            name: Cow::Borrowed(name),
        }
    }

    /// What a peer has said.
    pub(crate) fn told(number: u32, name: &str) -> IotHubCode {
        IotHubCode {
            number,
            name: Cow::Owned(name.to_owned()),
        }
    }

    /// The number, such as 400004.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The name, such as `ArgumentInvalid`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for IotHubCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.name)
    }
}

impl Kind {
    /// What IoT Hub calls a failure of this kind of which nothing more is known.
    pub fn iot_hub(self) -> IotHubCode {
        match self {
            Self::InvalidArgument | Self::OutOfRange => IotHubCode::ARGUMENT_INVALID,
            Self::NotFound => IotHubCode::new(404_001, "DeviceNotFound"),
            Self::AlreadyExists => IotHubCode::new(409_001, "DeviceAlreadyExists"),
            Self::FailedPrecondition | Self::Unimplemented => IotHubCode::INVALID_OPERATION,
            Self::Aborted => IotHubCode::new(412_001, "PreconditionFailed"),
            Self::PermissionDenied => IotHubCode::UNAUTHORIZED,
            Self::Unauthenticated => IotHubCode::UNAUTHORIZED_ACCESS,
            Self::ResourceExhausted => IotHubCode::new(429_001, "ThrottlingException"),
            Self::Unavailable => IotHubCode::new(503_001, "ServiceUnavailable"),
            Self::DeadlineExceeded => IotHubCode::new(504_101, "GatewayTimeout"),
            Self::Internal | Self::DataLoss => IotHubCode::new(500_001, "ServerError"),
        }
    }
}
