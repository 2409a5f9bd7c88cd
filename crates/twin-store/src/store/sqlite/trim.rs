//! Removes from the embedded store what is older than it has to be kept, a little at a time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Transaction, params};

use super::write::{begin, execute};
use super::{engine, nanoseconds};
use crate::store::{Error, Retention, Trimmed};

/// Expired enrolment tokens are forgotten this long after, so that one which a decision under way
/// has just accepted is still there.
const EXPIRED_GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Removes a bounded amount.
pub(super) fn trim(connection: &mut Connection, retention: &Retention) -> Result<Trimmed, Error> {
    let transaction = begin(connection)?;
    let mut trimmed = Trimmed {
        requests: requests(&transaction, retention)?,
        operations: operations(&transaction, retention)?,
        ..Trimmed::default()
    };
    let tokens = tokens(&transaction, retention)?;
    let batch = u64::from(retention.batch);
    trimmed.more = [trimmed.requests, trimmed.operations, tokens]
        .into_iter()
        .any(|removed| removed >= batch);
    transaction.commit().map_err(engine("remove what is old"))?;
    Ok(trimmed)
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

fn operations(transaction: &Transaction<'_>, retention: &Retention) -> Result<u64, Error> {
    let action = "forget old operations";
    let ended: Vec<String> = transaction
        .prepare_cached("SELECT id FROM operations WHERE ended AND at < ?1 ORDER BY id LIMIT ?2")
        .and_then(|mut statement| {
            let old = before(retention, retention.operation_age);
            let rows = statement.query_map(params![old, retention.batch], |row| row.get(0))?;
            rows.collect()
        })
        .map_err(engine(action))?;
    for id in &ended {
        for sql in [
            "DELETE FROM operation_results WHERE operation = ?1",
            "DELETE FROM operations WHERE id = ?1",
        ] {
            execute(transaction, action, sql, params![id])?;
        }
    }
    Ok(count(ended.len()))
}

fn tokens(transaction: &Transaction<'_>, retention: &Retention) -> Result<u64, Error> {
    let action = "forget expired enrolment tokens";
    let old = retention.now.saturating_sub(EXPIRED_GRACE);
    let old = old.unwrap_or(Timestamp::MIN).as_second();
    let removed = execute(
        transaction,
        action,
        "DELETE FROM enrollment_tokens WHERE hash IN
             (SELECT hash FROM enrollment_tokens WHERE expires_at < ?1 LIMIT ?2)",
        params![old, retention.batch],
    )?;
    if removed > 0 {
        execute(
            transaction,
            action,
            "DELETE FROM enrollments WHERE hash NOT IN (SELECT hash FROM enrollment_tokens)",
            [],
        )?;
    }
    Ok(count(removed))
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
