//! Answers to repeatable calls, and long-running operations, in the shared store.

use std::mem;

use deadpool_postgres::{Client, Transaction};
use service_kit::error::chain;
use tokio_postgres::Row;
use twin::IdentityKey;

use super::{engine, execute, nanoseconds, ownership, query, text};
use crate::record::Damaged;
use crate::store::row::history::instant;
use crate::store::row::{module_text, parse_key};
use crate::store::{
    Commit, Error, OperationId, OperationResultRow, OperationRow, Page, RequestAnswer, RequestId,
};

/// Rows of one statement.
const ROWS: usize = 1024;

/// Writes what a commit says of them.
pub(super) async fn write(transaction: &Transaction<'_>, commit: &Commit) -> Result<(), Error> {
    for answer in &commit.requests {
        execute(
            transaction,
            "keep an answer",
            "INSERT INTO requests (id, fingerprint, answer, at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET
                 fingerprint = excluded.fingerprint, answer = excluded.answer, at = excluded.at",
            &[
                &text::pack(&answer.id.0),
                &&answer.fingerprint[..],
                &answer.answer,
                &nanoseconds(answer.at)?,
            ],
        )
        .await?;
    }
    for operation in &commit.operations {
        execute(
            transaction,
            "write an operation",
            "INSERT INTO operations (id, ended, at, body) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET
                 ended = excluded.ended, at = excluded.at, body = excluded.body",
            &[
                &text::pack(&operation.id.0),
                &operation.ended,
                &nanoseconds(operation.at)?,
                &operation.body,
            ],
        )
        .await?;
    }
    for chunk in commit.results.chunks(ROWS) {
        results_of(transaction, chunk).await?;
    }
    Ok(())
}

async fn results_of(
    transaction: &Transaction<'_>,
    results: &[OperationResultRow],
) -> Result<(), Error> {
    let ids = results.iter().map(|result| text::pack(&result.operation.0));
    let ids: Vec<_> = ids.collect();
    let (devices, modules) = super::write::key_columns(results.iter().map(|result| &result.key));
    let bodies: Vec<&str> = results.iter().map(|result| result.body.as_str()).collect();
    // A statement cannot touch a row twice; of two results for one twin the later one counts.
    execute(
        transaction,
        "write the results of an operation",
        "INSERT INTO operation_results (operation, device_id, module_id, body)
         SELECT DISTINCT ON (n.operation, n.device_id, n.module_id)
             n.operation, n.device_id, n.module_id, n.body
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY
             AS n (operation, device_id, module_id, body, place)
         ORDER BY n.operation, n.device_id, n.module_id, n.place DESC
         ON CONFLICT (operation, device_id, module_id) DO UPDATE SET body = excluded.body",
        &[&ids, &devices, &modules, &bodies],
    )
    .await?;
    Ok(())
}

/// What an earlier call was answered.
pub(super) async fn request(
    client: &Client,
    id: &RequestId,
) -> Result<Option<RequestAnswer>, Error> {
    let action = "read an answer";
    let rows = query(
        client,
        action,
        "SELECT fingerprint, answer, at FROM requests WHERE id = $1",
        &[&text::pack(&id.0)],
    )
    .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(RequestAnswer {
        id: id.clone(),
        fingerprint: ownership::hash(row, 0)?,
        answer: row.try_get(1).map_err(engine(action))?,
        at: instant(row.try_get(2).map_err(engine(action))?),
    }))
}

/// Reads one operation.
pub(super) async fn operation(
    client: &Client,
    id: &OperationId,
) -> Result<Option<Result<OperationRow, Damaged>>, Error> {
    let rows = query(
        client,
        "read an operation",
        "SELECT id, ended, at, body FROM operations WHERE id = $1",
        &[&text::pack(&id.0)],
    )
    .await?;
    Ok(rows.first().map(operation_row))
}

/// Reads operations, newest first.
pub(super) async fn list(
    client: &Client,
    after: Option<&OperationId>,
    limit: u32,
) -> Result<Page<OperationRow, OperationId>, Error> {
    let after = after.map(|id| text::pack(&id.0));
    let mut reading = Reading::new(limit);
    loop {
        let rows = query(
            client,
            "list operations",
            "SELECT id, ended, at, body FROM operations WHERE $1::text IS NULL OR id < $1
             ORDER BY id DESC LIMIT $2 OFFSET $3",
            &[&after, &reading.rows(), &reading.offset],
        )
        .await?;
        if let Some(page) = reading.take(&rows, operation_row, |row| row.id.clone()) {
            return Ok(page);
        }
    }
}

/// Reads the operations that have not ended.
pub(super) async fn running(client: &Client) -> Result<Vec<Result<OperationRow, Damaged>>, Error> {
    let rows = query(
        client,
        "read the operations that go on",
        "SELECT id, ended, at, body FROM operations WHERE NOT ended ORDER BY id",
        &[],
    )
    .await?;
    Ok(rows.iter().map(operation_row).collect())
}

fn operation_row(row: &Row) -> Result<OperationRow, Damaged> {
    let read = || -> Result<OperationRow, tokio_postgres::Error> {
        Ok(OperationRow {
            id: OperationId(text::unpack(row.try_get(0)?)),
            ended: row.try_get(1)?,
            at: instant(row.try_get(2)?),
            body: row.try_get(3)?,
        })
    };
    read().map_err(|error| Damaged {
        key: format!("operations/{}", lossy(row, 0)),
        part: "operation",
        problem: chain(&error),
    })
}

/// Reads what an operation did, in the order of keys.
pub(super) async fn results(
    client: &Client,
    operation: &OperationId,
    after: Option<&IdentityKey>,
    limit: u32,
) -> Result<Page<OperationResultRow>, Error> {
    let (device, module) = after.map_or(("", ""), |key| (key.device.as_str(), module_text(key)));
    let mut reading = Reading::new(limit);
    loop {
        let rows = query(
            client,
            "read the results of an operation",
            "SELECT device_id, module_id, body FROM operation_results
             WHERE operation = $1 AND (device_id, module_id) > ($2, $3)
             ORDER BY device_id, module_id LIMIT $4 OFFSET $5",
            &[
                &text::pack(&operation.0),
                &device,
                &module,
                &reading.rows(),
                &reading.offset,
            ],
        )
        .await?;
        let read = |row: &Row| result_row(operation, row);
        if let Some(page) = reading.take(&rows, read, |row| row.key.clone()) {
            return Ok(page);
        }
    }
}

fn result_row(operation: &OperationId, row: &Row) -> Result<OperationResultRow, Damaged> {
    let key = parse_key(&lossy(row, 0), &lossy(row, 1))?;
    let body = row.try_get(2).map_err(|error| Damaged {
        key: key.to_string(),
        part: "result of an operation",
        problem: chain(&error),
    })?;
    Ok(OperationResultRow {
        operation: operation.clone(),
        key,
        body,
    })
}

/// A text, or what stands for one that is no UTF-8.
fn lossy(row: &Row, column: usize) -> String {
    let text = row.try_get::<_, &str>(column);
    text.map_or_else(|_| "\u{fffd}".to_owned(), text::unpack)
}

/// Reads rows until there are enough that are whole, so that a page always ends behind a key that
/// can be read.
struct Reading<R, K> {
    limit: usize,
    /// Rows behind the beginning that were read.
    offset: i64,
    page: Page<R, K>,
}

impl<R, K> Reading<R, K> {
    fn new(limit: u32) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            offset: 0,
            page: Page::default(),
        }
    }

    /// How many rows to ask for: one more than wanted tells whether there is more.
    fn rows(&self) -> i64 {
        i64::try_from(self.limit)
            .unwrap_or(i64::MAX)
            .saturating_add(1)
    }

    /// Takes rows; answers the page once it is complete.
    fn take(
        &mut self,
        rows: &[Row],
        read: impl Fn(&Row) -> Result<R, Damaged>,
        key: impl Fn(&R) -> K,
    ) -> Option<Page<R, K>> {
        let page = &mut self.page;
        for row in rows {
            if page.records.len() >= self.limit {
                page.next = page.records.last().map(key);
                return Some(mem::take(page));
            }
            match read(row) {
                Ok(row) => page.records.push(row),
                Err(damaged) => page.damaged.push(damaged),
            }
        }
        if rows.len() <= self.limit {
            return Some(mem::take(page));
        }
        self.offset = self.offset.saturating_add(self.rows());
        None
    }
}
