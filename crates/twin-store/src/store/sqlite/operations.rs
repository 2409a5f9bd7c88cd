//! Answers to repeatable calls, and long-running operations, in the embedded store.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Rows, Transaction, params};
use twin::IdentityKey;

use super::write::execute;
use super::{engine, module_text, nanoseconds, read};
use crate::record::Damaged;
use crate::store::row::history::instant;
use crate::store::row::{parse_key, sums};
use crate::store::{
    Commit, Error, OperationId, OperationResultRow, OperationRow, Page, RequestAnswer, RequestId,
};

/// Writes what a commit says of them.
pub(super) fn write(transaction: &Transaction<'_>, commit: &Commit) -> Result<(), Error> {
    for answer in &commit.requests {
        let at = nanoseconds(answer.at)?;
        execute(
            transaction,
            "keep an answer",
            "INSERT INTO requests (id, fingerprint, answer, at, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET
                 fingerprint = excluded.fingerprint, answer = excluded.answer, at = excluded.at,
                 checksum = excluded.checksum",
            params![
                answer.id.0,
                answer.fingerprint,
                answer.answer,
                at,
                sums::request(&answer.id.0, &answer.fingerprint, &answer.answer, at)
            ],
        )?;
    }
    for operation in &commit.operations {
        let at = nanoseconds(operation.at)?;
        execute(
            transaction,
            "write an operation",
            "INSERT INTO operations (id, ended, at, body, checksum) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET
                 ended = excluded.ended, at = excluded.at, body = excluded.body,
                 checksum = excluded.checksum",
            params![
                operation.id.0,
                operation.ended,
                at,
                operation.body,
                sums::operation(&operation.id.0, operation.ended, at, &operation.body)
            ],
        )?;
    }
    for result in &commit.results {
        let (device, module) = (result.key.device.as_str(), module_text(&result.key));
        execute(
            transaction,
            "write the result of an operation",
            "INSERT INTO operation_results (operation, device_id, module_id, body, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (operation, device_id, module_id) DO UPDATE SET
                 body = excluded.body, checksum = excluded.checksum",
            params![
                result.operation.0,
                device,
                module,
                result.body,
                sums::result(&result.operation.0, device, module, &result.body)
            ],
        )?;
    }
    Ok(())
}

/// What an earlier call was answered.
pub(super) fn request(
    connection: &Connection,
    id: &RequestId,
) -> Result<Option<RequestAnswer>, Error> {
    let action = "read an answer";
    let found = connection
        .prepare_cached("SELECT fingerprint, answer, at, checksum FROM requests WHERE id = ?1")
        .map_err(engine(action))?
        .query_row(params![id.0], |row| {
            let (at, checksum): (i64, Option<i64>) = (row.get(2)?, row.get(3)?);
            let answer = RequestAnswer {
                id: id.clone(),
                fingerprint: row.get(0)?,
                answer: row.get(1)?,
                at: instant(at),
            };
            let sum = sums::request(&id.0, &answer.fingerprint, &answer.answer, at);
            Ok(sums::check(checksum, sum).map(|()| answer))
        })
        .optional()
        .map_err(engine(action))?;
    let checked = found.transpose();
    checked.map_err(|problem| {
        let damaged = Damaged {
            key: format!("request {}", id.0),
            part: "row",
            problem: problem.to_owned(),
        };
        damaged.into()
    })
}

/// Reads one operation.
pub(super) fn operation(
    connection: &Connection,
    id: &OperationId,
) -> Result<Option<OperationRow>, Error> {
    let action = "read an operation";
    let row = connection
        .prepare_cached("SELECT id, ended, at, body, checksum FROM operations WHERE id = ?1")
        .map_err(engine(action))?
        .query_row(params![id.0], |row| Ok(operation_row(row)))
        .optional()
        .map_err(engine(action))?;
    Ok(row.transpose()?)
}

/// Reads operations, newest first.
pub(super) fn list(
    connection: &Connection,
    after: Option<&OperationId>,
    limit: u32,
) -> Result<Page<OperationRow, OperationId>, Error> {
    let action = "list operations";
    let mut statement = connection
        .prepare_cached(
            "SELECT id, ended, at, body, checksum FROM operations WHERE ?1 IS NULL OR id < ?1
             ORDER BY id DESC",
        )
        .map_err(engine(action))?;
    let rows = statement
        .query(params![after.map(|id| &id.0)])
        .map_err(engine(action))?;
    page(rows, limit, action, operation_row, |row| row.id.clone())
}

/// Reads the operations that have not ended.
pub(super) fn running(
    connection: &Connection,
) -> Result<Vec<Result<OperationRow, Damaged>>, Error> {
    let action = "read the operations that go on";
    let mut statement = connection
        .prepare_cached(
            "SELECT id, ended, at, body, checksum FROM operations WHERE ended = 0 ORDER BY id",
        )
        .map_err(engine(action))?;
    let rows = statement
        .query_map([], |row| Ok(operation_row(row)))
        .map_err(engine(action))?;
    rows.collect::<Result<_, _>>().map_err(engine(action))
}

fn operation_row(row: &rusqlite::Row<'_>) -> Result<OperationRow, Damaged> {
    let read = || -> rusqlite::Result<_> {
        let (at, stored): (i64, Option<i64>) = (row.get(2)?, row.get(4)?);
        let read = OperationRow {
            id: OperationId(row.get(0)?),
            ended: row.get(1)?,
            at: instant(at),
            body: row.get(3)?,
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
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// Reads what an operation did, in the order of keys.
pub(super) fn results(
    connection: &Connection,
    operation: &OperationId,
    after: Option<&IdentityKey>,
    limit: u32,
) -> Result<Page<OperationResultRow>, Error> {
    let action = "read the results of an operation";
    let (device, module) = after.map_or(("", ""), |key| (key.device.as_str(), module_text(key)));
    let mut statement = connection
        .prepare_cached(
            "SELECT device_id, module_id, body, checksum FROM operation_results
             WHERE operation = ?1 AND (device_id, module_id) > (?2, ?3)
             ORDER BY device_id, module_id",
        )
        .map_err(engine(action))?;
    let rows = statement
        .query(params![operation.0, device, module])
        .map_err(engine(action))?;
    let read = |row: &rusqlite::Row<'_>| result_row(operation, row);
    page(rows, limit, action, read, |row| row.key.clone())
}

fn result_row(
    operation: &OperationId,
    row: &rusqlite::Row<'_>,
) -> Result<OperationResultRow, Damaged> {
    let key = parse_key(&lossy(row, 0), &lossy(row, 1))?;
    let damaged = |problem: String| Damaged {
        key: key.to_string(),
        part: "result of an operation",
        problem,
    };
    let read = || -> rusqlite::Result<(String, Option<i64>)> { Ok((row.get(2)?, row.get(3)?)) };
    let (body, stored) = read().map_err(|error| damaged(error.to_string()))?;
    let sum = sums::result(&operation.0, key.device.as_str(), module_text(&key), &body);
    sums::check(stored, sum).map_err(|problem| damaged(problem.to_owned()))?;
    Ok(OperationResultRow {
        operation: operation.clone(),
        key,
        body,
    })
}

/// A text, whatever has become of it: a flipped bit may leave no UTF-8.
pub(super) fn lossy(row: &rusqlite::Row<'_>, column: usize) -> String {
    match row.get_ref(column) {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Ok(ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_)) | Err(_) => {
            "\u{fffd}".to_owned()
        }
    }
}

/// Reads rows until there are enough that are whole, so that a page always ends behind a key that
/// can be read; rows are made one by one, and what is not read costs nothing.
pub(super) fn page<R, K>(
    mut rows: Rows<'_>,
    limit: u32,
    action: &'static str,
    decode: impl Fn(&rusqlite::Row<'_>) -> Result<R, Damaged>,
    key: impl Fn(&R) -> K,
) -> Result<Page<R, K>, Error> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut page = Page::default();
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            // Where the engine cannot go on, the page says so and ends.
            Err(error) => {
                let rest = read::damage(engine(action)(error), "what follows", "rows")?;
                page.damaged.push(rest);
                break;
            }
        };
        if page.records.len() >= limit {
            page.next = page.records.last().map(&key);
            break;
        }
        match decode(row) {
            Ok(row) => page.records.push(row),
            Err(damaged) => page.damaged.push(damaged),
        }
    }
    Ok(page)
}
