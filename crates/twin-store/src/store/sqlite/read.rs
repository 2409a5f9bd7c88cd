//! What the embedded store's readers do with records.
//!
//! A row that cannot be read is reported for itself and never fails the rows beside it, whether its
//! content or its key is damaged.

use std::borrow::Cow;

use jiff::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};
use twin::{DeviceId, IdentityKey};

use super::{engine, module_text, operations};
use crate::record::{Damaged, Record};
use crate::store::row::{self, Row};
use crate::store::{
    EnrollmentState, EnrollmentToken, Error, Loaded, OperationRow, RawRecord, Selection, TokenHash,
};

/// The columns that [`decode`] reads, in this order.
const COLUMNS: &str = "device_id, module_id, revision, status, tags, desired, reported, posture, \
                       body, opaque, checksum";

/// Reads what is selected; what has no readable key comes apart.
pub(super) fn load(
    connection: &Connection,
    selections: &[Selection],
) -> Result<(Vec<Loaded>, Vec<Damaged>), Error> {
    let mut unnamed = Vec::new();
    let mut loaded = Vec::with_capacity(selections.len());
    for selection in selections {
        match selection {
            Selection::One(key) => {
                let found = find(connection, key)?;
                loaded.extend(found.map(|result| into_loaded(key.clone(), result)));
            }
            Selection::Family(device) => unnamed.extend(family(connection, device, &mut loaded)?),
            Selection::Token(hash, device) => {
                let state = enrollment_token(connection, *hash, device)?;
                loaded.extend(state.map(|state| Loaded::Token(device.clone(), state)));
            }
            Selection::Request(id) => {
                loaded.extend(operations::request(connection, id)?.map(Loaded::Request));
            }
            Selection::Operation(id) => {
                loaded.extend(operations::operation(connection, id)?.and_then(readable));
            }
            Selection::Running => {
                let running = operations::running(connection)?;
                loaded.extend(running.into_iter().filter_map(readable));
            }
        }
    }
    Ok((loaded, unnamed))
}

/// An operation; one that cannot be read is said and left alone.
fn readable(operation: Result<OperationRow, Damaged>) -> Option<Loaded> {
    operation
        .map(Loaded::Operation)
        .inspect_err(|damaged| tracing::error!(error = %damaged, "an operation is left alone"))
        .ok()
}

/// Reads one record.
pub(super) fn get(connection: &Connection, key: &IdentityKey) -> Result<Option<Record>, Error> {
    Ok(find(connection, key)?.transpose()?)
}

fn find(
    connection: &Connection,
    key: &IdentityKey,
) -> Result<Option<Result<Record, Damaged>>, Error> {
    let action = "read a twin";
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM twins WHERE device_id = ?1 AND module_id = ?2"
        ))
        .map_err(engine(action))?
        .query_row(params![key.device.as_str(), module_text(key)], |row| {
            Ok(decode(key.clone(), row))
        })
        .optional()
        .map_err(engine(action))
}

/// Reads a device and its modules; answers rows whose key cannot be read.
fn family(
    connection: &Connection,
    device: &DeviceId,
    all: &mut Vec<Loaded>,
) -> Result<Vec<Damaged>, Error> {
    let mut unnamed = Vec::new();
    let action = "read the twins of a device";
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM twins WHERE device_id = ?1 ORDER BY module_id"
        ))
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params![device.as_str()])
        .map_err(engine(action))?;
    while let Some(row) = rows.next().map_err(engine(action))? {
        match key(row) {
            Ok(key) => all.push(into_loaded(key.clone(), decode(key, row))),
            Err(damaged) => unnamed.push(damaged),
        }
    }
    Ok(unnamed)
}

fn into_loaded(key: IdentityKey, result: Result<Record, Damaged>) -> Loaded {
    match result {
        Ok(record) => Loaded::Whole(Box::new(record)),
        Err(damaged) => Loaded::Damaged(key, damaged),
    }
}

/// The key of a row. It is read as bytes, because a flipped bit may leave no UTF-8.
pub(super) fn key(row: &rusqlite::Row<'_>) -> Result<IdentityKey, Damaged> {
    let text = |column| match row.get_ref(column) {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => String::from_utf8_lossy(bytes),
        Ok(ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_)) | Err(_) => "\u{fffd}".into(),
    };
    row::parse_key(&text(0), &text(1))
}

/// Reads the record of a row.
pub(super) fn decode(key: IdentityKey, row: &rusqlite::Row<'_>) -> Result<Record, Damaged> {
    with_columns(key, row, row::decode)
}

/// Takes a row over as it is.
pub(super) fn raw(key: IdentityKey, row: &rusqlite::Row<'_>) -> Result<RawRecord, Damaged> {
    with_columns(key, row, RawRecord::new)
}

fn with_columns<R>(
    key: IdentityKey,
    row: &rusqlite::Row<'_>,
    read: impl FnOnce(IdentityKey, &Row<'_>) -> Result<R, Damaged>,
) -> Result<R, Damaged> {
    match columns(row) {
        Ok(columns) => read(key, &columns),
        // A flipped byte may leave no UTF-8, or a value of another type.
        Err(error) => Err(Damaged {
            key: key.to_string(),
            part: "row",
            problem: error.to_string(),
        }),
    }
}

fn columns<'r>(row: &'r rusqlite::Row<'_>) -> rusqlite::Result<Row<'r>> {
    let text = |column| -> rusqlite::Result<Cow<'r, str>> {
        Ok(Cow::Borrowed(row.get_ref(column)?.as_str()?))
    };
    Ok(Row {
        revision: row.get::<_, i64>(2)?.cast_unsigned(),
        status: text(3)?,
        tags: text(4)?,
        desired: text(5)?,
        reported: text(6)?,
        posture: text(7)?,
        body: text(8)?,
        opaque: row.get(9)?,
        checksum: row.get(10)?,
    })
}

fn enrollment_token(
    connection: &Connection,
    hash: TokenHash,
    device: &DeviceId,
) -> Result<Option<EnrollmentState>, Error> {
    let action = "read an enrolment token";
    let token = connection
        .query_row(
            "SELECT device_id, expires_at, uses_max FROM enrollment_tokens WHERE hash = ?1",
            params![hash],
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, u32>(2)?,
                ))
            },
        )
        .optional()
        .map_err(engine(action))?;
    let Some((only_device, expires_at, uses_max)) = token else {
        return Ok(None);
    };
    let uses = connection
        .query_row(
            "SELECT count(*) FROM enrollments WHERE hash = ?1",
            params![hash],
            |row| row.get(0),
        )
        .map_err(engine(action))?;
    let nonce = connection
        .query_row(
            "SELECT nonce FROM enrollments WHERE hash = ?1 AND device_id = ?2",
            params![hash, device.as_str()],
            |row| row.get(0),
        )
        .optional()
        .map_err(engine(action))?;
    let Some(token) = parse_token(hash, &only_device, expires_at, uses_max) else {
        // A token that cannot be read opens nothing; its owner asks for a new one.
        tracing::error!("a stored enrolment token is damaged");
        return Ok(None);
    };
    Ok(Some(EnrollmentState { token, uses, nonce }))
}

fn parse_token(
    hash: TokenHash,
    only_device: &str,
    expires_at: i64,
    uses_max: u32,
) -> Option<EnrollmentToken> {
    let device = match only_device {
        "" => None,
        id => Some(DeviceId::parse(id).ok()?),
    };
    Some(EnrollmentToken {
        hash,
        device,
        expires_at: Timestamp::from_second(expires_at).ok()?,
        uses_max,
    })
}
