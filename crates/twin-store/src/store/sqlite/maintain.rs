//! The embedded store's file seen as rows, for checks, backups and restores. The service may run
//! meanwhile: reading is one transaction on one snapshot, and a WAL lets writers go on.

use std::path::{Path, PathBuf};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use tokio::sync::mpsc;

use super::{BUSY_TIMEOUT, FILE_NAME, MIGRATIONS, engine, fill, population};
use crate::store::maintain::{BATCH, Batch, Item, Maintain, MaintainError, Row, Table, Value};

/// Problems that the engine lists at most.
const PROBLEMS_MAX: u32 = 100;

/// The file of an embedded store below a data folder.
#[derive(Debug, Clone)]
pub struct SqliteFiles {
    path: PathBuf,
}

impl SqliteFiles {
    /// The file in this folder. Nothing is opened yet, and nothing made before something is
    /// restored.
    pub fn new(folder: &Path) -> SqliteFiles {
        SqliteFiles {
            path: folder.join(FILE_NAME),
        }
    }

    /// Opens what is there, and neither makes nor migrates it.
    fn open(&self) -> Result<Connection, MaintainError> {
        if !self.path.is_file() {
            return Err(MaintainError::Missing(self.path.clone()));
        }
        // Writable, because a reader of a WAL writes to its index; its content stays as it is.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(&self.path, flags).map_err(engine("open its file"))?;
        connection
            .busy_timeout(BUSY_TIMEOUT)
            .map_err(engine("set its time-out"))?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(engine("set up its file"))?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        let found: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(engine("read its schema"))?;
        if found > known {
            return Err(crate::store::Error::Newer { found, known }.into());
        }
        if found < known {
            return Err(MaintainError::Older { found, known });
        }
        Ok(connection)
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SqliteFiles) -> Result<T, MaintainError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, MaintainError>> {
        let files = self.clone();
        async move {
            tokio::task::spawn_blocking(move || work(&files))
                .await
                .map_err(|_| MaintainError::Stopped)?
        }
        .boxed()
    }
}

impl Maintain for SqliteFiles {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn dump(&self, into: mpsc::Sender<Vec<Item>>) -> BoxFuture<'_, Result<(), MaintainError>> {
        self.run(move |files| {
            let mut connection = files.open()?;
            let snapshot = connection
                .transaction()
                .map_err(engine("begin a transaction"))?;
            let mut items = Vec::with_capacity(BATCH);
            let send = |items: &mut Vec<Item>| into.blocking_send(std::mem::take(items));
            read_all(&snapshot, &mut |item| {
                items.push(item);
                if items.len() >= BATCH {
                    send(&mut items).map_err(|_| Ended::Nobody)?;
                }
                Ok(())
            })
            .and_then(|()| send(&mut items).map_err(|_| Ended::Nobody))
            .map_err(|_| MaintainError::Stopped)
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, MaintainError>> {
        self.run(|files| {
            let action = "check its file";
            let connection = files.open()?;
            let mut statement = connection
                .prepare(&format!("PRAGMA integrity_check({PROBLEMS_MAX})"))
                .map_err(engine(action))?;
            let lines = statement
                .query_map([], |row| row.get::<_, String>(0))
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let mut problems: Vec<_> = match lines {
                Ok(lines) => lines.into_iter().filter(|line| line != "ok").collect(),
                // It gives up on some kinds of damage; that is a finding as well.
                Err(error) => vec![error.to_string()],
            };
            // What cannot be counted was found above, or will be when the rows are read.
            if let Ok((present, counted)) = population::both(&connection) {
                problems.extend(present.differs(counted));
            }
            Ok(problems)
        })
    }

    fn fill(&self, from: mpsc::Receiver<Batch>) -> BoxFuture<'_, Result<u64, MaintainError>> {
        self.run(move |files| fill::fill(&files.path, from))
    }
}

/// Why reading a table ended early.
enum Ended {
    /// Nobody receives any more.
    Nobody,
    /// The engine failed.
    Engine(rusqlite::Error),
}

impl From<rusqlite::Error> for Ended {
    fn from(error: rusqlite::Error) -> Ended {
        Ended::Engine(error)
    }
}

/// Takes what is read.
type Take<'t> = &'t mut dyn FnMut(Item) -> Result<(), Ended>;

/// Reads every table. It only ends early when nobody takes the items.
fn read_all(snapshot: &Connection, take: Take<'_>) -> Result<(), Ended> {
    for table in Table::ALL {
        let read = match table {
            Table::Index => Ok(()),
            Table::Twins => twins(snapshot, take),
            Table::Partitions
            | Table::Log
            | Table::History
            | Table::Audit
            | Table::Requests
            | Table::Tokens
            | Table::Enrollments
            | Table::Operations
            | Table::Results
            | Table::Provisioning => rows(snapshot, take, table, &ordered(table), []),
        };
        match read {
            Ok(()) => {}
            Err(Ended::Nobody) => return Err(Ended::Nobody),
            Err(Ended::Engine(error)) => take(Item::Unreadable(table, error.to_string()))?,
        }
    }
    Ok(())
}

/// Checks what a connection sees, also of its own transaction.
#[cfg(test)]
pub(crate) fn check_on(connection: &Connection) -> crate::store::maintain::Report {
    crate::store::maintain::check_rows(|take| {
        let read = read_all(connection, &mut |item| {
            take(item);
            Ok(())
        });
        assert!(read.is_ok(), "everything is taken");
    })
}

fn ordered(table: Table) -> String {
    format!(
        "SELECT {} FROM {} ORDER BY {}",
        table.column_list(),
        table.name(),
        table.key_list()
    )
}

/// Twins, each with its entries of the index behind it, then the entries of no twin.
fn twins(snapshot: &Connection, take: Take<'_>) -> Result<(), Ended> {
    let entries = format!(
        "SELECT {} FROM twin_index WHERE device_id = ?1 AND module_id = ?2 ORDER BY path, value",
        Table::Index.column_list()
    );
    let mut statement = snapshot.prepare(&ordered(Table::Twins))?;
    let mut all = statement.query([])?;
    let mut index = Index::Read;
    while let Some(row) = all.next()? {
        let values = values(Table::Twins, row)?;
        // As the row has them, whatever they are: a damaged key finds its own entries only.
        let key: Vec<Value> = values.iter().take(2).cloned().collect();
        take(Item::Row(Row {
            table: Table::Twins,
            values,
        }))?;
        index = index.then(take, |take| {
            let key = params_from_iter(key);
            rows(snapshot, take, Table::Index, &entries, key)
        })?;
    }
    let orphans = format!(
        "SELECT {} FROM twin_index AS i WHERE NOT EXISTS
             (SELECT 1 FROM twins AS t
              WHERE t.device_id = i.device_id AND t.module_id = i.module_id)
         ORDER BY device_id, module_id, path, value",
        Table::Index.column_list()
    );
    index.then(take, |take| {
        rows(snapshot, take, Table::Index, &orphans, [])
    })?;
    Ok(())
}

/// Whether the index is read with the twins. One that cannot be read must not keep them from being:
/// it follows from them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Index {
    Read,
    GivenUp,
}

impl Index {
    fn then(
        self,
        take: Take<'_>,
        read: impl FnOnce(Take<'_>) -> Result<(), Ended>,
    ) -> Result<Index, Ended> {
        if self == Index::GivenUp {
            return Ok(Index::GivenUp);
        }
        match read(take) {
            Ok(()) => Ok(Index::Read),
            Err(Ended::Nobody) => Err(Ended::Nobody),
            Err(Ended::Engine(error)) => {
                take(Item::Unreadable(Table::Index, error.to_string()))?;
                Ok(Index::GivenUp)
            }
        }
    }
}

fn rows(
    snapshot: &Connection,
    take: Take<'_>,
    table: Table,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<(), Ended> {
    let mut statement = snapshot.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    while let Some(row) = rows.next()? {
        let values = values(table, row)?;
        take(Item::Row(Row { table, values }))?;
    }
    Ok(())
}

fn values(table: Table, row: &rusqlite::Row<'_>) -> rusqlite::Result<Vec<Value>> {
    let columns = 0..table.columns().len();
    columns
        .map(|column| {
            Ok(match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => Value::Integer(number),
                // No column is of this type; the check says so.
                ValueRef::Real(number) => Value::Bytes(number.to_le_bytes().to_vec()),
                ValueRef::Text(text) => match std::str::from_utf8(text) {
                    Ok(text) => Value::Text(text.to_owned()),
                    Err(_) => Value::Bytes(text.to_vec()),
                },
                ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
            })
        })
        .collect()
}
