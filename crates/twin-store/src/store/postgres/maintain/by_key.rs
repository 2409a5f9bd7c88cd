//! Reads a table of which the server cannot read all, by its keys and in ever smaller pieces: a row with a value that
//! cannot be put together is handed over without that value, so that it is told of by its name, and the rest of the
//! table is read as ever. Where not even a key can be read, as in a damaged page, the table breaks off.

use deadpool_postgres::Transaction;
use tokio::sync::mpsc;

use super::{Ended, Index, apart, column, is_packed, selected, value, values, with_index};
use crate::store::maintain::{BATCH, Item, Kind, Row, Table, Value};
use crate::store::postgres::{Parameter, text};

/// Reads what is behind a row, or everything; answers whether the index was read with it.
pub(super) async fn read(
    snapshot: &Transaction<'_>,
    into: &mpsc::Sender<Vec<Item>>,
    table: Table,
    mut after: Option<Row>,
    mut index: Index,
) -> Result<Index, Ended> {
    let mut most = BATCH;
    loop {
        let next = some(snapshot, table, after.as_ref(), most);
        let rows = match apart(snapshot, next).await? {
            Ok(rows) if rows.is_empty() => return Ok(index),
            Ok(rows) => {
                most = BATCH;
                rows
            }
            Err(_) if most > 1 => {
                most /= 2;
                continue;
            }
            Err(problem) => {
                let Some(row) = alone(snapshot, table, after.as_ref()).await? else {
                    let item = Item::Unreadable(table, problem);
                    into.send(vec![item]).await.map_err(|_| Ended::Nobody)?;
                    return Ok(Index::GivenUp);
                };
                vec![row]
            }
        };
        after = rows.last().cloned();
        let items;
        if table == Table::Twins {
            (items, index) = with_index(snapshot, rows, index).await?;
        } else {
            items = rows.into_iter().map(Item::Row).collect();
        }
        into.send(items).await.map_err(|_| Ended::Nobody)?;
    }
}

/// The next row, without the values that cannot be read; none if its key cannot.
async fn alone(
    snapshot: &Transaction<'_>,
    table: Table,
    after: Option<&Row>,
) -> Result<Option<Row>, Ended> {
    let mut values = Vec::new();
    for (number, (name, kind)) in table.columns().iter().enumerate() {
        let column = column(name, *kind);
        let read = async {
            let rows = raw(snapshot, table, &column, after, 1).await?;
            let read = rows.first();
            read.map(|row| value(row, 0, *kind, is_packed(table, name)))
                .transpose()
        };
        match apart(snapshot, read).await? {
            Ok(Some(value)) => values.push(value),
            Err(_) if number >= table.key_columns() => values.push(Value::Null),
            Ok(None) | Err(_) => return Ok(None),
        }
    }
    Ok(Some(Row { table, values }))
}

async fn some(
    snapshot: &Transaction<'_>,
    table: Table,
    after: Option<&Row>,
    most: usize,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let rows = raw(snapshot, table, &selected(table), after, most).await?;
    rows.iter().map(|row| values(table, row)).collect()
}

async fn raw(
    snapshot: &Transaction<'_>,
    table: Table,
    columns: &str,
    after: Option<&Row>,
    most: usize,
) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
    let keys = table.columns().iter().take(table.key_columns());
    let (mut bounds, mut texts) = (Vec::new(), Vec::new());
    for ((name, kind), value) in keys.zip(after.iter().flat_map(|row| &row.values)) {
        let at = texts.len() + 1;
        bounds.push(match kind {
            Kind::Text | Kind::OptionalText => format!("${at}::text"),
            Kind::Bytes => format!("decode(${at}::text, 'hex')"),
            Kind::Integer | Kind::OptionalInteger | Kind::Truth => format!("${at}::text::bigint"),
        });
        let text = value.to_string();
        texts.push(if is_packed(table, name) {
            text::pack(&text).into_owned()
        } else {
            text
        });
    }
    let behind = if bounds.is_empty() {
        String::new()
    } else {
        format!("WHERE ({}) > ({})", table.key_list(), bounds.join(", "))
    };
    let sql = format!(
        "SELECT {columns} FROM {} {behind} ORDER BY {} LIMIT {most}",
        table.name(),
        table.key_list()
    );
    let texts: Vec<Parameter<'_>> = texts.iter().map(|text| text as Parameter<'_>).collect();
    snapshot.query(&sql, &texts).await
}
