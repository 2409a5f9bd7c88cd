//! The embedded store's file seen as rows, for checks, backups and restores. The service may run
//! meanwhile: reading is one transaction on one snapshot, and a WAL lets writers go on.

use std::path::{Path, PathBuf};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql, Transaction, TransactionBehavior, params_from_iter};
use tokio::sync::mpsc;

use super::ownership::write_count;
use super::{BUSY_TIMEOUT, FILE_NAME, MIGRATIONS, connect, engine, migrate, population};
use crate::store::failpoint;
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

    fn fill(&self, from: mpsc::Receiver<Batch>) -> BoxFuture<'_, Result<(), MaintainError>> {
        self.run(move |files| {
            let mut connection = connect(&files.path)?;
            migrate(&mut connection)?;
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(engine("begin a transaction"))?;
            empty(&transaction)?;
            write(&transaction, from)?;
            failpoint::hit("restore.written");
            transaction.commit().map_err(engine("commit"))?;
            failpoint::hit("restore.durable");
            Ok(())
        })
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
            | Table::Results => rows(snapshot, take, table, &ordered(table), []),
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
    while let Some(row) = all.next()? {
        let values = values(Table::Twins, row)?;
        // As the row has them, whatever they are: a damaged key finds its own entries only.
        let key: Vec<Value> = values.iter().take(2).cloned().collect();
        take(Item::Row(Row {
            table: Table::Twins,
            values,
        }))?;
        rows(
            snapshot,
            take,
            Table::Index,
            &entries,
            params_from_iter(key),
        )?;
    }
    let orphans = format!(
        "SELECT {} FROM twin_index AS i WHERE NOT EXISTS
             (SELECT 1 FROM twins AS t
              WHERE t.device_id = i.device_id AND t.module_id = i.module_id)
         ORDER BY device_id, module_id, path, value",
        Table::Index.column_list()
    );
    rows(snapshot, take, Table::Index, &orphans, [])
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

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Refuses a store that holds anything.
fn empty(transaction: &Transaction<'_>) -> Result<(), MaintainError> {
    for table in Table::ALL {
        let any: bool = transaction
            .query_row(
                &format!("SELECT EXISTS (SELECT 1 FROM {})", table.name()),
                [],
                |row| row.get(0),
            )
            .map_err(engine("look whether it is empty"))?;
        if any {
            return Err(MaintainError::NotEmpty);
        }
    }
    Ok(())
}

/// Writes until the end; without an end nothing may be committed.
fn write(
    transaction: &Transaction<'_>,
    mut from: mpsc::Receiver<Batch>,
) -> Result<(), MaintainError> {
    let action = "restore a row";
    let mut partitions = 0;
    while let Some(batch) = from.blocking_recv() {
        let rows = match batch {
            Batch::Rows(rows) => rows,
            Batch::End => return Ok(write_count(transaction, partitions)?),
        };
        for row in rows {
            let (mut names, mut values) = (row.table.column_list(), row.values);
            if row.table == Table::Partitions {
                partitions += 1;
                names.push_str(", owner, address");
                values.extend([Value::Text(String::new()), Value::Text(String::new())]);
            }
            let places = vec!["?"; values.len()].join(", ");
            let sql = format!(
                "INSERT INTO {} ({names}) VALUES ({places})",
                row.table.name()
            );
            transaction
                .prepare_cached(&sql)
                .and_then(|mut statement| statement.execute(params_from_iter(values)))
                .map_err(engine(action))?;
        }
    }
    Err(MaintainError::Stopped)
}
