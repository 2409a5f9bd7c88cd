//! Removes from the embedded store what is older than it has to be kept, a little at a time.
//!
//! Histories are looked at by a reader, and only what there is to do goes to the writing thread, for which
//! commits wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::indexes::Indexes;
use super::read::is_damage;
use super::thin::{self, thin};
use super::write::execute;
use super::{SqliteStore, engine, nanoseconds, quarantine};
use crate::store::place::{COUNTED, Place, THINNED, Walk};
use crate::store::quarantine::Note;
use crate::store::thin::{Join, Joined, Patience, Run, Spans};
use crate::store::{Error, Retention, Trimmed};

use aged::old_revisions;
pub(super) use look::{Text, look};
use rest::rest;
pub(super) use stuck::Stuck;

mod aged;
mod look;
mod rest;
mod stuck;

/// What a store remembers of the histories between two trims.
#[derive(Debug, Default)]
pub(super) struct Memory {
    stuck: Stuck,
    patience: Patience,
}

/// Removes a bounded amount from a store, and notes what was found damaged on the way.
pub(super) async fn of(store: &SqliteStore, retention: Retention) -> Result<Trimmed, Error> {
    let memory = Arc::clone(&store.trims);
    let found = memory.clone();
    let plan = store
        .read(move |connection| {
            let mut notes = Vec::new();
            let plan = plan(connection, &retention, &mut notes);
            // What a walk passes is not found again, so these are kept until they are written.
            found.stuck.keep_notes(notes);
            Ok(plan)
        })
        .await?;
    let indexes = Arc::clone(&store.indexes);
    let trim = move |connection: &mut _| trim(connection, &retention, plan, &memory, &indexes);
    store.write(trim).await
}

/// What there is to do with the histories.
struct Plan {
    joins: Vec<Join>,
    /// Runs that are not as they were looked at.
    left: Vec<Run>,
    thinned: Walk,
    grown: Vec<Grown>,
    counted: Walk,
}

/// An identity that has too many revisions.
struct Grown {
    device: String,
    module: String,
    /// The last one that is too many.
    last: i64,
}

/// Looks at a bounded number of revisions.
fn plan(
    connection: &Connection,
    retention: &Retention,
    notes: &mut Vec<Note>,
) -> Result<Plan, Error> {
    let end = Spans::of(retention).map_or(i64::MAX, |spans| spans.end);
    let mut thinned = Walk::from(fact(connection, THINNED)?, end);
    let (joins, left) = thin::plan(connection, retention, &mut thinned, notes)?;
    let end = Spans::settled(retention);
    let mut counted = Walk::from(fact(connection, COUNTED)?, end);
    let mut grown = Vec::new();
    // Not before they are put together: what will be one must not drive out another one.
    if !thinned.more {
        let found = look(connection, &counted.place, end, retention.batch, notes)?;
        grown = grown_of(connection, retention, &found)?;
        counted.reach(found.into_iter().next_back());
    }
    Ok(Plan {
        joins,
        left,
        thinned,
        grown,
        counted,
    })
}

/// Removes a bounded amount, in parts by themselves. Of the histories nothing goes if they cannot be looked at as a
/// whole; everything else does, and then it is told.
fn trim(
    connection: &mut Connection,
    retention: &Retention,
    plan: Result<Plan, Error>,
    memory: &Memory,
    indexes: &Indexes,
) -> Result<Trimmed, Error> {
    let stuck = &memory.stuck;
    let mut hidden = Vec::new();
    indexes.order(connection, &mut hidden)?;
    stuck.keep_notes(hidden);
    let old = stuck.part(connection, |transaction| {
        old_revisions(transaction, retention, stuck)
    })?;
    let of_old = stuck.of_all(&old);
    let mut notes = Vec::new();
    let shortened = match plan {
        Ok(plan) => stuck.part(connection, |transaction| {
            notes.clear();
            shorten(transaction, retention, &plan, memory, &mut notes)
        })?,
        Err(error) => Err(error),
    };
    notes.extend(of_old.or_else(|| stuck.of_all(&shortened)));
    stuck.keep_notes(notes);
    let mut of_rest = Vec::new();
    let rest = rest(connection, retention, indexes, &mut of_rest);
    stuck.keep_notes(of_rest);
    let notes = stuck.take_notes();
    if !notes.is_empty()
        && let Err(error) = quarantine::note(connection, &notes)
    {
        // What a walk has passed is not found again.
        stuck.keep_notes(notes);
        return Err(error);
    }
    quarantine::sweep(connection, before(retention, retention.history_age))?;
    let ((old, more_old), shortened, rest) = (old?, shortened?, rest?);
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

/// What became of histories.
struct Shortened {
    joined: Joined,
    surplus: u64,
    more: bool,
}

/// Does with the histories what was found.
fn shorten(
    transaction: &Transaction<'_>,
    retention: &Retention,
    plan: &Plan,
    memory: &Memory,
    notes: &mut Vec<Note>,
) -> Result<Shortened, Error> {
    let mut joined = thin(transaction, &plan.joins, &memory.stuck)?;
    joined.left.extend(plan.left.iter().cloned());
    if let Some(damaged) = memory.patience.given_up(&plan.thinned, &joined.left) {
        notes.extend(damaged);
        remember(transaction, THINNED, &plan.thinned)?;
    }
    let surplus = surplus_revisions(transaction, retention, &plan.grown, &memory.stuck)?;
    if surplus < u64::from(retention.batch) {
        // Otherwise not further than this: the next call looks at the same ones again.
        remember(transaction, COUNTED, &plan.counted)?;
    }
    Ok(Shortened {
        joined,
        surplus,
        more: plan.thinned.more || plan.counted.more,
    })
}

/// Keeps how far a walk came, if it moved.
fn remember(transaction: &Transaction<'_>, name: &str, walk: &Walk) -> Result<(), Error> {
    let Some(text) = walk.changed() else {
        return Ok(());
    };
    execute(
        transaction,
        "note how far it looked",
        "INSERT INTO facts (name, value) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        params![name, text],
    )?;
    Ok(())
}

fn fact(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    connection
        .prepare_cached("SELECT value FROM facts WHERE name = ?1")
        .and_then(|mut statement| {
            // One that cannot be read is the beginning.
            let read = statement.query_row([name], |row| Ok(row.get(0).ok()));
            Ok(read.optional()?.flatten())
        })
        .map_err(engine("read how far it looked"))
}

/// Which of the identities that were found have too many revisions.
fn grown_of(
    connection: &Connection,
    retention: &Retention,
    found: &[Place],
) -> Result<Vec<Grown>, Error> {
    let action = "count revisions";
    let keys: BTreeSet<_> = found.iter().map(|one| (&one.device, &one.module)).collect();
    let mut statement = connection
        .prepare_cached(
            "SELECT revision FROM history WHERE device_id = ?1 AND module_id = ?2
                 AND NOT (routine AND at >= ?4)
             ORDER BY revision DESC LIMIT 1 OFFSET ?3",
        )
        .map_err(engine(action))?;
    let young = Spans::young(retention);
    let mut grown = Vec::new();
    for (device, module) in keys {
        let parameters = params![device, module, retention.history_count, young];
        let last = statement.query_row(parameters, |row| row.get(0)).optional();
        // Where damage keeps it from being found, whoever comes upon it by its age notes it.
        if let Some(last) = last.or_else(passed).map_err(engine(action))? {
            grown.push(Grown {
                device: device.clone(),
                module: module.clone(),
                last,
            });
        }
    }
    Ok(grown)
}

/// None where what is stored is damaged.
pub(super) fn passed<T: Default>(error: rusqlite::Error) -> rusqlite::Result<T> {
    if is_damage(&error) {
        return Ok(T::default());
    }
    Err(error)
}

/// Removes what is too much of the histories that have grown.
fn surplus_revisions(
    transaction: &Transaction<'_>,
    retention: &Retention,
    grown: &[Grown],
    stuck: &Stuck,
) -> Result<u64, Error> {
    let mut left = retention.batch;
    for one in grown {
        let (device, module) = (Text::from(&*one.device), Text::from(&*one.module));
        let removed = stuck.apart(transaction, (&device, &module), || {
            execute(
                transaction,
                "forget surplus revisions",
                "DELETE FROM history WHERE device_id = ?1 AND module_id = ?2 AND revision IN
                     (SELECT revision FROM history WHERE device_id = ?1 AND module_id = ?2
                          AND revision <= ?3
                      ORDER BY revision LIMIT ?4)",
                params![one.device, one.module, one.last, left],
            )
        })?;
        let removed = removed.unwrap_or_default();
        left = left.saturating_sub(u32::try_from(removed).unwrap_or(u32::MAX));
        if left == 0 {
            break;
        }
    }
    Ok(u64::from(retention.batch - left))
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

#[cfg(test)]
mod tests;
