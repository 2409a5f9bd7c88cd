//! The embedded store: one SQLite file, for one machine.
//!
//! Keys: see `migrations/`. Update protocol: one thread writes. A commit is one
//! transaction that first moves every partition it touches, `WHERE epoch = ours`; a row count of
//! zero means that another process took the partition, and the transaction is undone. Readers have
//! connections of their own (WAL), and see every commit that has returned.
//!
//! A crash leaves the last commit whole or absent (WAL, `synchronous=FULL`); the next open rolls
//! the log forward, nobody has to clean anything. What will not scale: one writer per file; several
//! replicas need the PostgreSQL store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rusqlite::Connection;
use service_kit::error::chain;
use twin::{IdentityKey, Partition, Revision};

use super::failpoint;
use super::quarantine::{Note, Noted};
use super::row::module_text;
use super::{
    AuditFound, AuditPage, AuditRead, Claims, Commit, Count, Error, HistoryEntry, HistoryRead,
    Loaded, LogPage, OperationId, OperationResultRow, OperationRow, OrHole, Page, Plan, Population,
    ProvisioningKey, ProvisioningRow, RawRecord, Replica, ReplicaId, Retention, Search, Selection,
    Store, Trimmed,
};
use crate::record::{Damaged, Record};
use connect::{BUSY_TIMEOUT, WRITER_CACHE, connect};
use migrate::{MIGRATIONS, migrate};
use threads::{Readers, Writer};

pub use maintain::SqliteFiles;
#[cfg(test)]
pub(crate) use maintain::check_on;

mod connect;
mod entries;
mod fill;
mod indexes;
mod maintain;
mod migrate;
mod operations;
mod ownership;
mod population;
mod provisioning;
mod quarantine;
mod read;
mod search;
mod spoilt;
mod thin;
mod threads;
mod trails;
mod trim;
mod write;

/// Name of the file below the data directory.
pub(crate) const FILE_NAME: &str = "twins.db";

/// What was read, and what was found damaged on the way.
type Found<T> = (Result<T, Error>, Vec<Note>);

/// The embedded store.
pub struct SqliteStore {
    writer: Writer,
    readers: Arc<Readers>,
    /// Replicas that claimed through this handle; see [`ownership::claim`].
    claimed: Mutex<BTreeSet<ReplicaId>>,
    noted: Noted,
    trims: Arc<trim::Memory>,
    indexes: Arc<indexes::Indexes>,
}

impl SqliteStore {
    /// Opens the store below `folder`, making or migrating it as needed.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or was made by a newer program.
    pub fn open(folder: &Path) -> Result<SqliteStore, Error> {
        let path = folder.join(FILE_NAME);
        let mut connection = connect(&path, WRITER_CACHE)?;
        migrate(&mut connection)?;
        indexes::mend(&mut connection);
        Ok(SqliteStore {
            writer: Writer::start(connection)?,
            readers: Arc::new(Readers::new(path)),
            claimed: Mutex::default(),
            noted: Noted::default(),
            trims: Arc::default(),
            indexes: Arc::default(),
        })
    }

    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        self.writer.run(work).boxed()
    }

    /// Reads rows, and notes those that were found damaged on the way.
    fn read_noting<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Vec<Note>) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        self.noting(self.read(move |connection| {
            let mut notes = Vec::new();
            let result = work(connection, &mut notes);
            Ok((result, notes))
        }))
    }

    /// Notes what a reading found damaged, and answers what it read.
    fn noting<'s, T: Send + 'static>(
        &'s self,
        read: BoxFuture<'s, Result<Found<T>, Error>>,
    ) -> BoxFuture<'s, Result<T, Error>> {
        async move {
            let (result, notes) = read.await?;
            let notes = self.noted.fresh(notes);
            if !notes.is_empty() {
                let fresh = notes.clone();
                let note = self.write(move |connection| quarantine::note(connection, &fresh));
                // What was read is answered all the same, and whoever reads it again notes it.
                if let Err(error) = note.await {
                    tracing::error!(error = chain(&error), "damaged rows cannot be noted");
                    self.noted.forget_notes(&notes);
                }
            }
            result
        }
        .boxed()
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        self.readers.clone().run(work).boxed()
    }

    /// As [`Self::read`], for what may take long: it stops when nobody waits for it any more.
    fn stoppable<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        let running = search::Running::default();
        let waiting = running.waiting();
        let reading = self.readers.clone();
        let work = move |connection: &Connection| running.work(connection, work);
        async move {
            let _waiting = waiting;
            reading.run_long(work).await
        }
        .boxed()
    }
}

impl Store for SqliteStore {
    fn claim(&self, replica: Replica) -> BoxFuture<'_, Result<Claims, Error>> {
        let newcomer = self
            .claimed
            .lock()
            .is_ok_and(|mut claimed| claimed.insert(replica.id.clone()));
        self.write(move |connection| ownership::claim(connection, &replica, newcomer))
    }

    fn release(
        &self,
        replica: ReplicaId,
        partitions: Vec<Partition>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        self.write(move |connection| ownership::release(connection, &replica, &partitions))
    }

    fn load(&self, selections: Vec<Selection>) -> BoxFuture<'_, Result<Vec<Loaded>, Error>> {
        self.read_noting(move |connection, notes| read::load(connection, &selections, notes))
    }

    fn load_to_write(
        &self,
        selections: Vec<Selection>,
    ) -> BoxFuture<'_, Result<Vec<Loaded>, Error>> {
        let reading = self.readers.clone().run_to_write(move |connection| {
            let mut notes = Vec::new();
            let loaded = read::load(connection, &selections, &mut notes);
            Ok((loaded, notes))
        });
        self.noting(reading.boxed())
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), Error>> {
        let noted = self.noted.clone();
        let indexes = self.indexes.clone();
        self.noting(self.write(move |connection| {
            let mut damage = Vec::new();
            let written = write::commit(connection, &commit, &indexes, &mut damage);
            if written.is_ok() {
                let upserts = commit.upserts.iter().map(|upsert| &upsert.record.key);
                noted.forget(upserts.chain(&commit.deletes));
            }
            Ok((written, damage))
        }))
    }

    fn get(&self, key: IdentityKey) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        self.read_noting(move |connection, notes| {
            let read = read::get(connection, &key);
            if let Err(Error::Damaged(one)) = &read {
                notes.push(Note::of_twin(one));
            }
            read
        })
    }

    fn search(&self, search: Search) -> BoxFuture<'_, Result<Page, Error>> {
        self.noting(self.stoppable(move |connection| {
            let page = search::search(connection, &search, read::decode)?;
            let notes = notes_of(&page.damaged);
            Ok((Ok(page), notes))
        }))
    }

    fn scan(&self, search: Search) -> BoxFuture<'_, Result<Page<RawRecord>, Error>> {
        self.noting(self.stoppable(move |connection| {
            let page = search::search(connection, &search, read::raw)?;
            let notes = notes_of(&page.damaged);
            Ok((Ok(page), notes))
        }))
    }

    fn damaged(&self) -> BoxFuture<'_, Result<Vec<Damaged>, Error>> {
        self.read(quarantine::list)
    }

    fn explain(&self, search: Search) -> BoxFuture<'_, Result<Plan, Error>> {
        self.read(move |connection| search::explain(connection, &search))
    }

    fn count(&self, search: Search) -> BoxFuture<'_, Result<Option<Count>, Error>> {
        self.noting(self.stoppable(move |connection| {
            let count = search::count(connection, &search)?;
            let undecided = count
                .as_ref()
                .map(|count| notes_of(&count.undecided.damaged));
            Ok((Ok(count), undecided.unwrap_or_default()))
        }))
    }

    fn log(
        &self,
        partition: Partition,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<LogPage, Error>> {
        self.read_noting(move |connection, notes| {
            let page = trails::log(connection, partition, after, limit)?;
            let holes = page.holes.iter();
            notes.extend(holes.map(|hole| Note::of_change(partition, *hole)));
            Ok(page)
        })
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Error>> {
        self.read(ownership::identity)
    }

    fn population(&self) -> BoxFuture<'_, Result<Population, Error>> {
        population::known(self).boxed()
    }

    fn heads(&self) -> BoxFuture<'_, Result<BTreeMap<Partition, Revision>, Error>> {
        self.read(ownership::heads)
    }

    fn history(
        &self,
        read: HistoryRead,
    ) -> BoxFuture<'_, Result<Vec<OrHole<HistoryEntry, Revision>>, Error>> {
        self.read_noting(move |connection, notes| {
            let entries = trails::history(connection, &read)?;
            let holes = entries.iter().filter_map(|entry| entry.as_ref().err());
            notes.extend(holes.map(|hole| Note::of_revision(&read.key, hole)));
            Ok(entries)
        })
    }

    fn audit(
        &self,
        partition: Partition,
        after: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<AuditPage, Error>> {
        self.read_noting(move |connection, notes| {
            let page = trails::audit(connection, partition, after, limit)?;
            let holes = page.entries.iter().filter_map(|entry| entry.as_ref().err());
            notes.extend(holes.map(|hole| Note::of_audit(partition, hole)));
            Ok(page)
        })
    }

    fn audit_by_time(&self, read: AuditRead) -> BoxFuture<'_, Result<AuditFound, Error>> {
        self.read_noting(move |connection, notes| {
            let found = trails::audit_by_time(connection, &read)?;
            let holes = found
                .entries
                .iter()
                .filter_map(|entry| entry.as_ref().err());
            notes.extend(holes.map(Note::of_audit_by_time));
            Ok(found)
        })
    }

    fn operations(
        &self,
        after: Option<OperationId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<OperationRow, OperationId>, Error>> {
        self.read_noting(move |connection, notes| {
            let page = operations::list(connection, after.as_ref(), limit)?;
            notes.extend(page.damaged.iter().map(Note::of_operation));
            Ok(page)
        })
    }

    fn individual_enrollments(&self) -> BoxFuture<'_, Result<u64, Error>> {
        self.read(provisioning::individuals)
    }

    fn provisioning(
        &self,
        after: ProvisioningKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<ProvisioningRow, ProvisioningKey>, Error>> {
        self.read_noting(move |connection, notes| {
            let page = provisioning::list(connection, &after, limit)?;
            notes.extend(page.damaged.iter().map(Note::of_provisioning));
            Ok(page)
        })
    }

    fn operation_results(
        &self,
        operation: OperationId,
        after: Option<IdentityKey>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<OperationResultRow>, Error>> {
        self.read_noting(move |connection, notes| {
            let page = operations::results(connection, &operation, after.as_ref(), limit)?;
            let damaged = page.damaged.iter();
            notes.extend(damaged.map(|one| Note::of_result(&operation, one)));
            Ok(page)
        })
    }

    fn trim(&self, retention: Retention) -> BoxFuture<'_, Result<Trimmed, Error>> {
        trim::of(self, retention).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            // The writer last: the last connection to close takes the WAL into the file.
            self.readers.close().await;
            failpoint::hit("close.readers");
            self.writer.close().await;
            failpoint::hit("close.writer");
        }
        .boxed()
    }
}

fn notes_of(damaged: &[Damaged]) -> Vec<Note> {
    damaged.iter().map(Note::of_twin).collect()
}

/// Wraps an engine's failure with what was attempted.
fn engine<E: std::error::Error + Send + Sync + 'static>(
    action: &'static str,
) -> impl Fn(E) -> Error {
    move |source| Error::Engine {
        action,
        source: Box::new(source),
    }
}

/// An instant as the rows have it.
fn nanoseconds(at: jiff::Timestamp) -> Result<i64, Error> {
    super::row::history::nanoseconds(at).ok_or(Error::Engine {
        action: "write a time",
        source: "it is centuries away".into(),
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{alter, break_page_of, tamper};
