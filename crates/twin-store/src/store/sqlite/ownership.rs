//! Who owns the partitions of an embedded store: one process, and the latest wins.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
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
    for partition in replica.count.partitions() {
        transaction
            .prepare_cached(
                "INSERT INTO partitions (partition, epoch, owner, address, position, revision,
                     published, log_floor, audit_sequence, audit_hash)
                 VALUES (?1, 1, ?2, ?3, 0, 0, 0, 0, 0, zeroblob(32))
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
    let claims = read(&transaction, replica)?;
    failpoint::hit("claim.written");
    transaction.commit().map_err(engine(action))?;
    failpoint::hit("claim.durable");
    Ok(claims)
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
        let partition = parse_partition(row.get(0).map_err(engine(action))?, replica.count)?;
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
    match stored_count(transaction)? {
        None => write_count(transaction, asked),
        Some(stored) if stored == asked => Ok(()),
        Some(stored) => Err(Error::PartitionCount { stored, asked }),
    }
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
        let partition = parse_partition(row.get(0).map_err(engine(action))?, count)?;
        let revision: i64 = row.get(1).map_err(engine(action))?;
        heads.insert(partition, Revision::new(revision.cast_unsigned()));
    }
    Ok(heads)
}
