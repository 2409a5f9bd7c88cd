//! What the store can make anew by itself when it cannot be read: where partitions stand, and the row of
//! counters. Both only say how much is to be done again, and doing more than needed is harmless.

use std::collections::BTreeMap;

use bus::Sequence;
use rusqlite::{Transaction, params};
use service_kit::error::chain;

use super::row::{NUMBER_MAX, number, stored};
use super::sqlite::read_sweep;
use super::{Error, SweepState};

/// Reads how far partitions were evaluated. What cannot be read is forgotten: that partition is read from
/// its beginning, or all twins are looked at if that is gone.
pub(super) fn positions(transaction: &Transaction<'_>) -> Result<BTreeMap<u16, Sequence>, Error> {
    const ACTION: &str = "read positions";
    let mut positions = BTreeMap::new();
    let mut bad = Vec::new();
    let mut rows = transaction
        .prepare("SELECT partition, sequence FROM positions")
        .map_err(failed(ACTION))?;
    let rows = rows
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .map_err(failed(ACTION))?;
    for row in rows {
        let (partition, sequence) = row.map_err(failed(ACTION))?;
        match (u16::try_from(partition), number("a position", sequence)) {
            (Ok(partition), Ok(sequence)) => {
                positions.insert(partition, Sequence::new(sequence));
            }
            _ => bad.push((partition, sequence)),
        }
    }
    for (partition, sequence) in bad {
        tracing::error!(
            partition,
            sequence,
            "a position cannot be right; the partition is read from its beginning"
        );
        transaction
            .execute("DELETE FROM positions WHERE partition = ?1", [partition])
            .map_err(failed("forget a position"))?;
    }
    Ok(positions)
}

/// Reads which sweeps are wanted and done. If that cannot be right, or the row is lost, all twins are to
/// be looked at once more.
pub(super) fn sweep_state(transaction: &Transaction<'_>) -> Result<SweepState, Error> {
    let problem = match read_sweep(transaction) {
        Err(error) if error.is_of_row() => chain(&error),
        Err(error) => return Err(error),
        Ok(state) if state.done > state.wanted || is_behind(transaction, state)? => {
            "it is behind what it has counted".to_owned()
        }
        Ok(state) => return Ok(state),
    };
    tracing::error!(
        problem,
        "the counters of the policy store cannot be right; made anew, and all twins are looked at"
    );
    let known = Known::read(transaction)?;
    transaction
        .execute("DELETE FROM state", [])
        .and_then(|_| {
            transaction.execute(
                "INSERT INTO state VALUES (1, ?1, ?2, 0, 0, 0, 0)",
                params![known.order, known.sweep.saturating_add(1)],
            )
        })
        .map_err(failed("make its counters anew"))?;
    read_sweep(transaction)
}

/// The highest numbers that rows have been given.
struct Known {
    order: i64,
    sweep: i64,
}

impl Known {
    fn read(transaction: &Transaction<'_>) -> Result<Known, Error> {
        let of = |column: &str, table: &str| {
            format!("ifnull((SELECT max({column}) FROM {table} WHERE {column} < {NUMBER_MAX}), 0)")
        };
        let statement = format!(
            "SELECT max(0, {}, {}), max(0, {}, {})",
            of("created_order", "policies"),
            of("created_order", "configurations"),
            of("sweep", "policies"),
            of("sweep", "rollouts"),
        );
        transaction
            .query_row(&statement, [], |row| {
                Ok(Known {
                    order: row.get(0)?,
                    sweep: row.get(1)?,
                })
            })
            .map_err(failed("read what was counted"))
    }
}

fn is_behind(transaction: &Transaction<'_>, state: SweepState) -> Result<bool, Error> {
    let known = Known::read(transaction)?;
    let order: i64 = transaction
        .query_row("SELECT last_created_order FROM state", [], |row| row.get(0))
        .map_err(failed("read its state"))?;
    let is_behind = order < known.order || stored(state.wanted.get()) < known.sweep;
    Ok(is_behind || order > NUMBER_MAX)
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}
