//! Fills an embedded store from rows.
//!
//! A store that is not there yet is made under another name, and gets its own when it is whole and
//! durable: a restore that is refused or killed leaves no empty store which a service would take for
//! its own.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, Transaction, TransactionBehavior, params, params_from_iter};
use tokio::sync::mpsc;

use super::connect::{WRITER_CACHE, connect};
use super::ownership::write_count;
use super::{engine, migrate};
use crate::store::failpoint;
use crate::store::maintain::{Batch, MaintainError, Revisions, Row, Table, Value};

/// What SQLite puts beside a file.
const SIDE_FILES: [&str; 2] = ["-wal", "-shm"];

/// Fills the store with this file; answers the revisions that were left out at the end.
pub(super) fn fill(path: &Path, from: mpsc::Receiver<Batch>) -> Result<u64, MaintainError> {
    let io = |action| engine::<io::Error>(action);
    if path.try_exists().map_err(io("look for its file"))? {
        return into(path, from);
    }
    let draft = Draft::beside(path);
    let orphans = into(&draft.path, from)?;
    match std::fs::hard_link(&draft.path, path) {
        // Somebody made a store meanwhile, and it is not ours to replace.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(MaintainError::NotEmpty);
        }
        named => named.map_err(io("name its file"))?,
    }
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io("sync its folder"))?;
    }
    failpoint::hit("restore.named");
    Ok(orphans)
}

/// A store that is not whole yet. Dropping it takes it away.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn beside(path: &Path) -> Draft {
        let mut name = path.as_os_str().to_owned();
        // With the process id, so that two commands do not write one file.
        name.push(format!(".{}.restoring", std::process::id()));
        Draft { path: name.into() }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Best effort: what ended the work is what is to be told.
        let _ = std::fs::remove_file(&self.path);
        for side in SIDE_FILES {
            let mut name = self.path.as_os_str().to_owned();
            name.push(side);
            let _ = std::fs::remove_file(name);
        }
    }
}

fn into(path: &Path, from: mpsc::Receiver<Batch>) -> Result<u64, MaintainError> {
    let mut connection = connect(path, WRITER_CACHE)?;
    migrate(&mut connection)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(engine("begin a transaction"))?;
    empty(&transaction)?;
    let orphans = write(&transaction, from)?;
    failpoint::hit("restore.written");
    transaction.commit().map_err(engine("commit"))?;
    failpoint::hit("restore.durable");
    all_in_one_file(&connection)?;
    failpoint::hit("restore.checkpointed");
    connection
        .close()
        .map_err(|(_, error)| engine("close its file")(error))?;
    Ok(orphans)
}

/// Takes the write-ahead log into the file, which may get another name then.
fn all_in_one_file(connection: &Connection) -> Result<(), MaintainError> {
    let action = "take its write-ahead log into its file";
    let busy: bool = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .map_err(engine(action))?;
    if busy {
        let source = io::Error::other("another process uses it");
        return Err(engine(action)(source).into());
    }
    Ok(())
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
) -> Result<u64, MaintainError> {
    let mut partitions = 0;
    while let Some(batch) = from.blocking_recv() {
        match batch {
            Batch::Rows(rows) => {
                for row in rows {
                    partitions += u16::from(row.table == Table::Partitions);
                    insert(transaction, row)?;
                }
            }
            Batch::Forget(revisions) => forget(transaction, &revisions)?,
            Batch::End => {
                write_count(transaction, partitions)?;
                return orphans(transaction);
            }
        }
    }
    Err(MaintainError::Stopped)
}

fn insert(transaction: &Transaction<'_>, row: Row) -> Result<(), MaintainError> {
    let (mut names, mut values) = (row.table.column_list(), row.values);
    if row.table == Table::Partitions {
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
        .map_err(engine("restore a row"))?;
    Ok(())
}

fn forget(transaction: &Transaction<'_>, revisions: &Revisions) -> Result<(), MaintainError> {
    transaction
        .execute(
            "DELETE FROM history WHERE device_id = ?1 AND module_id = ?2 AND revision <= ?3",
            params![revisions.device, revisions.module, revisions.through],
        )
        .map_err(engine("leave revisions out"))?;
    Ok(())
}

/// Removes the histories of twins that are missing although nobody removed them.
fn orphans(transaction: &Transaction<'_>) -> Result<u64, MaintainError> {
    let removed = transaction
        .execute(
            "DELETE FROM history WHERE (device_id, module_id) IN
                 (SELECT h.device_id, h.module_id FROM history h
                  WHERE NOT EXISTS (SELECT 1 FROM twins t
                      WHERE t.device_id = h.device_id AND t.module_id = h.module_id)
                  GROUP BY h.device_id, h.module_id
                  HAVING (SELECT last.patch FROM history last
                      WHERE last.device_id = h.device_id AND last.module_id = h.module_id
                      ORDER BY last.revision DESC LIMIT 1) <> 'null')",
            [],
        )
        .map_err(engine("leave revisions out"))?;
    Ok(u64::try_from(removed).unwrap_or(u64::MAX))
}
