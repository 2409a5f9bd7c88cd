//! What a commit writes into the shared store: a few statements for all of its rows, each of which
//! takes whole columns (`UNNEST`), because a statement for each row costs several times as much.

use std::collections::BTreeMap;

use deadpool_postgres::{Client, Transaction};
use futures::try_join;
use twin::IdentityKey;

use super::apart::{Care, sparing};
use super::read::is_of_damage;
use super::trails::Last;
use super::{
    Parameter, engine, execute, number, operations, population, provisioning, quarantine, query_in,
    spoilt, text, tokens, trails,
};
use crate::store::quarantine::Note;
use crate::store::row::{self, change, module_text};
use crate::store::{
    Commit, Error, IndexEntry, LogEntry, PartitionState, Population, Upsert, failpoint,
};

/// Rows of one statement: bounds the memory that both sides need for it.
const ROWS: usize = 1024;

/// Writes a commit, whole or not at all; answers what was found damaged. A revision that cannot be read keeps nobody
/// from writing: nothing is put together with it then.
pub(super) async fn commit(client: &mut Client, commit: &Commit) -> Result<Vec<Note>, Error> {
    let done = Box::pin(try_to_commit(client, commit, Care::Together)).await;
    if !done.as_ref().is_err_and(is_of_damage) {
        return done;
    }
    // Nothing of it was written: the server says so before the end of the transaction.
    match Box::pin(try_to_commit(client, commit, Care::Apart)).await {
        Err(error) if is_of_damage(&error) => Box::pin(spoilt::commit(client, commit, error)).await,
        done => done,
    }
}

pub(super) async fn try_to_commit(
    client: &mut Client,
    commit: &Commit,
    care: Care,
) -> Result<Vec<Note>, Error> {
    let transaction = client
        .transaction()
        .await
        .map_err(engine("begin a commit"))?;
    failpoint::hit("commit.begun");
    fence(&transaction, &commit.partitions).await?;
    failpoint::hit("commit.fenced");
    let mut last = None;
    if care == Care::Apart {
        sparing(&transaction).await?;
        // Savepoints are of everything that is sent meanwhile, so nothing else is.
        last = Some(trails::last_routine(&transaction, commit, care).await?);
    }
    // These go to different rows, and are sent one behind another without waiting for answers.
    let (made, (), notes, ..) = try_join!(
        records(&transaction, commit),
        move_and_log(&transaction, commit),
        history(&transaction, commit, last),
        trails::add_audit(&transaction, &commit.audit),
        rest(&transaction, commit),
    )?;
    population::count(&transaction, &commit.partitions, made).await?;
    failpoint::hit("commit.counted");
    failpoint::hit("commit.written");
    transaction.commit().await.map_err(engine("commit"))?;
    failpoint::hit("commit.durable");
    Ok(notes)
}

pub(super) async fn history(
    transaction: &Transaction<'_>,
    commit: &Commit,
    last: Option<Last>,
) -> Result<Vec<Note>, Error> {
    let notes = trails::keep(transaction, commit, last).await?;
    failpoint::hit("commit.kept");
    Ok(notes)
}

/// What is small, and in most commits not there.
pub(super) async fn rest(transaction: &Transaction<'_>, commit: &Commit) -> Result<(), Error> {
    try_join!(
        tokens::write(transaction, &commit.tokens, &commit.enrollments),
        operations::write(transaction, commit),
        provisioning::write(transaction, &commit.provisioning),
    )?;
    failpoint::hit("commit.told");
    Ok(())
}

/// Locks the partitions, in order, and makes sure that they are ours.
async fn fence(transaction: &Transaction<'_>, states: &[PartitionState]) -> Result<(), Error> {
    if states.is_empty() {
        return Ok(());
    }
    let action = "lock partitions";
    let numbers: Vec<i32> = states.iter().map(|state| number(state.partition)).collect();
    let rows = query_in(
        transaction,
        action,
        "SELECT partition, epoch FROM partitions WHERE partition = ANY($1)
         ORDER BY partition FOR NO KEY UPDATE",
        &[&numbers],
    )
    .await?;
    let mut epochs: BTreeMap<i32, i64> = BTreeMap::new();
    for row in &rows {
        let partition = row.try_get(0).map_err(engine(action))?;
        epochs.insert(partition, row.try_get(1).map_err(engine(action))?);
    }
    for state in states {
        if epochs.get(&number(state.partition)) != Some(&state.epoch.0.cast_signed()) {
            return Err(Error::Fenced {
                partition: state.partition,
            });
        }
    }
    Ok(())
}

/// In this order, because the floor of a log follows its partition.
pub(super) async fn move_and_log(
    transaction: &Transaction<'_>,
    commit: &Commit,
) -> Result<(), Error> {
    move_partitions(transaction, &commit.partitions).await?;
    failpoint::hit("commit.moved");
    log(transaction, commit).await?;
    failpoint::hit("commit.logged");
    Ok(())
}

async fn move_partitions(
    transaction: &Transaction<'_>,
    states: &[PartitionState],
) -> Result<(), Error> {
    if states.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&PartitionState) -> u64| -> Vec<i64> {
        states.iter().map(|state| of(state).cast_signed()).collect()
    };
    let numbers: Vec<i32> = states.iter().map(|state| number(state.partition)).collect();
    let hashes: Vec<&[u8]> = states.iter().map(|state| &state.audit.hash[..]).collect();
    execute(
        transaction,
        "move partitions",
        "UPDATE partitions p SET position = n.position, revision = n.revision,
             published = n.published, audit_sequence = n.audit_sequence, audit_hash = n.audit_hash
         FROM UNNEST($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
             $6::bytea[]) AS n (partition, position, revision, published, audit_sequence, audit_hash)
         WHERE p.partition = n.partition",
        &[
            &numbers,
            &column(|state| state.position),
            &column(|state| state.revision.get()),
            &column(|state| state.published.get()),
            &column(|state| state.audit.sequence),
            &hashes,
        ],
    )
    .await?;
    Ok(())
}

/// In this order: what is noted of a twin is looked at when its row is ours, and the entries of the
/// index that a damaged one had go before new ones come.
pub(super) async fn records(
    transaction: &Transaction<'_>,
    commit: &Commit,
) -> Result<Population, Error> {
    let (mut made, removed) = try_join!(
        all_twins(transaction, &commit.upserts),
        delete(transaction, &commit.deletes),
    )?;
    failpoint::hit("commit.twins");
    quarantine::clear(transaction, &commit.upserts, &commit.deletes).await?;
    failpoint::hit("commit.cleared");
    indexes(transaction, &commit.upserts).await?;
    failpoint::hit("commit.indexed");
    made -= removed;
    Ok(made)
}

/// Writes twins, and answers how many are new.
async fn all_twins(transaction: &Transaction<'_>, upserts: &[Upsert]) -> Result<Population, Error> {
    let mut made = Population::default();
    for chunk in upserts.chunks(ROWS) {
        made += twins(transaction, chunk).await?;
    }
    Ok(made)
}

async fn indexes(transaction: &Transaction<'_>, upserts: &[Upsert]) -> Result<(), Error> {
    let entries = |of: fn(&Upsert) -> &Vec<IndexEntry>| {
        let all = upserts.iter().flat_map(move |written| {
            let key = &written.record.key;
            of(written).iter().map(move |entry| (key, entry))
        });
        all.collect::<Vec<_>>()
    };
    let removed = entries(|written| &written.index_remove);
    let added = entries(|written| &written.index_add);
    try_join!(
        index(
            transaction,
            &removed,
            "remove index entries",
            "DELETE FROM twin_index i
             USING UNNEST($1::text[], $2::text[], $3::text[], $4::text[])
                 AS n (path, value, device_id, module_id)
             WHERE i.path = n.path AND i.value = n.value
                 AND i.device_id = n.device_id AND i.module_id = n.module_id",
        ),
        index(
            transaction,
            &added,
            "write index entries",
            "INSERT INTO twin_index (path, value, device_id, module_id)
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[])
             ON CONFLICT DO NOTHING",
        ),
    )?;
    Ok(())
}

async fn twins(transaction: &Transaction<'_>, upserts: &[Upsert]) -> Result<Population, Error> {
    let action = "encode a twin";
    let mut keys = Vec::with_capacity(upserts.len());
    let mut rows = Vec::with_capacity(upserts.len());
    for written in upserts {
        keys.push(&written.record.key);
        rows.push(row::encode(&written.record).map_err(engine(action))?);
    }
    let texts = |of: for<'r> fn(&'r row::Row<'_>) -> &'r str| -> Vec<&str> {
        rows.iter().map(of).collect()
    };
    let (devices, modules) = key_columns(keys.iter().copied());
    let revisions: Vec<i64> = rows.iter().map(|row| row.revision.cast_signed()).collect();
    let opaque: Vec<bool> = rows.iter().map(|row| row.opaque).collect();
    let checksums: Vec<i64> = rows.iter().map(|row| i64::from(row.checksum)).collect();
    population::counting(
        transaction,
        "write twins",
        // A row that was there has been locked by this statement, which `xmax` tells.
        "WITH written AS (INSERT INTO twins (device_id, module_id, revision, status, tags, desired, reported,
             posture, body, opaque, checksum)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[],
             $6::text[], $7::text[], $8::text[], $9::text[], $10::bool[], $11::bigint[])
         ON CONFLICT (device_id, module_id) DO UPDATE SET
             revision = excluded.revision, status = excluded.status, tags = excluded.tags,
             desired = excluded.desired, reported = excluded.reported,
             posture = excluded.posture, body = excluded.body, opaque = excluded.opaque,
             checksum = excluded.checksum
         RETURNING module_id, xmax = 0 AS made)
         SELECT count(*) FILTER (WHERE made AND module_id = ''),
             count(*) FILTER (WHERE made AND module_id <> '') FROM written",
        &[
            &devices,
            &modules,
            &revisions,
            &texts(|row| &row.status),
            &texts(|row| &row.tags),
            &texts(|row| &row.desired),
            &texts(|row| &row.reported),
            &texts(|row| &row.posture),
            &texts(|row| &row.body),
            &opaque,
            &checksums,
        ],
    )
    .await
}

async fn index(
    transaction: &Transaction<'_>,
    entries: &[(&IdentityKey, &IndexEntry)],
    action: &'static str,
    sql: &str,
) -> Result<(), Error> {
    for chunk in entries.chunks(ROWS) {
        let paths: Vec<_> = chunk
            .iter()
            .map(|(_, entry)| text::pack(&entry.path))
            .collect();
        let values: Vec<_> = chunk
            .iter()
            .map(|(_, entry)| text::pack(&entry.value))
            .collect();
        let (devices, modules) = key_columns(chunk.iter().map(|(key, _)| *key));
        let parameters: [Parameter<'_>; 4] = [&paths, &values, &devices, &modules];
        execute(transaction, action, sql, &parameters).await?;
    }
    Ok(())
}

/// Removes twins with their entries of the index, and answers how many there were.
async fn delete(transaction: &Transaction<'_>, keys: &[IdentityKey]) -> Result<Population, Error> {
    if keys.is_empty() {
        return Ok(Population::default());
    }
    let (devices, modules) = key_columns(keys);
    let action = "delete twins";
    let keys: [Parameter<'_>; 2] = [&devices, &modules];
    execute(
        transaction,
        action,
        "DELETE FROM twin_index t USING UNNEST($1::text[], $2::text[]) AS n (device_id, module_id)
         WHERE t.device_id = n.device_id AND t.module_id = n.module_id",
        &keys,
    )
    .await?;
    population::counting(
        transaction,
        action,
        "WITH removed AS (
             DELETE FROM twins t USING UNNEST($1::text[], $2::text[]) AS n (device_id, module_id)
             WHERE t.device_id = n.device_id AND t.module_id = n.module_id RETURNING t.module_id)
         SELECT count(*) FILTER (WHERE module_id = ''), count(*) FILTER (WHERE module_id <> '')
         FROM removed",
        &keys,
    )
    .await
}

async fn log(transaction: &Transaction<'_>, commit: &Commit) -> Result<(), Error> {
    for chunk in commit.log.chunks(ROWS) {
        let seal = |entry: &LogEntry| change::seal(entry.partition, entry.revision, &entry.change);
        let numbers: Vec<i32> = chunk.iter().map(|entry| number(entry.partition)).collect();
        let revisions: Vec<i64> = chunk
            .iter()
            .map(|entry| entry.revision.get().cast_signed())
            .collect();
        let changes: Vec<Vec<u8>> = chunk.iter().map(seal).collect();
        execute(
            transaction,
            "log changes",
            "INSERT INTO log (partition, revision, change)
             SELECT * FROM UNNEST($1::int[], $2::bigint[], $3::bytea[])",
            &[&numbers, &revisions, &changes],
        )
        .await?;
    }
    if commit.trim_log.is_empty() {
        return Ok(());
    }
    let trims = commit.trim_log.iter();
    let (numbers, through): (Vec<i32>, Vec<i64>) = trims
        .map(|(partition, through)| (number(*partition), through.get().cast_signed()))
        .unzip();
    for sql in [
        // The furthest of each, because an update takes any one of several rows.
        "UPDATE partitions p SET log_floor = greatest(p.log_floor, least(n.through, p.revision))
         FROM (SELECT partition, max(through) AS through
               FROM UNNEST($1::int[], $2::bigint[]) AS t (partition, through)
               GROUP BY partition) AS n
         WHERE p.partition = n.partition",
        "DELETE FROM log l USING UNNEST($1::int[], $2::bigint[]) AS n (partition, through)
         WHERE l.partition = n.partition AND l.revision <= n.through",
    ] {
        execute(transaction, "trim the log", sql, &[&numbers, &through]).await?;
    }
    Ok(())
}

/// The two columns of keys.
pub(super) fn key_columns<'k>(
    keys: impl IntoIterator<Item = &'k IdentityKey>,
) -> (Vec<&'k str>, Vec<&'k str>) {
    let keys = keys.into_iter();
    keys.map(|key| (key.device.as_str(), module_text(key)))
        .unzip()
}
