//! Removes from the shared store what is older than it has to be kept, a little at a time.
//!
//! One replica at a time: two would do all work twice, and wait for each other's rows in different orders.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Client, Transaction};
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use service_kit::error::chain;

use super::apart::{Care, sparing, whole};
use super::read::is_of_damage;
use super::thin::thin;
use super::{PostgresStore, engine, execute, nanoseconds, quarantine, query_in};
use crate::store::place::{THINNED, Walk};
use crate::store::quarantine::Note;
use crate::store::thin::{Joined, Spans};
use crate::store::{Error, Retention, Trimmed, failpoint};

use aged::old_revisions;
pub(super) use look::look;
pub(super) use memory::Memory;
use rest::rest;
use surplus::surplus_revisions;

mod aged;
mod look;
mod memory;
mod rest;
mod surplus;

/// Name of the advisory lock that lets one replica trim at a time: "twintrim" as a number.
pub(super) const LOCK: i64 = i64::from_be_bytes(*b"twintrim");

/// Removes a bounded amount from a store, and notes what was found damaged on the way.
pub(super) async fn of(store: &PostgresStore, retention: Retention) -> Result<Trimmed, Error> {
    let found = Arc::new(Mutex::new(store.trims.take_notes()));
    let both = (found.clone(), store.trims.clone());
    let trimming = store.repeat(move |client| {
        let (notes, memory) = both.clone();
        async move { trim(client, &retention, &notes, &memory).await }.boxed()
    });
    let trimmed = trimming.await;
    let notes = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    // What a walk has passed is not found again.
    store.trims.keep_notes(store.note(notes).await);
    trimmed
}

/// Removes a bounded amount; nothing while another replica does so. What damage keeps of the histories is set apart;
/// where they cannot be looked at as a whole, nothing of them goes. Everything else does, and then it is told.
async fn trim(
    client: &mut Client,
    retention: &Retention,
    found: &Mutex<Vec<Note>>,
    memory: &Memory,
) -> Result<Trimmed, Error> {
    let action = "remove what is old";
    let transaction = client.transaction().await.map_err(engine(action))?;
    if !is_alone(&transaction).await? {
        return Ok(Trimmed::default());
    }
    let histories = histories(&transaction, retention, found, memory).await?;
    let mut notes = Vec::new();
    let rest = rest(&transaction, retention, &mut notes).await?;
    append(found, notes);
    failpoint::hit("trim.written");
    transaction.commit().await.map_err(engine(action))?;
    failpoint::hit("trim.durable");
    quarantine::sweep(client, before(retention, retention.history_age)).await?;
    let (((old, more_old), shortened), rest) = (histories?, rest?);
    Ok(Trimmed {
        revisions: old + shortened.surplus,
        joined: shortened.joined.gone,
        written: shortened.joined.written,
        requests: rest.requests,
        operations: rest.operations,
        more: shortened.more
            || more_old
            || rest.more
            || shortened.surplus >= u64::from(retention.batch),
    })
}

type Histories = Result<((u64, bool), Shortened), Error>;

/// Does with the histories what there is to do, in two parts, each of which is done as a whole or not at all.
async fn histories(
    transaction: &Transaction<'_>,
    retention: &Retention,
    found: &Mutex<Vec<Note>>,
    memory: &Memory,
) -> Result<Histories, Error> {
    let mut notes = Vec::new();
    let together = old_revisions(transaction, retention, memory, Care::Together, &mut notes);
    let mut old = whole(transaction, Box::pin(together)).await?;
    if old.as_ref().is_err_and(is_of_damage) {
        notes.clear();
        let apart = old_revisions(transaction, retention, memory, Care::Apart, &mut notes);
        old = carefully(transaction, Box::pin(apart)).await?;
    }
    append(found, notes);
    let mut notes = Vec::new();
    let together = shorten(transaction, retention, memory, Care::Together, &mut notes);
    let mut shortened = whole(transaction, Box::pin(together)).await?;
    if shortened.as_ref().is_err_and(is_of_damage) {
        notes.clear();
        let apart = shorten(transaction, retention, memory, Care::Apart, &mut notes);
        shortened = carefully(transaction, Box::pin(apart)).await?;
    }
    append(found, notes);
    let failures = [old.as_ref().err(), shortened.as_ref().err()];
    let damage = failures.into_iter().flatten().find(|one| is_of_damage(one));
    append(found, damage.map(|error| Note::of_histories(&chain(error))));
    Ok(old.and_then(|old| Ok((old, shortened?))))
}

/// Does something as a whole or not at all, and with the server reading no more than it is asked for.
async fn carefully<T>(
    transaction: &Transaction<'_>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Result<T, Error>, Error> {
    let work = async {
        sparing(transaction).await?;
        work.await
    };
    whole(transaction, work).await
}

fn append(to: &Mutex<Vec<Note>>, notes: impl IntoIterator<Item = Note>) {
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
    memory: &Memory,
    care: Care,
    notes: &mut Vec<Note>,
) -> Result<Shortened, Error> {
    let end = Spans::of(retention).map_or(i64::MAX, |spans| spans.end);
    let mut thinned = Walk::from(fact(transaction, THINNED).await?, end);
    let joined = thin(transaction, retention, &mut thinned, care, notes).await?;
    if let Some(damaged) = memory.patience.given_up(&thinned, &joined.left) {
        notes.extend(damaged);
        remember(transaction, THINNED, &thinned).await?;
    }
    let (mut surplus, mut more) = (0, thinned.more);
    // Not before they are put together: what will be one must not drive out another one.
    if !more {
        (surplus, more) = surplus_revisions(transaction, retention, care, notes).await?;
    }
    Ok(Shortened {
        joined,
        surplus,
        more,
    })
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

/// The instant before which things are older than `age`, as the rows have it.
fn before(retention: &Retention, age: Duration) -> i64 {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    let at = retention.now.saturating_sub(age).unwrap_or(Timestamp::MIN);
    nanoseconds(at).unwrap_or(i64::MIN)
}

#[cfg(test)]
mod tests;
