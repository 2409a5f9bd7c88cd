//! What the shared store remembers of the past: the log, the history, the audit entries.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::{Client, Transaction};
use jiff::Timestamp;
use tokio_postgres::Row;
use twin::{IdentityKey, Partition, Revision};

use super::read::checksum;
use super::write::key_columns;
use super::{engine, execute, nanoseconds, number, ownership, query, query_in, text, unsigned};
use crate::record::Damaged;
use crate::store::row::history::{self, HistoryRow, instant};
use crate::store::row::{change, module_text, parse_key};
use crate::store::{
    AuditEntry, AuditHead, AuditPage, Error, HistoryEntry, HistoryRead, LogEntry, LogPage,
};

/// The columns that [`history_row`] reads, in this order.
const COLUMNS: &str = "h.revision, h.first_revision, h.at, h.first_at, h.actor, h.cause, h.changes, \
                       h.patch, h.undo, h.routine, h.trace_parent, h.checksum";
/// Rows of one statement: bounds the memory that both sides need for it.
const ROWS: usize = 1024;

/// Reads the log of a partition. A damaged change is left out, or the partition would stand still;
/// readers look at every twin now and then.
pub(super) async fn log(
    client: &Client,
    partition: Partition,
    after: Revision,
    limit: u32,
) -> Result<LogPage, Error> {
    let action = "read its log";
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut page = LogPage::default();
    let mut after = after.get().cast_signed();
    while page.entries.len() < wanted {
        let rows = query(
            client,
            action,
            "SELECT revision, change FROM log WHERE partition = $1 AND revision > $2
             ORDER BY revision LIMIT $3",
            &[&number(partition), &after, &i64::from(limit)],
        )
        .await?;
        for row in rows.iter().take(wanted - page.entries.len()) {
            after = row.try_get(0).map_err(engine(action))?;
            let revision = Revision::new(after.cast_unsigned());
            let sealed: &[u8] = row.try_get(1).map_err(engine(action))?;
            match change::open(partition, revision, sealed) {
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
        if rows.len() < wanted {
            break;
        }
    }
    // The floor after the entries: it only rises, so that a gap that a trim in between makes is
    // never taken for a whole log.
    let rows = query(
        client,
        action,
        "SELECT log_floor FROM partitions WHERE partition = $1",
        &[&number(partition)],
    )
    .await?;
    if let Some(row) = rows.first() {
        page.floor = Revision::new(unsigned(row, 0).map_err(engine(action))?);
    }
    Ok(page)
}

/// Reads revisions of one identity, newest first. One that cannot be read is an error, because a
/// document rewound without it would be wrong.
pub(super) async fn history(
    client: &Client,
    read: &HistoryRead,
) -> Result<Vec<HistoryEntry>, Error> {
    let below = read
        .before
        .map_or(i64::MAX, |before| before.get().cast_signed());
    let from = read.from.map_or(i64::MIN, bound);
    let to = read.to.map_or(i64::MAX, bound);
    let rows = query(
        client,
        "read the history of a twin",
        &format!(
            "SELECT {COLUMNS} FROM history h
             WHERE h.device_id = $1 AND h.module_id = $2 AND h.revision < $3
                 AND h.at >= $4 AND h.at < $5
             ORDER BY h.revision DESC LIMIT $6"
        ),
        &[
            &read.key.device.as_str(),
            &module_text(&read.key),
            &below,
            &from,
            &to,
            &i64::from(read.limit),
        ],
    )
    .await?;
    let entries = rows.iter().map(|row| revision(read.key.clone(), row, 0));
    Ok(entries.collect::<Result<_, _>>()?)
}

/// An instant as the rows have it; one that is centuries away bounds nothing.
fn bound(at: Timestamp) -> i64 {
    let far = if at < Timestamp::UNIX_EPOCH {
        i64::MIN
    } else {
        i64::MAX
    };
    nanoseconds(at).unwrap_or(far)
}

/// Reads the columns of a revision, beginning at `first`.
fn revision(key: IdentityKey, row: &Row, first: usize) -> Result<HistoryEntry, Damaged> {
    match history_row(row, first) {
        Ok(row) => history::decode(key, row),
        Err(error) => Err(Damaged {
            key: key.to_string(),
            part: "history",
            problem: error.to_string(),
        }),
    }
}

fn history_row(row: &Row, first: usize) -> Result<HistoryRow, tokio_postgres::Error> {
    let words = |column: usize| -> Result<String, tokio_postgres::Error> {
        Ok(text::unpack(row.try_get(first + column)?))
    };
    Ok(HistoryRow {
        revision: unsigned(row, first)?,
        first_revision: unsigned(row, first + 1)?,
        at: row.try_get(first + 2)?,
        first_at: row.try_get(first + 3)?,
        actor: words(4)?,
        cause: words(5)?,
        changes: words(6)?,
        patch: row.try_get(first + 7)?,
        undo: row.try_get(first + 8)?,
        routine: row.try_get(first + 9)?,
        trace_parent: row
            .try_get::<_, Option<&str>>(first + 10)?
            .map(text::unpack),
        checksum: checksum(row, first + 11)?,
    })
}

/// Writes what a commit adds to the histories.
pub(super) async fn keep(
    transaction: &Transaction<'_>,
    entries: &[HistoryEntry],
    coalesce_within: Duration,
) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let last = last_routine(transaction, entries, coalesce_within).await?;
    let (replaced, written) = coalesce::coalesce(entries, &last, coalesce_within);
    if !replaced.is_empty() {
        let (devices, modules) = key_columns(replaced.iter().map(|(key, _)| key));
        let revisions = replaced
            .iter()
            .map(|(_, revision)| revision.get().cast_signed());
        let revisions: Vec<i64> = revisions.collect();
        execute(
            transaction,
            "replace revisions",
            "DELETE FROM history h
             USING UNNEST($1::text[], $2::text[], $3::bigint[]) AS n (device_id, module_id, revision)
             WHERE h.device_id = n.device_id AND h.module_id = n.module_id
                 AND h.revision = n.revision",
            &[&devices, &modules, &revisions],
        )
        .await?;
    }
    for chunk in written.chunks(ROWS) {
        write(transaction, chunk).await?;
    }
    Ok(())
}

/// The last revisions of the identities that have a routine one to add, if they are routine, too.
async fn last_routine(
    transaction: &Transaction<'_>,
    entries: &[HistoryEntry],
    coalesce_within: Duration,
) -> Result<BTreeMap<IdentityKey, HistoryEntry>, Error> {
    let mut last = BTreeMap::new();
    let routine = entries.iter().filter(|entry| entry.routine);
    let (devices, modules) = key_columns(routine.map(|entry| &entry.key));
    if devices.is_empty() || coalesce_within.is_zero() {
        return Ok(last);
    }
    let rows = query_in(
        transaction,
        "read the last revisions",
        &format!(
            "SELECT k.device_id, k.module_id, {COLUMNS}
             FROM (SELECT DISTINCT * FROM UNNEST($1::text[], $2::text[])) AS k (device_id, module_id)
             CROSS JOIN LATERAL (
                 SELECT * FROM history l
                 WHERE l.device_id = k.device_id AND l.module_id = k.module_id
                 ORDER BY l.revision DESC LIMIT 1
             ) AS h
             WHERE h.routine"
        ),
        &[&devices, &modules],
    )
    .await?;
    for row in &rows {
        let text = |column| row.try_get(column).map_err(engine("read a key"));
        let key = parse_key(text(0)?, text(1)?)?;
        match revision(key.clone(), row, 2) {
            Ok(entry) => {
                last.insert(key, entry);
            }
            // It stays as it is, and the new one beside it.
            Err(damaged) => tracing::error!(error = %damaged, "a revision cannot be added to"),
        }
    }
    Ok(last)
}

async fn write(transaction: &Transaction<'_>, entries: &[HistoryEntry]) -> Result<(), Error> {
    let action = "write revisions";
    let encode = |entry: &HistoryEntry| {
        history::encode(entry).ok_or(Error::Engine {
            action,
            source: "a time is centuries away".into(),
        })
    };
    let rows = entries.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let (devices, modules) = key_columns(entries.iter().map(|entry| &entry.key));
    let numbers = |of: fn(&HistoryRow) -> i64| -> Vec<i64> { rows.iter().map(of).collect() };
    let words = |of: fn(&HistoryRow) -> &str| -> Vec<_> {
        rows.iter().map(|row| text::pack(of(row))).collect()
    };
    let routine: Vec<bool> = rows.iter().map(|row| row.routine).collect();
    let traces = rows
        .iter()
        .map(|row| row.trace_parent.as_deref().map(text::pack));
    let traces: Vec<_> = traces.collect();
    execute(
        transaction,
        action,
        "INSERT INTO history (device_id, module_id, revision, first_revision, at, first_at, actor,
             cause, changes, patch, undo, routine, trace_parent, checksum)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
             $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
             $12::bool[], $13::text[], $14::bigint[])",
        &[
            &devices,
            &modules,
            &numbers(|row| row.revision.cast_signed()),
            &numbers(|row| row.first_revision.cast_signed()),
            &numbers(|row| row.at),
            &numbers(|row| row.first_at),
            &words(|row| &row.actor),
            &words(|row| &row.cause),
            &words(|row| &row.changes),
            &words(|row| &row.patch),
            &words(|row| &row.undo),
            &routine,
            &traces,
            &numbers(|row| i64::from(row.checksum)),
        ],
    )
    .await?;
    Ok(())
}

/// Reads a partition's chain of audit entries.
pub(super) async fn audit(
    client: &Client,
    partition: Partition,
    after: u64,
    limit: u32,
) -> Result<AuditPage, Error> {
    let action = "read the audit entries";
    // One statement for head and entries, so that the head is the one of these entries.
    let rows = query(
        client,
        action,
        "SELECT p.audit_sequence, p.audit_hash, a.sequence, a.at, a.actor, a.action, a.resource,
             a.detail, a.trace_parent, a.hash
         FROM partitions p LEFT JOIN LATERAL (
             SELECT * FROM audit WHERE partition = p.partition AND sequence > $2
             ORDER BY sequence LIMIT $3
         ) AS a ON true
         WHERE p.partition = $1 ORDER BY a.sequence",
        &[&number(partition), &after.cast_signed(), &i64::from(limit)],
    )
    .await?;
    let mut page = AuditPage::default();
    for row in &rows {
        page.head = AuditHead {
            sequence: unsigned(row, 0).map_err(engine(action))?,
            hash: ownership::hash(row, 1)?,
        };
        let sequence: Option<i64> = row.try_get(2).map_err(engine(action))?;
        if sequence.is_some() {
            page.entries.push(audit_entry(partition, row)?);
        }
    }
    Ok(page)
}

fn audit_entry(partition: Partition, row: &Row) -> Result<AuditEntry, Error> {
    let read = || -> Result<AuditEntry, tokio_postgres::Error> {
        let words = |column: usize| -> Result<String, tokio_postgres::Error> {
            Ok(text::unpack(row.try_get(column)?))
        };
        Ok(AuditEntry {
            partition,
            sequence: unsigned(row, 2)?,
            at: instant(row.try_get(3)?),
            actor: words(4)?,
            action: words(5)?,
            resource: words(6)?,
            detail: words(7)?,
            trace_parent: row.try_get::<_, Option<&str>>(8)?.map(text::unpack),
            hash: [0; 32],
        })
    };
    let mut entry = read().map_err(engine("read an audit entry"))?;
    entry.hash = ownership::hash(row, 9)?;
    Ok(entry)
}

mod coalesce;
