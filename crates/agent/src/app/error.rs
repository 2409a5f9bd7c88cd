//! Why the agent could not start or go on, and what that means to the shell.

use std::io;
use std::path::PathBuf;

use service_kit::exit;

use crate::{enroll, identity, spool, status};

/// Why the agent could not start or go on. Each says what was attempted; its sources say the rest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no place for the agent's files.
    #[error("no data directory is known; give one with --data-dir")]
    NoDataDir,
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another agent uses the data directory.
    #[error("another agent runs on {}; stop it first, or give this one another --data-dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The identity cannot be used.
    #[error("cannot learn the agent's identity")]
    Identity(#[from] identity::Error),
    /// There is neither a key nor a way to get one.
    #[error(
        "no identity: give --connection-string-file, or --enrollment-token with --server \
         (`twinward enrollment create` makes a token)"
    )]
    NoIdentity,
    /// The URL cannot be used.
    #[error("cannot use the server `{url}`: {problem}")]
    Server {
        /// The URL.
        url: String,
        /// What is wrong and what is allowed.
        problem: &'static str,
    },
    /// Enrolment failed.
    #[error("enrolment failed")]
    Enroll(#[from] enroll::Error),
    /// The spool cannot be opened.
    #[error("cannot open the spool")]
    Spool(#[from] spool::Error),
    /// The stored configuration cannot be read.
    #[error("cannot open the stored configuration")]
    Configuration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection cannot be prepared.
    #[error("cannot prepare the link to the service")]
    Link(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Logging, signals or threads cannot be set up.
    #[error("cannot {action}")]
    SetUp {
        /// What was attempted.
        action: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part of the agent failed or did not end.
    #[error("the agent stopped abnormally")]
    Ended(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The status cannot be told.
    #[error("cannot tell the status")]
    Status(#[from] status::Error),
    /// The status cannot be printed.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

impl Error {
    /// The exit code, from the one table of all our programs.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::NoDataDir | Self::NoIdentity | Self::Server { .. } => exit::USAGE,
            Self::Identity(_) | Self::Link(_) => exit::INVALID,
            Self::Enroll(enroll::Error::Refused { .. }) => exit::DENIED,
            Self::Enroll(_) => exit::UNAVAILABLE,
            Self::Locked { .. } => exit::CONFLICT,
            Self::DataDir { .. }
            | Self::Spool(_)
            | Self::Configuration(_)
            | Self::SetUp { .. }
            | Self::Ended(_)
            | Self::Status(_)
            | Self::Print(_) => exit::FAILED,
        }
    }
}
