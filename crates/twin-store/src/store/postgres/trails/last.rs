//! The last revisions of histories, with which a commit puts its own together.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Transaction;
use service_kit::error::chain;
use tokio_postgres::Row;
use twin::{IdentityKey, Revision};

use super::{COLUMNS, revision};
use crate::store::postgres::apart::{Care, each, part};
use crate::store::postgres::write::key_columns;
use crate::store::postgres::{engine, query_in, unsigned};
use crate::store::quarantine::Note;
use crate::store::row::{module_text, parse_key};
use crate::store::{Commit, Error, HistoryEntry, Hole};

/// The last revisions of identities, if they are routine ones.
#[derive(Debug, Default)]
pub(in crate::store::postgres) struct Last {
    pub(super) entries: BTreeMap<IdentityKey, HistoryEntry>,
    /// Of those that cannot be read: they stay as they are, and the new ones beside them.
    pub(super) notes: Vec<Note>,
}

/// Reads the last revisions of the identities that have a routine one to add.
pub(in crate::store::postgres) async fn last_routine(
    transaction: &Transaction<'_>,
    commit: &Commit,
    care: Care,
) -> Result<Last, Error> {
    let mut last = Last::default();
    let routine = commit.history.iter().filter(|entry| entry.routine);
    let keys: BTreeSet<&IdentityKey> = routine.map(|entry| &entry.key).collect();
    if keys.is_empty() || commit.coalesce_within.is_zero() {
        return Ok(last);
    }
    let keys: Vec<&IdentityKey> = keys.into_iter().collect();
    let read = each(transaction, care, &keys, |range| {
        last_of(transaction, part(&keys, range))
    });
    let read = read.await?;
    for row in read.done.iter().flat_map(|(_, rows)| rows) {
        let text = |column| row.try_get(column).map_err(engine("read a key"));
        let key = parse_key(text(0)?, text(1)?)?;
        match revision(key.clone(), row, 2) {
            Ok(entry) => {
                last.entries.insert(key, entry);
            }
            Err(damaged) => {
                let at = Revision::new(unsigned(row, 2).unwrap_or_default());
                last.notes
                    .push(Note::of_revision(&key, &Hole { at, damaged }));
            }
        }
    }
    for (number, error) in read.failed {
        if let Some(key) = keys.get(number) {
            let why = format!("its last revision cannot be read: {}", chain(&error));
            let (device, module) = (key.device.to_string(), module_text(key));
            last.notes.push(Note::of_identity(&device, module, why));
        }
    }
    Ok(last)
}

async fn last_of(transaction: &Transaction<'_>, keys: &[&IdentityKey]) -> Result<Vec<Row>, Error> {
    let (devices, modules) = key_columns(keys.iter().copied());
    query_in(
        transaction,
        "read the last revisions",
        &format!(
            "SELECT k.device_id, k.module_id, {COLUMNS}
             FROM UNNEST($1::text[], $2::text[]) AS k (device_id, module_id)
             CROSS JOIN LATERAL (
                 SELECT * FROM history l
                 WHERE l.device_id = k.device_id AND l.module_id = k.module_id
                 ORDER BY l.revision DESC LIMIT 1
             ) AS h
             WHERE h.routine"
        ),
        &[&devices, &modules],
    )
    .await
}
