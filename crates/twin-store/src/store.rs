//! The port to where identities and twins are kept.
//!
//! A store keeps records, the position and log of each partition, and the changes still to be
//! published, and changes them together or not at all. It decides nothing: what is written was
//! decided in `apply`, by the one writer that owns the partition. A commit says under which epoch
//! the partition is owned; if another has taken it since, nothing is written ([`Error::Fenced`]).

use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use twin::{DeviceId, IdentityKey, Partition, PartitionCount, Revision};

use crate::record::{Damaged, Record};

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod model;
mod row;
pub mod sqlite;

/// What keeps identities and twins.
pub trait Store: Send + Sync {
    /// Takes all partitions: raises their epochs, so that whoever had them can commit no more, and
    /// answers where each stands. Refuses another number of partitions than the store was made with.
    fn acquire(&self, count: PartitionCount) -> BoxFuture<'_, Result<Vec<PartitionState>, Error>>;

    /// Reads records for a writer; absent ones are left out. A damaged one does not keep the
    /// others from being read.
    fn load(&self, selections: Vec<Selection>) -> BoxFuture<'_, Result<Vec<Loaded>, Error>>;

    /// Writes everything of the commit, durably, or nothing.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), Error>>;

    /// Reads one record; sees every commit that has returned.
    fn get(&self, key: IdentityKey) -> BoxFuture<'_, Result<Option<Record>, Error>>;

    /// Reads records in the order of their keys, starting after `after`. A damaged one does not
    /// keep the others from being read.
    fn list(
        &self,
        listing: Listing,
        after: Option<IdentityKey>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page, Error>>;

    /// Reads changes of a partition that still have to be published, in order.
    fn outbox(
        &self,
        partition: Partition,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<OutboxChange>, Error>>;

    /// Keeps a new enrolment token, and forgets those that had expired by `now`.
    fn add_enrollment_token(
        &self,
        token: EnrollmentToken,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<(), Error>>;
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
}

impl From<Selection> for Vec<Selection> {
    fn from(selection: Selection) -> Self {
        vec![selection]
    }
}

/// Which records a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Devices and modules.
    All,
    /// Devices alone.
    Devices,
}

/// Something that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded {
    /// It could be read.
    Whole(Box<Record>),
    /// It is there and cannot be read.
    Damaged(IdentityKey, Damaged),
    /// An enrolment token, seen from a device.
    Token(DeviceId, EnrollmentState),
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
    pub upserts: Vec<Arc<Record>>,
    /// Records to remove.
    pub deletes: Vec<IdentityKey>,
    /// Changes to publish later.
    pub outbox: Vec<OutboxChange>,
    /// Published meanwhile: remove from the outbox up to these revisions.
    pub published: Vec<(Partition, Revision)>,
    /// Uses of enrolment tokens.
    pub enrollments: Vec<EnrollmentUse>,
}

/// A change to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxChange {
    /// Of which partition.
    pub partition: Partition,
    /// Its place in the order.
    pub revision: Revision,
    /// Encoded `twinward.bus.v1.TwinChange`.
    pub change: Vec<u8>,
}

/// Records in order.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// What could be read, in order.
    pub records: Vec<Record>,
    /// What could not.
    pub damaged: Vec<Damaged>,
    /// After which key the next page starts; none after the last.
    pub next: Option<IdentityKey>,
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
    /// A record that is needed cannot be read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
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
