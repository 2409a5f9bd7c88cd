//! Who owns the partitions of an embedded store: one process, and the latest wins.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params, params_from_iter};
use twin::{Partition, PartitionCount, Revision};

use super::{engine, write};
use crate::store::{
    AuditHead, Claims, Epoch, Error, PartitionState, Replica, ReplicaId, failpoint,
};

/// Fact that names the store; a restored one gets another.
const IDENTITY: &str = "identity";
/// Name of the fact that says how many partitions the store was made with.
const PARTITION_COUNT: &str = "partition_count";

/// Takes every partition at the first call of a replica, by raising its epoch; later calls take
/// only what nobody has. Without the difference two processes on one file would take the partitions
/// from each other for ever.
pub(super) fn claim(
    connection: &mut Connection,
    replica: &Replica,
    newcomer: bool,
) -> Result<Claims, Error> {
    let action = "take its partitions";
    let transaction = write::begin(connection)?;
    check_partition_count(&transaction, replica.count)?;
    if newcomer {
        order(&transaction, replica.count)?;
    }
    for partition in replica.count.partitions() {
        transaction
            .prepare_cached(
                // One whose row is lost begins where its log and its chain end. What it has published is not known,
                // and is published again.
                "INSERT INTO partitions (partition, epoch, owner, address, position, revision,
                     published, log_floor, audit_sequence, audit_hash)
                 VALUES (?1, 1, ?2, ?3, 0,
                     coalesce((SELECT max(revision) FROM log WHERE partition = ?1), 0),
                     coalesce((SELECT min(revision) - 1 FROM log WHERE partition = ?1), 0),
                     coalesce((SELECT min(revision) - 1 FROM log WHERE partition = ?1), 0),
                     coalesce((SELECT max(sequence) FROM audit WHERE partition = ?1), 0),
                     coalesce((SELECT hash FROM audit WHERE partition = ?1
                               ORDER BY sequence DESC LIMIT 1), zeroblob(32)))
                 ON CONFLICT (partition) DO UPDATE SET
                     epoch = epoch + 1, owner = excluded.owner, address = excluded.address
                 WHERE owner <> excluded.owner AND (?4 OR owner = '')",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    partition.get(),
                    replica.id.0,
                    replica.address,
                    newcomer
                ])
            })
            .map_err(engine(action))?;
    }
    if newcomer {
        raise(&transaction)?;
    }
    let claims = read(&transaction, replica)?;
    failpoint::hit("claim.written");
    transaction.commit().map_err(engine(action))?;
    failpoint::hit("claim.durable");
    Ok(claims)
}

/// Writes the rows of partitions anew if their numbers are not in order: then a disk has changed one, and others may not
/// be found by theirs either. What is no partition any more is left out; it begins where its log ends.
fn order(transaction: &Transaction<'_>, count: PartitionCount) -> Result<(), Error> {
    let action = "look whether its partitions are in order";
    let columns = "partition, epoch, owner, address, position, revision, published, log_floor,
         audit_sequence, audit_hash";
    let mut statement = transaction
        .prepare(&format!("SELECT {columns} FROM partitions NOT INDEXED"))
        .map_err(engine(action))?;
    let width = statement.column_count();
    let rows = statement
        .query_map([], |row| {
            (0..width)
                .map(|column| row.get::<_, Value>(column))
                .collect::<Result<Vec<_>, _>>()
                .map_or(Ok(None), |row| Ok(Some(row)))
        })
        .and_then(Iterator::collect::<Result<Vec<Option<Vec<Value>>>, _>>)
        .map_err(engine(action))?;
    let number = |row: &Option<Vec<Value>>| match row.as_ref().and_then(|row| row.first()) {
        Some(Value::Integer(number)) => parse_partition(*number, count).ok(),
        _ => None,
    };
    let numbers: Vec<_> = rows.iter().map(number).collect();
    if numbers.iter().all(Option::is_some) && numbers.is_sorted_by(|one, next| one < next) {
        return Ok(());
    }
    tracing::error!("rows of partitions are damaged, and are written anew");
    write::execute(transaction, action, "DELETE FROM partitions", [])?;
    let sql = format!(
        "INSERT INTO partitions ({columns}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO NOTHING"
    );
    let sound = rows
        .iter()
        .zip(numbers)
        .filter(|(_, number)| number.is_some());
    for (row, _) in sound {
        let values = row.iter().flatten();
        write::execute(transaction, action, &sql, params_from_iter(values))?;
    }
    Ok(())
}

/// Raises partitions whose rows say less than their logs and their chains of audit entries, which a disk has changed:
/// numbers must not be given a second time.
fn raise(transaction: &Transaction<'_>) -> Result<(), Error> {
    let action = "look whether partitions are behind their logs";
    let revisions = write::execute(
        transaction,
        action,
        "UPDATE partitions AS p
         SET revision = (SELECT max(l.revision) FROM log AS l WHERE l.partition = p.partition)
         WHERE p.revision <
             (SELECT max(l.revision) FROM log AS l WHERE l.partition = p.partition)",
        [],
    )?;
    let chains = write::execute(
        transaction,
        action,
        "UPDATE partitions AS p SET
             audit_sequence = (SELECT max(a.sequence) FROM audit AS a
                               WHERE a.partition = p.partition),
             audit_hash = (SELECT a.hash FROM audit AS a WHERE a.partition = p.partition
                           ORDER BY a.sequence DESC LIMIT 1)
         WHERE p.audit_sequence <
             (SELECT max(a.sequence) FROM audit AS a WHERE a.partition = p.partition)",
        [],
    )?;
    if revisions > 0 || chains > 0 {
        tracing::error!(
            partitions = revisions.max(chains),
            "where partitions stand was damaged, and is read from what they have written"
        );
    }
    Ok(())
}

fn read(connection: &Connection, replica: &Replica) -> Result<Claims, Error> {
    let action = "read its partitions";
    let mut claims = Claims::default();
    let mut statement = connection
        .prepare_cached(
            "SELECT partition, epoch, position, revision, published, audit_sequence, audit_hash,
                 owner, address FROM partitions ORDER BY partition",
        )
        .map_err(engine(action))?;
    let mut rows = statement.query([]).map_err(engine(action))?;
    while let Some(row) = rows.next().map_err(engine(action))? {
        // A row whose number was changed is nobody's, and is told of by a check; there is another one in its place.
        let Ok(partition) = parse_partition(row.get(0).map_err(engine(action))?, replica.count)
        else {
            continue;
        };
        let owner: String = row.get(7).map_err(engine(action))?;
        if owner == replica.id.0 {
            let state = state(partition, row).map_err(engine(action))?;
            claims.owned.push(state);
        } else if !owner.is_empty() {
            let address = row.get(8).map_err(engine(action))?;
            claims.elsewhere.insert(partition, address);
        }
    }
    Ok(claims)
}

fn state(partition: Partition, row: &rusqlite::Row<'_>) -> rusqlite::Result<PartitionState> {
    let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(PartitionState {
        partition,
        epoch: Epoch(number(1)?),
        position: number(2)?,
        revision: Revision::new(number(3)?),
        published: Revision::new(number(4)?),
        audit: AuditHead {
            sequence: number(5)?,
            hash: row.get(6)?,
        },
    })
}

fn parse_partition(index: i64, count: PartitionCount) -> Result<Partition, Error> {
    let action = "read the number of a partition";
    let index = u16::try_from(index).map_err(engine(action))?;
    Partition::new(index, count).map_err(engine(action))
}

/// Gives partitions back.
pub(super) fn release(
    connection: &mut Connection,
    replica: &ReplicaId,
    partitions: &[Partition],
) -> Result<(), Error> {
    let action = "give partitions back";
    let transaction = write::begin(connection)?;
    for partition in partitions {
        transaction
            .execute(
                "UPDATE partitions SET owner = '', address = ''
                 WHERE partition = ?1 AND owner = ?2",
                params![partition.get(), replica.0],
            )
            .map_err(engine(action))?;
    }
    failpoint::hit("release.written");
    transaction.commit().map_err(engine(action))?;
    failpoint::hit("release.durable");
    Ok(())
}

/// Identities never move between partitions, so their number is fixed when the store is made.
fn check_partition_count(
    transaction: &Transaction<'_>,
    count: PartitionCount,
) -> Result<(), Error> {
    let asked = count.get();
    transaction
        .execute(
            "INSERT INTO facts (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
            params![IDENTITY, uuid::Uuid::new_v4().to_string()],
        )
        .map_err(engine("write its identity"))?;
    match stored_count(transaction) {
        Ok(None) => write_count(transaction, asked),
        Ok(Some(stored)) if stored == asked => Ok(()),
        // The fact may be damaged: there is a row for each partition as well.
        other if has_rows_for(transaction, asked)? => {
            let stored = other.ok().flatten();
            tracing::error!(
                stored,
                asked,
                "the number of partitions was damaged, and is read from their rows"
            );
            let sql = "DELETE FROM facts WHERE name = ?1";
            write::execute(transaction, "mend its number", sql, [PARTITION_COUNT])?;
            write_count(transaction, asked)
        }
        Ok(Some(stored)) => Err(Error::PartitionCount { stored, asked }),
        Err(error) => Err(error),
    }
}

/// Whether there are rows of just so many partitions.
fn has_rows_for(transaction: &Transaction<'_>, count: u16) -> Result<bool, Error> {
    let sql = "SELECT count(*) = ?1 AND min(partition) = 0 AND max(partition) = ?1 - 1
               FROM partitions";
    let found: rusqlite::Result<Option<bool>> =
        transaction.query_row(sql, [count], |row| row.get(0));
    let found = found.map_err(engine("count its partitions"))?;
    Ok(found.unwrap_or(false))
}

/// Notes the number of partitions the store is made with.
pub(super) fn write_count(transaction: &Transaction<'_>, count: u16) -> Result<(), Error> {
    transaction
        .execute(
            "INSERT INTO facts (name, value) VALUES (?1, ?2)",
            params![PARTITION_COUNT, count.to_string()],
        )
        .map_err(engine("write its number of partitions"))?;
    Ok(())
}

/// The name of this store.
pub(super) fn identity(connection: &Connection) -> Result<String, Error> {
    connection
        .query_row(
            "SELECT value FROM facts WHERE name = ?1",
            params![IDENTITY],
            |row| row.get(0),
        )
        .map_err(engine("read its identity"))
}

/// The number of partitions the store was made with; none before the first claim.
pub(super) fn partition_count(connection: &Connection) -> Result<Option<PartitionCount>, Error> {
    let count = stored_count(connection)?.map(PartitionCount::new);
    count
        .transpose()
        .map_err(engine("read its number of partitions"))
}

fn stored_count(connection: &Connection) -> Result<Option<u16>, Error> {
    let action = "read its number of partitions";
    let stored: Option<String> = connection
        .query_row(
            "SELECT value FROM facts WHERE name = ?1",
            params![PARTITION_COUNT],
            |row| row.get(0),
        )
        .optional()
        .map_err(engine(action))?;
    stored
        .map(|text| text.parse::<u16>().map_err(engine(action)))
        .transpose()
}

/// The last revision of every partition.
pub(super) fn heads(connection: &Connection) -> Result<BTreeMap<Partition, Revision>, Error> {
    let action = "read its revisions";
    let Some(count) = partition_count(connection)? else {
        return Ok(BTreeMap::new());
    };
    let mut statement = connection
        .prepare_cached("SELECT partition, revision FROM partitions")
        .map_err(engine(action))?;
    let mut rows = statement.query([]).map_err(engine(action))?;
    let mut heads = BTreeMap::new();
    while let Some(row) = rows.next().map_err(engine(action))? {
        let Ok(partition) = parse_partition(row.get(0).map_err(engine(action))?, count) else {
            continue;
        };
        let revision: i64 = row.get(1).map_err(engine(action))?;
        heads.insert(partition, Revision::new(revision.cast_unsigned()));
    }
    Ok(heads)
}
