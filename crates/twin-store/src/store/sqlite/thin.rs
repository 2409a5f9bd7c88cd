//! Puts routine revisions of the embedded store together when they are no longer young.

use std::collections::BTreeMap;

use rusqlite::{Transaction, params};
use twin::IdentityKey;

use super::engine;
use super::trails::{COLUMNS, history_row, insert};
use super::trim::{LookedAt, look};
use super::write::execute;
use crate::history::merge_all;
use crate::store::row::{history, parse_key};
use crate::store::thin::{AT_ONCE, Light, Spans};
use crate::store::{Error, HistoryEntry, Retention};

/// Puts a bounded amount together. Answers how many revisions are part of another one now, and up to
/// where it has looked if there is more to look at.
pub(super) fn thin(
    transaction: &Transaction<'_>,
    retention: &Retention,
    from: &LookedAt,
) -> Result<(u64, Option<LookedAt>), Error> {
    let Some(spans) = Spans::of(retention) else {
        return Ok((0, None));
    };
    let looked = look(transaction, from, spans.end, retention.batch)?;
    let mut reached: BTreeMap<(&str, &str), (i64, i64)> = BTreeMap::new();
    for one in &looked {
        let bounds = reached
            .entry((&one.device, &one.module))
            .or_insert((one.revision, one.revision));
        *bounds = (bounds.0.min(one.revision), bounds.1.max(one.revision));
    }
    let (mut joined, mut read) = (0, 0);
    for ((device, module), (lowest, highest)) in reached {
        if read >= AT_ONCE {
            // Not further than this: the next call looks at the rest of them again.
            return Ok((joined, Some(from.clone())));
        }
        let revisions = light(transaction, (device, module), (lowest, highest))?;
        for (first, last, count) in spans.runs(&revisions) {
            if join(transaction, (device, module), (first, last))? {
                read += count;
                joined += u64::try_from(count - 1).unwrap_or(u64::MAX);
            }
        }
    }
    Ok((joined, looked.into_iter().next_back()))
}

/// Revisions of an identity, and the one before them, with which the first may be put together.
fn light(
    transaction: &Transaction<'_>,
    (device, module): (&str, &str),
    (lowest, highest): (i64, i64),
) -> Result<Vec<Light>, Error> {
    let action = "look at revisions";
    transaction
        .prepare_cached(
            "SELECT revision, first_at, at, routine FROM history
             WHERE device_id = ?1 AND module_id = ?2 AND revision <= ?4 AND revision >= coalesce(
                 (SELECT max(revision) FROM history
                  WHERE device_id = ?1 AND module_id = ?2 AND revision < ?3), ?3)
             ORDER BY revision",
        )
        .and_then(|mut statement| {
            let rows = statement.query_map(params![device, module, lowest, highest], |row| {
                Ok(Light {
                    revision: row.get(0)?,
                    first_at: row.get(1)?,
                    at: row.get(2)?,
                    routine: row.get(3)?,
                })
            })?;
            rows.collect()
        })
        .map_err(engine(action))
}

/// Makes one of revisions in a row; not if one of them cannot be read, which stays as it is.
fn join(
    transaction: &Transaction<'_>,
    (device, module): (&str, &str),
    (first, last): (i64, i64),
) -> Result<bool, Error> {
    let Ok(key) = parse_key(device, module) else {
        return Ok(false);
    };
    let entries = entries(transaction, &key, (device, module), (first, last))?;
    let Some(merged) = entries.and_then(|entries| merge_all(&entries).ok().flatten()) else {
        return Ok(false);
    };
    execute(
        transaction,
        "put revisions together",
        "DELETE FROM history WHERE device_id = ?1 AND module_id = ?2
             AND revision BETWEEN ?3 AND ?4",
        params![device, module, first, last],
    )?;
    insert(transaction, &merged)?;
    Ok(true)
}

/// None if one of them cannot be read.
fn entries(
    transaction: &Transaction<'_>,
    key: &IdentityKey,
    (device, module): (&str, &str),
    (first, last): (i64, i64),
) -> Result<Option<Vec<HistoryEntry>>, Error> {
    let action = "read revisions";
    let mut statement = transaction
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM history WHERE device_id = ?1 AND module_id = ?2
                 AND revision BETWEEN ?3 AND ?4 ORDER BY revision"
        ))
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params![device, module, first, last])
        .map_err(engine(action))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next().map_err(engine(action))? {
        let read = history_row(row, 0).ok();
        match read.map(|row| history::decode(key.clone(), row)) {
            Some(Ok(entry)) => entries.push(entry),
            Some(Err(_)) | None => return Ok(None),
        }
    }
    Ok(Some(entries))
}
