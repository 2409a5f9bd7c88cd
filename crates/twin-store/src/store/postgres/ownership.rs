//! Who owns the partitions of a shared store: every running replica its share, under leases.
//!
//! A replica says each second that it lives, and is gone when it has not for the length of its lease,
//! by the database's clock. In the same transaction it looks at what everybody owns: it takes what is
//! free as long as it has less than its share, and is told what to surrender when it has more. Nobody
//! is asked and nothing is taken from the living, so that a partition changes hands only after its
//! owner has stopped working on it. Shares differ by one at most.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::Row;
use twin::{Partition, PartitionCount, Revision};

use super::{engine, execute, migrate, number, query, query_in, unsigned};
use crate::store::{
    AuditHead, Claims, Epoch, Error, PartitionState, Replica, ReplicaId, failpoint,
};

/// Name of the fact that says how many partitions the store was made with.
const PARTITION_COUNT: &str = "partition_count";
/// Name of the fact that names the store.
const IDENTITY: &str = "identity";
/// Lets one replica claim at a time.
const LOCK: i64 = migrate::LOCK + 1;

/// Notes the number of partitions the store is made with.
pub(super) async fn write_count(transaction: &Transaction<'_>, count: u16) -> Result<(), Error> {
    execute(
        transaction,
        "write its number of partitions",
        "INSERT INTO facts (name, value) VALUES ($1, $2)",
        &[&PARTITION_COUNT, &count.to_string()],
    )
    .await?;
    Ok(())
}

/// Claims for a replica.
pub(super) async fn claim(client: &mut Client, replica: &Replica) -> Result<Claims, Error> {
    let action = "claim partitions";
    let transaction = client.transaction().await.map_err(engine(action))?;
    execute(
        &transaction,
        action,
        "SELECT pg_advisory_xact_lock($1)",
        &[&LOCK],
    )
    .await?;
    check_partition_count(&transaction, replica.count).await?;
    make_identity(&transaction).await?;
    let addresses = say_that_we_live(&transaction, replica).await?;
    let owners = owners(&transaction, replica.count).await?;
    let live: BTreeSet<&str> = addresses.keys().map(String::as_str).collect();
    let plan = plan(&replica.id.0, &live, &owners);
    take(&transaction, replica, &plan.take).await?;
    let owned = owned(&transaction, replica).await?;
    failpoint::hit("claim.written");
    transaction.commit().await.map_err(engine(action))?;
    failpoint::hit("claim.durable");
    let elsewhere = owners.into_iter().filter_map(|(partition, owner)| {
        let address = addresses.get(&owner).filter(|_| owner != replica.id.0)?;
        Some((partition, address.clone()))
    });
    Ok(Claims {
        elsewhere: elsewhere.collect(),
        surrender: plan.surrender,
        owned,
    })
}

/// Gives partitions back. It waits for commits under way: their locks are on the same rows.
pub(super) async fn release(
    client: &mut Client,
    replica: &ReplicaId,
    partitions: &[Partition],
) -> Result<(), Error> {
    let action = "give partitions back";
    let transaction = client.transaction().await.map_err(engine(action))?;
    let numbers: Vec<i32> = partitions.iter().copied().map(number).collect();
    execute(
        &transaction,
        action,
        "SELECT FROM partitions WHERE partition = ANY($1) AND owner = $2
         ORDER BY partition FOR UPDATE",
        &[&numbers, &replica.0],
    )
    .await?;
    execute(
        &transaction,
        action,
        "UPDATE partitions SET owner = '' WHERE partition = ANY($1) AND owner = $2",
        &[&numbers, &replica.0],
    )
    .await?;
    // One that gave back everything is about to end, or claims again; until it does, the others' shares
    // are counted without it, so that nothing waits for the end of its lease.
    execute(
        &transaction,
        action,
        "DELETE FROM replicas
         WHERE id = $1 AND NOT EXISTS (SELECT FROM partitions WHERE owner = $1)",
        &[&replica.0],
    )
    .await?;
    failpoint::hit("release.written");
    transaction.commit().await.map_err(engine(action))?;
    failpoint::hit("release.durable");
    Ok(())
}

/// The last revision of every partition.
pub(super) async fn heads(client: &Client) -> Result<BTreeMap<Partition, Revision>, Error> {
    let action = "read its revisions";
    let rows = query(
        client,
        action,
        "SELECT p.partition, p.revision, count(*) OVER () FROM partitions p ORDER BY 1",
        &[],
    )
    .await?;
    let mut heads = BTreeMap::new();
    for row in &rows {
        let count: i64 = row.try_get(2).map_err(engine(action))?;
        let count = u16::try_from(count).map_err(engine(action))?;
        let count = PartitionCount::new(count).map_err(engine(action))?;
        let revision = unsigned(row, 1).map_err(engine(action))?;
        heads.insert(parse_partition(row, 0, count)?, Revision::new(revision));
    }
    Ok(heads)
}

/// The name of this store.
pub(super) async fn identity(client: &Client) -> Result<String, Error> {
    let action = "read its identity";
    let sql = "SELECT value FROM facts WHERE name = $1";
    let rows = query(client, action, sql, &[&IDENTITY]).await?;
    let row = rows.first().ok_or(Error::Engine {
        action,
        source: "it has none; partitions are claimed first".into(),
    })?;
    row.try_get(0).map_err(engine(action))
}

/// Gives the store its name, unless it has one. A restored one gets another.
async fn make_identity(transaction: &Transaction<'_>) -> Result<(), Error> {
    execute(
        transaction,
        "write its identity",
        "INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
        &[&IDENTITY, &uuid::Uuid::new_v4().to_string()],
    )
    .await?;
    Ok(())
}

/// Identities never move between partitions, so their number is fixed when the store is made, and
/// their rows are made with it.
async fn check_partition_count(
    transaction: &Transaction<'_>,
    count: PartitionCount,
) -> Result<(), Error> {
    let action = "read its number of partitions";
    let rows = query_in(
        transaction,
        action,
        "SELECT value FROM facts WHERE name = $1",
        &[&PARTITION_COUNT],
    )
    .await?;
    let asked = count.get();
    if let Some(row) = rows.first() {
        let text: String = row.try_get(0).map_err(engine(action))?;
        let stored: u16 = text.parse().map_err(engine(action))?;
        if stored != asked {
            return Err(Error::PartitionCount { stored, asked });
        }
        return Ok(());
    }
    write_count(transaction, asked).await?;
    let action = "write its number of partitions";
    let numbers: Vec<i32> = count.partitions().map(number).collect();
    execute(
        transaction,
        action,
        "INSERT INTO partitions (partition, epoch, owner, position, revision, published, log_floor,
             audit_sequence, audit_hash)
         SELECT n, 0, '', 0, 0, 0, 0, 0, decode(repeat('00', 32), 'hex')
         FROM UNNEST($1::int[]) AS n",
        &[&numbers],
    )
    .await?;
    Ok(())
}

/// Renews our lease; answers who lives, and where.
async fn say_that_we_live(
    transaction: &Transaction<'_>,
    replica: &Replica,
) -> Result<BTreeMap<String, String>, Error> {
    let action = "renew a lease";
    let lease = i64::try_from(replica.lease.as_millis()).map_err(engine(action))?;
    execute(
        transaction,
        action,
        "INSERT INTO replicas (id, address, expires_at)
         VALUES ($1, $2, clock_timestamp() + $3::bigint * interval '1 millisecond')
         ON CONFLICT (id) DO UPDATE
             SET address = excluded.address, expires_at = excluded.expires_at",
        &[&replica.id.0, &replica.address, &lease],
    )
    .await?;
    execute(
        transaction,
        action,
        "DELETE FROM replicas WHERE expires_at <= clock_timestamp() AND id <> $1",
        &[&replica.id.0],
    )
    .await?;
    let rows = query_in(transaction, action, "SELECT id, address FROM replicas", &[]).await?;
    let mut live = BTreeMap::new();
    for row in &rows {
        let id = row.try_get(0).map_err(engine(action))?;
        live.insert(id, row.try_get(1).map_err(engine(action))?);
    }
    Ok(live)
}

async fn owners(
    transaction: &Transaction<'_>,
    count: PartitionCount,
) -> Result<BTreeMap<Partition, String>, Error> {
    let action = "read the owners of partitions";
    let rows = query_in(
        transaction,
        action,
        "SELECT partition, owner FROM partitions",
        &[],
    )
    .await?;
    let mut owners = BTreeMap::new();
    for row in &rows {
        let owner = row.try_get(1).map_err(engine(action))?;
        owners.insert(parse_partition(row, 0, count)?, owner);
    }
    Ok(owners)
}

/// What a replica should do to come nearer to its share.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moves {
    take: Vec<Partition>,
    surrender: Vec<Partition>,
}

/// Decides what a replica takes and surrenders. Every replica decides for itself, one after another;
/// the shares add up to the number of partitions, so in the end everything is owned.
fn plan(us: &str, live: &BTreeSet<&str>, owners: &BTreeMap<Partition, String>) -> Moves {
    let ours = owners.iter().filter(|(_, owner)| *owner == us);
    let ours: Vec<Partition> = ours.map(|(partition, _)| *partition).collect();
    let before_us = live.iter().filter(|other| **other < us).count();
    let replicas = live.len().max(1);
    let remainder = usize::from(before_us < owners.len() % replicas);
    let share = owners.len() / replicas + remainder;
    if ours.len() >= share {
        return Moves {
            surrender: ours[share..].to_vec(),
            take: Vec::new(),
        };
    }
    let free = owners
        .iter()
        .filter(|(_, owner)| !live.contains(owner.as_str()));
    let free = free.map(|(partition, _)| *partition);
    Moves {
        take: free.take(share - ours.len()).collect(),
        surrender: Vec::new(),
    }
}

/// Takes partitions by raising their epochs. One whose row is locked is still being committed to by
/// whoever had it, and is left for the next time: to wait would hold up everybody's claims.
async fn take(
    transaction: &Transaction<'_>,
    replica: &Replica,
    partitions: &[Partition],
) -> Result<(), Error> {
    if partitions.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i32> = partitions.iter().copied().map(number).collect();
    execute(
        transaction,
        "take partitions",
        "WITH free AS MATERIALIZED (
             SELECT partition FROM partitions WHERE partition = ANY($1)
             ORDER BY partition FOR UPDATE SKIP LOCKED
         )
         UPDATE partitions p SET epoch = p.epoch + 1, owner = $2
         FROM free WHERE p.partition = free.partition",
        &[&numbers, &replica.id.0],
    )
    .await?;
    Ok(())
}

async fn owned(
    transaction: &Transaction<'_>,
    replica: &Replica,
) -> Result<Vec<PartitionState>, Error> {
    let action = "read its partitions";
    let rows = query_in(
        transaction,
        action,
        "SELECT partition, epoch, position, revision, published, audit_sequence, audit_hash
         FROM partitions WHERE owner = $1 ORDER BY partition",
        &[&replica.id.0],
    )
    .await?;
    rows.iter()
        .map(|row| {
            let partition = parse_partition(row, 0, replica.count)?;
            state(partition, row)
        })
        .collect()
}

fn state(partition: Partition, row: &Row) -> Result<PartitionState, Error> {
    let read = || -> Result<PartitionState, tokio_postgres::Error> {
        Ok(PartitionState {
            partition,
            epoch: Epoch(unsigned(row, 1)?),
            position: unsigned(row, 2)?,
            revision: Revision::new(unsigned(row, 3)?),
            published: Revision::new(unsigned(row, 4)?),
            audit: AuditHead {
                sequence: unsigned(row, 5)?,
                hash: [0; 32],
            },
        })
    };
    let mut state = read().map_err(engine("read a partition"))?;
    state.audit.hash = hash(row, 6)?;
    Ok(state)
}

/// The hash at the end of a chain.
pub(super) fn hash(row: &Row, column: usize) -> Result<[u8; 32], Error> {
    let action = "read a hash";
    let bytes: &[u8] = row.try_get(column).map_err(engine(action))?;
    bytes.try_into().map_err(engine(action))
}

fn parse_partition(row: &Row, column: usize, count: PartitionCount) -> Result<Partition, Error> {
    let action = "read the number of a partition";
    let index: i32 = row.try_get(column).map_err(engine(action))?;
    let index = u16::try_from(index).map_err(engine(action))?;
    Partition::new(index, count).map_err(engine(action))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    fn owners(of: &[usize]) -> BTreeMap<Partition, String> {
        let count = PartitionCount::new(u16::try_from(of.len()).unwrap()).unwrap();
        let name = |index: &usize| NAMES.get(*index).copied().unwrap_or_default().to_owned();
        count.partitions().zip(of.iter().map(name)).collect()
    }

    #[test]
    fn a_single_replica_takes_everything() {
        let all = owners(&[9, 9, 3, 0]);
        let moves = plan("a", &BTreeSet::from(["a"]), &all);
        assert_eq!(moves.take.len(), 3);
        assert_eq!(moves.surrender, []);
    }

    proptest! {
        /// Whoever owns what, after a few rounds every replica has its share, nothing was taken from
        /// a living one, and then nothing moves any more.
        #[test]
        fn replicas_come_to_fair_shares_and_stay_there(
            start in prop::collection::vec(0_usize..6, 1..40), alive in 1_u8..16,
        ) {
            let live: BTreeSet<&str> = (0..4)
                .filter(|bit| alive & (1 << bit) != 0)
                .map(|bit| NAMES[bit])
                .collect();
            let mut owners = owners(&start);
            for round in 0..4 {
                for replica in &live {
                    let moves = plan(replica, &live, &owners);
                    if round == 3 {
                        prop_assert_eq!(&moves, &Moves::default());
                    }
                    for partition in moves.take {
                        prop_assert!(!live.contains(owners[&partition].as_str()));
                        owners.insert(partition, (*replica).to_owned());
                    }
                    for partition in moves.surrender {
                        prop_assert_eq!(&owners[&partition], replica);
                        owners.insert(partition, String::new());
                    }
                }
            }
            let shares = live.iter().map(|replica| {
                owners.values().filter(|owner| owner == replica).count()
            });
            let shares: Vec<_> = shares.collect();
            prop_assert_eq!(shares.iter().sum::<usize>(), owners.len());
            let (least, most) = (shares.iter().min(), shares.iter().max());
            prop_assert!(most.unwrap() - least.unwrap() <= 1, "{:?}", shares);
        }
    }
}
