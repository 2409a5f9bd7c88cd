//! What a failure means to the shell: the one table of exit codes of every program of ours, so that a
//! script can tell a mistake of its own from an outage without reading sentences.
//!
//! The numbers are a promise, and this is the only file that has them.

use crate::error::Kind;

/// Everything went well.
pub const OK: u8 = 0;
/// Something went wrong that has no code of its own, for instance a part of the program.
pub const FAILED: u8 = 1;
/// The command line is wrong. Clap ends with 2 as well, as shells and most programs do.
pub const USAGE: u8 = 2;
/// What was named does not exist.
pub const NOT_FOUND: u8 = 3;
/// It exists already, or somebody changed it in between.
pub const CONFLICT: u8 = 4;
/// A file, a value or the configuration is not acceptable.
pub const INVALID: u8 = 5;
/// A service cannot be reached, or did not answer in time; trying again may help.
pub const UNAVAILABLE: u8 = 6;
/// The token or certificate is missing, wrong, or may not do this.
pub const DENIED: u8 = 7;
/// The state of things does not allow it: a limit, or a past that is no longer kept.
pub const PRECONDITION: u8 = 8;
/// A service failed; its log says why.
pub const INTERNAL: u8 = 9;
/// Ended by a second SIGINT: 128 and the signal's number, as a shell reports it.
pub const SIGINT: u8 = 130;
/// Ended by a second SIGTERM.
pub const SIGTERM: u8 = 143;

impl Kind {
    /// The exit code of a process that ends because of this kind of failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::InvalidArgument => INVALID,
            Self::NotFound => NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => CONFLICT,
            Self::PermissionDenied | Self::Unauthenticated => DENIED,
            Self::FailedPrecondition | Self::OutOfRange | Self::ResourceExhausted => PRECONDITION,
            Self::Unavailable | Self::DeadlineExceeded => UNAVAILABLE,
            Self::Unimplemented | Self::Internal | Self::DataLoss => INTERNAL,
        }
    }
}
