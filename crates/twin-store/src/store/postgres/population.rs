//! How many identities a shared store holds: each commit counts what it made and removed.

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::Row;

use super::{engine, execute, number, query, query_in};
use crate::store::{Error, PartitionState, Population};

const ACTION: &str = "count its identities";

/// As it was counted along the way.
pub(super) async fn counted(client: &Client) -> Result<Population, Error> {
    let sql = "SELECT coalesce(sum(devices), 0)::bigint, coalesce(sum(modules), 0)::bigint
         FROM population";
    let rows = query(client, ACTION, sql, &[]).await?;
    read(rows.first(), 0)
}

/// As the rows are, and as it was counted along the way, at one moment. It goes through all rows.
pub(super) async fn both(client: &Client) -> Result<(Population, Population), Error> {
    let sql = "SELECT count(*) FILTER (WHERE module_id = ''),
             count(*) FILTER (WHERE module_id <> ''),
             (SELECT coalesce(sum(devices), 0)::bigint FROM population),
             (SELECT coalesce(sum(modules), 0)::bigint FROM population) FROM twins";
    let rows = query(client, ACTION, sql, &[]).await?;
    Ok((read(rows.first(), 0)?, read(rows.first(), 2)?))
}

/// Runs a statement that writes or removes twins and answers how many, and reads its answer.
pub(super) async fn counting(
    transaction: &Transaction<'_>,
    action: &'static str,
    sql: &str,
    parameters: &[super::Parameter<'_>],
) -> Result<Population, Error> {
    let rows = query_in(transaction, action, sql, parameters).await?;
    read(rows.first(), 0)
}

/// Adds what a commit made and takes away what it removed, in the row of the first partition that it
/// has locked.
pub(super) async fn count(
    transaction: &Transaction<'_>,
    states: &[PartitionState],
    change: Population,
) -> Result<(), Error> {
    let first = states.iter().map(|state| number(state.partition)).min();
    let Some(first) = first.filter(|_| change != Population::default()) else {
        return Ok(());
    };
    execute(
        transaction,
        ACTION,
        "INSERT INTO population AS p (partition, devices, modules) VALUES ($1, $2, $3)
         ON CONFLICT (partition) DO UPDATE SET
             devices = p.devices + excluded.devices, modules = p.modules + excluded.modules",
        &[&first, &change.devices, &change.modules],
    )
    .await?;
    Ok(())
}

/// Counts the rows, after they were written by something else than commits.
pub(super) async fn recount(transaction: &Transaction<'_>) -> Result<(), Error> {
    execute(transaction, ACTION, "DELETE FROM population", &[]).await?;
    execute(
        transaction,
        ACTION,
        "INSERT INTO population (partition, devices, modules)
         SELECT 0, count(*) FILTER (WHERE module_id = ''),
             count(*) FILTER (WHERE module_id <> '') FROM twins",
        &[],
    )
    .await?;
    Ok(())
}

fn read(row: Option<&Row>, first: usize) -> Result<Population, Error> {
    let column = |at| match row {
        Some(row) => row.try_get(at).map_err(engine(ACTION)),
        None => Ok(0),
    };
    Ok(Population {
        devices: column(first)?,
        modules: column(first + 1)?,
    })
}
