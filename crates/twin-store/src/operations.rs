//! Updates of many twins, as they are kept: what is to be done, how far it is, and what became of
//! each twin.
//!
//! An operation walks over twins in the order of their keys. Its row says where it is; the row, the
//! results and the twins' writes are one commit, so after a crash it goes on behind the last twin
//! that was written, and no twin is written twice. The walking is `runner`'s; here is what is kept
//! and what is decided about one twin, pure.
//!
//! Twins of partitions that other replicas own are handed over: the walk leaves a pending result,
//! in the commit that says it has passed, and the owner of the twin's partition turns it into a
//! final one, in the commit that writes the twin. An operation ends when no result is pending any
//! more, also one that is cancelled: whoever is told that it has ended can rely on it that nothing
//! is written in its name any more.

use jiff::Timestamp;
use twin::{IdentityKey, Map, Writer};

use crate::record::Damaged;
use crate::store::{OperationId, OperationResultRow, OperationRow, Source};

mod ahead;
mod assigned;
mod body;
mod called;
pub mod calls;
pub mod decide;
pub(crate) mod foresee;
pub mod runner;
pub(crate) mod survey;
pub mod take_back;

pub(crate) use body::{source_of, source_text};
pub use called::{Answer, Call, Called};
pub use take_back::Undo;

/// Operations that may go on at once: each has a share of the writer.
pub const RUNNING_MAX: usize = 16;
/// Jobs that have not ended, also those that wait for their time: each is a row that the runner
/// reads every second.
pub const JOBS_MAX: usize = 100;
/// How the id of a job's operation begins. It is greater than any other id, which are hexadecimal.
pub const JOB_PREFIX: &str = "job.";

/// What an operation does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Writes what was asked for to every twin that matches.
    Update(Update),
    /// Takes back what another operation wrote.
    Undo {
        /// Which.
        of: OperationId,
    },
}

/// What a bulk update writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Among which twins.
    pub source: Source,
    /// WHERE part of the query language; `*`: all.
    pub condition: String,
    /// To merge into tags.
    pub tags: Option<Map>,
    /// To merge into desired.
    pub desired: Option<Map>,
    /// Instead of both: a direct method to be called.
    pub call: Option<Call>,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It goes on.
    Running,
    /// It came to all twins.
    Succeeded,
    /// A caller stopped it.
    Cancelled,
    /// It could not go on.
    Failed,
}

/// A long-running operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Which.
    pub id: OperationId,
    /// What it does.
    pub work: Work,
    /// Where it stands.
    pub state: State,
    /// Twins that matched when it began; none until they are counted.
    pub total: Option<u64>,
    /// Twins that were written.
    pub succeeded: u64,
    /// Twins that could not be written.
    pub failed: u64,
    /// Twins that were left alone.
    pub skipped: u64,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it last moved.
    pub updated_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// In whose name it writes.
    pub actor: Writer,
    /// Trace of the call that began it.
    pub trace_parent: Option<String>,
    /// Twins per second at most; 0: as fast as it goes.
    pub rate: u32,
    /// The last twin it came to.
    pub after: Option<IdentityKey>,
    /// Twins that were handed over to the owners of their partitions.
    pub handed_over: u64,
    /// Whether it has come to the last twin, and waits for those that were handed over.
    pub walked: bool,
    /// How it ends as soon as what was handed over is settled; it comes to no further twin.
    pub ending: Option<State>,
    /// Results of the operation that is to be taken back that say not even whose they are.
    pub lost: u64,
    /// Why it failed; empty unless it did.
    pub error: String,
    /// What makes it a job.
    pub job: Option<Job>,
}

/// What makes an operation a job of IoT Hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// When it begins.
    pub start_at: Timestamp,
    /// Seconds after its start when it fails unless it has ended; none: never.
    pub seconds_max: Option<u32>,
}

impl Operation {
    /// A new one.
    pub fn begin(
        id: OperationId,
        work: Work,
        actor: Writer,
        trace_parent: Option<String>,
        rate: u32,
        now: Timestamp,
    ) -> Operation {
        Operation {
            id,
            work,
            state: State::Running,
            total: None,
            succeeded: 0,
            failed: 0,
            skipped: 0,
            created_at: now,
            updated_at: now,
            ended_at: None,
            actor,
            trace_parent,
            rate,
            after: None,
            handed_over: 0,
            walked: false,
            ending: None,
            lost: 0,
            error: String::new(),
            job: None,
        }
    }

    /// What it calls of which devices, if it calls a method.
    pub fn call(&self) -> Option<(&Update, &Call)> {
        match &self.work {
            Work::Update(update) => Some((update, update.call.as_ref()?)),
            Work::Undo { .. } => None,
        }
    }

    /// When it may begin. The twins are judged as of this time.
    pub fn due_at(&self) -> Timestamp {
        let start = self.job.map_or(self.created_at, |job| job.start_at);
        start.max(self.created_at)
    }

    /// When it fails, unless it has ended.
    pub fn fails_at(&self) -> Option<Timestamp> {
        let seconds = self.job?.seconds_max?;
        let span = jiff::SignedDuration::from_secs(i64::from(seconds));
        self.due_at().checked_add(span).ok()
    }

    /// Whether it comes to further twins.
    pub fn goes_on(&self) -> bool {
        self.state == State::Running && self.ending.is_none() && !self.walked
    }

    /// Stops it: it ends at once, or, if twins were handed over, when they are settled, which for
    /// those that nobody has begun yet means that they are left alone.
    pub fn stop(&mut self, how: State, now: Timestamp) {
        if self.handed_over == 0 {
            self.end(how, now);
        } else if self.state == State::Running && self.ending.is_none() {
            self.ending = Some(how);
            self.updated_at = now;
        }
    }

    /// Takes over what became of all twins it came to, and ends it if it waited for nothing else.
    pub(crate) fn settle(&mut self, tally: &survey::Tally, now: Timestamp) {
        self.succeeded = tally.succeeded;
        self.failed = tally.failed;
        self.skipped = tally.skipped;
        self.updated_at = now;
        if tally.pending == 0 && !self.goes_on() {
            self.end(self.ending.unwrap_or(State::Succeeded), now);
        }
    }

    /// Ends it, unless it has.
    pub fn end(&mut self, state: State, now: Timestamp) {
        if self.state == State::Running {
            self.state = state;
            self.updated_at = now;
            self.ended_at = Some(now);
        }
    }

    /// Counts what became of a twin.
    pub fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Succeeded => &mut self.succeeded,
            Outcome::Failed => &mut self.failed,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Pending => &mut self.handed_over,
        };
        *counter = counter.saturating_add(1);
    }

    /// Reads a row.
    ///
    /// # Errors
    /// It cannot be read; nothing but a damaged store causes it.
    pub fn from_row(row: &OperationRow) -> Result<Operation, Damaged> {
        body::read_operation(row)
    }

    /// The row to write.
    pub fn to_row(&self) -> OperationRow {
        OperationRow {
            id: self.id.clone(),
            ended: self.state != State::Running,
            at: self.updated_at,
            body: body::print_operation(self),
        }
    }

    /// Resource name.
    pub fn name(&self) -> String {
        name(&self.id)
    }
}

/// Resource name of an operation.
pub fn name(id: &OperationId) -> String {
    format!("operations/{}", id.0)
}

/// The operation of a job.
pub fn of_job(id: &str) -> OperationId {
    OperationId(format!("{JOB_PREFIX}{id}"))
}

/// The job that an operation is.
pub fn job_of(id: &OperationId) -> Option<&str> {
    id.0.strip_prefix(JOB_PREFIX)
}

/// What became of one twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written.
    Succeeded,
    /// Could not be written.
    Failed,
    /// Left alone.
    Skipped,
    /// Handed over to the owner of its partition.
    Pending,
}

/// The result of an operation on one twin.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinResult {
    /// Whose.
    pub key: IdentityKey,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, or what of it was left alone; may be empty.
    pub reason: String,
    /// Its revision after the write; 0 unless it was written.
    pub revision: u64,
    /// When.
    pub at: Timestamp,
    /// How to take it back, or, while it is pending, what is to be taken back.
    pub undo: Option<Undo>,
    /// How far the call is, if it is to be called.
    pub call: Option<Called>,
}

impl TwinResult {
    /// Hands a twin over; `undo` is what is to be taken back, if something is.
    pub fn pending(key: IdentityKey, undo: Option<Undo>, now: Timestamp) -> TwinResult {
        TwinResult {
            key,
            outcome: Outcome::Pending,
            reason: String::new(),
            revision: 0,
            at: now,
            undo,
            call: None,
        }
    }

    /// Of a twin of which cannot be read what is to be taken back.
    pub fn unreadable(key: IdentityKey, damaged: &Damaged, now: Timestamp) -> TwinResult {
        TwinResult {
            outcome: Outcome::Failed,
            reason: damaged.to_string(),
            ..TwinResult::pending(key, None, now)
        }
    }

    /// Reads a row.
    ///
    /// # Errors
    /// It cannot be read; nothing but a damaged store causes it.
    pub fn from_row(row: &OperationResultRow) -> Result<TwinResult, Damaged> {
        body::read_result(row)
    }

    /// The row to write.
    pub fn to_row(&self, operation: &OperationId) -> OperationResultRow {
        OperationResultRow {
            operation: operation.clone(),
            key: self.key.clone(),
            body: body::print_result(self),
        }
    }
}

#[cfg(test)]
mod tests;
