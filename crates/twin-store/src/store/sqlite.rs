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
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};
use twin::{DeviceId, IdentityKey, ModuleId, Partition, PartitionCount, Revision};

use super::row::{self, Row};
use super::{
    Commit, EnrollmentState, EnrollmentToken, Epoch, Error, Loaded, OutboxChange, Page,
    PartitionState, Selection, Store, TokenHash,
};
use crate::record::{Damaged, Record};

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
        self.read(move |connection| {
            let mut loaded = Vec::with_capacity(selections.len());
            for selection in &selections {
                match selection {
                    Selection::One(key) => loaded.extend(load_one(connection, key)?),
                    Selection::Family(device) => load_family(connection, device, &mut loaded)?,
                }
            }
            Ok(loaded)
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), Error>> {
        self.write(move |connection| write::commit(connection, &commit))
    }

    fn get(&self, key: IdentityKey) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        self.read(move |connection| get(connection, &key))
    }

    fn list(&self, after: Option<IdentityKey>, limit: u32) -> BoxFuture<'_, Result<Page, Error>> {
        self.read(move |connection| list(connection, after.as_ref(), limit))
    }

    fn outbox(
        &self,
        partition: Partition,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<OutboxChange>, Error>> {
        self.read(move |connection| outbox(connection, partition, after, limit))
    }

    fn add_enrollment_token(&self, token: EnrollmentToken) -> BoxFuture<'_, Result<(), Error>> {
        self.write(move |connection| write::add_enrollment_token(connection, &token))
    }

    fn enrollment_token(
        &self,
        hash: TokenHash,
        device: DeviceId,
    ) -> BoxFuture<'_, Result<Option<EnrollmentState>, Error>> {
        self.read(move |connection| enrollment_token(connection, hash, &device))
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

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, String, Row)> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        Row {
            revision: row.get::<_, i64>(2)?.cast_unsigned(),
            body: row.get(3)?,
            checksum: row.get(4)?,
        },
    ))
}

fn get(connection: &Connection, key: &IdentityKey) -> Result<Option<Record>, Error> {
    match load_one(connection, key)? {
        None => Ok(None),
        Some(Loaded::Whole(record)) => Ok(Some(*record)),
        Some(Loaded::Damaged(_, damaged)) => Err(damaged.into()),
    }
}

fn load_one(connection: &Connection, key: &IdentityKey) -> Result<Option<Loaded>, Error> {
    let found = connection
        .prepare_cached(
            "SELECT device_id, module_id, revision, body, checksum FROM twins
             WHERE device_id = ?1 AND module_id = ?2",
        )
        .map_err(engine("read a twin"))?
        .query_row(params![key.device.as_str(), module_text(key)], read_row)
        .optional()
        .map_err(engine("read a twin"))?;
    Ok(found.map(|(_, _, row)| loaded(key.clone(), &row)))
}

fn load_family(
    connection: &Connection,
    device: &DeviceId,
    all: &mut Vec<Loaded>,
) -> Result<(), Error> {
    let mut statement = connection
        .prepare_cached(
            "SELECT device_id, module_id, revision, body, checksum FROM twins
             WHERE device_id = ?1 ORDER BY module_id",
        )
        .map_err(engine("read the twins of a device"))?;
    let rows = statement
        .query_map(params![device.as_str()], read_row)
        .map_err(engine("read the twins of a device"))?;
    for row in rows {
        let (device, module, row) = row.map_err(engine("read the twins of a device"))?;
        all.push(loaded(parse_key(&device, &module)?, &row));
    }
    Ok(())
}

fn loaded(key: IdentityKey, row: &Row) -> Loaded {
    match row::decode(key.clone(), row) {
        Ok(record) => Loaded::Whole(Box::new(record)),
        Err(damaged) => Loaded::Damaged(key, damaged),
    }
}

fn parse_key(device: &str, module: &str) -> Result<IdentityKey, Damaged> {
    let damaged = |problem: twin::IdError| Damaged {
        key: format!("{device}/{module}"),
        part: "key",
        problem: problem.to_string(),
    };
    Ok(IdentityKey {
        device: DeviceId::parse(device).map_err(damaged)?,
        module: match module {
            "" => None,
            module => Some(ModuleId::parse(module).map_err(damaged)?),
        },
    })
}

fn list(connection: &Connection, after: Option<&IdentityKey>, limit: u32) -> Result<Page, Error> {
    let (device, module) = after.map_or(("", ""), |key| (key.device.as_str(), module_text(key)));
    let mut statement = connection
        .prepare_cached(
            "SELECT device_id, module_id, revision, body, checksum FROM twins
             WHERE (device_id, module_id) > (?1, ?2) ORDER BY device_id, module_id LIMIT ?3",
        )
        .map_err(engine("list twins"))?;
    let rows = statement
        .query_map(params![device, module, limit], read_row)
        .map_err(engine("list twins"))?;
    let mut page = Page::default();
    let mut last = None;
    let mut count = 0_u32;
    for row in rows {
        let (device, module, row) = row.map_err(engine("list twins"))?;
        count += 1;
        let key = parse_key(&device, &module)?;
        last = Some(key.clone());
        match loaded(key, &row) {
            Loaded::Whole(record) => page.records.push(*record),
            Loaded::Damaged(_, damaged) => page.damaged.push(damaged),
        }
    }
    page.next = last.filter(|_| count == limit);
    Ok(page)
}

fn outbox(
    connection: &Connection,
    partition: Partition,
    after: Revision,
    limit: u32,
) -> Result<Vec<OutboxChange>, Error> {
    let mut statement = connection
        .prepare_cached(
            "SELECT revision, change FROM outbox WHERE partition = ?1 AND revision > ?2
             ORDER BY revision LIMIT ?3",
        )
        .map_err(engine("read its outbox"))?;
    let rows = statement
        .query_map(
            params![partition.get(), after.get().cast_signed(), limit],
            |row| {
                Ok(OutboxChange {
                    partition,
                    revision: Revision::new(row.get::<_, i64>(0)?.cast_unsigned()),
                    change: row.get(1)?,
                })
            },
        )
        .map_err(engine("read its outbox"))?;
    rows.collect::<Result<_, _>>()
        .map_err(engine("read its outbox"))
}

fn enrollment_token(
    connection: &Connection,
    hash: TokenHash,
    device: &DeviceId,
) -> Result<Option<EnrollmentState>, Error> {
    let action = "read an enrolment token";
    let token = connection
        .query_row(
            "SELECT device_id, expires_at, uses_max FROM enrollment_tokens WHERE hash = ?1",
            params![hash],
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, u32>(2)?,
                ))
            },
        )
        .optional()
        .map_err(engine(action))?;
    let Some((only_device, expires_at, uses_max)) = token else {
        return Ok(None);
    };
    let uses = connection
        .query_row(
            "SELECT count(*) FROM enrollments WHERE hash = ?1",
            params![hash],
            |row| row.get(0),
        )
        .map_err(engine(action))?;
    let nonce = connection
        .query_row(
            "SELECT nonce FROM enrollments WHERE hash = ?1 AND device_id = ?2",
            params![hash, device.as_str()],
            |row| row.get(0),
        )
        .optional()
        .map_err(engine(action))?;
    let damaged = |problem: String| {
        Error::Damaged(Damaged {
            key: "enrolment token".to_owned(),
            part: "row",
            problem,
        })
    };
    let device = match only_device.as_str() {
        "" => None,
        id => Some(DeviceId::parse(id).map_err(|error| damaged(error.to_string()))?),
    };
    let expires_at =
        Timestamp::from_second(expires_at).map_err(|error| damaged(error.to_string()))?;
    let token = EnrollmentToken {
        hash,
        device,
        expires_at,
        uses_max,
    };
    Ok(Some(EnrollmentState { token, uses, nonce }))
}

/// Reads the standing of a partition, for the commit's fence.
fn partition_row(partition: Partition) -> i64 {
    i64::from(partition.get())
}

/// Wraps the columns of a partition's row.
fn partition_state(
    partition: Partition,
    epoch: i64,
    position: i64,
    revision: i64,
) -> PartitionState {
    PartitionState {
        partition,
        epoch: Epoch(epoch.cast_unsigned()),
        position: position.cast_unsigned(),
        revision: Revision::new(revision.cast_unsigned()),
    }
}
