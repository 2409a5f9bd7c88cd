//! The chains of audit entries in the embedded store.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use twin::Partition;

use super::super::{engine, read};
use crate::record::Damaged;
use crate::store::row::history::instant;
use crate::store::{AuditEntry, AuditHead, AuditPage, Error, Hole, OrHole};

/// The columns that [`audit_entry`] reads, in this order.
pub(super) const COLUMNS: &str =
    "sequence, at, actor, action, resource, detail, trace_parent, hash";

/// Reads a partition's chain of audit entries.
pub(in crate::store::sqlite) fn audit(
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
                // One that is none is the hash of no entry.
                hash: row.get(1).unwrap_or_default(),
            })
        })
        .optional()
        .map_err(engine(action))?;
    let mut page = AuditPage {
        head: head.unwrap_or_default(),
        ..AuditPage::default()
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut reached = after;
    if let Err(error) = follow_audit(&transaction, partition, limit, &mut page, &mut reached) {
        // The engine cannot step over the damage; each entry is looked up by itself.
        read::damage(error, "the audit log", "rows")?;
        audit_by_one(&transaction, partition, limit, &mut page, reached)?;
    }
    Ok(page)
}

fn follow_audit(
    transaction: &Transaction<'_>,
    partition: Partition,
    limit: usize,
    page: &mut AuditPage,
    reached: &mut u64,
) -> Result<(), Error> {
    let action = "read the audit entries";
    let mut statement = transaction
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM audit WHERE partition = ?1 AND sequence > ?2 ORDER BY sequence"
        ))
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params![partition.get(), reached.cast_signed()])
        .map_err(engine(action))?;
    while page.entries.len() < limit
        && let Some(row) = rows.next().map_err(engine(action))?
    {
        *reached = row
            .get::<_, i64>(0)
            .map_err(engine(action))?
            .cast_unsigned();
        page.entries.push(audit_entry(partition, *reached, row));
    }
    Ok(())
}

fn audit_by_one(
    transaction: &Transaction<'_>,
    partition: Partition,
    limit: usize,
    page: &mut AuditPage,
    reached: u64,
) -> Result<(), Error> {
    let action = "read an audit entry";
    let mut statement = transaction
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM audit WHERE partition = ?1 AND sequence = ?2"
        ))
        .map_err(engine(action))?;
    for sequence in reached.saturating_add(1)..=page.head.sequence {
        if page.entries.len() >= limit {
            break;
        }
        let found = statement
            .query_row(params![partition.get(), sequence.cast_signed()], |row| {
                Ok(audit_entry(partition, sequence, row))
            })
            .optional()
            .map_err(engine(action));
        match found {
            Ok(entry) => page.entries.extend(entry),
            Err(error) => {
                let damaged = read::damage(error, &audit_name(partition, sequence), "row")?;
                page.entries.push(Err(Hole {
                    at: sequence,
                    damaged,
                }));
            }
        }
    }
    Ok(())
}

pub(super) fn audit_name(partition: Partition, sequence: u64) -> String {
    format!("audit entry {sequence} of partition {partition}")
}

pub(super) fn audit_entry(
    partition: Partition,
    sequence: u64,
    row: &rusqlite::Row<'_>,
) -> OrHole<AuditEntry, u64> {
    let read = || -> rusqlite::Result<AuditEntry> {
        Ok(AuditEntry {
            partition,
            sequence,
            at: instant(row.get(1)?),
            actor: row.get(2)?,
            action: row.get(3)?,
            resource: row.get(4)?,
            detail: row.get(5)?,
            trace_parent: row.get(6)?,
            hash: row.get(7)?,
        })
    };
    read().map_err(|error| Hole {
        at: sequence,
        damaged: Damaged {
            key: audit_name(partition, sequence),
            part: "row",
            problem: error.to_string(),
        },
    })
}
