//! The embedded store: one SQLite file, for one machine.
//!
//! Keys: `twins` by (device, module), `partitions` by number, `outbox` by (partition, revision).
//! Update protocol: one thread writes. A commit is one transaction that first moves every
//! partition it touches, `WHERE epoch = ours`; a row count of zero means that another process took
//! the partition, and the transaction is undone. Readers have connections of their own (WAL), and
//! see every commit that has returned.
//!
//! A crash leaves the last commit whole or absent (WAL, `synchronous=FULL`); the next open rolls
//! the log forward, nobody has to clean anything. What will not scale: one writer per file; several
//! replicas need the PostgreSQL store.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};
use twin::{IdentityKey, ModuleId, Partition, PartitionCount, Revision};

use super::{
    Commit, EnrollmentToken, Error, Listing, Loaded, OutboxChange, Page, PartitionState, Selection,
    Store,
};
use crate::record::Record;

mod read;
mod write;

/// Name of the file below the data directory.
const FILE_NAME: &str = "twins.db";
/// Forward-only; the position in the list is the schema's number.
const MIGRATIONS: &[&str] = &[include_str!("../../migrations/0001_twins.sql")];
/// Writers wait for each other this long; only a second process on the same file competes.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Jobs that wait for the writing thread. The engine has one commit in flight; the rest is rare.
const WRITE_QUEUE: usize = 64;
/// Reading connections kept open; more readers at once open more and close them again.
const IDLE_READERS: usize = 4;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The embedded store.
pub struct SqliteStore {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    readers: std::sync::Arc<Mutex<Vec<Connection>>>,
}

impl SqliteStore {
    /// Opens the store below `folder`, making or migrating it as needed.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or was made by a newer program.
    pub fn open(folder: &Path) -> Result<SqliteStore, Error> {
        let path = folder.join(FILE_NAME);
        let mut connection = connect(&path)?;
        migrate(&mut connection)?;
        let (jobs, mut queue) = mpsc::channel::<Job>(WRITE_QUEUE);
        std::thread::Builder::new()
            .name("twin-store-writer".to_owned())
            .spawn(move || {
                // Ends when the store is dropped; the connection then closes and checkpoints.
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|error| engine("start its writing thread")(error))?;
        Ok(SqliteStore {
            path,
            jobs,
            readers: std::sync::Arc::default(),
        })
    }

    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        async move {
            let (answer, answered) = oneshot::channel();
            let job: Job = Box::new(move |connection| {
                // The asker may have gone; what was written stays written.
                let _ = answer.send(work(connection));
            });
            self.jobs.send(job).await.map_err(|_| Error::Closed)?;
            answered.await.map_err(|_| Error::Closed)?
        }
        .boxed()
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        let path = self.path.clone();
        let readers = self.readers.clone();
        async move {
            tokio::task::spawn_blocking(move || {
                let idle = readers.lock().ok().and_then(|mut idle| idle.pop());
                let connection = match idle {
                    Some(connection) => connection,
                    None => connect(&path)?,
                };
                let result = work(&connection);
                if let Ok(mut idle) = readers.lock()
                    && idle.len() < IDLE_READERS
                {
                    idle.push(connection);
                }
                result
            })
            .await
            .map_err(|_| Error::Closed)?
        }
        .boxed()
    }
}

impl Store for SqliteStore {
    fn acquire(&self, count: PartitionCount) -> BoxFuture<'_, Result<Vec<PartitionState>, Error>> {
        self.write(move |connection| write::acquire(connection, count))
    }

    fn load(&self, selections: Vec<Selection>) -> BoxFuture<'_, Result<Vec<Loaded>, Error>> {
        self.read(move |connection| read::load(connection, &selections))
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), Error>> {
        self.write(move |connection| write::commit(connection, &commit))
    }

    fn get(&self, key: IdentityKey) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        self.read(move |connection| read::get(connection, &key))
    }

    fn list(
        &self,
        listing: Listing,
        after: Option<IdentityKey>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Page, Error>> {
        self.read(move |connection| read::list(connection, listing, after.as_ref(), limit))
    }

    fn outbox(
        &self,
        partition: Partition,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<OutboxChange>, Error>> {
        self.read(move |connection| read::outbox(connection, partition, after, limit))
    }

    fn add_enrollment_token(
        &self,
        token: EnrollmentToken,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<(), Error>> {
        self.write(move |connection| write::add_enrollment_token(connection, &token, now))
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

fn connect(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path).map_err(engine("open its file"))?;
    connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(engine("set its time-out"))?;
    // FULL: an answered write survives a power cut, not only the end of the process. A WAL of up
    // to 16,000 pages between checkpoints nearly doubles the rate of random writes (limits §7).
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA wal_autocheckpoint = 16000; PRAGMA cache_size = -65536;",
        )
        .map_err(engine("set up its file"))?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .map_err(engine("lock its file"))?;
    let found: i64 = transaction
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(engine("read its schema"))?;
    if found > known {
        return Err(Error::Newer { found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        transaction
            .execute_batch(migration)
            .map_err(engine("migrate its schema"))?;
    }
    transaction
        .pragma_update(None, "user_version", known)
        .map_err(engine("migrate its schema"))?;
    transaction.commit().map_err(engine("migrate its schema"))
}

fn module_text(key: &IdentityKey) -> &str {
    key.module.as_ref().map_or("", ModuleId::as_str)
}

#[cfg(test)]
mod tests;
