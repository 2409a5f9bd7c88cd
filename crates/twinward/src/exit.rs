//! Exit codes: one per kind of failure, so that scripts need not read sentences.
//!
//! This is the only file where a kind becomes a number, and the numbers are a promise.

use std::process::ExitCode;

/// What kind of failure ended the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something went wrong that has no code of its own; also `status` when a part is not serving.
    Failed,
    /// The command line is wrong.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// It exists already, or somebody changed it in between.
    Conflict,
    /// A file, a patch or a value is not acceptable.
    Invalid,
    /// A service cannot be reached, or did not answer in time.
    Unavailable,
    /// The token is missing, wrong, or may not do this.
    Denied,
    /// The state of things does not allow it, for instance a limit.
    Precondition,
    /// A service failed; its log says why.
    Internal,
    /// A second signal cut the shutdown short.
    Interrupted(Signal),
}

/// The signals that end the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What service managers send.
    Terminate,
}

impl Signal {
    /// The name as people know it.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        }
    }
}

impl Kind {
    /// The number the program ends with.
    pub fn code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            // Clap ends with 2 as well, as shells and most programs do.
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Conflict => 4,
            Kind::Invalid => 5,
            Kind::Unavailable => 6,
            Kind::Denied => 7,
            Kind::Precondition => 8,
            Kind::Internal => 9,
            // 128 + the signal's number, as a shell reports it.
            Kind::Interrupted(Signal::Interrupt) => 130,
            Kind::Interrupted(Signal::Terminate) => 143,
        }
    }
}

impl From<Kind> for ExitCode {
    fn from(kind: Kind) -> Self {
        ExitCode::from(kind.code())
    }
}

/// The table of `twinward --help`.
pub const HELP: &str = "\
Exit codes:
  0    done
  1    failed; `status`: something is not serving
  2    the command line is wrong
  3    not found
  4    conflict: it exists already, or it changed in between
  5    invalid: a file, a patch or a value is not acceptable
  6    unavailable: a service cannot be reached or did not answer in time
  7    denied: the token is missing, wrong, or may not do this
  8    the present state or a limit does not allow it
  9    a service failed; its log says why
  130  ended by a second SIGINT, 143 by a second SIGTERM";
