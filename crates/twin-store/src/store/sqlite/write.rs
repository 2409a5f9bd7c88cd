//! What the embedded store's one writing thread does.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use twin::{IdentityKey, Partition, PartitionCount, Revision};

use super::{engine, module_text};
use crate::record::Record;
use crate::store::{Commit, EnrollmentToken, Epoch, Error, PartitionState, row};

/// Name of the fact that says how many partitions the store was made with.
const PARTITION_COUNT: &str = "partition_count";
/// Expired enrolment tokens are forgotten this long after.
const EXPIRED_GRACE_SECS: i64 = 3600;

/// Takes every partition by raising its epoch.
pub(super) fn acquire(
    connection: &mut Connection,
    count: PartitionCount,
) -> Result<Vec<PartitionState>, Error> {
    let action = "take its partitions";
    let transaction = begin(connection)?;
    check_partition_count(&transaction, count)?;
    let mut states = Vec::new();
    for partition in count.partitions() {
        transaction
            .execute(
                "INSERT INTO partitions (partition, epoch, position, revision) VALUES (?1, 1, 0, 0)
                 ON CONFLICT (partition) DO UPDATE SET epoch = epoch + 1",
                params![partition_row(partition)],
            )
            .map_err(engine(action))?;
        let state = transaction
            .query_row(
                "SELECT epoch, position, revision FROM partitions WHERE partition = ?1",
                params![partition_row(partition)],
                |row| {
                    Ok(PartitionState {
                        partition,
                        epoch: Epoch(row.get::<_, i64>(0)?.cast_unsigned()),
                        position: row.get::<_, i64>(1)?.cast_unsigned(),
                        revision: Revision::new(row.get::<_, i64>(2)?.cast_unsigned()),
                    })
                },
            )
            .map_err(engine(action))?;
        states.push(state);
    }
    transaction.commit().map_err(engine(action))?;
    Ok(states)
}

/// Identities never move between partitions, so their number is fixed when the store is made.
fn check_partition_count(
    transaction: &Transaction<'_>,
    count: PartitionCount,
) -> Result<(), Error> {
    let action = "read its number of partitions";
    let stored: Option<String> = transaction
        .query_row(
            "SELECT value FROM facts WHERE name = ?1",
            params![PARTITION_COUNT],
            |row| row.get(0),
        )
        .optional()
        .map_err(engine(action))?;
    let asked = count.get();
    match stored.map(|text| text.parse::<u16>()) {
        None => {
            transaction
                .execute(
                    "INSERT INTO facts (name, value) VALUES (?1, ?2)",
                    params![PARTITION_COUNT, asked.to_string()],
                )
                .map_err(engine(action))?;
            Ok(())
        }
        Some(Ok(stored)) if stored == asked => Ok(()),
        Some(Ok(stored)) => Err(Error::PartitionCount { stored, asked }),
        Some(Err(error)) => Err(engine(action)(error)),
    }
}

/// Writes a commit, whole or not at all.
pub(super) fn commit(connection: &mut Connection, commit: &Commit) -> Result<(), Error> {
    let action = "commit";
    let transaction = begin(connection)?;
    for state in &commit.partitions {
        fence(&transaction, state)?;
    }
    for record in &commit.upserts {
        upsert(&transaction, record)?;
    }
    for key in &commit.deletes {
        delete(&transaction, key)?;
    }
    for change in &commit.outbox {
        transaction
            .prepare_cached("INSERT INTO outbox (partition, revision, change) VALUES (?1, ?2, ?3)")
            .and_then(|mut statement| {
                statement.execute(params![
                    partition_row(change.partition),
                    change.revision.get().cast_signed(),
                    change.change
                ])
            })
            .map_err(engine(action))?;
    }
    for (partition, through) in &commit.published {
        transaction
            .prepare_cached("DELETE FROM outbox WHERE partition = ?1 AND revision <= ?2")
            .and_then(|mut statement| {
                statement.execute(params![
                    partition_row(*partition),
                    through.get().cast_signed()
                ])
            })
            .map_err(engine(action))?;
    }
    for use_of in &commit.enrollments {
        transaction
            .execute(
                "INSERT INTO enrollments (hash, device_id, nonce) VALUES (?1, ?2, ?3)
                 ON CONFLICT (hash, device_id) DO NOTHING",
                params![use_of.hash, use_of.device.as_str(), use_of.nonce],
            )
            .map_err(engine(action))?;
    }
    transaction.commit().map_err(engine(action))
}

/// Moves a partition, unless another process has taken it.
fn fence(transaction: &Transaction<'_>, state: &PartitionState) -> Result<(), Error> {
    let moved = transaction
        .prepare_cached(
            "UPDATE partitions SET position = ?3, revision = ?4 WHERE partition = ?1 AND epoch = ?2",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                partition_row(state.partition),
                state.epoch.0.cast_signed(),
                state.position.cast_signed(),
                state.revision.get().cast_signed()
            ])
        })
        .map_err(engine("move a partition"))?;
    if moved == 1 {
        Ok(())
    } else {
        Err(Error::Fenced {
            partition: state.partition,
        })
    }
}

fn upsert(transaction: &Transaction<'_>, record: &Record) -> Result<(), Error> {
    let row = row::encode(record).map_err(engine("encode a twin"))?;
    transaction
        .prepare_cached(
            "INSERT INTO twins (device_id, module_id, revision, body, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (device_id, module_id) DO UPDATE SET
                 revision = excluded.revision, body = excluded.body, checksum = excluded.checksum",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                record.key.device.as_str(),
                module_text(&record.key),
                row.revision.cast_signed(),
                row.body,
                row.checksum
            ])
        })
        .map_err(engine("write a twin"))?;
    Ok(())
}

fn delete(transaction: &Transaction<'_>, key: &IdentityKey) -> Result<(), Error> {
    transaction
        .execute(
            "DELETE FROM twins WHERE device_id = ?1 AND module_id = ?2",
            params![key.device.as_str(), module_text(key)],
        )
        .map_err(engine("delete a twin"))?;
    Ok(())
}

/// Keeps a new enrolment token.
pub(super) fn add_enrollment_token(
    connection: &mut Connection,
    token: &EnrollmentToken,
    now: Timestamp,
) -> Result<(), Error> {
    let transaction = begin(connection)?;
    // Who used them goes with them (ON DELETE CASCADE). The grace keeps a token that a decision
    // under way has just accepted.
    transaction
        .execute(
            "DELETE FROM enrollment_tokens WHERE expires_at < ?1",
            params![now.as_second() - EXPIRED_GRACE_SECS],
        )
        .map_err(engine("forget expired enrolment tokens"))?;
    transaction
        .execute(
            "INSERT INTO enrollment_tokens (hash, device_id, expires_at, uses_max)
             VALUES (?1, ?2, ?3, ?4)",
            params![
                token.hash,
                token.device.as_ref().map_or("", twin::DeviceId::as_str),
                token.expires_at.as_second(),
                token.uses_max
            ],
        )
        .map_err(engine("keep an enrolment token"))?;
    transaction
        .commit()
        .map_err(engine("keep an enrolment token"))
}

fn partition_row(partition: Partition) -> i64 {
    i64::from(partition.get())
}

/// A transaction that holds the write lock from the start, so that a fence read in it stays true.
fn begin(connection: &mut Connection) -> Result<Transaction<'_>, Error> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(engine("begin a transaction"))
}
