//! Exit codes: one per kind of failure, so that scripts need not read sentences. The numbers are in
//! `service_kit::exit`, for every program of ours.

use std::process::ExitCode;

use service_kit::exit as code;

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
            Kind::Failed => code::FAILED,
            Kind::Usage => code::USAGE,
            Kind::NotFound => code::NOT_FOUND,
            Kind::Conflict => code::CONFLICT,
            Kind::Invalid => code::INVALID,
            Kind::Unavailable => code::UNAVAILABLE,
            Kind::Denied => code::DENIED,
            Kind::Precondition => code::PRECONDITION,
            Kind::Internal => code::INTERNAL,
            Kind::Interrupted(Signal::Interrupt) => code::SIGINT,
            Kind::Interrupted(Signal::Terminate) => code::SIGTERM,
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
  1    failed; `status`: something is not serving; a verify that found something
  2    the command line is wrong
  3    not found
  4    conflict: it exists already, or it changed in between
  5    invalid: a file, a patch or a value is not acceptable
  6    unavailable: a service cannot be reached or did not answer in time
  7    denied: the token or certificate is missing, wrong, or may not do this
  8    the present state or a limit does not allow it
  9    a service failed; its log says why
  130  ended by a second SIGINT, 143 by a second SIGTERM";
