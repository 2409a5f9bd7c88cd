//! Notes of damaged rows in the shared store.

use std::sync::Arc;

use deadpool_postgres::{Client, Transaction};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use service_kit::error::chain;
use twin::IdentityKey;

use super::write::key_columns;
use super::{Parameter, PostgresStore, engine, execute, query, query_in, read};
use crate::record::Damaged;
use crate::store::maintain::{Kind, Table};
use crate::store::quarantine::{NOTES_MAX, Note, report};
use crate::store::row::module_text;
use crate::store::{Error, Upsert, failpoint};

impl PostgresStore {
    /// Notes what a reading found damaged, and answers what it read.
    pub(super) async fn noting<T>(
        &self,
        read: BoxFuture<'_, Result<T, Error>>,
        notes: impl FnOnce(&T) -> Vec<Note>,
    ) -> Result<T, Error> {
        let found = read.await?;
        self.note(notes(&found)).await;
        Ok(found)
    }

    /// Notes damaged rows that are not noted yet; answers those that cannot be. What was read is answered also then.
    pub(super) async fn note(&self, notes: Vec<Note>) -> Vec<Note> {
        let notes = Arc::new(self.noted.fresh(notes));
        if notes.is_empty() {
            return Vec::new();
        }
        let fresh = notes.clone();
        let writing = self.repeat(move |client| {
            let notes = fresh.clone();
            async move { note(client, &notes).await }.boxed()
        });
        let Err(error) = writing.await else {
            return Vec::new();
        };
        tracing::error!(error = chain(&error), "damaged rows cannot be noted");
        self.noted.forget_notes(&notes);
        notes.to_vec()
    }
}

/// Notes of twins that were found damaged.
pub(super) fn notes_of(damaged: &[Damaged]) -> Vec<Note> {
    damaged.iter().map(Note::of_twin).collect()
}

/// Notes damaged rows and says so, once for each.
async fn note(client: &mut Client, notes: &[Note]) -> Result<(), Error> {
    let action = "note a damaged row";
    for note in notes {
        let mut transaction = client.transaction().await.map_err(engine(action))?;
        if let Some(key) = note.twin().filter(|_| !note.is_of_writing()) {
            match is_damaged(&transaction, &key).await {
                Ok(true) => {}
                Ok(false) => continue,
                // Nobody can look at it; and a transaction that failed does nothing more.
                Err(error) => {
                    read::damage(error, &key.to_string(), "row")?;
                    transaction.rollback().await.map_err(engine(action))?;
                    transaction = client.transaction().await.map_err(engine(action))?;
                }
            }
        }
        let fresh = execute(
            &transaction,
            action,
            "INSERT INTO quarantine (table_name, key, found_at, problem)
             VALUES ($1, $2, (extract(epoch FROM now()) * 1000000000)::bigint, $3)
             ON CONFLICT DO NOTHING",
            &[
                &note.table.name(),
                &note.key_text(),
                &readable(&note.problem),
            ],
        )
        .await?;
        failpoint::hit("quarantine.written");
        transaction.commit().await.map_err(engine(action))?;
        failpoint::hit("quarantine.durable");
        if fresh > 0 {
            report(note);
        }
    }
    Ok(())
}

/// TEXT holds no zero character; in words for people it may be another one.
fn readable(problem: &str) -> String {
    problem.replace('\0', "\u{fffd}")
}

/// Whether a twin is damaged now. It stays as it is until the note is made: whoever writes it anew
/// waits, and then sees the note.
async fn is_damaged(transaction: &Transaction<'_>, key: &IdentityKey) -> Result<bool, Error> {
    let sql = format!(
        "SELECT {} FROM twins t WHERE t.device_id = $1 AND t.module_id = $2 FOR SHARE",
        read::COLUMNS
    );
    let keys: [Parameter<'_>; 2] = [&key.device.as_str(), &module_text(key)];
    let rows = query_in(transaction, "look at a damaged twin", &sql, &keys).await?;
    let found = rows.first().map(|row| read::decode(key.clone(), row));
    Ok(matches!(found, Some(Err(_))))
}

/// What is noted, twins first.
pub(super) async fn list(client: &Client) -> Result<Vec<Damaged>, Error> {
    let notes = notes(client).await?;
    Ok(notes.into_iter().map(Note::into_damaged).collect())
}

async fn notes(client: &Client) -> Result<Vec<Note>, Error> {
    read_notes(
        client,
        "SELECT table_name, key, problem FROM quarantine
         ORDER BY table_name <> $1, table_name, key LIMIT $2",
        &[&Table::Twins.name(), &NOTES_MAX],
    )
    .await
}

/// Notes of rows whose keys cannot be read, from before a time; but for twins, which never grow old.
async fn unreadable(client: &Client, before: i64) -> Result<Vec<Note>, Error> {
    let mut notes = read_notes(
        client,
        "SELECT table_name, key, problem FROM quarantine
         WHERE table_name <> $1 AND found_at < $2 LIMIT $3",
        &[&Table::Twins.name(), &before, &NOTES_MAX],
    )
    .await?;
    notes.retain(|note| note.place().is_none());
    Ok(notes)
}

async fn read_notes(
    client: &Client,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Note>, Error> {
    let rows = query(client, "list damaged rows", sql, parameters).await?;
    let notes = rows.iter().filter_map(|row| {
        let (table, key) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
        Note::read(table, key, row.try_get(2).ok()?)
    });
    Ok(notes.collect())
}

/// Forgets that twins were damaged which were just written or removed. Entries that their index had
/// go, too, before the new ones come: whoever writes a twin anew could not know which there were.
pub(super) async fn clear(
    transaction: &Transaction<'_>,
    upserts: &[Upsert],
    deletes: &[IdentityKey],
) -> Result<(), Error> {
    let action = "forget that twins were damaged";
    let keys = upserts.iter().map(|upsert| &upsert.record.key);
    let (devices, modules) = key_columns(keys.chain(deletes));
    if devices.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = devices
        .iter()
        .zip(&modules)
        .map(|(device, module)| serde_json::Value::from(vec![*device, *module]).to_string())
        .collect();
    let cleared = query_in(
        transaction,
        action,
        "DELETE FROM quarantine WHERE table_name = $1 AND key = ANY($2::text[]) RETURNING key",
        &[&Table::Twins.name(), &texts],
    )
    .await?;
    if cleared.is_empty() {
        return Ok(());
    }
    execute(
        transaction,
        action,
        "DELETE FROM twin_index i USING UNNEST($1::text[], $2::text[], $3::text[])
             AS n (device_id, module_id, key)
         WHERE i.device_id = n.device_id AND i.module_id = n.module_id AND n.key = ANY($4::text[])",
        &[
            &devices,
            &modules,
            &texts,
            &cleared
                .iter()
                .filter_map(|row| row.try_get(0).ok())
                .collect::<Vec<String>>(),
        ],
    )
    .await?;
    Ok(())
}

/// Forgets notes of rows that are gone; of a revision whose key cannot be read, when it is older than the histories
/// that are kept.
pub(super) async fn sweep(client: &mut Client, oldest_kept: i64) -> Result<(), Error> {
    let mut gone = unreadable(client, oldest_kept).await?;
    for note in notes(client).await? {
        if !is_there(client, &note).await {
            gone.push(note);
        }
    }
    for note in gone {
        let action = "forget a note of a row that is gone";
        let transaction = client.transaction().await.map_err(engine(action))?;
        execute(
            &transaction,
            action,
            "DELETE FROM quarantine WHERE table_name = $1 AND key = $2",
            &[&note.table.name(), &note.key_text()],
        )
        .await?;
        failpoint::hit("sweep.written");
        transaction.commit().await.map_err(engine(action))?;
        failpoint::hit("sweep.durable");
    }
    Ok(())
}

/// Whether the row of a note is there; also if nobody can tell.
async fn is_there(client: &Client, note: &Note) -> bool {
    let Some(place) = note.place() else {
        return true;
    };
    let conditions = place.iter().enumerate().map(|(at, (name, kind, _))| {
        let at = at + 1;
        match kind {
            Kind::Text | Kind::OptionalText => format!("{name} = ${at}::text"),
            Kind::Bytes => format!("{name} = decode(${at}::text, 'hex')"),
            Kind::Integer | Kind::OptionalInteger | Kind::Truth => {
                format!("{name} = ${at}::text::bigint")
            }
        }
    });
    let conditions: Vec<_> = conditions.collect();
    let sql = format!(
        "SELECT FROM {} WHERE {}",
        note.table.name(),
        conditions.join(" AND ")
    );
    let texts: Vec<_> = place
        .iter()
        .map(|(.., text)| super::text::pack(text))
        .collect();
    let texts: Vec<Parameter<'_>> = texts.iter().map(|text| text as Parameter<'_>).collect();
    let found = query(client, "look for a damaged row", &sql, &texts).await;
    found.map_or(true, |rows| !rows.is_empty())
}
