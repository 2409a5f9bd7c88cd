//! Why a reading call, or an operation over many twins, was refused.

use jiff::Timestamp;
use service_kit::error::Kind;
use twin::IdentityKey;
use wire::names::identity_name;

use crate::history::Unreadable;

/// Why a reading call, or an operation over many twins, was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The place that a watch was at is not in the log any more.
    #[error(
        "the watch's place is no longer in the log, so that changes would be missed; \
         start it again without a resume token"
    )]
    WatchTooOld,
    /// The token is no place of this watch.
    #[error("resume_token {why}; start the watch again without a resume token")]
    WatchToken {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The moment asked for is older than what is kept.
    #[error("what {} was then is no longer kept; the oldest revision kept is {oldest}", identity_name(.key))]
    Trimmed {
        /// Whose history.
        key: IdentityKey,
        /// The oldest that can be read.
        oldest: u64,
    },
    /// The revision asked for is above all that there are.
    #[error(
        "revision {asked} of {} does not exist yet; the newest of its partition is {newest}",
        identity_name(.key)
    )]
    RevisionNotYet {
        /// Whose.
        key: IdentityKey,
        /// Which.
        asked: u64,
        /// The last one given in its partition.
        newest: u64,
    },
    /// The time asked for has not come.
    #[error("{asked} lies in the future; it is {now}")]
    TimeNotYet {
        /// Which time.
        asked: Timestamp,
        /// Our time.
        now: Timestamp,
    },
    /// The identity did not exist at the moment asked for, as far as is known.
    #[error("{} did not exist then, as far as its history is kept", identity_name(.0))]
    NotThen(IdentityKey),
    /// The twin changes faster than its history can be read.
    #[error("{} changes too fast to be read consistently; try again", identity_name(.0))]
    TooFast(IdentityKey),
    /// The stored history cannot be read.
    #[error(transparent)]
    History(#[from] Unreadable),
    /// There is no such operation.
    #[error("{0} does not exist; ended operations are forgotten after 30 days")]
    NoOperation(String),
    /// The operation has to end first.
    #[error("{0} has not ended; wait for it or cancel it first")]
    OperationRuns(String),
    /// There is a job of this id.
    #[error("there is a job {0} already; ended jobs are forgotten after 30 days")]
    JobExists(String),
    /// As many jobs as allowed wait or go on.
    #[error("{allowed} jobs wait or go on already; wait for one to end or cancel one")]
    TooManyJobs {
        /// How many may.
        allowed: usize,
    },
    /// As many operations as allowed go on.
    #[error("{allowed} operations go on already; wait for one to end or cancel one")]
    TooManyOperations {
        /// How many may go on.
        allowed: usize,
    },
}

impl ReadError {
    pub(super) fn kind(&self) -> Kind {
        match self {
            ReadError::WatchTooOld
            | ReadError::Trimmed { .. }
            | ReadError::RevisionNotYet { .. }
            | ReadError::TimeNotYet { .. } => Kind::OutOfRange,
            ReadError::WatchToken { .. } => Kind::InvalidArgument,
            ReadError::NotThen(_) | ReadError::NoOperation(_) => Kind::NotFound,
            ReadError::TooFast(_) => Kind::Unavailable,
            ReadError::History(_) => Kind::DataLoss,
            ReadError::TooManyOperations { .. } | ReadError::TooManyJobs { .. } => {
                Kind::ResourceExhausted
            }
            ReadError::JobExists(_) => Kind::AlreadyExists,
            ReadError::OperationRuns(_) => Kind::FailedPrecondition,
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            ReadError::WatchTooOld => "WATCH_TOKEN_TOO_OLD",
            ReadError::WatchToken { .. } => "WATCH_TOKEN_INVALID",
            ReadError::Trimmed { .. } => "HISTORY_TRIMMED",
            ReadError::RevisionNotYet { .. } => "REVISION_NOT_YET",
            ReadError::TimeNotYet { .. } => "TIME_NOT_YET",
            ReadError::NotThen(_) => "TWIN_NOT_THERE_THEN",
            ReadError::TooFast(_) => "TWIN_CHANGES_TOO_FAST",
            ReadError::History(_) => "HISTORY_DAMAGED",
            ReadError::NoOperation(_) => "OPERATION_NOT_FOUND",
            ReadError::OperationRuns(_) => "OPERATION_RUNNING",
            ReadError::JobExists(_) => "JOB_EXISTS",
            ReadError::TooManyJobs { .. } => "TOO_MANY_JOBS",
            ReadError::TooManyOperations { .. } => "TOO_MANY_OPERATIONS",
        }
    }
}
