//! The audit log of the shared store by time: places from an index, then the entries by their keys,
//! so that one which cannot be read stands in its place.

use std::collections::BTreeMap;

use deadpool_postgres::Client;
use tokio_postgres::Row;
use twin::{Partition, PartitionCount};

use super::super::{Parameter, engine, number, query, read, text, unsigned};
use super::audit::{COLUMNS, audit_entry, name};
use crate::record::Damaged;
use crate::store::audit::{By, FEW, below, bounds, count, filters, ordered, select};
use crate::store::row::history::{instant, nanoseconds};
use crate::store::{AuditEntry, AuditFound, AuditPlace, AuditRead, Error, Hole, OrHole};

/// Makes texts be compared byte by byte, as the indexes have them.
const BYTEWISE: &str = " COLLATE \"C\"";
/// The highest number of partitions, for reading numbers that were one.
const PARTITIONS_MAX: u16 = 256;

/// What is at a place, or what is wrong there.
type At = (Partition, u64);

fn parameter(number: usize) -> String {
    format!("${number}")
}

/// Reads entries of all chains in the order of their times.
pub(in crate::store::postgres) async fn audit_by_time(
    client: &Client,
    wanted: &AuditRead,
) -> Result<AuditFound, Error> {
    let by = by(client, wanted).await?;
    let places = places(client, wanted, by).await?;
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let mut found = AuditFound {
        looked_at: places.len(),
        next: places.last().copied().filter(|_| places.len() >= limit),
        by: Some(by),
        ..AuditFound::default()
    };
    // Entries are never removed, so they are still there.
    let mut entries = entries(client, &places).await?;
    for place in places {
        let at = (place.partition, place.sequence);
        let entry = entries.remove(&at).unwrap_or_else(|| Err(missing(at)));
        match entry {
            Ok(entry) if !wanted.wants(&entry) => {}
            entry => found.entries.push(entry),
        }
    }
    Ok(found)
}

fn missing(at: At) -> Hole<At> {
    Hole {
        at,
        damaged: Damaged {
            key: name(at.0, at.1),
            part: "row",
            problem: "an index has it, and it is not there".to_owned(),
        },
    }
}

async fn places(client: &Client, wanted: &AuditRead, by: By) -> Result<Vec<AuditPlace>, Error> {
    let action = "find audit entries";
    let rows = find(client, wanted, by, "").await?;
    rows.iter()
        .map(|row| {
            Ok(AuditPlace {
                at: instant(row.try_get(0).map_err(engine(action))?),
                partition: partition(row, 1)?,
                sequence: unsigned(row, 2).map_err(engine(action))?,
            })
        })
        .collect()
}

/// Runs the statement that finds places, with something before it.
async fn find(
    client: &Client,
    wanted: &AuditRead,
    by: By,
    before: &str,
) -> Result<Vec<Row>, Error> {
    let bounds = bounds(wanted, nanoseconds);
    let sql = select(by, wanted.newest_first, parameter, BYTEWISE);
    let limit = i64::from(wanted.limit);
    let filter = filters(wanted).find(|(filter, _)| *filter == by);
    let texts = filter.map(|(by, text)| texts(by, text)).unwrap_or_default();
    let mut parameters: Vec<Parameter<'_>> = vec![
        &bounds.at,
        &bounds.partition,
        &bounds.sequence,
        &bounds.end,
        &limit,
    ];
    parameters.extend(texts.iter().map(|text| text as Parameter<'_>));
    let sql = format!("{before}{sql}");
    query(client, "find audit entries", &sql, &parameters).await
}

/// How many pages the server looks at for a reading, of which not the entries themselves.
#[cfg(test)]
pub(in crate::store::postgres) async fn pages(client: &Client, wanted: &AuditRead) -> u64 {
    let explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) ";
    let by = by(client, wanted).await.expect("chosen");
    let rows = find(client, wanted, by, explain).await.expect("explained");
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // The first says it of everything below it.
    let line = lines.iter().find(|line| line.contains("Buffers:"));
    let numbers = line.expect("buffers").split(['=', ' ']);
    numbers.filter_map(|word| word.parse::<u64>().ok()).sum()
}

fn partition(row: &Row, column: usize) -> Result<Partition, Error> {
    let action = "read the partition of an audit entry";
    let index: i32 = row.try_get(column).map_err(engine(action))?;
    let index = u16::try_from(index).map_err(engine(action))?;
    let count = PartitionCount::new(PARTITIONS_MAX).map_err(engine(action))?;
    Partition::new(index, count).map_err(engine(action))
}

/// The index to read by.
async fn by(client: &Client, wanted: &AuditRead) -> Result<By, Error> {
    let action = "count audit entries";
    if let Some(by) = wanted.by {
        return Ok(by);
    }
    for (by, text) in filters(wanted) {
        let texts = texts(by, text);
        let mut parameters: Vec<Parameter<'_>> = vec![&FEW];
        parameters.extend(texts.iter().map(|text| text as Parameter<'_>));
        let sql = count(by, parameter, BYTEWISE);
        let rows = query(client, action, &sql, &parameters).await?;
        let found = rows.first().map(|row| row.try_get::<_, i64>(0));
        if found.transpose().map_err(engine(action))?.unwrap_or(FEW) < FEW {
            return Ok(by);
        }
    }
    Ok(ordered(wanted))
}

fn texts(by: By, wanted: &str) -> Vec<String> {
    let mut texts = vec![wanted.to_owned()];
    if by == By::Resource {
        texts.extend(below(wanted));
    }
    let packed = texts.iter().map(|one| text::pack(one).into_owned());
    packed.collect()
}

async fn entries(
    client: &Client,
    places: &[AuditPlace],
) -> Result<BTreeMap<At, OrHole<AuditEntry, At>>, Error> {
    let action = "read audit entries";
    let sql = format!(
        "SELECT {COLUMNS}, a.partition FROM UNNEST($1::int[], $2::bigint[]) AS k (partition, sequence)
         JOIN audit a ON a.partition = k.partition AND a.sequence = k.sequence
         JOIN partitions p ON p.partition = a.partition"
    );
    let (partitions, sequences): (Vec<i32>, Vec<i64>) = places
        .iter()
        .map(|place| (number(place.partition), place.sequence.cast_signed()))
        .unzip();
    let mut entries = BTreeMap::new();
    match query(client, action, &sql, &[&partitions, &sequences]).await {
        Ok(rows) => {
            for row in &rows {
                let at = (
                    partition(row, 10)?,
                    unsigned(row, 2).map_err(engine(action))?,
                );
                entries.insert(at, placed(at, row));
            }
        }
        Err(error) => {
            // The server cannot answer all of them together.
            read::damage(error, "the audit log", "rows")?;
            for place in places {
                let at = (place.partition, place.sequence);
                let (partitions, sequences) = ([number(at.0)], [at.1.cast_signed()]);
                let keys: [Parameter<'_>; 2] = [&&partitions[..], &&sequences[..]];
                let entry = match query(client, action, &sql, &keys).await {
                    Ok(rows) => rows.first().map(|row| placed(at, row)),
                    Err(error) => {
                        let damaged = read::damage(error, &name(at.0, at.1), "row")?;
                        Some(Err(Hole { at, damaged }))
                    }
                };
                entries.extend(entry.map(|entry| (at, entry)));
            }
        }
    }
    Ok(entries)
}

fn placed(at: At, row: &Row) -> OrHole<AuditEntry, At> {
    audit_entry(at.0, at.1, row).map_err(|hole| Hole {
        at,
        damaged: hole.damaged,
    })
}
