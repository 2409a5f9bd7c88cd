//! What the embedded store remembers of the past: the log, the history, the audit entries.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use twin::{IdentityKey, Partition, Revision};

use super::write::{execute, number, whole};
use super::{engine, module_text, read};
use crate::history::{may_merge, merge};
use crate::record::Damaged;
use crate::store::row::change;
use crate::store::row::history::{self, HistoryRow, nanoseconds};
use crate::store::{Error, HistoryEntry, HistoryRead, Hole, LogEntry, LogPage, OrHole};

pub(super) use audit::audit;
pub(super) use audit_by_time::audit_by_time;
#[cfg(test)]
pub(super) use audit_by_time::{by as audit_by, statement as audit_statement};

/// The columns that [`history_row`] reads, in this order.
pub(super) const COLUMNS: &str = "revision, first_revision, at, first_at, actor, cause, changes, patch, undo, \
                       routine, trace_parent, checksum, previous";

/// Reads the log of a partition. A damaged change is a hole, or the partition would stand still.
pub(super) fn log(
    connection: &Connection,
    partition: Partition,
    after: Revision,
    limit: u32,
) -> Result<LogPage, Error> {
    let action = "read its log";
    let mut page = LogPage::default();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut reached = after;
    if let Err(error) = follow_log(connection, partition, limit, &mut page, &mut reached) {
        // The engine cannot step over the damage; each change is looked up by itself.
        read::damage(error, "the log", "rows")?;
        log_by_one(connection, partition, limit, &mut page, &mut reached)?;
    }
    // The floor after the entries: it only rises, so that a gap that a trim in between makes is
    // never taken for a whole log.
    let standing: Option<(i64, i64)> = connection
        .prepare_cached("SELECT log_floor, revision FROM partitions WHERE partition = ?1")
        .map_err(engine(action))?
        .query_row(params![partition.get()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
        .map_err(engine(action))?;
    let (floor, head) = standing.unwrap_or_default();
    page.floor = Revision::new(floor.cast_unsigned());
    // A number that no change has yet is what is damaged itself; the change it was of is missing.
    let head = Revision::new(head.cast_unsigned());
    page.holes.retain(|hole| *hole <= head);
    Ok(page)
}

fn follow_log(
    connection: &Connection,
    partition: Partition,
    limit: usize,
    page: &mut LogPage,
    reached: &mut Revision,
) -> Result<(), Error> {
    let action = "read its log";
    let mut statement = connection
        .prepare_cached(
            "SELECT revision, change FROM log WHERE partition = ?1 AND revision > ?2
             ORDER BY revision",
        )
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params![partition.get(), number(*reached)])
        .map_err(engine(action))?;
    while page.entries.len() < limit
        && let Some(row) = rows.next().map_err(engine(action))?
    {
        let revision: i64 = row.get(0).map_err(engine(action))?;
        *reached = Revision::new(revision.cast_unsigned());
        take_change(page, partition, *reached, row, 1);
    }
    Ok(())
}

fn log_by_one(
    connection: &Connection,
    partition: Partition,
    limit: usize,
    page: &mut LogPage,
    reached: &mut Revision,
) -> Result<(), Error> {
    let action = "read a change of its log";
    let head: i64 = connection
        .query_row(
            "SELECT revision FROM partitions WHERE partition = ?1",
            params![partition.get()],
            |row| row.get(0),
        )
        .map_err(engine(action))?;
    let mut statement = connection
        .prepare_cached("SELECT change FROM log WHERE partition = ?1 AND revision = ?2")
        .map_err(engine(action))?;
    while page.entries.len() < limit && number(*reached) < head {
        let Some(revision) = reached.next() else {
            break;
        };
        *reached = revision;
        let found = statement
            .query_row(params![partition.get(), number(revision)], |row| {
                take_change(page, partition, revision, row, 0);
                Ok(())
            })
            .optional()
            .map_err(engine(action));
        if let Err(error) = found {
            read::damage(error, "the log", "row")?;
            page.holes.push(revision);
        }
    }
    Ok(())
}

fn take_change(
    page: &mut LogPage,
    partition: Partition,
    revision: Revision,
    row: &rusqlite::Row<'_>,
    column: usize,
) {
    let sealed = row.get_ref(column).ok();
    let opened = sealed
        .and_then(|sealed| sealed.as_blob().ok())
        .and_then(|sealed| change::open(partition, revision, sealed));
    match opened {
        Some(change) => page.entries.push(LogEntry {
            partition,
            revision,
            change: change.to_vec(),
        }),
        None => page.holes.push(revision),
    }
}

/// Reads revisions of one identity, newest first. Where the engine cannot go on, the rest is one
/// hole.
pub(super) fn history(
    connection: &Connection,
    read: &HistoryRead,
) -> Result<Vec<OrHole<HistoryEntry, Revision>>, Error> {
    let action = "read the history of a twin";
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM history
             WHERE device_id = ?1 AND module_id = ?2 AND revision < ?3 AND at >= ?4 AND at < ?5
             ORDER BY revision DESC LIMIT ?6"
        ))
        .map_err(engine(action))?;
    let below = read.before.map_or(i64::MAX, number);
    let (from, to) = (
        bound(read.from).unwrap_or(i64::MIN),
        bound(read.to).unwrap_or(i64::MAX),
    );
    let mut rows = statement
        .query(params![
            read.key.device.as_str(),
            module_text(&read.key),
            below,
            from,
            to,
            read.limit
        ])
        .map_err(engine(action))?;
    let mut entries = Vec::new();
    let mut lowest = below;
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(entries),
            Err(error) => {
                let name = read.key.to_string();
                let damaged = read::damage(engine(action)(error), &name, "history")?;
                let at = Revision::new((lowest - 1).max(0).cast_unsigned());
                entries.push(Err(Hole { at, damaged }));
                return Ok(entries);
            }
        };
        lowest = row.get(0).unwrap_or(lowest - 1);
        entries.push(entry(&read.key, row).map_err(|damaged| Hole {
            at: Revision::new(lowest.max(0).cast_unsigned()),
            damaged,
        }));
    }
}

fn entry(key: &IdentityKey, row: &rusqlite::Row<'_>) -> Result<HistoryEntry, Damaged> {
    let row = history_row(row, 0).map_err(|error| Damaged {
        key: key.to_string(),
        part: "history",
        problem: error.to_string(),
    })?;
    history::decode(key.clone(), row)
}

/// Writes a revision, put together with the last one of its identity where that is allowed.
pub(super) fn keep(
    transaction: &Transaction<'_>,
    entry: &HistoryEntry,
    coalesce_within: Duration,
) -> Result<(), Error> {
    if !entry.routine || coalesce_within.is_zero() {
        return insert(transaction, entry);
    }
    let last = last(transaction, &entry.key)?;
    let merged = last
        .filter(|last| may_merge(last, entry, coalesce_within))
        // One that cannot be read stays by itself.
        .and_then(|last| Some((last.revision, merge(&last, entry).ok()?)));
    let Some((replaced, merged)) = merged else {
        return insert(transaction, entry);
    };
    let replacing = whole(transaction, || {
        execute(
            transaction,
            "replace a revision",
            "DELETE FROM history WHERE device_id = ?1 AND module_id = ?2 AND revision = ?3",
            params![
                entry.key.device.as_str(),
                module_text(&entry.key),
                number(replaced)
            ],
        )?;
        insert(transaction, &merged)
    })?;
    match replacing {
        // One that is damaged where only a removal comes upon it keeps nobody from writing.
        Err(error) if read::is_of_damage(&error) => insert(transaction, entry),
        other => other,
    }
}

/// The last revision of an identity, if it can be read.
fn last(transaction: &Transaction<'_>, key: &IdentityKey) -> Result<Option<HistoryEntry>, Error> {
    let action = "read the last revision";
    let row = transaction
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM history WHERE device_id = ?1 AND module_id = ?2
             ORDER BY revision DESC LIMIT 1"
        ))
        .map_err(engine(action))?
        .query_row(params![key.device.as_str(), module_text(key)], |row| {
            Ok(history_row(row, 0).ok())
        })
        .optional()
        .map_err(engine(action))?;
    Ok(row
        .flatten()
        .and_then(|row| history::decode(key.clone(), row).ok()))
}

pub(super) fn insert(transaction: &Transaction<'_>, entry: &HistoryEntry) -> Result<(), Error> {
    let row = history::encode(entry).ok_or(Error::Engine {
        action: "write a revision",
        source: "its time is centuries away".into(),
    })?;
    execute(
        transaction,
        "write a revision",
        "INSERT INTO history (device_id, module_id, revision, first_revision, at, first_at, actor,
             cause, changes, patch, undo, routine, trace_parent, checksum, previous)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            entry.key.device.as_str(),
            module_text(&entry.key),
            row.revision.cast_signed(),
            row.first_revision.cast_signed(),
            row.at,
            row.first_at,
            row.actor,
            row.cause,
            row.changes,
            row.patch,
            row.undo,
            row.routine,
            row.trace_parent,
            row.checksum,
            row.previous.map(u64::cast_signed)
        ],
    )?;
    Ok(())
}

/// An instant as the rows have it; one that is centuries away bounds nothing.
fn bound(at: Option<Timestamp>) -> Option<i64> {
    let at = at?;
    let far = if at < Timestamp::UNIX_EPOCH {
        i64::MIN
    } else {
        i64::MAX
    };
    Some(nanoseconds(at).unwrap_or(far))
}

/// Reads the columns of a revision, beginning at `first`.
pub(super) fn history_row(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<HistoryRow> {
    Ok(HistoryRow {
        revision: row.get::<_, i64>(first)?.cast_unsigned(),
        first_revision: row.get::<_, i64>(first + 1)?.cast_unsigned(),
        at: row.get(first + 2)?,
        first_at: row.get(first + 3)?,
        actor: row.get(first + 4)?,
        cause: row.get(first + 5)?,
        changes: row.get(first + 6)?,
        patch: row.get(first + 7)?,
        undo: row.get(first + 8)?,
        routine: row.get(first + 9)?,
        trace_parent: row.get(first + 10)?,
        checksum: row.get(first + 11)?,
        previous: row
            .get::<_, Option<i64>>(first + 12)?
            .map(i64::cast_unsigned),
    })
}

mod audit;
mod audit_by_time;
