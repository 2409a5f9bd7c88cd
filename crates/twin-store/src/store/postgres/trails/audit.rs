//! The chains of audit entries in the shared store.

use deadpool_postgres::{Client, Transaction};
use service_kit::error::chain;
use tokio_postgres::Row;
use twin::Partition;

use super::super::{engine, execute, nanoseconds, number, query, read, text, unsigned};
use crate::record::Damaged;
use crate::store::row::history::instant;
use crate::store::{AuditEntry, AuditHead, AuditPage, Error, Hole, OrHole, failpoint};

/// The columns that [`audit_entry`] reads, in this order, behind those of the partition.
pub(super) const COLUMNS: &str = "p.audit_sequence, p.audit_hash, a.sequence, a.at, a.actor, a.action, \
                       a.resource, a.detail, a.trace_parent, a.hash";

/// Reads a partition's chain of audit entries.
pub(in crate::store::postgres) async fn audit(
    client: &Client,
    partition: Partition,
    after: u64,
    limit: u32,
) -> Result<AuditPage, Error> {
    // One statement for head and entries, so that the head is the one of these entries.
    let sql = |columns: &str| {
        format!(
            "SELECT {columns} FROM partitions p LEFT JOIN LATERAL (
                 SELECT * FROM audit WHERE partition = p.partition AND sequence > $2
                 ORDER BY sequence LIMIT $3
             ) AS a ON true
             WHERE p.partition = $1 ORDER BY a.sequence"
        )
    };
    let parameters: [super::Parameter<'_>; 3] =
        [&number(partition), &after.cast_signed(), &i64::from(limit)];
    let action = "read the audit entries";
    let rows = match query(client, action, &sql(COLUMNS), &parameters).await {
        Ok(rows) => rows,
        Err(error) => {
            read::damage(error, "the audit log", "rows")?;
            let keys = "p.audit_sequence, p.audit_hash, a.sequence";
            let rows = query(client, action, &sql(keys), &parameters).await?;
            return by_one(client, partition, &rows).await;
        }
    };
    let mut page = AuditPage::default();
    for row in &rows {
        page.head = head(row)?;
        if let Some(sequence) = sequence(row)? {
            page.entries.push(audit_entry(partition, sequence, row));
        }
    }
    Ok(page)
}

/// Reads entries by themselves, because the server cannot answer all of them together.
async fn by_one(client: &Client, partition: Partition, keys: &[Row]) -> Result<AuditPage, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM partitions p JOIN audit a ON a.partition = p.partition
         WHERE p.partition = $1 AND a.sequence = $2"
    );
    let mut page = AuditPage::default();
    for row in keys {
        page.head = head(row)?;
        let Some(at) = sequence(row)? else {
            continue;
        };
        let parameters: [super::Parameter<'_>; 2] = [&number(partition), &at.cast_signed()];
        match query(client, "read an audit entry", &sql, &parameters).await {
            Ok(rows) => {
                let entry = rows.first().map(|row| audit_entry(partition, at, row));
                page.entries.extend(entry);
            }
            Err(error) => {
                let damaged = read::damage(error, &name(partition, at), "row")?;
                page.entries.push(Err(Hole { at, damaged }));
            }
        }
    }
    Ok(page)
}

fn head(row: &Row) -> Result<AuditHead, Error> {
    let hash: &[u8] = row.try_get(1).unwrap_or_default();
    Ok(AuditHead {
        sequence: unsigned(row, 0).map_err(engine("read the head of the audit entries"))?,
        // One that is none is the hash of no entry.
        hash: hash.try_into().unwrap_or_default(),
    })
}

fn sequence(row: &Row) -> Result<Option<u64>, Error> {
    let sequence: Option<i64> = row
        .try_get(2)
        .map_err(engine("read the place of an audit entry"))?;
    Ok(sequence.map(i64::cast_unsigned))
}

pub(super) fn name(partition: Partition, sequence: u64) -> String {
    format!("audit entry {sequence} of partition {partition}")
}

pub(super) fn audit_entry(
    partition: Partition,
    sequence: u64,
    row: &Row,
) -> OrHole<AuditEntry, u64> {
    let read = || -> Result<_, tokio_postgres::Error> {
        let words = |column: usize| -> Result<String, tokio_postgres::Error> {
            Ok(text::unpack(row.try_get(column)?))
        };
        let hash: &[u8] = row.try_get(9)?;
        let Ok(hash) = hash.try_into() else {
            return Ok(None);
        };
        Ok(Some(AuditEntry {
            partition,
            sequence,
            at: instant(row.try_get(3)?),
            actor: words(4)?,
            action: words(5)?,
            resource: words(6)?,
            detail: words(7)?,
            trace_parent: row.try_get::<_, Option<&str>>(8)?.map(text::unpack),
            hash,
        }))
    };
    let problem = match read() {
        Ok(Some(entry)) => return Ok(entry),
        Ok(None) => "its hash has another length".to_owned(),
        Err(error) => chain(&error),
    };
    Err(Hole {
        at: sequence,
        damaged: Damaged {
            key: name(partition, sequence),
            part: "row",
            problem,
        },
    })
}

/// Adds entries to chains.
pub(in crate::store::postgres) async fn add_audit(
    transaction: &Transaction<'_>,
    entries: &[AuditEntry],
) -> Result<(), Error> {
    for entry in entries {
        execute(
            transaction,
            "write an audit entry",
            "INSERT INTO audit (partition, sequence, at, actor, action, resource, detail,
                 trace_parent, hash)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                &number(entry.partition),
                &entry.sequence.cast_signed(),
                &nanoseconds(entry.at)?,
                &text::pack(&entry.actor),
                &text::pack(&entry.action),
                &text::pack(&entry.resource),
                &text::pack(&entry.detail),
                &entry.trace_parent.as_deref().map(text::pack),
                &&entry.hash[..],
            ],
        )
        .await?;
    }
    failpoint::hit("commit.audited");
    Ok(())
}
