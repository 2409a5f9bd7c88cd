//! The shared store: a PostgreSQL database, for several replicas.
//!
//! Keys: see `migrations/postgres/`. Update protocol: a commit is one transaction that
//! first locks every partition it touches, in the order of their numbers, and compares their epochs;
//! one that is not ours any more undoes it. So commits of one partition come one after another, and
//! those of several replicas run beside each other. What a transaction reads and writes below that
//! belongs to the locked partitions, which is why the default isolation (read committed) is enough.
//!
//! Replicas share the partitions out through the table `replicas` (see `postgres/ownership.rs`); the
//! clock is the database's, so theirs may differ.
//!
//! A crash of a replica leaves its last commit whole or absent; the database undoes what was under
//! way, and others take its partitions when its lease has ended. A crash of the server leaves every
//! commit that was answered (`synchronous_commit` is forced on), and one whose answer was lost either
//! whole or absent: the owner has to give its partitions back and to claim them again, which waits
//! for a commit that is still under way. What will not scale: one server takes all writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use deadpool_postgres::Client;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use twin::{IdentityKey, Partition, Revision};

use super::quarantine::{Note, Noted};
use super::{
    AuditFound, AuditPage, AuditRead, Claims, Commit, Count, Error, HistoryEntry, HistoryRead,
    Loaded, LogPage, OperationId, OperationResultRow, OperationRow, OrHole, Page, Plan, Population,
    ProvisioningKey, ProvisioningRow, RawRecord, Replica, ReplicaId, Retention, Search, Selection,
    Store, Trimmed,
};
use crate::record::{Damaged, Record};
use connections::{Connections, Repeat};
pub use maintain::PostgresRows;
use quarantine::notes_of;
pub use settings::{PostgresSettings, SettingsError};
use statement::{execute, query, query_in};

mod apart;
mod connections;
mod fill;
mod maintain;
mod migrate;
mod operations;
mod ownership;
mod population;
mod provisioning;
mod quarantine;
mod read;
mod search;
mod settings;
mod spoilt;
mod statement;
mod text;
mod thin;
mod tokens;
mod trails;
mod trim;
mod write;

/// A parameter of a statement.
type Parameter<'p> = &'p (dyn ToSql + Sync);

/// The shared store.
pub struct PostgresStore {
    connections: Connections,
    noted: Noted,
    trims: Arc<trim::Memory>,
}

impl PostgresStore {
    /// Connects to the database, checks that it is fit, and makes or migrates its tables.
    ///
    /// # Errors
    /// It cannot be reached or does not let us in, is too old or no UTF-8, or was made by a newer
    /// program.
    pub async fn open(settings: &PostgresSettings) -> Result<PostgresStore, Error> {
        let connections = Connections::new(settings)?;
        connections
            .run(Repeat::AtStart, |client| migrate::migrate(client).boxed())
            .await?;
        Ok(PostgresStore {
            connections,
            noted: Noted::default(),
            trims: Arc::default(),
        })
    }

    /// Looks through rows, which may take longer than anything else.
    fn look<T, W>(&self, work: W) -> BoxFuture<'_, Result<T, Error>>
    where
        T: Send + 'static,
        W: for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Error>> + Send + Sync + 'static,
    {
        self.connections.run(Repeat::Look, work).boxed()
    }

    /// Does what is the same whether it is done once or twice, and may therefore be repeated.
    fn repeat<T, W>(&self, work: W) -> BoxFuture<'_, Result<T, Error>>
    where
        T: Send + 'static,
        W: for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Error>> + Send + Sync + 'static,
    {
        self.connections.run(Repeat::Always, work).boxed()
    }
}

impl Store for PostgresStore {
    fn claim(&self, replica: Replica) -> BoxFuture<'_, Result<Claims, Error>> {
        let replica = Arc::new(replica);
        self.repeat(move |client| {
            let replica = replica.clone();
            async move { ownership::claim(client, &replica).await }.boxed()
        })
    }

    fn release(
        &self,
        replica: ReplicaId,
        partitions: Vec<Partition>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        let released = Arc::new((replica, partitions));
        self.repeat(move |client| {
            let released = released.clone();
            async move { ownership::release(client, &released.0, &released.1).await }.boxed()
        })
    }

    fn load(&self, selections: Vec<Selection>) -> BoxFuture<'_, Result<Vec<Loaded>, Error>> {
        let selections = Arc::new(selections);
        let read = self.repeat(move |client| {
            let selections = selections.clone();
            async move {
                let mut notes = Vec::new();
                let loaded = read::load(client, &selections, &mut notes).await?;
                Ok((loaded, notes))
            }
            .boxed()
        });
        async move {
            let (loaded, notes) = read.await?;
            self.note(notes).await;
            Ok(loaded)
        }
        .boxed()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), Error>> {
        let commit = Arc::new(commit);
        let written = commit.clone();
        let write = self.connections.run(Repeat::IfUndone, move |client| {
            let commit = commit.clone();
            async move { write::commit(client, &commit).await }.boxed()
        });
        async move {
            let done = write.await;
            if let Err(Error::Unwritable(said)) = &done {
                self.note(said.iter().filter_map(Note::of_loaded).collect())
                    .await;
            }
            self.note(done?).await;
            let upserts = written.upserts.iter().map(|upsert| &upsert.record.key);
            self.noted.forget(upserts.chain(&written.deletes));
            Ok(())
        }
        .boxed()
    }

    fn get(&self, key: IdentityKey) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        let key = Arc::new(key);
        let read = self.repeat(move |client| {
            let key = key.clone();
            async move { read::get(client, &key).await }.boxed()
        });
        async move {
            let read = read.await;
            if let Err(Error::Damaged(damaged)) = &read {
                self.note(vec![Note::of_twin(damaged)]).await;
            }
            read
        }
        .boxed()
    }

    fn search(&self, search: Search) -> BoxFuture<'_, Result<Page, Error>> {
        let search = Arc::new(search);
        let read = self.look(move |client| {
            let search = search.clone();
            async move { search::search(client, &search, read::decode).await }.boxed()
        });
        self.noting(read, |page| notes_of(&page.damaged)).boxed()
    }

    fn scan(&self, search: Search) -> BoxFuture<'_, Result<Page<RawRecord>, Error>> {
        let search = Arc::new(search);
        let read = self.look(move |client| {
            let search = search.clone();
            async move { search::search(client, &search, read::raw).await }.boxed()
        });
        self.noting(read, |page| notes_of(&page.damaged)).boxed()
    }

    fn explain(&self, search: Search) -> BoxFuture<'_, Result<Plan, Error>> {
        let search = Arc::new(search);
        self.look(move |client| {
            let search = search.clone();
            async move { search::explain(client, &search).await }.boxed()
        })
    }

    fn count(&self, search: Search) -> BoxFuture<'_, Result<Option<Count>, Error>> {
        let search = Arc::new(search);
        let read = self.look(move |client| {
            let search = search.clone();
            async move { search::count(client, &search).await }.boxed()
        });
        self.noting(read, |count| {
            let undecided = count.as_ref().map(|count| &count.undecided.damaged);
            undecided.map_or_else(Vec::new, |damaged| notes_of(damaged))
        })
        .boxed()
    }

    fn log(
        &self,
        partition: Partition,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<LogPage, Error>> {
        let read = self.repeat(move |client| trails::log(client, partition, after, limit).boxed());
        self.noting(read, move |page| {
            let holes = page.holes.iter();
            holes
                .map(|hole| Note::of_change(partition, *hole))
                .collect()
        })
        .boxed()
    }

    fn damaged(&self) -> BoxFuture<'_, Result<Vec<Damaged>, Error>> {
        self.repeat(|client| async move { quarantine::list(client).await }.boxed())
    }

    fn identity(&self) -> BoxFuture<'_, Result<String, Error>> {
        self.repeat(move |client| ownership::identity(client).boxed())
    }

    fn population(&self) -> BoxFuture<'_, Result<Population, Error>> {
        self.repeat(move |client| population::counted(client).boxed())
    }

    fn heads(&self) -> BoxFuture<'_, Result<BTreeMap<Partition, Revision>, Error>> {
        self.repeat(move |client| ownership::heads(client).boxed())
    }

    fn history(
        &self,
        read: HistoryRead,
    ) -> BoxFuture<'_, Result<Vec<OrHole<HistoryEntry, Revision>>, Error>> {
        let key = read.key.clone();
        let read = Arc::new(read);
        let read = self.repeat(move |client| {
            let read = read.clone();
            async move { trails::history(client, &read).await }.boxed()
        });
        self.noting(read, move |entries| {
            let holes = entries.iter().filter_map(|entry| entry.as_ref().err());
            holes.map(|hole| Note::of_revision(&key, hole)).collect()
        })
        .boxed()
    }

    fn audit(
        &self,
        partition: Partition,
        after: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<AuditPage, Error>> {
        let read =
            self.repeat(move |client| trails::audit(client, partition, after, limit).boxed());
        self.noting(read, move |page| {
            let holes = page.entries.iter().filter_map(|entry| entry.as_ref().err());
            holes.map(|hole| Note::of_audit(partition, hole)).collect()
        })
        .boxed()
    }

    fn audit_by_time(&self, read: AuditRead) -> BoxFuture<'_, Result<AuditFound, Error>> {
        let found = self.repeat(move |client| {
            let read = read.clone();
            async move { trails::audit_by_time(client, &read).await }.boxed()
        });
        self.noting(found, |found| {
            let holes = found
                .entries
                .iter()
                .filter_map(|entry| entry.as_ref().err());
            holes.map(Note::of_audit_by_time).collect()
        })
        .boxed()
    }

    fn operations(
        &self,
        after: Option<OperationId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<OperationRow, OperationId>, Error>> {
        let read = self.repeat(move |client| {
            let after = after.clone();
            async move { operations::list(client, after.as_ref(), limit).await }.boxed()
        });
        let notes = |page: &Page<_, _>| page.damaged.iter().map(Note::of_operation).collect();
        self.noting(read, notes).boxed()
    }

    fn individual_enrollments(&self) -> BoxFuture<'_, Result<u64, Error>> {
        self.repeat(move |client| provisioning::individuals(client).boxed())
    }

    fn provisioning(
        &self,
        after: ProvisioningKey,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<ProvisioningRow, ProvisioningKey>, Error>> {
        let read = self.repeat(move |client| {
            let after = after.clone();
            async move { provisioning::list(client, &after, limit).await }.boxed()
        });
        let notes = |page: &Page<_, _>| page.damaged.iter().map(Note::of_provisioning).collect();
        self.noting(read, notes).boxed()
    }

    fn operation_results(
        &self,
        operation: OperationId,
        after: Option<IdentityKey>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page<OperationResultRow>, Error>> {
        let of = operation.clone();
        let read = Arc::new((operation, after));
        let read = self.repeat(move |client| {
            let read = read.clone();
            async move { operations::results(client, &read.0, read.1.as_ref(), limit).await }
                .boxed()
        });
        self.noting(read, move |page| {
            let damaged = page.damaged.iter();
            damaged.map(|one| Note::of_result(&of, one)).collect()
        })
        .boxed()
    }

    fn trim(&self, retention: Retention) -> BoxFuture<'_, Result<Trimmed, Error>> {
        trim::of(self, retention).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.connections.close().boxed()
    }
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

/// A number without a sign, as the rows have it.
fn unsigned(row: &Row, column: usize) -> Result<u64, tokio_postgres::Error> {
    row.try_get::<_, i64>(column).map(i64::cast_unsigned)
}

/// The number of a partition as the rows have it.
fn number(partition: Partition) -> i32 {
    i32::from(partition.get())
}

/// An instant as the rows have it.
fn nanoseconds(at: jiff::Timestamp) -> Result<i64, Error> {
    super::row::history::nanoseconds(at).ok_or(Error::Engine {
        action: "write a time",
        source: "it is centuries away".into(),
    })
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
