//! What a [`Kind`] means to the shell: process exit codes, after BSD's `sysexits.h`, so that a
//! script can tell a mistake of its own from an outage.

use crate::error::Kind;

/// Everything went well.
pub const OK: u8 = 0;
/// The command line is wrong (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// The configuration is wrong (`EX_CONFIG`).
pub const CONFIG: u8 = 78;
/// Ended by a second SIGINT.
pub const SIGINT: u8 = 130;
/// Ended by a second SIGTERM.
pub const SIGTERM: u8 = 143;

impl Kind {
    /// The exit code of a process that ends because of this kind of failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::InvalidArgument
            | Self::AlreadyExists
            | Self::FailedPrecondition
            | Self::OutOfRange => 65,
            Self::NotFound => 68,
            Self::Unavailable | Self::Unimplemented => 69,
            Self::Internal | Self::DataLoss => 70,
            Self::Aborted | Self::ResourceExhausted | Self::DeadlineExceeded => 75,
            Self::PermissionDenied | Self::Unauthenticated => 77,
        }
    }
}
