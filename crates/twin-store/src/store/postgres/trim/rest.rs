//! Removes from the shared store answers, operations and tokens that nobody needs any more.
//!
//! Each kind by itself: damage of one keeps none of the others. All rows of a kind go with one statement; only where
//! damage fails it, in ever smaller parts, down to the rows that cannot be removed, which are noted and stay.

use std::ops::Range;

use deadpool_postgres::Transaction;
use jiff::{SignedDuration, Timestamp};
use service_kit::error::chain;
use tokio_postgres::Row;

use super::before;
use crate::store::maintain::Table;
use crate::store::postgres::apart::{Care, Found, each, in_time, part, sparing, whole};
use crate::store::postgres::read::is_of_damage;
use crate::store::postgres::{execute, query_in, text};
use crate::store::quarantine::{NOTES_MAX, Note, UNWRITABLE};
use crate::store::{Error, Retention};

/// Expired enrolment tokens are forgotten this long after, so that one which a decision under way
/// has just accepted is still there.
const EXPIRED_GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Rows that are to go.
struct Due {
    table: Table,
    action: &'static str,
    /// Selects where so many (`$3`) rows of a time (`$1` to `$2`) are, with their keys as texts.
    select: &'static str,
}

const ANSWERS: Due = Due {
    table: Table::Requests,
    action: "forget old answers",
    select: "SELECT d.ctid, d.id FROM requests d WHERE d.at >= $1 AND d.at < $2
         ORDER BY d.at LIMIT $3",
};
const RESULTS: Due = Due {
    table: Table::Results,
    action: "forget results of old operations",
    select: "SELECT d.ctid, d.operation, d.device_id, d.module_id
         FROM operations o JOIN operation_results d ON d.operation = o.id
         WHERE o.ended AND o.at >= $1 AND o.at < $2 LIMIT $3",
};
const OPERATIONS: Due = Due {
    table: Table::Operations,
    action: "forget old operations",
    select: "SELECT d.ctid, d.id FROM operations d WHERE d.ended AND d.at >= $1 AND d.at < $2
         AND NOT EXISTS (SELECT 1 FROM operation_results r WHERE r.operation = d.id) LIMIT $3",
};
const USES: Due = Due {
    table: Table::Enrollments,
    action: "forget uses of expired enrolment tokens",
    select: "SELECT d.ctid, encode(d.hash, 'hex'), d.device_id
         FROM enrollment_tokens t JOIN enrollments d ON d.hash = t.hash
         WHERE t.expires_at >= $1 AND t.expires_at < $2 LIMIT $3",
};
const TOKENS: Due = Due {
    table: Table::Tokens,
    action: "forget expired enrolment tokens",
    select: "SELECT d.ctid, encode(d.hash, 'hex') FROM enrollment_tokens d
         WHERE d.expires_at >= $1 AND d.expires_at < $2
         AND NOT EXISTS (SELECT 1 FROM enrollments e WHERE e.hash = d.hash) LIMIT $3",
};

/// What went.
pub(super) struct Rest {
    pub(super) requests: u64,
    pub(super) operations: u64,
    /// Whether there is more.
    pub(super) more: bool,
}

/// Removes a bounded amount of each kind; of operations the results first, and of tokens the uses: there may be a
/// million. What damage keeps of one kind keeps nothing of another, and is told in the end.
pub(super) async fn rest(
    transaction: &Transaction<'_>,
    retention: &Retention,
    notes: &mut Vec<Note>,
) -> Result<Result<Rest, Error>, Error> {
    let old = before(retention, retention.operation_age);
    let expired = retention.now.saturating_sub(EXPIRED_GRACE);
    let expired = expired.unwrap_or(Timestamp::MIN).as_second();
    let answered = before(retention, retention.request_age);
    let mut removed = Vec::new();
    for (due, old) in [
        (ANSWERS, answered),
        (RESULTS, old),
        (OPERATIONS, old),
        (USES, expired),
        (TOKENS, expired),
    ] {
        removed.push(forget(transaction, &due, old, retention.batch, notes).await?);
    }
    Ok(sum(removed, retention.batch))
}

fn sum(removed: Vec<Result<u64, Error>>, batch: u32) -> Result<Rest, Error> {
    let removed = removed.into_iter().collect::<Result<Vec<_>, _>>()?;
    let of = |place: usize| removed.get(place).copied().unwrap_or_default();
    Ok(Rest {
        requests: of(0),
        operations: of(2),
        more: removed.iter().any(|removed| *removed >= u64::from(batch)),
    })
}

/// Removes rows of one kind, all that are due or none; and with care where damage fails that.
async fn forget(
    transaction: &Transaction<'_>,
    due: &Due,
    old: i64,
    batch: u32,
    notes: &mut Vec<Note>,
) -> Result<Result<u64, Error>, Error> {
    let done = whole(
        transaction,
        Box::pin(together(transaction, due, old, batch)),
    )
    .await?;
    if !done.as_ref().is_err_and(is_of_damage) {
        return Ok(done);
    }
    let mut found = Vec::new();
    let work = async {
        sparing(transaction).await?;
        apart(transaction, due, old, batch, &mut found).await
    };
    let done = whole(transaction, Box::pin(work)).await?;
    if done.is_ok() {
        notes.extend(found);
    }
    Ok(done)
}

async fn together(
    transaction: &Transaction<'_>,
    due: &Due,
    old: i64,
    batch: u32,
) -> Result<u64, Error> {
    let sql = format!(
        "WITH due AS ({}) DELETE FROM {} WHERE ctid IN (SELECT ctid FROM due)",
        due.select,
        due.table.name()
    );
    let limit = i64::from(batch);
    execute(transaction, due.action, &sql, &[&i64::MIN, &old, &limit]).await
}

/// A row that is due: where it is, and its key.
struct Place {
    at: String,
    key: Vec<String>,
}

/// Removes what can be removed, and notes the rest.
async fn apart(
    transaction: &Transaction<'_>,
    due: &Due,
    old: i64,
    batch: u32,
    notes: &mut Vec<Note>,
) -> Result<u64, Error> {
    let sql = format!(
        "SELECT d.ctid::text, {} FROM ({}) AS d",
        keys(due),
        due.select
    );
    // Those that stay stand before others.
    let most = usize::try_from(i64::from(batch) + NOTES_MAX).unwrap_or(usize::MAX);
    let read = |time: Range<i64>, most: usize| places(transaction, due, &sql, time, most);
    let found = in_time(transaction, Care::Apart, i64::MIN..old, most, read).await?;
    note_holes(due, &found, notes);
    let removed = each(transaction, Care::Apart, &found.rows, |range| {
        remove(transaction, due, part(&found.rows, range))
    });
    let removed = removed.await?;
    for (number, error) in &removed.failed {
        if let Some(place) = found.rows.get(*number) {
            notes.push(Note {
                table: due.table,
                key: place.key.clone(),
                problem: format!("{UNWRITABLE}, and it stays: {}", chain(error)),
            });
        }
    }
    Ok(removed.done.iter().map(|(_, removed)| removed).sum())
}

/// The key's columns as they are called in the selection.
fn keys(due: &Due) -> String {
    let names = match due.table {
        Table::Enrollments => "encode, device_id".to_owned(),
        Table::Tokens => "encode".to_owned(),
        other => other.key_list(),
    };
    let names: Vec<_> = names.split(", ").map(|name| format!("d.{name}")).collect();
    names.join(", ")
}

async fn places(
    transaction: &Transaction<'_>,
    due: &Due,
    sql: &str,
    time: Range<i64>,
    most: usize,
) -> Result<Vec<Place>, Error> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = query_in(
        transaction,
        due.action,
        sql,
        &[&time.start, &time.end, &limit],
    )
    .await?;
    let place = |row: &Row| {
        let key = (1..row.len()).map(|column| {
            let part: Option<String> = row.try_get(column).ok();
            part.map_or_else(|| "\u{fffd}".to_owned(), |part| text::unpack(&part))
        });
        let key = key.collect();
        Some(Place {
            at: row.try_get(0).ok()?,
            key,
        })
    };
    Ok(rows.iter().filter_map(place).collect())
}

async fn remove(transaction: &Transaction<'_>, due: &Due, places: &[Place]) -> Result<u64, Error> {
    let sql = format!(
        "DELETE FROM {} WHERE ctid = ANY($1::text[]::tid[])",
        due.table.name()
    );
    let at: Vec<&str> = places.iter().map(|place| &*place.at).collect();
    execute(transaction, due.action, &sql, &[&at]).await
}

/// Notes where rows cannot be read; of what is wrong in one way, as a page is, the first place.
fn note_holes(due: &Due, found: &Found<Place>, notes: &mut Vec<Note>) {
    let mut known = Vec::new();
    for (at, why) in &found.holes {
        let why = chain(why);
        if !known.contains(&why) {
            notes.push(Note::of_unreadable_rows(due.table, *at, &why));
            known.push(why);
        }
    }
}
