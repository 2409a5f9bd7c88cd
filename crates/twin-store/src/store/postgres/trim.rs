//! Removes from the shared store what is older than it has to be kept, a little at a time.
//!
//! One replica at a time: two would do all work twice, and wait for each other's rows in different orders.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Client, Transaction};
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;

use super::text::Raw;
use super::thin::thin;
use super::{PostgresStore, engine, execute, nanoseconds, quarantine, query_in};
use crate::store::place::{COUNTED, Place, THINNED, Walk};
use crate::store::quarantine::{NOTES_MAX, Note};
use crate::store::thin::{Joined, Patience, Run, Spans};
use crate::store::{Error, Retention, Trimmed, failpoint};

use aged::old_revisions;

mod aged;

/// Expired enrolment tokens are forgotten this long after, so that one which a decision under way
/// has just accepted is still there.
const EXPIRED_GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Name of the advisory lock that lets one replica trim at a time: "twintrim" as a number.
pub(super) const LOCK: i64 = i64::from_be_bytes(*b"twintrim");

/// Removes a bounded amount from a store, and notes what was found damaged on the way.
pub(super) async fn of(store: &PostgresStore, retention: Retention) -> Result<Trimmed, Error> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let both = (found.clone(), store.patience.clone());
    let trimming = store.repeat(move |client| {
        let (notes, patience) = both.clone();
        async move { trim(client, &retention, &notes, &patience).await }.boxed()
    });
    let trimmed = trimming.await;
    let notes = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    store.note(notes).await;
    trimmed
}

/// Removes a bounded amount; nothing while another replica does so. Of the histories nothing goes if they cannot
/// be looked at as a whole; everything else does, and then it is told.
async fn trim(
    client: &mut Client,
    retention: &Retention,
    found: &Mutex<Vec<Note>>,
    patience: &Patience,
) -> Result<Trimmed, Error> {
    let action = "remove what is old";
    let mut transaction = client.transaction().await.map_err(engine(action))?;
    if !is_alone(&transaction).await? {
        return Ok(Trimmed::default());
    }
    let part = transaction.transaction().await.map_err(engine(action))?;
    let old = old_revisions(&part, retention).await;
    let old = settle(part, old).await?;
    let part = transaction.transaction().await.map_err(engine(action))?;
    let mut notes = Vec::new();
    let shortened = shorten(&part, retention, &mut notes, patience).await;
    let shortened = settle(part, shortened).await?;
    append(found, notes);
    let requests = requests(&transaction, retention).await?;
    let (operations, more_operations) = operations(&transaction, retention).await?;
    let more_tokens = tokens(&transaction, retention).await?;
    failpoint::hit("trim.written");
    transaction.commit().await.map_err(engine(action))?;
    failpoint::hit("trim.durable");
    quarantine::sweep(client, before(retention, retention.history_age)).await?;
    let ((old, more_old), shortened) = (old?, shortened?);
    let is_full = |removed| removed >= u64::from(retention.batch);
    Ok(Trimmed {
        revisions: old + shortened.surplus,
        joined: shortened.joined.gone,
        written: shortened.joined.written,
        requests,
        operations,
        more: shortened.more
            || more_old
            || more_operations
            || more_tokens
            || [shortened.surplus, requests].into_iter().any(is_full),
    })
}

fn append(to: &Mutex<Vec<Note>>, notes: Vec<Note>) {
    let mut all = to.lock().unwrap_or_else(PoisonError::into_inner);
    all.extend(notes);
}

/// What became of histories.
struct Shortened {
    joined: Joined,
    surplus: u64,
    more: bool,
}

/// Puts revisions together, and removes those that are too many.
async fn shorten(
    transaction: &Transaction<'_>,
    retention: &Retention,
    notes: &mut Vec<Note>,
    patience: &Patience,
) -> Result<Shortened, Error> {
    let end = Spans::of(retention).map_or(i64::MAX, |spans| spans.end);
    let mut thinned = Walk::from(fact(transaction, THINNED).await?, end);
    let joined = thin(transaction, retention, &mut thinned, notes).await?;
    if joined.left.is_empty() || !patience.again(&thinned) {
        notes.extend(joined.left.iter().map(Run::note));
        remember(transaction, THINNED, &thinned).await?;
    }
    let (mut surplus, mut more) = (0, thinned.more);
    // Not before they are put together: what will be one must not drive out another one.
    if !more {
        (surplus, more) = surplus_revisions(transaction, retention, notes).await?;
    }
    Ok(Shortened {
        joined,
        surplus,
        more,
    })
}

/// Ends a part of a transaction: if it failed, the rest goes on as if it had not begun.
async fn settle<T>(
    part: Transaction<'_>,
    done: Result<T, Error>,
) -> Result<Result<T, Error>, Error> {
    let ended = match &done {
        Ok(_) => part.commit().await,
        Err(_) => part.rollback().await,
    };
    ended.map_err(engine("set what fails apart"))?;
    Ok(done)
}

/// Whether no other replica trims; nobody else can begin before the transaction ends.
async fn is_alone(transaction: &Transaction<'_>) -> Result<bool, Error> {
    let action = "take turns at removing what is old";
    let sql = "SELECT pg_try_advisory_xact_lock($1)";
    let rows = query_in(transaction, action, sql, &[&LOCK]).await?;
    let row = rows.first();
    row.map_or(Ok(false), |row| row.try_get(0).map_err(engine(action)))
}

/// Keeps how far a walk came, if it moved.
async fn remember(transaction: &Transaction<'_>, name: &str, walk: &Walk) -> Result<(), Error> {
    let Some(text) = walk.changed() else {
        return Ok(());
    };
    execute(
        transaction,
        "note how far it looked",
        "INSERT INTO facts (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        &[&name, &text],
    )
    .await?;
    Ok(())
}

async fn fact(transaction: &Transaction<'_>, name: &str) -> Result<Option<String>, Error> {
    let action = "read how far it looked";
    let sql = "SELECT value FROM facts WHERE name = $1";
    let rows = query_in(transaction, action, sql, &[&name]).await?;
    // One that cannot be read is the beginning.
    Ok(rows.first().and_then(|row| row.try_get(0).ok()))
}

/// Removes what is too much of the histories that have grown; answers how many, and whether there is more to
/// look at.
async fn surplus_revisions(
    transaction: &Transaction<'_>,
    retention: &Retention,
    notes: &mut Vec<Note>,
) -> Result<(u64, bool), Error> {
    let action = "forget surplus revisions";
    let end = Spans::settled(retention);
    let mut counted = Walk::from(fact(transaction, COUNTED).await?, end);
    let found = look(transaction, &counted.place, end, retention.batch, notes).await?;
    let keys = found.iter();
    let (devices, modules): (Vec<&str>, Vec<&str>) =
        keys.map(|one| (&*one.device, &*one.module)).unzip();
    let removed = execute(
        transaction,
        action,
        "DELETE FROM history WHERE (device_id, module_id, revision) IN
             (SELECT k.device_id, k.module_id, surplus.revision
              FROM (SELECT DISTINCT * FROM UNNEST($1::text[], $2::text[]))
                  AS k (device_id, module_id)
              CROSS JOIN LATERAL
                  (SELECT l.revision FROM history l
                   WHERE l.device_id = k.device_id AND l.module_id = k.module_id
                       AND NOT (l.routine AND l.at >= $5)
                   ORDER BY l.revision DESC OFFSET $3 LIMIT 1) AS last
              CROSS JOIN LATERAL
                  (SELECT h.revision FROM history h
                   WHERE h.device_id = k.device_id AND h.module_id = k.module_id
                       AND h.revision <= last.revision
                   ORDER BY h.revision LIMIT $4) AS surplus
              ORDER BY k.device_id, k.module_id, surplus.revision LIMIT $4)",
        &[
            &devices,
            &modules,
            &i64::from(retention.history_count),
            &i64::from(retention.batch),
            &Spans::young(retention),
        ],
    )
    .await?;
    // Otherwise not further than this: the next call looks at the same ones again.
    if removed < u64::from(retention.batch) {
        counted.reach(found.into_iter().next_back());
        remember(transaction, COUNTED, &counted).await?;
    }
    Ok((removed, counted.more))
}

/// Looks at revisions in the order of their times, up to one. What cannot be read of is noted and passed over;
/// a store with more of that than can be noted is to be restored.
pub(super) async fn look(
    transaction: &Transaction<'_>,
    from: &Place,
    end: i64,
    limit: u32,
    notes: &mut Vec<Note>,
) -> Result<Vec<Place>, Error> {
    let action = "look at revisions";
    let rows = query_in(
        transaction,
        action,
        "SELECT at, device_id, module_id, revision FROM history
         WHERE at >= $1 AND at < $5 AND (at, device_id, module_id, revision) > ($1, $2, $3, $4)
         ORDER BY at, device_id, module_id, revision LIMIT $6",
        &[
            &from.at,
            &from.device,
            &from.module,
            &from.revision,
            &end,
            &(i64::from(limit) + NOTES_MAX),
        ],
    )
    .await?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for row in &rows {
        if found.len() == wanted {
            break;
        }
        match place(row) {
            Ok(place) => found.push(place),
            Err(_) => notes.push(Note::of_unreadable_revision(
                bytes(row, 1),
                bytes(row, 2),
                row.try_get(3).ok(),
            )),
        }
    }
    Ok(found)
}

fn place(row: &Row) -> Result<Place, tokio_postgres::Error> {
    Ok(Place {
        at: row.try_get(0)?,
        device: row.try_get(1)?,
        module: row.try_get(2)?,
        revision: row.try_get(3)?,
    })
}

/// The bytes of a text, whatever they are; none if there is none.
fn bytes(row: &Row, column: usize) -> Option<&[u8]> {
    row.try_get(column).ok().map(|Raw(bytes)| bytes)
}

async fn requests(transaction: &Transaction<'_>, retention: &Retention) -> Result<u64, Error> {
    execute(
        transaction,
        "forget old answers",
        "DELETE FROM requests WHERE id IN
             (SELECT id FROM requests WHERE at < $1 ORDER BY at LIMIT $2)",
        &[
            &before(retention, retention.request_age),
            &i64::from(retention.batch),
        ],
    )
    .await
}

/// Removes operations that ended long ago, but of each the results first: there may be a million.
/// Answers how many operations, and whether there is more.
async fn operations(
    transaction: &Transaction<'_>,
    retention: &Retention,
) -> Result<(u64, bool), Error> {
    let action = "forget old operations";
    let old = before(retention, retention.operation_age);
    let limit = i64::from(retention.batch);
    let results = execute(
        transaction,
        action,
        "DELETE FROM operation_results WHERE (operation, device_id, module_id) IN
             (SELECT r.operation, r.device_id, r.module_id
              FROM operations o JOIN operation_results r ON r.operation = o.id
              WHERE o.ended AND o.at < $1 LIMIT $2)",
        &[&old, &limit],
    )
    .await?;
    let removed = execute(
        transaction,
        action,
        "DELETE FROM operations WHERE id IN
             (SELECT o.id FROM operations o WHERE o.ended AND o.at < $1
                  AND NOT EXISTS (SELECT 1 FROM operation_results r WHERE r.operation = o.id)
              LIMIT $2)",
        &[&old, &limit],
    )
    .await?;
    Ok((removed, results.max(removed) >= u64::from(retention.batch)))
}

/// Removes expired tokens, but of each the uses first: there may be as many as devices. Answers
/// whether there is more.
async fn tokens(transaction: &Transaction<'_>, retention: &Retention) -> Result<bool, Error> {
    let action = "forget expired enrolment tokens";
    let old = retention.now.saturating_sub(EXPIRED_GRACE);
    let old = old.unwrap_or(Timestamp::MIN).as_second();
    let limit = i64::from(retention.batch);
    let uses = execute(
        transaction,
        action,
        "DELETE FROM enrollments WHERE (hash, device_id) IN
             (SELECT e.hash, e.device_id
              FROM enrollment_tokens t JOIN enrollments e ON e.hash = t.hash
              WHERE t.expires_at < $1 LIMIT $2)",
        &[&old, &limit],
    )
    .await?;
    let removed = execute(
        transaction,
        action,
        "DELETE FROM enrollment_tokens WHERE hash IN
             (SELECT t.hash FROM enrollment_tokens t WHERE t.expires_at < $1
                  AND NOT EXISTS (SELECT 1 FROM enrollments e WHERE e.hash = t.hash)
              LIMIT $2)",
        &[&old, &limit],
    )
    .await?;
    Ok(uses.max(removed) >= u64::from(retention.batch))
}

/// The instant before which things are older than `age`, as the rows have it.
fn before(retention: &Retention, age: Duration) -> i64 {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    let at = retention.now.saturating_sub(age).unwrap_or(Timestamp::MIN);
    nanoseconds(at).unwrap_or(i64::MIN)
}
