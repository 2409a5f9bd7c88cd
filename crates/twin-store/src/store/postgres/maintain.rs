//! The shared store's database seen as rows, for checks, backups and restores. Replicas may run
//! meanwhile: reading is one transaction on one snapshot.

use std::path::PathBuf;

use deadpool_postgres::{Client, Transaction};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_postgres::{IsolationLevel, Row as PgRow};

use super::connections::Connections;
use super::read::is_damage;
use super::{PostgresSettings, engine, fill, migrate, population, text};
use crate::store::Error;
use crate::store::maintain::{
    BATCH, Batch, Item, Kind, Maintain, MaintainError, Row, Table, Value,
};

/// Reading or writing everything takes as long as it takes.
pub(super) const PATIENCE: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;
     SET LOCAL idle_in_transaction_session_timeout = 0";

/// The database of a shared store.
#[derive(Debug, Clone)]
pub struct PostgresRows {
    settings: PostgresSettings,
}

impl PostgresRows {
    /// The database that these settings name. Nothing is reached yet.
    pub fn new(settings: PostgresSettings) -> PostgresRows {
        PostgresRows { settings }
    }

    /// Does something on a connection of its own.
    async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, MaintainError>,
    ) -> Result<T, MaintainError> {
        let connections = Connections::new(&self.settings)?;
        let mut client = connections.lend().await?;
        let done = work(&mut client).await;
        // What was under way when it failed goes with the connection.
        drop(Client::take(client));
        connections.close().await;
        done
    }
}

impl Maintain for PostgresRows {
    fn kind(&self) -> &'static str {
        "postgresql"
    }

    fn dump(&self, into: mpsc::Sender<Vec<Item>>) -> BoxFuture<'_, Result<(), MaintainError>> {
        self.run(async move |client| dump(client, &into).await)
            .boxed()
    }

    /// Its pages have checksums of their own, which the server compares as it reads them.
    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, MaintainError>> {
        self.run(async move |client| {
            // What is no store, or cannot be read, is told when the rows are read.
            let Ok((present, counted)) = population::both(client).await else {
                return Ok(Vec::new());
            };
            Ok(present.differs(counted).into_iter().collect())
        })
        .boxed()
    }

    fn fill(&self, from: mpsc::Receiver<Batch>) -> BoxFuture<'_, Result<u64, MaintainError>> {
        self.run(async move |client| fill::fill(client, from).await)
            .boxed()
    }
}

/// Why reading a table ended early.
enum Ended {
    /// Nobody receives any more.
    Nobody,
    /// The engine failed.
    Engine(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Ended {
    fn from(error: tokio_postgres::Error) -> Ended {
        Ended::Engine(error)
    }
}

async fn dump(client: &mut Client, into: &mpsc::Sender<Vec<Item>>) -> Result<(), MaintainError> {
    let action = "read everything";
    let mut snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(engine(action))?;
    snapshot
        .batch_execute(PATIENCE)
        .await
        .map_err(engine(action))?;
    schema(&snapshot).await?;
    for table in Table::ALL {
        if table == Table::Index {
            // Comes with the twins.
            continue;
        }
        // A table that cannot be read must not keep the others from being read.
        let part = snapshot
            .savepoint("table_read")
            .await
            .map_err(engine(action))?;
        match read(&part, into, table).await {
            Ok(()) => part.commit().await.map_err(engine(action))?,
            Err(Ended::Nobody) => return Err(MaintainError::Stopped),
            Err(Ended::Engine(error)) => {
                part.rollback().await.map_err(engine(action))?;
                let problem = service_kit::error::chain(&error);
                let item = Item::Unreadable(table, problem);
                into.send(vec![item])
                    .await
                    .map_err(|_| MaintainError::Stopped)?;
            }
        }
    }
    Ok(())
}

/// Makes sure that the tables are the ones this program knows.
async fn schema(snapshot: &Transaction<'_>) -> Result<(), MaintainError> {
    let action = "read its schema";
    let there = snapshot
        .query_one("SELECT to_regclass('facts') IS NOT NULL", &[])
        .await
        .map_err(engine(action))?;
    let missing = || MaintainError::Missing(PathBuf::from("the database"));
    if !there.try_get::<_, bool>(0).map_err(engine(action))? {
        return Err(missing());
    }
    let row = snapshot
        .query_opt(
            "SELECT value FROM facts WHERE name = $1",
            &[&migrate::SCHEMA],
        )
        .await
        .map_err(engine(action))?
        .ok_or_else(missing)?;
    let found: String = row.try_get(0).map_err(engine(action))?;
    let found: i64 = found.parse().map_err(engine(action))?;
    let known = migrate::known();
    if found > known {
        return Err(Error::Newer { found, known }.into());
    }
    if found < known {
        return Err(MaintainError::Older { found, known });
    }
    Ok(())
}

/// Reads a table in one go, and from where damage ends that by its keys.
async fn read(
    snapshot: &Transaction<'_>,
    into: &mpsc::Sender<Vec<Item>>,
    table: Table,
) -> Result<(), Ended> {
    snapshot.batch_execute("SAVEPOINT whole").await?;
    let (mut last, mut index) = (None, Index::Read);
    let done = read_on(snapshot, into, table, &mut last, &mut index).await;
    match done {
        Ok(()) => snapshot.batch_execute("RELEASE SAVEPOINT whole").await?,
        Err(Ended::Engine(error)) if is_damage(&error) => {
            let back = "ROLLBACK TO SAVEPOINT whole; RELEASE SAVEPOINT whole";
            snapshot.batch_execute(back).await?;
            index = by_key::read(snapshot, into, table, last, index).await?;
        }
        Err(ended) => return Err(ended),
    }
    if table == Table::Twins
        && index == Index::Read
        && let Err(problem) = apart(snapshot, orphans(snapshot, into)).await?
    {
        let item = Item::Unreadable(Table::Index, problem);
        into.send(vec![item]).await.map_err(|_| Ended::Nobody)?;
    }
    Ok(())
}

/// Reads a table in one go; `last` is the last row that was handed over.
async fn read_on(
    snapshot: &Transaction<'_>,
    into: &mpsc::Sender<Vec<Item>>,
    table: Table,
    last: &mut Option<Row>,
    index: &mut Index,
) -> Result<(), Ended> {
    let sql = format!(
        "SELECT {} FROM {} ORDER BY {}",
        selected(table),
        table.name(),
        table.key_list()
    );
    let portal = snapshot.bind(&sql, &[]).await?;
    loop {
        let rows = snapshot
            .query_portal(&portal, i32::try_from(BATCH).unwrap_or(i32::MAX))
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let rows = rows.iter().map(|row| values(table, row));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let behind = rows.last().cloned();
        let items = if table == Table::Twins {
            let (items, read) = with_index(snapshot, rows, *index).await?;
            *index = read;
            items
        } else {
            rows.into_iter().map(Item::Row).collect()
        };
        into.send(items).await.map_err(|_| Ended::Nobody)?;
        *last = behind;
    }
}

/// Whether the index is read with the twins. One that cannot be read must not keep them from being:
/// it follows from them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Index {
    Read,
    GivenUp,
}

/// Reads something whose failure is told, and does not end what the transaction reads besides.
async fn apart<T>(
    snapshot: &Transaction<'_>,
    read: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<Result<T, String>, Ended> {
    snapshot.batch_execute("SAVEPOINT apart").await?;
    let read = read.await;
    let end = match &read {
        Ok(_) => "RELEASE SAVEPOINT apart",
        Err(_) => "ROLLBACK TO SAVEPOINT apart",
    };
    snapshot.batch_execute(end).await?;
    Ok(read.map_err(|error| service_kit::error::chain(&error)))
}

/// Puts the entries of the index behind their twins.
async fn with_index(
    snapshot: &Transaction<'_>,
    twins: Vec<Row>,
    index: Index,
) -> Result<(Vec<Item>, Index), Ended> {
    if index == Index::GivenUp {
        return Ok((twins.into_iter().map(Item::Row).collect(), index));
    }
    let entries = match apart(snapshot, entries_of(snapshot, &twins)).await? {
        Ok(entries) => entries,
        Err(problem) => {
            let mut items = vec![Item::Unreadable(Table::Index, problem)];
            items.extend(twins.into_iter().map(Item::Row));
            return Ok((items, Index::GivenUp));
        }
    };
    let mut entries = entries.into_iter().peekable();
    let mut items = Vec::with_capacity(twins.len() * 4);
    for twin in twins {
        let key: Vec<Value> = twin.values.iter().take(2).cloned().collect();
        items.push(Item::Row(twin));
        while let Some(entry) = entries.next_if(|entry| entry.values.starts_with(&key)) {
            items.push(Item::Row(entry));
        }
    }
    Ok((items, Index::Read))
}

/// The entries of the index of these twins, in their order.
async fn entries_of(
    snapshot: &Transaction<'_>,
    twins: &[Row],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let text = |row: &Row, column: usize| row.values.get(column).map(Value::to_string);
    let column = |column| -> Vec<String> {
        let texts = twins.iter().filter_map(|twin| text(twin, column));
        texts.collect()
    };
    let sql = format!(
        "SELECT {} FROM UNNEST($1::text[], $2::text[]) AS k (device, module)
         JOIN twin_index ON device_id = k.device AND module_id = k.module
         ORDER BY device_id, module_id, path, value",
        selected(Table::Index)
    );
    let entries = snapshot.query(&sql, &[&column(0), &column(1)]).await?;
    let entries = entries.iter().map(|row| values(Table::Index, row));
    entries.collect()
}

/// Entries of the index that are of no twin.
async fn orphans(
    snapshot: &Transaction<'_>,
    into: &mpsc::Sender<Vec<Item>>,
) -> Result<(), tokio_postgres::Error> {
    let sql = format!(
        "SELECT {} FROM twin_index AS i WHERE NOT EXISTS
             (SELECT 1 FROM twins AS t
              WHERE t.device_id = i.device_id AND t.module_id = i.module_id)
         ORDER BY device_id, module_id, path, value",
        selected(Table::Index)
    );
    let portal = snapshot.bind(&sql, &[]).await?;
    loop {
        let rows = snapshot
            .query_portal(&portal, i32::try_from(BATCH).unwrap_or(i32::MAX))
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let items = rows
            .iter()
            .map(|row| values(Table::Index, row).map(Item::Row));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        if into.send(items).await.is_err() {
            // Whoever sends next finds it out as well.
            return Ok(());
        }
    }
}

/// The columns of a table, each as one of the few types of [`Value`].
fn selected(table: Table) -> String {
    let columns = table.columns().iter();
    let columns = columns.map(|(name, kind)| column(name, *kind));
    columns.collect::<Vec<_>>().join(", ")
}

fn column(name: &str, kind: Kind) -> String {
    match kind {
        Kind::Integer | Kind::OptionalInteger => format!("{name}::bigint"),
        Kind::Truth => format!("{name}::int::bigint"),
        Kind::Text | Kind::OptionalText | Kind::Bytes => name.to_owned(),
    }
}

/// Whether a column's texts are packed (see [`text`]): those that are neither JSON nor ids.
pub(super) fn is_packed(table: Table, column: &str) -> bool {
    match table {
        Table::Index => matches!(column, "path" | "value"),
        Table::History => matches!(column, "actor" | "cause" | "changes" | "trace_parent"),
        Table::Audit => true,
        Table::Requests | Table::Operations => column == "id",
        Table::Enrollments => column == "nonce",
        Table::Results => column == "operation",
        Table::Partitions | Table::Twins | Table::Log | Table::Tokens | Table::Provisioning => {
            false
        }
    }
}

fn values(table: Table, row: &PgRow) -> Result<Row, tokio_postgres::Error> {
    let columns = table.columns().iter().enumerate();
    let values = columns.map(|(at, (name, kind))| value(row, at, *kind, is_packed(table, name)));
    let values = values.collect::<Result<Vec<_>, _>>()?;
    Ok(Row { table, values })
}

fn value(
    row: &PgRow,
    at: usize,
    kind: Kind,
    is_packed: bool,
) -> Result<Value, tokio_postgres::Error> {
    Ok(match kind {
        Kind::Integer | Kind::Truth => Value::Integer(row.try_get(at)?),
        Kind::OptionalInteger => row
            .try_get::<_, Option<i64>>(at)?
            .map_or(Value::Null, Value::Integer),
        Kind::Text | Kind::OptionalText => match row.try_get::<_, Option<text::Raw<'_>>>(at)? {
            None => Value::Null,
            // The server does not look at what it answers; a flipped bit may leave no text.
            Some(text::Raw(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) if is_packed => Value::Text(text::unpack(text)),
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => Value::Bytes(bytes.to_vec()),
            },
        },
        Kind::Bytes => Value::Bytes(row.try_get(at)?),
    })
}

mod by_key;
