//! Statements, compiled once by each connection.

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::Row;

use super::{Parameter, engine};
use crate::store::Error;

/// Reads rows with a statement that each connection compiles once.
pub(super) async fn query(
    client: &Client,
    action: &'static str,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, Error> {
    let statement = client.prepare_cached(sql).await.map_err(engine(action))?;
    let rows = client.query(&statement, parameters).await;
    rows.map_err(engine(action))
}

/// Runs a statement, compiled once per connection; answers the rows it returns.
pub(super) async fn query_in(
    transaction: &Transaction<'_>,
    action: &'static str,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, Error> {
    let prepared = transaction.prepare_cached(sql).await;
    let statement = prepared.map_err(engine(action))?;
    let rows = transaction.query(&statement, parameters).await;
    rows.map_err(engine(action))
}

/// Runs a statement, compiled once per connection; answers the number of rows it changed.
pub(super) async fn execute(
    transaction: &Transaction<'_>,
    action: &'static str,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<u64, Error> {
    let prepared = transaction.prepare_cached(sql).await;
    let statement = prepared.map_err(engine(action))?;
    let changed = transaction.execute(&statement, parameters).await;
    changed.map_err(engine(action))
}
