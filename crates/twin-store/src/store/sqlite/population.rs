//! How many identities an embedded store holds, as its triggers count them.

use rusqlite::{Connection, Row, TransactionBehavior};
use service_kit::error::chain;

use super::{SqliteStore, engine};
use crate::store::{Error, Population};

const ACTION: &str = "count its identities";
/// No file has so many: what says so, or counts below zero, is damaged.
const COUNT_MAX: i64 = 1 << 40;

/// As it was counted along the way, or counted anew if that cannot be read.
pub(super) async fn known(store: &SqliteStore) -> Result<Population, Error> {
    let error = match store.read(counted).await {
        Err(error @ Error::Engine { .. }) => error,
        counted => return counted,
    };
    tracing::error!(error = chain(&error), "identities are counted anew");
    store.write(recount).await
}

fn counted(connection: &Connection) -> Result<Population, Error> {
    connection
        .prepare_cached("SELECT devices, modules FROM population")
        .and_then(|mut statement| statement.query_row([], |row| read(row, 0)))
        .map_err(engine(ACTION))
}

/// As the rows are, and as it was counted along the way, at one moment. It goes through all rows.
pub(super) fn both(connection: &Connection) -> Result<(Population, Population), Error> {
    connection
        .prepare_cached(
            "SELECT (SELECT count(*) FROM twins WHERE module_id = ''),
                 (SELECT count(*) FROM twins WHERE module_id <> ''), devices, modules
             FROM population",
        )
        .and_then(|mut statement| statement.query_row([], |row| Ok((read(row, 0)?, read(row, 2)?))))
        .map_err(engine(ACTION))
}

/// Counts the rows, where what was counted along the way cannot be read. It goes through all rows.
fn recount(connection: &mut Connection) -> Result<Population, Error> {
    let mut recounted = || {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM population", [])?;
        transaction.execute(
            "INSERT INTO population (only, devices, modules)
             SELECT 1, count(*) FILTER (WHERE module_id = ''), count(*) FILTER (WHERE module_id <> '')
             FROM twins",
            [],
        )?;
        transaction.commit()
    };
    recounted().map_err(engine(ACTION))?;
    counted(connection)
}

fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Population> {
    let count = |at| {
        let count = row.get(at)?;
        if (0..=COUNT_MAX).contains(&count) {
            Ok(count)
        } else {
            Err(rusqlite::Error::IntegralValueOutOfRange(at, count))
        }
    };
    Ok(Population {
        devices: count(first)?,
        modules: count(first + 1)?,
    })
}
