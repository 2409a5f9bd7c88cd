//! What the shared store remembers of the past: the log, the history, the audit entries.

use deadpool_postgres::{Client, Transaction};
use jiff::Timestamp;
use tokio_postgres::Row;
use twin::{IdentityKey, Partition, Revision};

use super::apart::Care;
use super::read::{self, checksum};
use super::write::key_columns;
use super::{Parameter, engine, execute, nanoseconds, number, query, text, unsigned};
use crate::record::Damaged;
use crate::store::quarantine::Note;
use crate::store::row::history::{self, HistoryRow};
use crate::store::row::{change, module_text};
use crate::store::{Commit, Error, HistoryEntry, HistoryRead, Hole, LogEntry, LogPage, OrHole};

pub(super) use audit::{add_audit, audit};
pub(super) use audit_by_time::audit_by_time;
#[cfg(test)]
pub(super) use audit_by_time::pages as audit_pages;
pub(super) use last::{Last, last_routine};

/// The columns that [`history_row`] reads, in this order.
pub(super) const COLUMNS: &str = "h.revision, h.first_revision, h.at, h.first_at, h.actor, h.cause, h.changes, \
                       h.patch, h.undo, h.routine, h.trace_parent, h.checksum, h.previous";
/// Rows of one statement: bounds the memory that both sides need for it.
const ROWS: usize = 1024;

/// Reads the log of a partition. A damaged change is a hole, or the partition would stand still.
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
        .await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                read::damage(error, "the log", "rows")?;
                log_by_one(client, partition, after, wanted, &mut page).await?;
                break;
            }
        };
        for row in rows.iter().take(wanted - page.entries.len()) {
            after = row.try_get(0).map_err(engine(action))?;
            let revision = Revision::new(after.cast_unsigned());
            take_change(&mut page, partition, revision, row.try_get(1).ok());
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
        "SELECT log_floor, revision FROM partitions WHERE partition = $1",
        &[&number(partition)],
    )
    .await?;
    if let Some(row) = rows.first() {
        page.floor = Revision::new(unsigned(row, 0).map_err(engine(action))?);
        // A number that no change has yet is what is damaged itself; its change is missing.
        let head = Revision::new(unsigned(row, 1).map_err(engine(action))?);
        page.holes.retain(|hole| *hole <= head);
    }
    Ok(page)
}

/// As [`log`], each change by itself, because the server cannot answer all of them.
async fn log_by_one(
    client: &Client,
    partition: Partition,
    after: i64,
    wanted: usize,
    page: &mut LogPage,
) -> Result<(), Error> {
    let action = "read a change of its log";
    let numbers = query(
        client,
        action,
        "SELECT revision FROM log WHERE partition = $1 AND revision > $2 ORDER BY revision",
        &[&number(partition), &after],
    )
    .await?;
    for row in &numbers {
        if page.entries.len() >= wanted {
            break;
        }
        let at: i64 = row.try_get(0).map_err(engine(action))?;
        let revision = Revision::new(at.cast_unsigned());
        let sql = "SELECT change FROM log WHERE partition = $1 AND revision = $2";
        match query(client, action, sql, &[&number(partition), &at]).await {
            Ok(rows) => {
                if let Some(row) = rows.first() {
                    take_change(page, partition, revision, row.try_get(0).ok());
                }
            }
            Err(error) => {
                read::damage(error, "the log", "row")?;
                page.holes.push(revision);
            }
        }
    }
    Ok(())
}

fn take_change(
    page: &mut LogPage,
    partition: Partition,
    revision: Revision,
    sealed: Option<&[u8]>,
) {
    match sealed.and_then(|sealed| change::open(partition, revision, sealed)) {
        Some(change) => page.entries.push(LogEntry {
            partition,
            revision,
            change: change.to_vec(),
        }),
        None => page.holes.push(revision),
    }
}

/// Reads revisions of one identity, newest first.
pub(super) async fn history(
    client: &Client,
    read: &HistoryRead,
) -> Result<Vec<OrHole<HistoryEntry, Revision>>, Error> {
    let action = "read the history of a twin";
    let below = read
        .before
        .map_or(i64::MAX, |before| before.get().cast_signed());
    let from = read.from.map_or(i64::MIN, bound);
    let to = read.to.map_or(i64::MAX, bound);
    let (device, module) = (read.key.device.as_str(), module_text(&read.key));
    let limit = i64::from(read.limit);
    let sql = |columns: &str| {
        format!(
            "SELECT {columns} FROM history h
             WHERE h.device_id = $1 AND h.module_id = $2 AND h.revision < $3
                 AND h.at >= $4 AND h.at < $5
             ORDER BY h.revision DESC LIMIT $6"
        )
    };
    let parameters: [Parameter<'_>; 6] = [&device, &module, &below, &from, &to, &limit];
    match query(client, action, &sql(COLUMNS), &parameters).await {
        Ok(rows) => Ok(rows.iter().map(|row| entry(&read.key, row)).collect()),
        Err(error) => {
            read::damage(error, "the history", "rows")?;
            let rows = query(client, action, &sql("h.revision"), &parameters).await?;
            by_one(client, &read.key, &rows).await
        }
    }
}

/// Reads revisions by themselves, because the server cannot answer all of them together.
async fn by_one(
    client: &Client,
    key: &IdentityKey,
    revisions: &[Row],
) -> Result<Vec<OrHole<HistoryEntry, Revision>>, Error> {
    let action = "read a revision";
    let sql = format!(
        "SELECT {COLUMNS} FROM history h
         WHERE h.device_id = $1 AND h.module_id = $2 AND h.revision = $3"
    );
    let mut entries = Vec::with_capacity(revisions.len());
    for row in revisions {
        let at: i64 = row.try_get(0).map_err(engine(action))?;
        let keys: [Parameter<'_>; 3] = [&key.device.as_str(), &module_text(key), &at];
        match query(client, action, &sql, &keys).await {
            Ok(rows) => entries.extend(rows.first().map(|row| entry(key, row))),
            Err(error) => entries.push(Err(Hole {
                at: Revision::new(at.cast_unsigned()),
                damaged: read::damage(error, &key.to_string(), "history")?,
            })),
        }
    }
    Ok(entries)
}

fn entry(key: &IdentityKey, row: &Row) -> OrHole<HistoryEntry, Revision> {
    revision(key.clone(), row, 0).map_err(|damaged| Hole {
        at: Revision::new(unsigned(row, 0).unwrap_or_default()),
        damaged,
    })
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
pub(super) fn revision(key: IdentityKey, row: &Row, first: usize) -> Result<HistoryEntry, Damaged> {
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
        previous: row
            .try_get::<_, Option<i64>>(first + 12)?
            .map(i64::cast_unsigned),
    })
}

/// Writes what a commit adds to the histories; answers what was found damaged. `last` is what it is put together with,
/// if that was read before.
pub(super) async fn keep(
    transaction: &Transaction<'_>,
    commit: &Commit,
    last: Option<Last>,
) -> Result<Vec<Note>, Error> {
    let entries = &commit.history;
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let last = match last {
        Some(last) => last,
        None => last_routine(transaction, commit, Care::Together).await?,
    };
    let (replaced, written) = coalesce::coalesce(entries, &last.entries, commit.coalesce_within);
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
    Ok(last.notes)
}

pub(super) async fn write(
    transaction: &Transaction<'_>,
    entries: &[HistoryEntry],
) -> Result<(), Error> {
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
    let previous = rows.iter().map(|row| row.previous.map(u64::cast_signed));
    let previous: Vec<_> = previous.collect();
    execute(
        transaction,
        action,
        "INSERT INTO history (device_id, module_id, revision, first_revision, at, first_at, actor,
             cause, changes, patch, undo, routine, trace_parent, checksum, previous)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
             $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
             $12::bool[], $13::text[], $14::bigint[], $15::bigint[])",
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
            &previous,
        ],
    )
    .await?;
    Ok(())
}

mod audit;
mod audit_by_time;
mod coalesce;
mod last;
