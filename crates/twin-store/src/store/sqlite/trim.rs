//! Removes from the embedded store what is older than it has to be kept, a little at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Transaction, params};

use super::thin::thin;
use super::write::{begin, execute};
use super::{engine, nanoseconds};
use crate::store::thin::Spans;
use crate::store::{Error, Retention, Trimmed, failpoint};

/// Expired enrolment tokens are forgotten this long after, so that one which a decision under way
/// has just accepted is still there.
const EXPIRED_GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Up to where histories were looked at for being too long: every revision is looked at once, in
/// the order of their times, so that what this costs follows from what is written. Starts again
/// with the process.
#[derive(Debug, Clone, Default)]
pub(super) struct LookedAt {
    at: i64,
    pub(super) device: String,
    pub(super) module: String,
    pub(super) revision: i64,
}

/// Up to where histories were looked at, for each thing that is looked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    surplus: LookedAt,
    thinned: LookedAt,
}

/// Removes a bounded amount.
pub(super) fn trim(
    connection: &mut Connection,
    retention: &Retention,
    looked_at: &Mutex<Places>,
) -> Result<Trimmed, Error> {
    let from = looked_at
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let transaction = begin(connection)?;
    let old = old_revisions(&transaction, retention)?;
    let (joined, thinned) = thin(&transaction, retention, &from.thinned)?;
    let (surplus, looked) = surplus_revisions(&transaction, retention, &from.surplus)?;
    let mut trimmed = Trimmed {
        revisions: old + surplus,
        joined,
        requests: requests(&transaction, retention)?,
        ..Trimmed::default()
    };
    let (operations, more_operations) = operations(&transaction, retention)?;
    trimmed.operations = operations;
    let more_tokens = tokens(&transaction, retention)?;
    let batch = u64::from(retention.batch);
    let removed = [old, surplus, trimmed.requests];
    trimmed.more = looked.is_some()
        || thinned.is_some()
        || more_operations
        || more_tokens
        || removed.into_iter().any(|removed| removed >= batch);
    failpoint::hit("trim.written");
    transaction.commit().map_err(engine("remove what is old"))?;
    failpoint::hit("trim.durable");
    let mut places = looked_at.lock().unwrap_or_else(PoisonError::into_inner);
    places.surplus = looked.unwrap_or(from.surplus);
    places.thinned = thinned.unwrap_or(from.thinned);
    drop(places);
    Ok(trimmed)
}

/// Removes revisions that are too old. Of each identity only the oldest go, also when the clock was
/// put back meanwhile: a document is rewound through all revisions behind it.
fn old_revisions(transaction: &Transaction<'_>, retention: &Retention) -> Result<u64, Error> {
    let action = "forget old revisions";
    let oldest_kept = before(retention, retention.history_age);
    let due = keys(
        transaction,
        action,
        "SELECT device_id, module_id FROM history WHERE at < ?1 ORDER BY at LIMIT ?2",
        params![oldest_kept, retention.batch],
    )?;
    let mut removed = 0;
    for ((device, module), most) in due {
        removed += execute(
            transaction,
            action,
            "DELETE FROM history WHERE device_id = ?1 AND module_id = ?2 AND revision IN
                 (SELECT revision FROM history WHERE device_id = ?1 AND module_id = ?2
                      AND revision < coalesce(
                          (SELECT min(revision) FROM history
                           WHERE device_id = ?1 AND module_id = ?2 AND at >= ?3),
                          9223372036854775807)
                  ORDER BY revision LIMIT ?4)",
            params![device, module, oldest_kept, most],
        )?;
    }
    Ok(count(removed))
}

/// Removes what is too much of the histories that have grown; answers up to where it has looked if
/// there may be more to look at.
fn surplus_revisions(
    transaction: &Transaction<'_>,
    retention: &Retention,
    from: &LookedAt,
) -> Result<(u64, Option<LookedAt>), Error> {
    let action = "forget surplus revisions";
    let looked = look(transaction, from, i64::MAX, retention.batch)?;
    let grown: BTreeSet<_> = looked
        .iter()
        .map(|one| (&one.device, &one.module))
        .collect();
    let mut left = retention.batch;
    for (device, module) in grown {
        let removed = execute(
            transaction,
            action,
            "DELETE FROM history WHERE device_id = ?1 AND module_id = ?2 AND revision IN
                 (SELECT revision FROM history WHERE device_id = ?1 AND module_id = ?2
                      AND revision <=
                          (SELECT revision FROM history WHERE device_id = ?1 AND module_id = ?2
                               AND NOT (routine AND at >= ?5)
                           ORDER BY revision DESC LIMIT 1 OFFSET ?3)
                  ORDER BY revision LIMIT ?4)",
            params![
                device,
                module,
                retention.history_count,
                left,
                Spans::young(retention)
            ],
        )?;
        left = left.saturating_sub(u32::try_from(removed).unwrap_or(u32::MAX));
        if left == 0 {
            // Not further than this: the next call looks at the same ones again.
            return Ok((u64::from(retention.batch), None));
        }
    }
    let removed = u64::from(retention.batch - left);
    Ok((removed, looked.into_iter().next_back()))
}

/// Looks at revisions in the order of their times, up to one.
pub(super) fn look(
    transaction: &Transaction<'_>,
    from: &LookedAt,
    end: i64,
    limit: u32,
) -> Result<Vec<LookedAt>, Error> {
    let action = "look at revisions";
    let mut statement = transaction
        .prepare_cached(
            "SELECT at, device_id, module_id, revision FROM history
             WHERE (at, device_id, module_id, revision) > (?1, ?2, ?3, ?4) AND at < ?5
             ORDER BY at, device_id, module_id, revision LIMIT ?6",
        )
        .map_err(engine(action))?;
    statement
        .query_map(
            params![from.at, from.device, from.module, from.revision, end, limit],
            |row| {
                Ok(LookedAt {
                    at: row.get(0)?,
                    device: row.get(1)?,
                    module: row.get(2)?,
                    revision: row.get(3)?,
                })
            },
        )
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(engine(action))
}

/// Identities, with how often they are named.
fn keys(
    transaction: &Transaction<'_>,
    action: &'static str,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<BTreeMap<(String, String), u32>, Error> {
    let mut keys = BTreeMap::new();
    let mut statement = transaction.prepare_cached(sql).map_err(engine(action))?;
    let mut rows = statement.query(parameters).map_err(engine(action))?;
    while let Some(row) = rows.next().map_err(engine(action))? {
        let read = || -> rusqlite::Result<_> { Ok((row.get(0)?, row.get(1)?)) };
        *keys.entry(read().map_err(engine(action))?).or_insert(0) += 1;
    }
    Ok(keys)
}

fn requests(transaction: &Transaction<'_>, retention: &Retention) -> Result<u64, Error> {
    let removed = execute(
        transaction,
        "forget old answers",
        "DELETE FROM requests WHERE id IN
             (SELECT id FROM requests WHERE at < ?1 ORDER BY at LIMIT ?2)",
        params![before(retention, retention.request_age), retention.batch],
    )?;
    Ok(count(removed))
}

/// Removes operations that ended long ago, but of each the results first: there may be a million.
/// Answers how many operations, and whether there is more.
fn operations(transaction: &Transaction<'_>, retention: &Retention) -> Result<(u64, bool), Error> {
    let action = "forget old operations";
    let old = before(retention, retention.operation_age);
    let results = execute(
        transaction,
        action,
        "DELETE FROM operation_results WHERE (operation, device_id, module_id) IN
             (SELECT r.operation, r.device_id, r.module_id
              FROM operations o JOIN operation_results r ON r.operation = o.id
              WHERE o.ended = 1 AND o.at < ?1 LIMIT ?2)",
        params![old, retention.batch],
    )?;
    let removed = execute(
        transaction,
        action,
        "DELETE FROM operations WHERE id IN
             (SELECT o.id FROM operations o WHERE o.ended = 1 AND o.at < ?1
                  AND NOT EXISTS (SELECT 1 FROM operation_results r WHERE r.operation = o.id)
              LIMIT ?2)",
        params![old, retention.batch],
    )?;
    let more = count(results.max(removed)) >= u64::from(retention.batch);
    Ok((count(removed), more))
}

/// Removes expired tokens, but of each the uses first: there may be as many as devices. Answers
/// whether there is more.
fn tokens(transaction: &Transaction<'_>, retention: &Retention) -> Result<bool, Error> {
    let action = "forget expired enrolment tokens";
    let old = retention.now.saturating_sub(EXPIRED_GRACE);
    let old = old.unwrap_or(Timestamp::MIN).as_second();
    let uses = execute(
        transaction,
        action,
        "DELETE FROM enrollments WHERE (hash, device_id) IN
             (SELECT e.hash, e.device_id
              FROM enrollment_tokens t JOIN enrollments e ON e.hash = t.hash
              WHERE t.expires_at < ?1 LIMIT ?2)",
        params![old, retention.batch],
    )?;
    let removed = execute(
        transaction,
        action,
        "DELETE FROM enrollment_tokens WHERE hash IN
             (SELECT t.hash FROM enrollment_tokens t WHERE t.expires_at < ?1
                  AND NOT EXISTS (SELECT 1 FROM enrollments e WHERE e.hash = t.hash)
              LIMIT ?2)",
        params![old, retention.batch],
    )?;
    Ok(count(uses.max(removed)) >= u64::from(retention.batch))
}

/// The instant before which things are older than `age`.
fn before(retention: &Retention, age: Duration) -> i64 {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    let at = retention.now.saturating_sub(age).unwrap_or(Timestamp::MIN);
    nanoseconds(at).unwrap_or(i64::MIN)
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}
