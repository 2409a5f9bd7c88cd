//! Searches of the embedded store: statements of `store::sql`, run and read.
//!
//! Rows are stepped through one by one, because a page must end with a row whose key can be read: the
//! next page starts behind it. A search whose caller has gone is stopped in the middle.

use std::sync::{Arc, Mutex};

use rusqlite::{Connection, InterruptHandle, Row, params_from_iter};
use twin::IdentityKey;

use super::engine;
use super::read::{damage, decode, key};
use crate::record::Damaged;
use crate::store::sql::{Dialect, Param, Prepared, Query};
use crate::store::{Count, Error, Page, Plan, Search};

/// Rows that could not be looked into, answered with a count. More of them are a store that is
/// damaged as a whole, or twins made to be costly: those are counted page by page.
const UNDECIDED_MAX: i64 = 1000;

/// Reads a page, each row by `read`.
pub(super) fn search<R>(
    connection: &Connection,
    search: &Search,
    read: Read<R>,
) -> Result<Page<R>, Error> {
    let prepared = Prepared::new(search, Dialect::Sqlite);
    let estimates = estimates(connection, &prepared)?;
    page(connection, &prepared.rows(&estimates), search.limit, read)
}

/// Reads a row.
pub(super) type Read<R> = fn(IdentityKey, &Row<'_>) -> Result<R, Damaged>;

/// Counts what a search finds.
pub(super) fn count(connection: &Connection, search: &Search) -> Result<Option<Count>, Error> {
    let action = "count twins";
    let prepared = Prepared::new(search, Dialect::Sqlite);
    // Both statements have to see the same rows.
    let transaction = connection.unchecked_transaction().map_err(engine(action))?;
    let estimates = estimates(&transaction, &prepared)?;
    let Some(query) = prepared.count(&estimates) else {
        return Ok(None);
    };
    let (decided, undecided): (i64, i64) = transaction
        .prepare_cached(&query.sql)
        .and_then(|mut statement| {
            statement.query_row(params_from_iter(&query.params), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
        .map_err(engine(action))?;
    if undecided > UNDECIDED_MAX {
        return Ok(None);
    }
    let decided = decided.unsigned_abs();
    let undecided = match undecided {
        0 => Page::default(),
        _ => page(
            &transaction,
            &prepared.undecided(&estimates),
            u32::MAX,
            decode,
        )?,
    };
    transaction.commit().map_err(engine(action))?;
    Ok(Some(Count { decided, undecided }))
}

/// Tells how [`search`] runs.
pub(super) fn explain(connection: &Connection, search: &Search) -> Result<Plan, Error> {
    let action = "explain a search";
    let prepared = Prepared::new(search, Dialect::Sqlite);
    let query = prepared.rows(&estimates(connection, &prepared)?);
    let lines = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {}", query.sql))
        .and_then(|mut statement| {
            statement
                .query_map(params_from_iter(&query.params), |row| row.get(3))?
                .collect()
        })
        .map_err(engine(action))?;
    Ok(prepared.plan(&query, lines))
}

fn estimates(connection: &Connection, prepared: &Prepared<'_>) -> Result<Vec<u64>, Error> {
    if let Some(known) = prepared.known().get() {
        return Ok(known);
    }
    let Some(query) = prepared.estimates() else {
        return Ok(Vec::new());
    };
    let counts = connection
        .prepare_cached(&query.sql)
        .and_then(|mut statement| {
            let columns = statement.column_count();
            statement.query_row(params_from_iter(&query.params), |row| {
                (0..columns)
                    .map(|column| row.get::<_, i64>(column).map(i64::unsigned_abs))
                    .collect()
            })
        })
        .map_err(engine("choose an index"))?;
    Ok(prepared.known().keep(counts))
}

fn page<R>(
    connection: &Connection,
    query: &Query,
    limit: u32,
    read: Read<R>,
) -> Result<Page<R>, Error> {
    let action = "search twins";
    let mut statement = connection
        .prepare_cached(&query.sql)
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params_from_iter(&query.params))
        .map_err(engine(action))?;
    let mut page = Page::default();
    let (mut count, mut readable) = (0, true);
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            // A page that left out what it cannot reach would look whole.
            Err(error) => return Err(damage(engine(action)(error), "the twins", "rows")?.into()),
        };
        if count >= limit && readable {
            return Ok(page);
        }
        count += 1;
        match key(row) {
            Ok(key) => {
                readable = true;
                debug_assert!(
                    page.next
                        .as_ref()
                        .is_none_or(|last: &IdentityKey| *last < key)
                );
                page.next = Some(key.clone());
                match read(key, row) {
                    Ok(record) => page.records.push(record),
                    Err(damaged) => page.damaged.push(damaged),
                }
            }
            Err(damaged) => {
                readable = false;
                page.damaged.push(damaged);
            }
        }
    }
    page.next = None;
    Ok(page)
}

impl rusqlite::ToSql for Param {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Param::Text(text) => text.to_sql(),
            Param::Number(number) => number.to_sql(),
            Param::Count(count) => count.to_sql(),
        }
    }
}

/// What a search runs under, shared with whoever waits for it.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    left: bool,
    handle: Option<InterruptHandle>,
}

/// Held by whoever waits. When it is dropped, the search stops.
pub(super) struct Waiting(Running);

impl Running {
    /// The other end.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting(self.clone())
    }

    /// Works on a connection for as long as somebody waits.
    pub(super) fn work<T>(
        &self,
        connection: &Connection,
        work: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if let Ok(mut state) = self.0.lock() {
            if state.left {
                return Err(Error::Closed);
            }
            state.handle = Some(connection.get_interrupt_handle());
        }
        let result = work(connection);
        // From now on the connection is another one's, whom nobody may interrupt.
        if let Ok(mut state) = self.0.lock() {
            state.handle = None;
        }
        result
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.0.lock() {
            state.left = true;
            if let Some(handle) = &state.handle {
                handle.interrupt();
            }
        }
    }
}
