//! The port to where identities and twins are kept.
//!
//! A store keeps records, the position and log of each partition, and the changes still to be
//! published, and changes them together or not at all. It decides nothing: what is written was
//! decided in `apply`, by the one writer that owns the partition. A commit says under which epoch
//! the partition is owned; if another has taken it since, nothing is written ([`Error::Fenced`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use jiff::Timestamp;
use twin::{DeviceId, IdentityKey, Partition, PartitionCount, Revision};

use crate::record::{Damaged, Record};

mod audit;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
pub(crate) mod failpoint;
pub mod maintain;
#[cfg(test)]
pub(crate) mod model;
mod place;
mod population;
pub mod postgres;
mod provisioning;
pub(crate) mod quarantine;
pub(crate) mod row;
#[cfg(test)]
pub(crate) mod sample;
mod spoilt;
pub(crate) mod sql;
pub mod sqlite;
mod thin;

pub use audit::{AuditFound, AuditPlace, AuditRead, By};
pub use population::Population;
pub(crate) use provisioning::GROUPS;
pub use provisioning::{
    GROUPS_MAX, ProvisioningKey, ProvisioningKind, ProvisioningRow, ProvisioningWrite,
};
pub use row::RawRecord;

/// What keeps identities and twins, with everything that has to change together with them.
///
/// Reading methods see every commit that has returned, on whichever replica.
pub trait Store: Send + Sync {
    /// Says that this replica lives, takes the partitions that are its share, and answers what it
    /// owns and where the others are. Called at the start and then every second. Taking a partition
    /// raises its epoch, so that whoever had it can commit no more. Refuses another number of
    /// partitions than the store was made with.
    fn claim(&self, replica: Replica) -> BoxFuture<'_, Result<Claims, Error>>;

    /// Names this store, and no other: made with it, and again when it is restored from a backup, so
    /// that places in its log are not taken for places in another.
    fn identity(&self) -> BoxFuture<'_, Result<String, Error>>;

    /// Gives partitions back, so that another replica may take them at once. Ones that are not ours
    /// any more are left alone.
    fn release(
        &self,
        replica: ReplicaId,
        partitions: Vec<Partition>,
    ) -> BoxFuture<'_, Result<(), Error>>;

    /// Reads what a decision needs; absent things are left out. What is damaged is told of by itself
    /// ([`Loaded::Damaged`]) and does not keep the rest from being read.
    fn load(&self, selections: Vec<Selection>) -> BoxFuture<'_, Result<Vec<Loaded>, Error>>;

    /// As [`Store::load`], for the one writer: everything that is written waits for it, so it does not wait for
    /// everybody who reads.
    fn load_to_write(
        &self,
        selections: Vec<Selection>,
    ) -> BoxFuture<'_, Result<Vec<Loaded>, Error>> {
        self.load(selections)
    }

    /// Writes everything of the commit, durably, or nothing.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), Error>>;

    /// Reads one record.
    fn get(&self, key: IdentityKey) -> BoxFuture<'_, Result<Option<Record>, Error>>;

    /// Reads a page of records in the order of their keys. A damaged one does not keep the others
    /// from being read.
    fn search(&self, search: Search) -> BoxFuture<'_, Result<Page, Error>>;

    /// How a search would be run, and how much of its condition the store decides itself.
    fn explain(&self, search: Search) -> BoxFuture<'_, Result<Plan, Error>>;

    /// As [`Store::search`], but leaves rows as they are: going through a million of them takes a
    /// fraction of the time. A row's checksum is compared all the same.
    fn scan(&self, search: Search) -> BoxFuture<'_, Result<Page<RawRecord>, Error>> {
        let found = self.search(search);
        Box::pin(async move {
            let found = found.await?;
            let mut page = Page {
                damaged: found.damaged,
                next: found.next,
                ..Page::default()
            };
            for record in &found.records {
                match RawRecord::of(record) {
                    Ok(raw) => page.records.push(raw),
                    Err(damaged) => page.damaged.push(damaged),
                }
            }
            Ok(page)
        })
    }

    /// Counts what a search finds, whatever its `after` and `limit`. None if the store cannot: a part
    /// of the condition is residual, or many rows cannot be looked into; then pages are read.
    fn count(&self, search: Search) -> BoxFuture<'_, Result<Option<Count>, Error>> {
        drop(search);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// What was found damaged when somebody asked for it, with what is wrong: twins first, then rows
    /// of other tables. Each is noted once, and forgotten when it is written or removed as a whole.
    /// Only a store without rows has nothing to note; a check of every row finds them as well.
    fn damaged(&self) -> BoxFuture<'_, Result<Vec<Damaged>, Error>>;

    /// How many identities there are, whoever owns their partitions; those that are damaged count.
    fn population(&self) -> BoxFuture<'_, Result<Population, Error>>;

    /// Reads the log of a partition behind a revision, in order. A change that cannot be read is a
    /// hole of the page.
    fn log(
        &self,
        partition: Partition,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<LogPage, Error>>;

    /// The last revision of every partition, whoever owns it; for watchers of others' partitions.
    fn heads(&self) -> BoxFuture<'_, Result<BTreeMap<Partition, Revision>, Error>>;

    /// Reads revisions of one identity, newest first. One that cannot be read stands in its place as
    /// a hole; documents must not be rewound through it.
    fn history(
        &self,
        read: HistoryRead,
    ) -> BoxFuture<'_, Result<Vec<OrHole<HistoryEntry, Revision>>, Error>>;

    /// Reads a partition's chain of audit entries behind a sequence, in order, with the head that
    /// the partition's own row says it has. An entry that cannot be read stands in its place.
    fn audit(
        &self,
        partition: Partition,
        after: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<AuditPage, Error>>;

    /// Reads audit entries of all chains in the order of their times, without walking the chains.
    fn audit_by_time(&self, read: AuditRead) -> BoxFuture<'_, Result<AuditFound, Error>>;

    /// Reads long-running operations, newest first, starting behind `after`. A damaged one does not
    /// keep the others from being read.
    fn operations(
        &self,
        after: Option<OperationId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<OperationRow, OperationId>, Error>>;

    /// Reads results of an operation in the order of their keys, starting behind `after`. A damaged
    /// one does not keep the others from being read.
    fn operation_results(
        &self,
        operation: OperationId,
        after: Option<IdentityKey>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<OperationResultRow>, Error>>;

    /// Reads rows of provisioning of the kind of `after`, in the order of their ids, starting behind
    /// it. A damaged one does not keep the others from being read.
    fn provisioning(
        &self,
        after: ProvisioningKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<ProvisioningRow, ProvisioningKey>, Error>>;

    /// How many enrolments of single devices there are; those that are damaged count. It goes through all
    /// of them.
    fn individual_enrollments(&self) -> BoxFuture<'_, Result<u64, Error>>;

    /// Removes a bounded amount of what is older than it has to be kept: history, audit entries
    /// stay, answers to requests, ended operations, expired tokens. Answers whether there is more.
    fn trim(&self, retention: Retention) -> BoxFuture<'_, Result<Trimmed, Error>>;

    /// Closes everything; when it answers, no file and no connection is open any more.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Names one running twin-store process; new at each start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub String);

/// A replica as it presents itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Which.
    pub id: ReplicaId,
    /// URL under which the other replicas reach its gRPC API.
    pub address: String,
    /// How many partitions the hub has.
    pub count: PartitionCount,
    /// It counts as gone when it has not claimed for so long.
    pub lease: std::time::Duration,
}

/// Who owns what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// What this replica owns now, as committed. A higher epoch than known means: newly taken.
    pub owned: Vec<PartitionState>,
    /// Owned, but another replica's share: stop working on them, then release them.
    pub surrender: Vec<Partition>,
    /// Where the owners of the others are; a partition without an owner is absent.
    pub elsewhere: BTreeMap<Partition, String>,
}

/// SHA-256 of an enrolment token.
pub type TokenHash = [u8; 32];

/// Which records to load.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selection {
    /// One identity.
    One(IdentityKey),
    /// A device and all its modules.
    Family(DeviceId),
    /// An enrolment token, with what is known of its use by a device.
    Token(TokenHash, DeviceId),
    /// The answer given to an earlier call with this request id.
    Request(RequestId),
    /// A long-running operation.
    Operation(OperationId),
    /// All long-running operations that have not ended.
    Running,
    /// The id scope or an enrolment, to be read.
    Provisioning(ProvisioningKey),
    /// The enrolments of all groups. Whoever decides on it may also change what provisioning keeps,
    /// and so has to own the hub's first partition.
    Groups,
}

impl Selection {
    /// The device whose partition has to be ours for a decision on it.
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Selection::One(key) => Some(&key.device),
            Selection::Family(device) | Selection::Token(_, device) => Some(device),
            Selection::Request(_)
            | Selection::Operation(_)
            | Selection::Running
            | Selection::Provisioning(_)
            | Selection::Groups => None,
        }
    }
}

impl From<Selection> for Vec<Selection> {
    fn from(selection: Selection) -> Self {
        vec![selection]
    }
}

/// Names a call that may be repeated (AIP-155), within one principal and method.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub String);

/// Names a long-running operation: a UUID of version 7, so that their order is that of their begin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub String);

/// Which records a search finds, and how much of them it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// Among which.
    pub source: Source,
    /// What must hold. The store may answer more than what matches where it cannot decide (see
    /// [`Plan::residual`]); the caller evaluates the condition again on what it gets.
    pub condition: twin::query::Scope,
    /// The time that `NOW()` stands for.
    pub now: Timestamp,
    /// Behind which key the page starts; none: from the first.
    pub after: Option<IdentityKey>,
    /// Records at most.
    pub limit: u32,
    /// What the store has found out of its indexes, for all pages of a search.
    pub estimates: Estimates,
}

/// How many entries of an index serve each part of a condition, once that was counted. Copies share
/// it, so that the pages of one search do not count again. It never changes what is found.
#[derive(Debug, Clone, Default)]
pub struct Estimates(Arc<OnceLock<Vec<u64>>>);

impl Estimates {
    /// What was counted.
    pub fn get(&self) -> Option<Vec<u64>> {
        self.0.get().cloned()
    }

    /// Keeps what was counted first.
    pub fn keep(&self, counts: Vec<u64>) -> Vec<u64> {
        self.0.get_or_init(|| counts).clone()
    }
}

impl PartialEq for Estimates {
    fn eq(&self, _: &Estimates) -> bool {
        true
    }
}

/// Among which records to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Devices and modules.
    All,
    /// `devices`
    Devices,
    /// `devices.modules`
    Modules,
}

/// A search for everything of a source.
pub fn everything(
    source: Source,
    after: Option<IdentityKey>,
    limit: u32,
    now: Timestamp,
) -> Search {
    Search {
        source,
        condition: twin::query::Scope::Everything,
        now,
        after,
        limit,
        estimates: Estimates::default(),
    }
}

/// How a search is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the store is asked, with placeholders for values.
    pub sql: String,
    /// The part of the condition the store decides; canonical text; empty: none.
    pub compiled: String,
    /// The part that is decided in memory; canonical text; empty: none.
    pub residual: String,
    /// Indexes of ours that serve it.
    pub indexes: Vec<String>,
    /// The engine's own words, a line each.
    pub lines: Vec<String>,
}

/// Something that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded {
    /// It could be read.
    Whole(Box<Record>),
    /// It is there and cannot be read. Of a device and its modules, each that cannot be read is told
    /// of as one, and all as a family if not even their keys can be reached.
    Damaged(Selection, Damaged),
    /// An enrolment token, seen from a device.
    Token(DeviceId, EnrollmentState),
    /// What an earlier call was answered.
    Request(RequestAnswer),
    /// A long-running operation.
    Operation(OperationRow),
    /// The id scope or an enrolment.
    Provisioning(ProvisioningRow),
}

/// How many records a search finds.
#[derive(Debug, Clone, Default)]
pub struct Count {
    /// Those that the store decided.
    pub decided: u64,
    /// Records that it could not decide on; the caller evaluates the condition and adds them.
    pub undecided: Page,
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionState {
    /// Which one.
    pub partition: Partition,
    /// Under which it is owned now.
    pub epoch: Epoch,
    /// Stream sequence of the last telemetry message folded; 0 before the first.
    pub position: u64,
    /// Last change.
    pub revision: Revision,
    /// Last change that was published to `TWINS`.
    pub published: Revision,
    /// End of the chain of audit entries.
    pub audit: AuditHead,
}

/// End of a chain of audit entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditHead {
    /// Number of entries; 0: none yet.
    pub sequence: u64,
    /// Hash of the last one; zeros before the first.
    pub hash: [u8; 32],
}

/// Rises each time a partition is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// What is written together.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// New standing of every partition that the commit touches, fenced by its epoch.
    pub partitions: Vec<PartitionState>,
    /// Records to write; shared with whoever is told of them after the commit.
    pub upserts: Vec<Upsert>,
    /// Records to remove; their index entries go with them, their history stays.
    pub deletes: Vec<IdentityKey>,
    /// The changes, for the log.
    pub log: Vec<LogEntry>,
    /// Forget the log up to these revisions.
    pub trim_log: Vec<(Partition, Revision)>,
    /// What the changes were, for the history. A routine entry is put together with the last one
    /// of its identity when that is routine too and began within `coalesce_within`
    /// (`history::merge`).
    pub history: Vec<HistoryEntry>,
    /// See `history`; zero: every revision stays by itself.
    pub coalesce_within: std::time::Duration,
    /// Administrative changes, in the order of their chains.
    pub audit: Vec<AuditEntry>,
    /// Answers to calls that may be repeated.
    pub requests: Vec<RequestAnswer>,
    /// New enrolment tokens.
    pub tokens: Vec<EnrollmentToken>,
    /// Uses of enrolment tokens.
    pub enrollments: Vec<EnrollmentUse>,
    /// Operations to write.
    pub operations: Vec<OperationRow>,
    /// Results of operations to write.
    pub results: Vec<OperationResultRow>,
    /// Rows of provisioning to write or remove.
    pub provisioning: Vec<ProvisioningWrite>,
}

/// A record to write, and what changes in the index of searched values.
#[derive(Debug, Clone)]
pub struct Upsert {
    /// The record.
    pub record: Arc<Record>,
    /// Entries that no longer hold.
    pub index_remove: Vec<IndexEntry>,
    /// Entries that hold from now on.
    pub index_add: Vec<IndexEntry>,
}

/// One searched value of a record (see `index`): a scalar leaf, under its path in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexEntry {
    /// For instance `tags.site`.
    pub path: String,
    /// The value with its type: `s:paris`, `n:5`, `b:true`.
    pub value: String,
}

/// A change in the log of a partition. Kept for a while after it was published, for watchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Of which partition.
    pub partition: Partition,
    /// Its place in the order.
    pub revision: Revision,
    /// Encoded `twinward.bus.v1.TwinChange`.
    pub change: Vec<u8>,
}

/// A piece of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPage {
    /// In order.
    pub entries: Vec<LogEntry>,
    /// Changes between them, or behind the last, that cannot be read.
    pub holes: Vec<Revision>,
    /// The log holds every change behind this revision; what came before may be forgotten.
    pub floor: Revision,
}

/// One revision of one identity, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Whose.
    pub key: IdentityKey,
    /// The last revision it holds.
    pub revision: Revision,
    /// The first; the same unless routine entries were put together.
    pub first_revision: Revision,
    /// When the last was committed.
    pub at: Timestamp,
    /// When the first was committed.
    pub first_at: Timestamp,
    /// Who: a `twin::Writer` as text.
    pub actor: String,
    /// Why; see `TwinRevision.cause` of the contract.
    pub cause: String,
    /// What it touched.
    pub changes: BTreeSet<crate::apply::ChangeKind>,
    /// JSON merge patch from the document before to the one after (see `history`).
    pub patch: String,
    /// JSON merge patch back again.
    pub undo: String,
    /// What devices are told of the desired section, a JSON object, if `patch` does not say just
    /// that: members that were written with the value they had, `null` for what was not there.
    pub notification: Option<String>,
    /// The patches follow the registry's part of the document, too. Entries from before it was
    /// followed do not, and what an identity was then is not known.
    pub has_registry: bool,
    /// Only counters and times moved.
    pub routine: bool,
    /// The revision of the identity before the first that this holds; zero: it needs none, because it
    /// begins a life of the identity. Entries from before it was noted do not know.
    pub previous: Option<Revision>,
    /// W3C trace context.
    pub trace_parent: Option<String>,
}

/// Which revisions to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRead {
    /// Whose.
    pub key: IdentityKey,
    /// Only those below this revision; none: from the newest.
    pub before: Option<Revision>,
    /// Only those committed at or after this time.
    pub from: Option<Timestamp>,
    /// Only those committed before this time.
    pub to: Option<Timestamp>,
    /// Entries at most.
    pub limit: u32,
}

/// One administrative change, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Of which partition's chain.
    pub partition: Partition,
    /// Its place, from 1.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What, for instance `device.create`.
    pub action: String,
    /// To what.
    pub resource: String,
    /// JSON object without secrets.
    pub detail: String,
    /// W3C trace context.
    pub trace_parent: Option<String>,
    /// SHA-256 over the hash before and all of the above (`audit::hash`).
    pub hash: [u8; 32],
}

/// A piece of a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// In order.
    pub entries: Vec<OrHole<AuditEntry, u64>>,
    /// End of the chain according to the partition's row.
    pub head: AuditHead,
}

/// What a call with a request id was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestAnswer {
    /// Of the call.
    pub id: RequestId,
    /// SHA-256 of what was asked, so that the same id with other content is refused.
    pub fingerprint: [u8; 32],
    /// Encoded answer.
    pub answer: Vec<u8>,
    /// When; it is forgotten an hour later at the earliest.
    pub at: Timestamp,
}

/// A long-running operation, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRow {
    /// Which.
    pub id: OperationId,
    /// Whether it has ended; ended ones are forgotten after a while.
    pub ended: bool,
    /// When it last moved.
    pub at: Timestamp,
    /// JSON; `operations` knows its form.
    pub body: String,
}

/// What an operation did to one twin, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationResultRow {
    /// Of which operation.
    pub operation: OperationId,
    /// To which twin.
    pub key: IdentityKey,
    /// JSON; `operations` knows its form.
    pub body: String,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The present.
    pub now: Timestamp,
    /// Revisions of a twin older than this go.
    pub history_age: std::time::Duration,
    /// Of each twin, only so many of the newest revisions stay.
    pub history_count: u32,
    /// Routine revisions are put together when they lie in one span of this length (spans follow one
    /// another from 1970 on) and all of it is older than `history_every`; zero: never.
    pub history_span: std::time::Duration,
    /// Every revision younger than this stays by itself.
    pub history_every: std::time::Duration,
    /// Answers to requests older than this go.
    pub request_age: std::time::Duration,
    /// Operations that ended before this go, with their results.
    pub operation_age: std::time::Duration,
    /// Rows removed at most, of each kind, so that writers do not wait.
    pub batch: u32,
}

/// What a trim removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Revisions.
    pub revisions: u64,
    /// Revisions that are part of another one now.
    pub joined: u64,
    /// Revisions that were written to put others together.
    pub written: u64,
    /// Answers to requests.
    pub requests: u64,
    /// Operations.
    pub operations: u64,
    /// Whether more is left to be removed.
    pub more: bool,
}

/// Records in order, or other rows.
#[derive(Debug, Clone)]
pub struct Page<R = Record, K = IdentityKey> {
    /// What could be read, in order.
    pub records: Vec<R>,
    /// What could not.
    pub damaged: Vec<Damaged>,
    /// After which key the next page starts; none after the last.
    pub next: Option<K>,
}

impl<R, K> Default for Page<R, K> {
    fn default() -> Self {
        Page {
            records: Vec::new(),
            damaged: Vec::new(),
            next: None,
        }
    }
}

/// A row, or the hole that a damaged one leaves at its place in an order.
pub type OrHole<R, P> = Result<R, Hole<P>>;

/// A row that cannot be read, where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole<P> {
    /// Its place, as its key says.
    pub at: P,
    /// What is wrong.
    pub damaged: Damaged,
}

/// An enrolment token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentToken {
    /// Of the token's text.
    pub hash: TokenHash,
    /// The only device it lets in; none: any.
    pub device: Option<DeviceId>,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// How many devices it lets in.
    pub uses_max: u32,
}

/// A token with what is known of its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentState {
    /// The token.
    pub token: EnrollmentToken,
    /// Devices it has let in.
    pub uses: u32,
    /// The nonce with which the device in question used it, if it did.
    pub nonce: Option<String>,
}

/// A device was let in by a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentUse {
    /// Which token.
    pub hash: TokenHash,
    /// Which device.
    pub device: DeviceId,
    /// The agent's nonce.
    pub nonce: String,
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has taken a partition; this one must stop.
    #[error("partition {partition} was taken by another twin-store; this one can no longer commit")]
    Fenced {
        /// Which partition.
        partition: Partition,
    },
    /// The store was made with another number of partitions.
    #[error(
        "the store was made with {stored} partitions and cannot be opened with {asked}; \
         set `partitions` back to {stored}"
    )]
    PartitionCount {
        /// When it was made.
        stored: u16,
        /// Now.
        asked: u16,
    },
    /// A commit would use an enrolment token more often than it may be used; another replica was
    /// faster. Nothing was written, and everything else is as it was.
    #[error("an enrolment token was used up at the same moment")]
    TokenUsedUp,
    /// A record that is needed cannot be read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// Damage keeps some of a commit from being written. Nothing was; without these, each a
    /// [`Loaded::Damaged`], the rest can be.
    #[error("{} stored rows cannot be changed, because they or those beside them are damaged", .0.len())]
    Unwritable(Vec<Loaded>),
    /// The store is made by a newer version of Twinward.
    #[error("the store has schema {found}, this program knows {known}; use a newer program")]
    Newer {
        /// Of the store.
        found: i64,
        /// Of this program.
        known: i64,
    },
    /// The engine failed.
    #[error("the store cannot {action}")]
    Engine {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}
