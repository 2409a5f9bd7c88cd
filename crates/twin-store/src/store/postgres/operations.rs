//! Answers to repeatable calls, and long-running operations, in the shared store.

use std::mem;

use deadpool_postgres::{Client, Transaction};
use service_kit::error::chain;
use tokio_postgres::Row;
use twin::IdentityKey;

use super::{engine, execute, nanoseconds, query, read, text};
use crate::record::Damaged;
use crate::store::row::history::instant;
use crate::store::row::{module_text, parse_key, sums};
use crate::store::{
    Commit, Error, OperationId, OperationResultRow, OperationRow, Page, RequestAnswer, RequestId,
};

/// Rows of one statement.
const ROWS: usize = 1024;

/// Writes what a commit says of them.
pub(super) async fn write(transaction: &Transaction<'_>, commit: &Commit) -> Result<(), Error> {
    for answer in &commit.requests {
        let at = nanoseconds(answer.at)?;
        let sum = sums::request(&answer.id.0, &answer.fingerprint, &answer.answer, at);
        execute(
            transaction,
            "keep an answer",
            "INSERT INTO requests (id, fingerprint, answer, at, checksum)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET
                 fingerprint = excluded.fingerprint, answer = excluded.answer, at = excluded.at,
                 checksum = excluded.checksum",
            &[
                &text::pack(&answer.id.0),
                &&answer.fingerprint[..],
                &answer.answer,
                &at,
                &i64::from(sum),
            ],
        )
        .await?;
    }
    for operation in &commit.operations {
        let at = nanoseconds(operation.at)?;
        let sum = sums::operation(&operation.id.0, operation.ended, at, &operation.body);
        execute(
            transaction,
            "write an operation",
            "INSERT INTO operations (id, ended, at, body, checksum) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET
                 ended = excluded.ended, at = excluded.at, body = excluded.body,
                 checksum = excluded.checksum",
            &[
                &text::pack(&operation.id.0),
                &operation.ended,
                &at,
                &operation.body,
                &i64::from(sum),
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
    let sums = results.iter().map(|result| {
        let (device, module) = (result.key.device.as_str(), module_text(&result.key));
        i64::from(sums::result(
            &result.operation.0,
            device,
            module,
            &result.body,
        ))
    });
    let sums: Vec<i64> = sums.collect();
    // A statement cannot touch a row twice; of two results for one twin the later one counts.
    execute(
        transaction,
        "write the results of an operation",
        "INSERT INTO operation_results (operation, device_id, module_id, body, checksum)
         SELECT DISTINCT ON (n.operation, n.device_id, n.module_id)
             n.operation, n.device_id, n.module_id, n.body, n.checksum
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY
             AS n (operation, device_id, module_id, body, checksum, place)
         ORDER BY n.operation, n.device_id, n.module_id, n.place DESC
         ON CONFLICT (operation, device_id, module_id) DO UPDATE SET
             body = excluded.body, checksum = excluded.checksum",
        &[&ids, &devices, &modules, &bodies, &sums],
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
        "SELECT fingerprint, answer, at, checksum FROM requests WHERE id = $1",
        &[&text::pack(&id.0)],
    )
    .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let read = || -> Result<_, tokio_postgres::Error> {
        let (fingerprint, answer): (&[u8], Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        let (at, stored): (i64, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
        let sum = sums::request(&id.0, fingerprint, &answer, at);
        let checked = sums::check(stored, sum).and_then(|()| {
            let fingerprint = fingerprint.try_into();
            fingerprint.map_err(|_| "its fingerprint has another length")
        });
        Ok(checked.map(|fingerprint| RequestAnswer {
            id: id.clone(),
            fingerprint,
            answer,
            at: instant(at),
        }))
    };
    let answer = read().map_err(engine(action))?;
    let answer = answer.map_err(|problem| Damaged {
        key: format!("request {}", id.0),
        part: "row",
        problem: problem.to_owned(),
    });
    Ok(Some(answer?))
}

/// Reads one operation.
pub(super) async fn operation(
    client: &Client,
    id: &OperationId,
) -> Result<Option<OperationRow>, Error> {
    let rows = query(
        client,
        "read an operation",
        "SELECT id, ended, at, body, checksum FROM operations WHERE id = $1",
        &[&text::pack(&id.0)],
    )
    .await?;
    Ok(rows.first().map(operation_row).transpose()?)
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
            "SELECT id, ended, at, body, checksum FROM operations WHERE $1::text IS NULL OR id < $1
             ORDER BY id DESC LIMIT $2 OFFSET $3",
            &[&after, &reading.rows(), &reading.offset],
        )
        .await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return reading.cut_off(error),
        };
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
        "SELECT id, ended, at, body, checksum FROM operations WHERE NOT ended ORDER BY id",
        &[],
    )
    .await?;
    Ok(rows.iter().map(operation_row).collect())
}

fn operation_row(row: &Row) -> Result<OperationRow, Damaged> {
    let read = || -> Result<_, tokio_postgres::Error> {
        let (at, stored): (i64, Option<i64>) = (row.try_get(2)?, row.try_get(4)?);
        let read = OperationRow {
            id: OperationId(text::unpack(row.try_get(0)?)),
            ended: row.try_get(1)?,
            at: instant(at),
            body: row.try_get(3)?,
        };
        let sum = sums::operation(&read.id.0, read.ended, at, &read.body);
        Ok(sums::check(stored, sum).map(|()| read))
    };
    let damaged = |problem: String| Damaged {
        key: format!("operations/{}", lossy(row, 0)),
        part: "operation",
        problem,
    };
    match read() {
        Ok(checked) => checked.map_err(|problem| damaged(problem.to_owned())),
        Err(error) => Err(damaged(chain(&error))),
    }
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
            "SELECT device_id, module_id, body, checksum FROM operation_results
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
        .await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return reading.cut_off(error),
        };
        let read = |row: &Row| result_row(operation, row);
        if let Some(page) = reading.take(&rows, read, |row| row.key.clone()) {
            return Ok(page);
        }
    }
}

fn result_row(operation: &OperationId, row: &Row) -> Result<OperationResultRow, Damaged> {
    let key = parse_key(&lossy(row, 0), &lossy(row, 1))?;
    let damaged = |problem: String| Damaged {
        key: key.to_string(),
        part: "result of an operation",
        problem,
    };
    let read = || -> Result<(String, Option<i64>), tokio_postgres::Error> {
        Ok((row.try_get(2)?, row.try_get(3)?))
    };
    let (body, stored) = read().map_err(|error| damaged(chain(&error)))?;
    let sum = sums::result(&operation.0, key.device.as_str(), module_text(&key), &body);
    sums::check(stored, sum).map_err(|problem| damaged(problem.to_owned()))?;
    Ok(OperationResultRow {
        operation: operation.clone(),
        key,
        body,
    })
}

/// A text, or what stands for one that is no UTF-8.
pub(super) fn lossy(row: &Row, column: usize) -> String {
    let text = row.try_get::<_, &str>(column);
    text.map_or_else(|_| "\u{fffd}".to_owned(), text::unpack)
}

/// Reads rows until there are enough that are whole, so that a page always ends behind a key that
/// can be read.
pub(super) struct Reading<R, K> {
    limit: usize,
    /// Rows behind the beginning that were read.
    pub(super) offset: i64,
    page: Page<R, K>,
}

impl<R, K> Reading<R, K> {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            offset: 0,
            page: Page::default(),
        }
    }

    /// Ends with what was read, where the server cannot go on because of damage.
    pub(super) fn cut_off(mut self, error: Error) -> Result<Page<R, K>, Error> {
        let rest = read::damage(error, "what follows", "rows")?;
        self.page.damaged.push(rest);
        Ok(self.page)
    }

    /// How many rows to ask for: one more than wanted tells whether there is more.
    pub(super) fn rows(&self) -> i64 {
        i64::try_from(self.limit)
            .unwrap_or(i64::MAX)
            .saturating_add(1)
    }

    /// Takes rows; answers the page once it is complete.
    pub(super) fn take(
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
