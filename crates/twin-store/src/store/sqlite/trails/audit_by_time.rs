//! The audit log of the embedded store by time: places from an index, then each entry by its key, so
//! that one which cannot be read stands in its place.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};
use twin::{Partition, PartitionCount};

use super::super::{engine, ownership, read};
use super::audit::{COLUMNS, audit_entry, audit_name};
use crate::record::Damaged;
use crate::store::audit::{By, FEW, below, bounds, count, filters, ordered, select};
use crate::store::row::history::{instant, nanoseconds};
use crate::store::{AuditEntry, AuditFound, AuditPlace, AuditRead, Error, Hole, OrHole};

/// Texts are compared byte by byte as they are.
const BYTEWISE: &str = "";

fn parameter(number: usize) -> String {
    format!("?{number}")
}

/// Reads entries of all chains in the order of their times.
pub(in crate::store::sqlite) fn audit_by_time(
    connection: &Connection,
    wanted: &AuditRead,
) -> Result<AuditFound, Error> {
    let action = "find audit entries";
    // One state of the store for places and entries.
    let transaction = connection.unchecked_transaction().map_err(engine(action))?;
    let by = by(&transaction, wanted)?;
    let places = places(&transaction, wanted, by)?;
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let mut found = AuditFound {
        looked_at: places.len(),
        next: places.last().copied().filter(|_| places.len() >= limit),
        by: Some(by),
        ..AuditFound::default()
    };
    for place in places {
        match entry(&transaction, place)? {
            Ok(entry) if !wanted.wants(&entry) => {}
            entry => found.entries.push(entry),
        }
    }
    Ok(found)
}

fn places(connection: &Connection, wanted: &AuditRead, by: By) -> Result<Vec<AuditPlace>, Error> {
    let action = "find audit entries";
    let count = ownership::partition_count(connection)?;
    let (sql, values) = statement(wanted, by);
    let mut statement = connection.prepare_cached(&sql).map_err(engine(action))?;
    let mut rows = statement
        .query(params_from_iter(values))
        .map_err(engine(action))?;
    let mut places = Vec::new();
    while let Some(row) = rows.next().map_err(engine(action))? {
        let index: u16 = row.get(1).map_err(engine(action))?;
        let sequence: i64 = row.get(2).map_err(engine(action))?;
        places.push(AuditPlace {
            at: instant(row.get(0).map_err(engine(action))?),
            partition: partition(index, count)?,
            sequence: sequence.cast_unsigned(),
        });
    }
    Ok(places)
}

fn partition(index: u16, count: Option<PartitionCount>) -> Result<Partition, Error> {
    let action = "read the partition of an audit entry";
    let count = count.ok_or(Error::Engine {
        action,
        source: "the store has no partitions".into(),
    })?;
    Partition::new(index, count).map_err(engine(action))
}

/// The index to read by.
pub(in crate::store::sqlite) fn by(
    connection: &Connection,
    wanted: &AuditRead,
) -> Result<By, Error> {
    if let Some(by) = wanted.by {
        return Ok(by);
    }
    for (by, text) in filters(wanted) {
        if is_few(connection, by, text)? {
            return Ok(by);
        }
    }
    Ok(ordered(wanted))
}

/// The statement that finds places, with its parameters.
pub(in crate::store::sqlite) fn statement(wanted: &AuditRead, by: By) -> (String, Vec<Value>) {
    let bounds = bounds(wanted, nanoseconds);
    let mut values = vec![
        Value::Integer(bounds.at),
        Value::Integer(bounds.partition.into()),
        Value::Integer(bounds.sequence),
        Value::Integer(bounds.end),
        Value::Integer(wanted.limit.into()),
    ];
    let text = filters(wanted).find(|(filter, _)| *filter == by);
    values.extend(text.into_iter().flat_map(|(by, text)| texts(by, text)));
    let sql = select(by, wanted.newest_first, parameter, BYTEWISE);
    (sql, values)
}

fn is_few(connection: &Connection, by: By, text: &str) -> Result<bool, Error> {
    let action = "count audit entries";
    let mut values = vec![Value::Integer(FEW)];
    values.extend(texts(by, text));
    let found: i64 = connection
        .prepare_cached(&count(by, parameter, BYTEWISE))
        .map_err(engine(action))?
        .query_row(params_from_iter(values), |row| row.get(0))
        .map_err(engine(action))?;
    Ok(found < FEW)
}

fn texts(by: By, text: &str) -> Vec<Value> {
    let mut texts = vec![Value::Text(text.to_owned())];
    if by == By::Resource {
        texts.extend(below(text).map(Value::Text));
    }
    texts
}

fn entry(
    connection: &Connection,
    place: AuditPlace,
) -> Result<OrHole<AuditEntry, (Partition, u64)>, Error> {
    let action = "read an audit entry";
    let AuditPlace {
        partition,
        sequence,
        ..
    } = place;
    let read = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM audit WHERE partition = ?1 AND sequence = ?2"
        ))
        .map_err(engine(action))?
        .query_row(params![partition.get(), sequence.cast_signed()], |row| {
            Ok(audit_entry(partition, sequence, row))
        })
        .optional()
        .map_err(engine(action));
    let name = audit_name(partition, sequence);
    let damaged = match read {
        Ok(Some(Ok(entry))) => return Ok(Ok(entry)),
        Ok(Some(Err(hole))) => hole.damaged,
        Ok(None) => Damaged {
            key: name,
            part: "row",
            problem: "an index has it, and it is not there".to_owned(),
        },
        Err(error) => read::damage(error, &name, "row")?,
    };
    let at = (partition, sequence);
    Ok(Err(Hole { at, damaged }))
}
