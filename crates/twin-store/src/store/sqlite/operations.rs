//! Answers to repeatable calls, and long-running operations, in the embedded store.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use twin::IdentityKey;

use super::write::execute;
use super::{engine, module_text, nanoseconds};
use crate::store::row::history::instant;
use crate::store::row::parse_key;
use crate::store::{
    Commit, Error, OperationId, OperationResultRow, OperationRow, RequestAnswer, RequestId,
};

/// Writes what a commit says of them.
pub(super) fn write(transaction: &Transaction<'_>, commit: &Commit) -> Result<(), Error> {
    for answer in &commit.requests {
        execute(
            transaction,
            "keep an answer",
            "INSERT INTO requests (id, fingerprint, answer, at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET
                 fingerprint = excluded.fingerprint, answer = excluded.answer, at = excluded.at",
            params![
                answer.id.0,
                answer.fingerprint,
                answer.answer,
                nanoseconds(answer.at)?
            ],
        )?;
    }
    for operation in &commit.operations {
        execute(
            transaction,
            "write an operation",
            "INSERT INTO operations (id, ended, at, body) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET
                 ended = excluded.ended, at = excluded.at, body = excluded.body",
            params![
                operation.id.0,
                operation.ended,
                nanoseconds(operation.at)?,
                operation.body
            ],
        )?;
    }
    for result in &commit.results {
        execute(
            transaction,
            "write the result of an operation",
            "INSERT INTO operation_results (operation, device_id, module_id, body)
             VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (operation, device_id, module_id) DO UPDATE SET body = excluded.body",
            params![
                result.operation.0,
                result.key.device.as_str(),
                module_text(&result.key),
                result.body
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
    connection
        .prepare_cached("SELECT fingerprint, answer, at FROM requests WHERE id = ?1")
        .map_err(engine(action))?
        .query_row(params![id.0], |row| {
            Ok(RequestAnswer {
                id: id.clone(),
                fingerprint: row.get(0)?,
                answer: row.get(1)?,
                at: instant(row.get(2)?),
            })
        })
        .optional()
        .map_err(engine(action))
}

/// Reads one operation.
pub(super) fn operation(
    connection: &Connection,
    id: &OperationId,
) -> Result<Option<OperationRow>, Error> {
    let action = "read an operation";
    connection
        .prepare_cached("SELECT id, ended, at, body FROM operations WHERE id = ?1")
        .map_err(engine(action))?
        .query_row(params![id.0], operation_row)
        .optional()
        .map_err(engine(action))
}

/// Reads operations, newest first.
pub(super) fn list(
    connection: &Connection,
    after: Option<&OperationId>,
    limit: u32,
) -> Result<Vec<OperationRow>, Error> {
    let action = "list operations";
    let mut statement = connection
        .prepare_cached(
            "SELECT id, ended, at, body FROM operations WHERE ?1 IS NULL OR id < ?1
             ORDER BY id DESC LIMIT ?2",
        )
        .map_err(engine(action))?;
    let rows = statement
        .query_map(params![after.map(|id| &id.0), limit], operation_row)
        .map_err(engine(action))?;
    rows.collect::<Result<_, _>>().map_err(engine(action))
}

fn operation_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<OperationRow> {
    Ok(OperationRow {
        id: OperationId(row.get(0)?),
        ended: row.get(1)?,
        at: instant(row.get(2)?),
        body: row.get(3)?,
    })
}

/// Reads what an operation did, in the order of keys.
pub(super) fn results(
    connection: &Connection,
    operation: &OperationId,
    after: Option<&IdentityKey>,
    limit: u32,
) -> Result<Vec<OperationResultRow>, Error> {
    let action = "read the results of an operation";
    let (device, module) = after.map_or(("", ""), |key| (key.device.as_str(), module_text(key)));
    let mut statement = connection
        .prepare_cached(
            "SELECT device_id, module_id, body FROM operation_results
             WHERE operation = ?1 AND (device_id, module_id) > (?2, ?3)
             ORDER BY device_id, module_id LIMIT ?4",
        )
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params![operation.0, device, module, limit])
        .map_err(engine(action))?;
    let mut results = Vec::new();
    while let Some(row) = rows.next().map_err(engine(action))? {
        let (device, module): (String, String) = row
            .get(0)
            .and_then(|device| Ok((device, row.get(1)?)))
            .map_err(engine(action))?;
        results.push(OperationResultRow {
            operation: operation.clone(),
            key: parse_key(&device, &module)?,
            body: row.get(2).map_err(engine(action))?,
        });
    }
    Ok(results)
}
