//! What the embedded store remembers of the past: the log, the history, the audit entries.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use twin::{IdentityKey, Partition, Revision};

use super::write::{execute, number};
use super::{engine, module_text};
use crate::history::{may_merge, merge};
use crate::record::Damaged;
use crate::store::row::change;
use crate::store::row::history::{self, HistoryRow, instant, nanoseconds};
use crate::store::{
    AuditEntry, AuditHead, AuditPage, Error, HistoryEntry, HistoryRead, LogEntry, LogPage,
};

/// The columns that [`history_row`] reads, in this order.
const COLUMNS: &str = "revision, first_revision, at, first_at, actor, cause, changes, patch, undo, \
                       routine, trace_parent, checksum";

/// Reads the log of a partition. A damaged change is left out, or the partition would stand still;
/// readers look at every twin now and then.
pub(super) fn log(
    connection: &Connection,
    partition: Partition,
    after: Revision,
    limit: u32,
) -> Result<LogPage, Error> {
    let action = "read its log";
    // The floor after the entries: it only rises, so that a gap that a trim in between makes is
    // never taken for a whole log.
    let mut page = LogPage::default();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut statement = connection
        .prepare_cached(
            "SELECT revision, change FROM log WHERE partition = ?1 AND revision > ?2
             ORDER BY revision",
        )
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params![partition.get(), number(after)])
        .map_err(engine(action))?;
    while page.entries.len() < limit
        && let Some(row) = rows.next().map_err(engine(action))?
    {
        let revision: i64 = row.get(0).map_err(engine(action))?;
        let revision = Revision::new(revision.cast_unsigned());
        let sealed = row.get_ref(1).map_err(engine(action))?;
        let opened = sealed
            .as_blob()
            .ok()
            .and_then(|sealed| change::open(partition, revision, sealed));
        match opened {
            Some(change) => page.entries.push(LogEntry {
                partition,
                revision,
                change: change.to_vec(),
            }),
            None => {
                tracing::error!(%partition, %revision, "a change in the log is damaged and is left out");
            }
        }
    }
    let floor: Option<i64> = connection
        .prepare_cached("SELECT log_floor FROM partitions WHERE partition = ?1")
        .map_err(engine(action))?
        .query_row(params![partition.get()], |row| row.get(0))
        .optional()
        .map_err(engine(action))?;
    page.floor = Revision::new(floor.unwrap_or(0).cast_unsigned());
    Ok(page)
}

/// Reads revisions of one identity, newest first. One that cannot be read is an error, because a
/// document rewound without it would be wrong.
pub(super) fn history(
    connection: &Connection,
    read: &HistoryRead,
) -> Result<Vec<HistoryEntry>, Error> {
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
    while let Some(row) = rows.next().map_err(engine(action))? {
        let row = history_row(row, 0).map_err(|error| Damaged {
            key: read.key.to_string(),
            part: "history",
            problem: error.to_string(),
        })?;
        entries.push(history::decode(read.key.clone(), row)?);
    }
    Ok(entries)
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

fn insert(transaction: &Transaction<'_>, entry: &HistoryEntry) -> Result<(), Error> {
    let row = history::encode(entry).ok_or(Error::Engine {
        action: "write a revision",
        source: "its time is centuries away".into(),
    })?;
    execute(
        transaction,
        "write a revision",
        "INSERT INTO history (device_id, module_id, revision, first_revision, at, first_at, actor,
             cause, changes, patch, undo, routine, trace_parent, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
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
            row.checksum
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
    })
}

/// Reads a partition's chain of audit entries.
pub(super) fn audit(
    connection: &Connection,
    partition: Partition,
    after: u64,
    limit: u32,
) -> Result<AuditPage, Error> {
    let action = "read the audit entries";
    // One statement each, in one transaction, so that the head is the one of these entries.
    let transaction = connection.unchecked_transaction().map_err(engine(action))?;
    let head = transaction
        .prepare_cached("SELECT audit_sequence, audit_hash FROM partitions WHERE partition = ?1")
        .map_err(engine(action))?
        .query_row(params![partition.get()], |row| {
            Ok(AuditHead {
                sequence: row.get::<_, i64>(0)?.cast_unsigned(),
                hash: row.get(1)?,
            })
        })
        .optional()
        .map_err(engine(action))?;
    let mut statement = transaction
        .prepare_cached(
            "SELECT sequence, at, actor, action, resource, detail, trace_parent, hash FROM audit
             WHERE partition = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3",
        )
        .map_err(engine(action))?;
    let rows = statement
        .query_map(
            params![partition.get(), after.cast_signed(), limit],
            |row| audit_entry(partition, row),
        )
        .map_err(engine(action))?;
    let entries = rows.collect::<Result<_, _>>().map_err(engine(action))?;
    Ok(AuditPage {
        entries,
        head: head.unwrap_or_default(),
    })
}

fn audit_entry(partition: Partition, row: &rusqlite::Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        partition,
        sequence: row.get::<_, i64>(0)?.cast_unsigned(),
        at: instant(row.get(1)?),
        actor: row.get(2)?,
        action: row.get(3)?,
        resource: row.get(4)?,
        detail: row.get(5)?,
        trace_parent: row.get(6)?,
        hash: row.get(7)?,
    })
}
