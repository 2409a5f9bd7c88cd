//! Indexes of the embedded store that do not fit their tables.
//!
//! A row is in the file more than once: in its table, and in each index of it. Where a disk changed an entry of an
//! index, the engine neither removes the row nor changes what the index has of it, and fails the statement. An index
//! follows from its table, so it is made anew: at once in a small store, and with the next start in a large one, where
//! it takes minutes. Not where the structure of a page is damaged: to make such an index anew frees pages of others.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, ffi, params};
use service_kit::error::chain;
use tokio::time::Instant;

use super::{engine, write};
use crate::store::maintain::Table;
use crate::store::quarantine::{Note, STUCK, UNFIT};
use crate::store::{Error, failpoint};

/// Bytes of a store whose indexes are made anew while commits wait, for some seconds.
pub(super) const REINDEXED_MAX: i64 = 1 << 30;
/// They are made anew no more often than this: what is found damaged again is so in its table.
pub(super) const AGAIN_AFTER: Duration = Duration::from_hours(24);
/// How the name of the fact ends that says when a start began to make the indexes of a table anew last, in seconds
/// since 1970.
const MENDED: &str = "_mended";

/// Makes indexes anew while the store is used.
#[derive(Debug)]
pub(super) struct Indexes {
    /// Bytes of a store of which they are.
    pub(super) reindexed_max: i64,
    /// When it was tried last, by table.
    tried: Mutex<BTreeMap<Table, Instant>>,
}

impl Default for Indexes {
    fn default() -> Indexes {
        Indexes {
            reindexed_max: REINDEXED_MAX,
            tried: Mutex::default(),
        }
    }
}

impl Indexes {
    /// Makes the indexes of a table anew, in a transaction of their own; answers whether it did. It does not in a large
    /// store, nor soon after it did or tried to.
    ///
    /// # Errors
    /// No transaction can be made, or none can end.
    pub(super) fn mend(&self, connection: &mut Connection, table: Table) -> Result<bool, Error> {
        let now = Instant::now();
        {
            let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
            let is_late = |at: &Instant| now.saturating_duration_since(*at) < AGAIN_AFTER;
            if tried.get(&table).is_some_and(is_late) {
                return Ok(false);
            }
            if bytes(connection)? > self.reindexed_max {
                return Ok(false);
            }
            tried.insert(table, now);
        }
        let transaction = write::begin(connection)?;
        if let Err(error) = reindex(&transaction, table) {
            let error = chain(&error);
            tracing::error!(table = table.name(), error, "indexes stay as they are");
            return Ok(false);
        }
        let ended = transaction.commit();
        ended.map_err(engine("make an index anew"))?;
        Ok(true)
    }

    /// Makes indexes by time anew that do not begin in the order of time; notes those that cannot be.
    ///
    /// # Errors
    /// As [`Self::mend`].
    pub(super) fn order(
        &self,
        connection: &mut Connection,
        notes: &mut Vec<Note>,
    ) -> Result<(), Error> {
        for (table, first_two) in BY_TIME {
            let times = times(connection, first_two);
            // Where it cannot be looked at, whoever uses it is told.
            let is_in_order = times.map_or(true, |times| times.is_sorted());
            if !is_in_order && !self.mend(connection, table)? {
                notes.push(Note::of_index(table));
            }
        }
        Ok(())
    }
}

/// What is no time is behind all others.
fn times(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(sql)?;
    let times = statement.query_map([], |row| Ok(row.get(0).unwrap_or(i64::MAX)))?;
    times.collect()
}

/// Indexes by time, and what reads the first two of their entries. What is old is looked for from the first entry on, up
/// to the first that is young: one whose time a disk has put off hides all that stand behind it.
const BY_TIME: [(Table, &str); 3] = [
    (
        Table::History,
        "SELECT at FROM history INDEXED BY history_at ORDER BY at LIMIT 2",
    ),
    (
        Table::Requests,
        "SELECT at FROM requests INDEXED BY requests_at ORDER BY at LIMIT 2",
    ),
    (
        Table::Operations,
        "SELECT at FROM operations INDEXED BY operations_ended WHERE ended = 1 ORDER BY at LIMIT 2",
    ),
];

/// How large the store is.
pub(super) fn bytes(connection: &Connection) -> Result<i64, Error> {
    let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
    connection
        .query_row(sql, [], |row| row.get(0))
        .map_err(engine("look how large it is"))
}

/// Whether an index that can be read does not fit its table. Only such a one is made anew: to empty one whose pages
/// are damaged frees whatever pages they seem to name.
pub(super) fn is_of_index(error: &Error) -> bool {
    code(error) == Some(ffi::SQLITE_CORRUPT_INDEX)
}

/// Whether the engine writes nothing more in the transaction that has failed so.
pub(super) fn is_final(error: &Error) -> bool {
    code(error) == Some(ffi::SQLITE_CORRUPT)
}

fn code(error: &Error) -> Option<i32> {
    let Error::Engine { source, .. } = error else {
        return None;
    };
    let source = source.downcast_ref::<rusqlite::Error>();
    let code = source.and_then(rusqlite::Error::sqlite_error)?;
    Some(code.extended_code)
}

/// Makes the indexes of a table anew.
pub(super) fn reindex(transaction: &Transaction<'_>, table: Table) -> Result<(), Error> {
    let action = "make an index anew";
    refuse_damaged_pages(transaction)?;
    tracing::warn!(
        table = table.name(),
        "an index is damaged, and those of its table are made anew"
    );
    // Not the one that is the table itself.
    let names = transaction
        .prepare("SELECT name FROM pragma_index_list(?1) WHERE origin = 'c'")
        .and_then(|mut statement| {
            let names = statement.query_map([table.name()], |row| row.get(0))?;
            names.collect::<Result<Vec<String>, _>>()
        });
    for name in names.map_err(engine(action))? {
        write::execute(transaction, action, &format!("REINDEX {name}"), [])?;
    }
    Ok(())
}

/// Fails where the structure of a page is damaged. An entry is not found either where a pointer of the index leads to
/// a page of another table, and to make such an index anew frees that table's pages.
fn refuse_damaged_pages(transaction: &Transaction<'_>) -> Result<(), Error> {
    let action = "look whether pages are damaged before an index is made anew";
    let mut statement = transaction
        .prepare("PRAGMA quick_check")
        .map_err(engine(action))?;
    let lines = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect::<Result<Vec<String>, _>>)
        .map_err(engine(action))?;
    // Others are of values that do not fit, which is what an index is made anew for.
    let of_pages = ["Tree ", "Page ", "Freelist", "***"];
    match lines
        .into_iter()
        .find(|line| of_pages.iter().any(|start| line.starts_with(start)))
    {
        Some(line) => Err(Error::Engine {
            action,
            source: line.into(),
        }),
        None => Ok(()),
    }
}

/// Makes the indexes of tables anew of which a process before this one has noted rows that do not fit them, and forgets
/// these notes: whatever is still damaged is found again. Where it cannot be done, the service starts all the same.
pub(super) fn mend(connection: &mut Connection) {
    for table in Table::ALL {
        if let Err(error) = try_to_mend(connection, table) {
            let error = chain(&error);
            tracing::error!(table = table.name(), error, "indexes stay as they are");
        }
    }
}

fn try_to_mend(connection: &mut Connection, table: Table) -> Result<(), Error> {
    let action = "look whether an index is to be made anew";
    let mended = format!("{}{MENDED}", table.name());
    let is_wanted: bool = connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM quarantine WHERE table_name = ?1
                 AND (substr(problem, 1, length(?2)) = ?2 OR substr(problem, 1, length(?3)) = ?3))
             AND NOT EXISTS (SELECT 1 FROM facts
                 WHERE name = ?4 AND CAST(value AS INTEGER) > unixepoch() - ?5)",
            params![
                table.name(),
                STUCK,
                UNFIT,
                mended,
                AGAIN_AFTER.as_secs().cast_signed()
            ],
            |row| row.get(0),
        )
        .map_err(engine(action))?;
    if !is_wanted {
        return Ok(());
    }
    // First that it is tried: whoever is killed for being slow to start is to start the next time.
    let transaction = write::begin(connection)?;
    write::execute(
        &transaction,
        "note that an index is made anew",
        "INSERT INTO facts (name, value) VALUES (?1, CAST(unixepoch() AS TEXT))
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [mended],
    )?;
    failpoint::hit("mend.begun");
    let noted = transaction.commit();
    noted.map_err(engine("note that an index is made anew"))?;
    failpoint::hit("mend.noted");
    let transaction = write::begin(connection)?;
    reindex(&transaction, table)?;
    write::execute(
        &transaction,
        "forget what did not fit",
        "DELETE FROM quarantine WHERE table_name = ?1
             AND (substr(problem, 1, length(?2)) = ?2 OR substr(problem, 1, length(?3)) = ?3)",
        params![table.name(), STUCK, UNFIT],
    )?;
    failpoint::hit("mend.made");
    let done = transaction.commit();
    done.map_err(engine("make an index anew"))?;
    failpoint::hit("mend.durable");
    Ok(())
}

#[cfg(test)]
mod tests;
