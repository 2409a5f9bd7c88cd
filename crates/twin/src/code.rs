//! The numbers and names under which IoT Hub reports what went wrong (spec 6.3). Its clients
//! branch on them, so an answer of ours carries the same ones.

use std::fmt;

/// A numeric error code of IoT Hub and its name; the first three digits are the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode {
    number: u32,
    name: &'static str,
}

impl ErrorCode {
    /// A value, key, query or document that breaks a rule.
    pub const ARGUMENT_INVALID: ErrorCode = ErrorCode::new(400_004, "ArgumentInvalid");
    /// A text that is no JSON at all.
    pub const FORMAT_ERROR: ErrorCode = ErrorCode::new(400_006, "IotHubFormatError");
    /// A section that has no room for a write. The number was seen in answers (spec 2.5); its name
    /// is documented nowhere and therefore ours.
    pub const TWIN_SECTION_TOO_LARGE: ErrorCode = ErrorCode::new(403_100, "TwinSectionTooLarge");
    /// A condition on an etag or a version that does not hold; also a query of too many characters.
    pub const PRECONDITION_FAILED: ErrorCode = ErrorCode::new(412_001, "PreconditionFailed");
    /// A fault of ours.
    pub const SERVER_ERROR: ErrorCode = ErrorCode::new(500_001, "ServerError");

    /// Any other code of the table. The name is part of the contract: write it as the table does.
    pub const fn new(number: u32, name: &'static str) -> ErrorCode {
        ErrorCode { number, name }
    }

    /// The number, such as 400004.
    pub fn number(self) -> u32 {
        self.number
    }

    /// The name, such as `ArgumentInvalid`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The HTTP status that the number begins with.
    pub fn http_status(self) -> u32 {
        self.number / 1000
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.name)
    }
}
