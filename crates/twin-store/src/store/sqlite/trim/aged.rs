//! Removes revisions of the embedded store that are too old.

use std::collections::BTreeSet;

use rusqlite::{Transaction, params};

use super::look::{Due, Text, due};
use super::stuck::Stuck;
use super::{before, count};
use crate::store::sqlite::engine;
use crate::store::sqlite::write::execute;
use crate::store::{Error, Retention};

/// Rows that are passed over for those of identities of which nothing can be removed.
const PASSED: i64 = 100_000;
/// How often old ones of others are looked for, if nothing can be removed of those that were found.
const TURNS: usize = 8;
const FORGET_OLD: &str = "forget old revisions";

/// Removes revisions that are too old. Of each identity only the oldest go, also when the clock was
/// put back meanwhile: a document is rewound through all revisions behind it.
/// Answers how many, and whether there is more.
pub(super) fn old_revisions(
    transaction: &Transaction<'_>,
    retention: &Retention,
    stuck: &Stuck,
) -> Result<(u64, bool), Error> {
    // Of some that are found by their times nothing can go yet, or they are not where they are looked for; they must
    // not stand before all others.
    let mut skipped = BTreeSet::new();
    for _ in 0..TURNS {
        let skip = |key: &_| stuck.has(key) || skipped.contains(key);
        let due = old_keys(transaction, retention, skip)?;
        let (mut removed, mut failed) = (0, false);
        for (key, (first, most)) in due.keys {
            let forgotten = stuck.apart(transaction, (&key.0, &key.1), || {
                forget_old(transaction, retention, &key, most)
            })?;
            failed |= forgotten.is_none();
            removed += forgotten.unwrap_or_default();
            if forgotten == Some(0) {
                let is_hidden = stuck.apart(transaction, (&key.0, &key.1), || match first {
                    Some(first) => is_hidden(transaction, &key, first),
                    None => Ok(false),
                })?;
                if let (Some(first), Some(true)) = (first, is_hidden) {
                    stuck.note_hidden((&key.0, &key.1), first);
                }
                skipped.insert(key);
            }
        }
        let is_full = due.rows >= retention.batch;
        if removed > 0 || failed || !is_full {
            return Ok((count(removed), is_full));
        }
    }
    Ok((0, false))
}

/// Of which identities the oldest revisions are, and how many of them.
fn old_keys(
    transaction: &Transaction<'_>,
    retention: &Retention,
    skip: impl Fn(&(Text, Text)) -> bool,
) -> Result<Due, Error> {
    let oldest_kept = before(retention, retention.history_age);
    let rows = i64::from(retention.batch) + PASSED;
    let sql = "SELECT device_id, module_id, revision FROM history WHERE at < ?1
               ORDER BY at LIMIT ?2";
    due(
        transaction,
        (FORGET_OLD, sql),
        params![oldest_kept, rows],
        skip,
        retention.batch,
    )
}

/// Whether a revision that was found by its time is not where its key has it.
fn is_hidden(
    transaction: &Transaction<'_>,
    (device, module): &(Text, Text),
    revision: i64,
) -> Result<bool, Error> {
    let found: rusqlite::Result<bool> = transaction
        .prepare_cached(
            "SELECT NOT EXISTS (SELECT 1 FROM history
                 WHERE device_id = ?1 AND module_id = ?2 AND revision = ?3)",
        )
        .and_then(|mut statement| {
            statement.query_row(params![device, module, revision], |row| row.get(0))
        });
    found.map_err(engine(FORGET_OLD))
}

fn forget_old(
    transaction: &Transaction<'_>,
    retention: &Retention,
    (device, module): &(Text, Text),
    most: u32,
) -> Result<usize, Error> {
    execute(
        transaction,
        FORGET_OLD,
        "DELETE FROM history WHERE device_id = ?1 AND module_id = ?2 AND revision IN
             (SELECT revision FROM history WHERE device_id = ?1 AND module_id = ?2
                  AND revision < coalesce(
                      (SELECT min(revision) FROM history
                       WHERE device_id = ?1 AND module_id = ?2 AND at >= ?3),
                      9223372036854775807)
              ORDER BY revision LIMIT ?4)",
        params![
            device,
            module,
            before(retention, retention.history_age),
            most
        ],
    )
}
