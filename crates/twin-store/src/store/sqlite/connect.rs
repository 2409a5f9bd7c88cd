//! Connections to the file of an embedded store.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::engine;
use crate::store::Error;

/// Writers wait for each other this long; only a second process on the same file competes.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Statements kept compiled by each connection; a commit has about twenty.
const STATEMENTS: usize = 64;

/// KiB of pages that the writing connection keeps.
pub(super) const WRITER_CACHE: u32 = 64 * 1024;
/// KiB of pages that each reading connection keeps: the upper pages of the trees. What is below them lies
/// in the system's cache, once for all readers.
pub(super) const READER_CACHE: u32 = 8 * 1024;

/// Opens the file, and makes it if it is not there, with a page cache of so many KiB.
pub(super) fn connect(path: &Path, cache: u32) -> Result<Connection, Error> {
    let connection = Connection::open(path).map_err(engine("open its file"))?;
    connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(engine("set its time-out"))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // FULL: an answered write survives a power cut, not only the end of the process. A WAL of up
    // to 16,000 pages between checkpoints nearly doubles the rate of random writes (limits §7).
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 16000; PRAGMA cache_size = -{cache};"
        ))
        .map_err(engine("set up its file"))?;
    Ok(connection)
}
