//! The entry of the audit log that says that a store was restored: who did it, from which backup, and
//! by how much versions were raised. It is the next of the first partition's chain, and comes into the
//! store with everything else. Pure.

use serde_json::json;

use super::backup::Header;
use super::raise::Raise;
use super::restore::Restoring;
use super::{Row, Table, Value};
use crate::audit;
use crate::store::row::history::nanoseconds;
use crate::store::{AuditEntry, AuditHead};

/// What was done.
const ACTION: &str = "store.restore";
/// To what.
const RESOURCE: &str = "store";

/// Columns of a partition.
const PARTITION: usize = 0;
const AUDIT_SEQUENCE: usize = 6;
const AUDIT_HASH: usize = 7;
/// Columns of an audit entry.
const ENTRY_PARTITION: usize = 0;
const ENTRY_SEQUENCE: usize = 1;

/// The entry, once the chain that it belongs to is known.
#[derive(Debug)]
pub(super) struct Notice {
    actor: String,
    detail: serde_json::Value,
    at: jiff::Timestamp,
    entry: Option<AuditEntry>,
}

impl Notice {
    pub(super) fn new(header: &Header, restoring: &Restoring) -> Notice {
        Notice {
            actor: restoring.actor.clone(),
            detail: json!({
                "backup": {
                    "madeAt": header.made_at.to_string(),
                    "program": header.program,
                    "kind": header.kind,
                },
                "source": restoring.source,
            }),
            at: restoring.now,
            entry: None,
        }
    }

    /// Takes a partition's row. That of the first one comes to end in the entry.
    pub(super) fn partition(&mut self, row: &mut Row, raise: Raise) {
        if self.entry.is_some() {
            return;
        }
        let Some((number, mut head)) = standing(row) else {
            return;
        };
        // The first of any number of partitions is the first of one.
        let first = twin::PartitionCount::new(1).map(|count| count.partitions().next());
        let Some(partition) = first.ok().flatten().filter(|first| first.get() == number) else {
            return;
        };
        if let Some(detail) = self.detail.as_object_mut() {
            detail.insert("raised".to_owned(), raise.by());
        }
        let entry = AuditEntry {
            partition,
            sequence: 0,
            at: self.at,
            actor: self.actor.clone(),
            action: ACTION.to_owned(),
            resource: RESOURCE.to_owned(),
            detail: self.detail.to_string(),
            trace_parent: None,
            hash: [0; 32],
        };
        let entry = audit::append(&mut head, entry);
        if let [.., sequence, hash] = &mut row.values[..] {
            *sequence = Value::Integer(head.sequence.cast_signed());
            *hash = Value::Bytes(head.hash.to_vec());
            self.entry = Some(entry);
        }
    }

    /// Whether an entry of the backup has the place of this one, or one behind it.
    pub(super) fn is_in_the_way(&self, row: &Row) -> bool {
        let of = |column: usize| match row.values.get(column) {
            Some(Value::Integer(number)) => Some(number.cast_unsigned()),
            Some(Value::Null | Value::Text(_) | Value::Bytes(_)) | None => None,
        };
        self.entry.as_ref().is_some_and(|entry| {
            of(ENTRY_PARTITION) == Some(entry.partition.get().into())
                && of(ENTRY_SEQUENCE) >= Some(entry.sequence)
        })
    }

    /// The row of the entry.
    pub(super) fn into_row(self) -> Option<Row> {
        let entry = self.entry?;
        Some(Row {
            table: Table::Audit,
            values: vec![
                Value::Integer(entry.partition.get().into()),
                Value::Integer(entry.sequence.cast_signed()),
                Value::Integer(nanoseconds(entry.at)?),
                Value::Text(entry.actor),
                Value::Text(entry.action),
                Value::Text(entry.resource),
                Value::Text(entry.detail),
                Value::Null,
                Value::Bytes(entry.hash.to_vec()),
            ],
        })
    }
}

/// The number of a partition, and the end of its chain.
fn standing(row: &Row) -> Option<(u16, AuditHead)> {
    let (number, sequence, hash) = match (
        row.values.get(PARTITION)?,
        row.values.get(AUDIT_SEQUENCE)?,
        row.values.get(AUDIT_HASH)?,
    ) {
        (Value::Integer(number), Value::Integer(sequence), Value::Bytes(hash)) => {
            (*number, *sequence, hash)
        }
        _ => return None,
    };
    let head = AuditHead {
        sequence: sequence.cast_unsigned(),
        hash: hash.as_slice().try_into().ok()?,
    };
    Some((u16::try_from(number).ok()?, head))
}
