//! How many identities an embedded store holds, as its triggers count them.

use rusqlite::{Connection, Row};

use super::engine;
use crate::store::{Error, Population};

/// As it was counted along the way.
pub(super) fn counted(connection: &Connection) -> Result<Population, Error> {
    connection
        .prepare_cached("SELECT devices, modules FROM population")
        .and_then(|mut statement| statement.query_row([], |row| read(row, 0)))
        .map_err(engine("count its identities"))
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
        .map_err(engine("count its identities"))
}

fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Population> {
    Ok(Population {
        devices: row.get(first)?,
        modules: row.get(first + 1)?,
    })
}
