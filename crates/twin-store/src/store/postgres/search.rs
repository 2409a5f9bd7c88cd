//! Searches of the shared store: statements of `store::sql`, run and read.
//!
//! They are not kept compiled: every condition has its own. A statement that no index serves may take
//! long, and gets the time for it.

use deadpool_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};
use twin::IdentityKey;
use twin::query::Scope;

use super::read::{COLUMNS, damage, decode, key};
use super::{Parameter, engine, query, unsigned};
use crate::record::Damaged;
use crate::store::row::module_text;
use crate::store::sql::{Dialect, Param, Prepared, Query};
use crate::store::{Count, Error, Page, Plan, Search, Source};

/// What a statement may take that goes through all rows; a caller has given up before.
const SCAN_WITHIN: &str = "SET LOCAL statement_timeout = '70s'";
/// Rows that could not be looked into, answered with a count; with more, pages are counted.
const UNDECIDED_MAX: u32 = 1000;

/// Reads a row.
pub(super) type Read<R> = fn(IdentityKey, &Row) -> Result<R, Damaged>;

/// Reads a page, each row by `read`. It ends with a row whose key can be read, because the next page
/// starts behind it.
pub(super) async fn search<R>(
    client: &mut Client,
    search: &Search,
    read: Read<R>,
) -> Result<Page<R>, Error> {
    match decided(client, search, read).await {
        // A document is no JSON, though it was written as such. Which one PostgreSQL does not say,
        // so everything is read, and the damaged row is named.
        Err(error) if is_malformed(&error) => {
            tracing::warn!(error = %error, "a stored document is damaged; searching without SQL");
            let everything = Search {
                condition: Scope::Everything,
                ..search.clone()
            };
            decided(client, &everything, read).await
        }
        // The server cannot answer some row, and does not say which.
        Err(error) => {
            damage(error, "the twins", "rows")?;
            by_one(client, search, read).await
        }
        page => page,
    }
}

/// Reads the next rows by themselves, whether they match or not: the caller looks at them again.
async fn by_one<R>(client: &mut Client, search: &Search, read: Read<R>) -> Result<Page<R>, Error> {
    let after = search.after.as_ref();
    let (device, module) = after.map_or(("", ""), |key| (key.device.as_str(), module_text(key)));
    let keys = query(
        client,
        "read the keys of twins",
        "SELECT t.device_id, t.module_id FROM twins t WHERE (t.device_id, t.module_id) > ($1, $2)
         ORDER BY t.device_id, t.module_id LIMIT $3",
        &[&device, &module, &i64::from(search.limit)],
    )
    .await;
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => return Err(damage(error, "the twins", "rows")?.into()),
    };
    let sql = format!("SELECT {COLUMNS} FROM twins t WHERE t.device_id = $1 AND t.module_id = $2");
    let mut page = Page::default();
    for row in &keys {
        let key = match key(row) {
            Ok(key) => key,
            Err(damaged) => {
                page.damaged.push(damaged);
                continue;
            }
        };
        page.next = Some(key.clone());
        let is_wanted = match search.source {
            Source::All => true,
            Source::Devices => key.module.is_none(),
            Source::Modules => key.module.is_some(),
        };
        if !is_wanted {
            continue;
        }
        let place: [Parameter<'_>; 2] = [&key.device.as_str(), &module_text(&key)];
        match query(client, "read a twin", &sql, &place).await {
            Ok(rows) => {
                if let Some(row) = rows.first() {
                    read_row(row, &mut page, read);
                }
            }
            Err(error) => page.damaged.push(damage(error, &key.to_string(), "row")?),
        }
    }
    if u32::try_from(keys.len()).is_ok_and(|read| read < search.limit) {
        page.next = None;
    }
    Ok(page)
}

async fn decided<R>(client: &mut Client, search: &Search, read: Read<R>) -> Result<Page<R>, Error> {
    let mut search = search.clone();
    let mut page = Page::default();
    let mut last_key = None;
    loop {
        let prepared = Prepared::new(&search, Dialect::Postgres);
        let estimates = estimates(client, &prepared).await?;
        let rows = run(client, "search twins", &prepared.rows(&estimates)).await?;
        let limit = usize::try_from(search.limit).unwrap_or(usize::MAX);
        for row in rows.iter().take(limit) {
            last_key = read_row(row, &mut page, read).or(last_key);
        }
        if rows.len() <= limit {
            page.next = None;
            return Ok(page);
        }
        // A page that begins behind no key would be this one again.
        let last_is_readable = rows
            .get(limit.saturating_sub(1))
            .is_some_and(|row| key(row).is_ok());
        if last_is_readable {
            page.next = last_key;
            return Ok(page);
        }
        search.limit = search.limit.saturating_mul(2);
        page = Page::default();
    }
}

/// Counts what a search finds.
pub(super) async fn count(client: &mut Client, search: &Search) -> Result<Option<Count>, Error> {
    let mut search = search.clone();
    search.after = None;
    search.limit = UNDECIDED_MAX;
    let prepared = Prepared::new(&search, Dialect::Postgres);
    let estimates = estimates(client, &prepared).await?;
    let Some(query) = prepared.count(&estimates) else {
        return Ok(None);
    };
    let rows = match run(client, "count twins", &query).await {
        Ok(rows) => rows,
        // Page by page, damaged rows are found and named.
        Err(error) if is_malformed(&error) => return Ok(None),
        Err(error) => {
            damage(error, "the twins", "rows")?;
            return Ok(None);
        }
    };
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let number = |column| unsigned(row, column).map_err(engine("read a count"));
    let (decided, undecided) = (number(0)?, number(1)?);
    if undecided > u64::from(UNDECIDED_MAX) {
        return Ok(None);
    }
    let mut page = Page::default();
    if undecided > 0 {
        let action = "read twins that could not be looked into";
        for row in &run(client, action, &prepared.undecided(&estimates)).await? {
            read_row(row, &mut page, decode);
        }
    }
    Ok(Some(Count {
        decided,
        undecided: page,
    }))
}

/// Tells how [`search`] runs.
pub(super) async fn explain(client: &mut Client, search: &Search) -> Result<Plan, Error> {
    let prepared = Prepared::new(search, Dialect::Postgres);
    let query = prepared.rows(&estimates(client, &prepared).await?);
    let explained = Query {
        sql: format!("EXPLAIN {}", query.sql),
        ..query.clone()
    };
    let rows = run(client, "explain a search", &explained).await?;
    let lines: Result<_, _> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok(prepared.plan(&query, lines.map_err(engine("explain a search"))?))
}

async fn estimates(client: &mut Client, prepared: &Prepared<'_>) -> Result<Vec<u64>, Error> {
    if let Some(known) = prepared.known().get() {
        return Ok(known);
    }
    let Some(query) = prepared.estimates() else {
        return Ok(Vec::new());
    };
    let action = "choose an index";
    let rows = run_on(&***client, action, &query).await?;
    let Some(row) = rows.first() else {
        return Ok(Vec::new());
    };
    let columns = 0..row.len();
    let counts: Result<_, _> = columns.map(|column| unsigned(row, column)).collect();
    Ok(prepared.known().keep(counts.map_err(engine(action))?))
}

async fn run(client: &mut Client, action: &'static str, query: &Query) -> Result<Vec<Row>, Error> {
    if !query.indexes.is_empty() {
        return run_on(&***client, action, query).await;
    }
    let transaction = client.transaction().await.map_err(engine(action))?;
    let allowed = transaction.batch_execute(SCAN_WITHIN).await;
    allowed.map_err(engine(action))?;
    let rows = run_on(&*transaction, action, query).await?;
    transaction.commit().await.map_err(engine(action))?;
    Ok(rows)
}

async fn run_on(
    client: &impl GenericClient,
    action: &'static str,
    query: &Query,
) -> Result<Vec<Row>, Error> {
    let numbers: Vec<i64> = query.params.iter().map(number_of_rows).collect();
    let params = query.params.iter().zip(&numbers);
    let params: Vec<(Parameter<'_>, Type)> = params
        .map(|(param, number)| match param {
            Param::Text(text) => (text as &(dyn ToSql + Sync), Type::TEXT),
            Param::Number(number) => (number as &(dyn ToSql + Sync), Type::FLOAT8),
            Param::Count(_) => (number as &(dyn ToSql + Sync), Type::INT8),
        })
        .collect();
    let rows = client.query_typed(&query.sql, &params).await;
    rows.map_err(engine(action))
}

fn number_of_rows(param: &Param) -> i64 {
    match param {
        Param::Count(count) => i64::from(*count),
        Param::Text(_) | Param::Number(_) => 0,
    }
}

/// Adds a row to a page; its key, if that can be read.
fn read_row<R>(row: &Row, page: &mut Page<R>, read: Read<R>) -> Option<IdentityKey> {
    let key = match key(row) {
        Ok(key) => key,
        Err(damaged) => {
            page.damaged.push(damaged);
            return None;
        }
    };
    match read(key.clone(), row) {
        Ok(record) => page.records.push(record),
        Err(damaged) => page.damaged.push(damaged),
    }
    Some(key)
}

/// Whether a document was found to be no JSON.
fn is_malformed(error: &Error) -> bool {
    let Error::Engine { source, .. } = error else {
        return false;
    };
    let code = source
        .downcast_ref::<tokio_postgres::Error>()
        .and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| {
        *code == SqlState::INVALID_TEXT_REPRESENTATION
            || *code == SqlState::UNTRANSLATABLE_CHARACTER
    })
}
