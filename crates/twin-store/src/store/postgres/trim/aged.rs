//! Removes revisions of the shared store that are too old.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use deadpool_postgres::Transaction;
use service_kit::error::chain;
use tokio_postgres::Row;

use super::before;
use super::look::note_holes;
use super::memory::{Key, Memory};
use crate::store::postgres::apart::{Care, each, in_time, part};
use crate::store::postgres::{execute, query_in};
use crate::store::quarantine::Note;
use crate::store::{Error, Retention};

/// How often old ones of others are looked for, if nothing can be removed of those that were found.
const TURNS: usize = 8;
const FORGET_OLD: &str = "forget old revisions";

/// An identity of which old revisions were found.
struct Due {
    key: Key,
    /// The first of them.
    revision: i64,
    rows: i64,
}

/// Removes revisions that are too old; answers how many, and whether there is more. Of each identity only the oldest
/// go, also when a clock was put back: a document is rewound through all revisions behind it.
pub(super) async fn old_revisions(
    transaction: &Transaction<'_>,
    retention: &Retention,
    memory: &Memory,
    care: Care,
    notes: &mut Vec<Note>,
) -> Result<(u64, bool), Error> {
    let oldest_kept = before(retention, retention.history_age);
    let most = usize::try_from(retention.batch).unwrap_or(usize::MAX);
    // Of some that are found by their times nothing can go yet, or they are not where they are looked for; they must
    // not stand before all others.
    let (mut passed, mut floor) = memory.passed();
    for _ in 0..TURNS {
        let read = |time: Range<i64>, most: usize| oldest(transaction, time, most, &passed);
        let time = floor..oldest_kept.max(floor);
        let found = in_time(transaction, care, time, most, read).await?;
        note_holes(&found, notes);
        let due = due(&found.rows);
        let forgotten = each(transaction, care, &due, |range| {
            forget(transaction, oldest_kept, part(&due, range))
        });
        let forgotten = forgotten.await?;
        for (number, error) in &forgotten.failed {
            let Some(Due { key, revision, .. }) = due.get(*number) else {
                continue;
            };
            let why = format!("from here on revisions cannot be removed: {}", chain(error));
            notes.push(Note::of_revisions(&key.0, &key.1, *revision, why));
            memory.stick(key.clone());
        }
        if let Some(beyond) = found.beyond() {
            // Whatever can be read before it was found just now.
            floor = beyond;
            memory.raise(beyond);
        }
        let removed: u64 = forgotten.done.iter().map(|(_, removed)| removed).sum();
        let is_full = found.rows.len() >= most || found.rest.is_some();
        if removed > 0 || !forgotten.failed.is_empty() || !is_full {
            return Ok((removed, is_full));
        }
        passed.extend(due.into_iter().map(|due| due.key));
    }
    Ok((0, false))
}

/// The oldest revisions of a time, but for those of identities that are passed over.
async fn oldest(
    transaction: &Transaction<'_>,
    time: Range<i64>,
    most: usize,
    passed: &BTreeSet<Key>,
) -> Result<Vec<Row>, Error> {
    let (devices, modules) = columns(passed.iter());
    query_in(
        transaction,
        FORGET_OLD,
        "SELECT device_id, module_id, revision FROM history
         WHERE at >= $1 AND at < $2 AND device_id IS NOT NULL AND module_id IS NOT NULL
             AND NOT EXISTS (SELECT FROM UNNEST($4::text[], $5::text[]) AS passed (device, module)
                             WHERE passed.device = device_id AND passed.module = module_id)
         ORDER BY at LIMIT $3",
        &[
            &time.start,
            &time.end,
            &i64::try_from(most).unwrap_or(i64::MAX),
            &devices,
            &modules,
        ],
    )
    .await
}

/// Of which identities rows are; but for those whose keys are no texts, by which nothing can be found.
fn due(rows: &[Row]) -> Vec<Due> {
    let mut due: BTreeMap<Key, (i64, i64)> = BTreeMap::new();
    for row in rows {
        let key = || -> Result<(Key, i64), tokio_postgres::Error> {
            Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))
        };
        if let Ok((key, revision)) = key() {
            due.entry(key).or_insert((revision, 0)).1 += 1;
        }
    }
    let due = due.into_iter().map(|(key, (revision, rows))| Due {
        key,
        revision,
        rows,
    });
    due.collect()
}

/// Removes so many of the oldest revisions of each, but none from the first young one on.
async fn forget(
    transaction: &Transaction<'_>,
    oldest_kept: i64,
    due: &[Due],
) -> Result<u64, Error> {
    let (devices, modules) = columns(due.iter().map(|due| &due.key));
    let rows: Vec<i64> = due.iter().map(|due| due.rows).collect();
    execute(
        transaction,
        FORGET_OLD,
        "DELETE FROM history WHERE (device_id, module_id, revision) IN
             (SELECT old.device_id, old.module_id, old.revision
              FROM UNNEST($2::text[], $3::text[], $4::bigint[]) AS k (device_id, module_id, due)
              CROSS JOIN LATERAL
                  (SELECT h.device_id, h.module_id, h.revision FROM history h
                   WHERE h.device_id = k.device_id AND h.module_id = k.module_id
                       AND h.revision < coalesce(
                           (SELECT min(young.revision) FROM history young
                            WHERE young.device_id = k.device_id
                                AND young.module_id = k.module_id AND young.at >= $1),
                           9223372036854775807)
                   ORDER BY h.revision LIMIT k.due) AS old)",
        &[&oldest_kept, &devices, &modules, &rows],
    )
    .await
}

fn columns<'k>(keys: impl Iterator<Item = &'k Key>) -> (Vec<&'k str>, Vec<&'k str>) {
    keys.map(|(device, module)| (&**device, &**module)).unzip()
}
