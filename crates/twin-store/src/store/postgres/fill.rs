//! Fills a shared store from rows, in one transaction.

use deadpool_postgres::{Client, Transaction};
use futures::future::try_join_all;
use tokio::sync::mpsc;
use tokio_postgres::types::ToSql;

use super::maintain::{PATIENCE, is_packed};
use super::{engine, execute, migrate, ownership, population, text};
use crate::store::failpoint;
use crate::store::maintain::{Batch, Kind, MaintainError, Revisions, Row, Table, Value};

/// Fills it; answers the revisions that were left out at the end.
pub(super) async fn fill(
    client: &mut Client,
    mut from: mpsc::Receiver<Batch>,
) -> Result<u64, MaintainError> {
    let action = "restore a row";
    migrate::migrate(client).await?;
    let transaction = client.transaction().await.map_err(engine(action))?;
    transaction
        .batch_execute(PATIENCE)
        .await
        .map_err(engine(action))?;
    empty(&transaction).await?;
    let mut partitions = 0;
    while let Some(batch) = from.recv().await {
        match batch {
            Batch::Rows(rows) => {
                let of_partitions = rows.iter().filter(|row| row.table == Table::Partitions);
                partitions += u16::try_from(of_partitions.count()).unwrap_or(u16::MAX);
                // Sent one behind another without waiting for answers.
                try_join_all(rows.iter().map(|row| insert(&transaction, row)))
                    .await
                    .map_err(engine(action))?;
            }
            Batch::Forget(revisions) => forget(&transaction, &revisions).await?,
            Batch::End => {
                ownership::write_count(&transaction, partitions).await?;
                population::recount(&transaction).await?;
                let orphans = orphans(&transaction).await?;
                failpoint::hit("restore.written");
                transaction.commit().await.map_err(engine("commit"))?;
                failpoint::hit("restore.durable");
                return Ok(orphans);
            }
        }
    }
    Err(MaintainError::Stopped)
}

/// Refuses a store that holds anything. Two that restore at once meet at their first rows.
async fn empty(transaction: &Transaction<'_>) -> Result<(), MaintainError> {
    let action = "look whether it is empty";
    for table in Table::ALL {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name());
        let row = transaction.query_one(&sql, &[]).await;
        let row = row.map_err(engine(action))?;
        if row.try_get::<_, bool>(0).map_err(engine(action))? {
            return Err(MaintainError::NotEmpty);
        }
    }
    Ok(())
}

async fn insert(transaction: &Transaction<'_>, row: &Row) -> Result<(), tokio_postgres::Error> {
    let table = row.table;
    let mut names = table.column_list();
    let mut places = Vec::with_capacity(row.values.len() + 1);
    for (at, (_, kind)) in table.columns().iter().enumerate() {
        let at = at + 1;
        places.push(match kind {
            // The numbers of partitions are smaller; what does not fit is refused by the cast.
            Kind::Integer if matches!(table.columns().get(at - 1), Some(("partition", _))) => {
                format!("${at}::bigint::int")
            }
            Kind::Integer | Kind::OptionalInteger => format!("${at}::bigint"),
            Kind::Truth => format!("${at}::bigint <> 0"),
            Kind::Text | Kind::OptionalText => format!("${at}::text"),
            Kind::Bytes => format!("${at}::bytea"),
        });
    }
    if table == Table::Partitions {
        names.push_str(", owner");
        places.push("''".to_owned());
    }
    let sql = format!(
        "INSERT INTO {} ({names}) VALUES ({})",
        table.name(),
        places.join(", ")
    );
    let columns = table.columns().iter();
    let values: Vec<Box<dyn ToSql + Send + Sync>> = row
        .values
        .iter()
        .zip(columns)
        .map(|(value, (name, kind))| parameter(table, name, *kind, value))
        .collect();
    let values: Vec<&(dyn ToSql + Sync)> = values
        .iter()
        .map(|value| &**value as &(dyn ToSql + Sync))
        .collect();
    let statement = transaction.prepare_cached(&sql).await?;
    transaction.execute(&statement, &values).await?;
    Ok(())
}

fn parameter(
    table: Table,
    column: &str,
    kind: Kind,
    value: &Value,
) -> Box<dyn ToSql + Send + Sync> {
    match value {
        Value::Null if kind == Kind::OptionalInteger => Box::new(None::<i64>),
        Value::Null => Box::new(None::<String>),
        Value::Integer(number) => Box::new(*number),
        Value::Text(text) if is_packed(table, column) => Box::new(text::pack(text).into_owned()),
        Value::Text(text) => Box::new(text.clone()),
        Value::Bytes(bytes) => Box::new(bytes.clone()),
    }
}

async fn forget(transaction: &Transaction<'_>, revisions: &Revisions) -> Result<(), MaintainError> {
    execute(
        transaction,
        "leave revisions out",
        "DELETE FROM history WHERE device_id = $1 AND module_id = $2 AND revision <= $3",
        &[&revisions.device, &revisions.module, &revisions.through],
    )
    .await?;
    Ok(())
}

/// Removes the histories of twins that are missing although nobody removed them.
async fn orphans(transaction: &Transaction<'_>) -> Result<u64, MaintainError> {
    let removed = execute(
        transaction,
        "leave revisions out",
        "DELETE FROM history WHERE (device_id, module_id) IN
             (SELECT last.device_id, last.module_id
              FROM (SELECT DISTINCT ON (h.device_id, h.module_id)
                        h.device_id, h.module_id, h.patch
                    FROM history h
                    WHERE NOT EXISTS (SELECT FROM twins t
                        WHERE t.device_id = h.device_id AND t.module_id = h.module_id)
                    ORDER BY h.device_id, h.module_id, h.revision DESC) AS last
              WHERE last.patch <> 'null')",
        &[],
    )
    .await?;
    Ok(removed)
}
