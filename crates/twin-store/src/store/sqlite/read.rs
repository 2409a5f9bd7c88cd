//! What the embedded store's readers do with records.
//!
//! A row that cannot be read is reported for itself and never fails the rows beside it, whether its
//! content or its key is damaged.

use std::borrow::Cow;

use jiff::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use twin::{DeviceId, IdentityKey};

use super::{engine, module_text, operations, provisioning};
use crate::record::{Damaged, Record};
use crate::store::quarantine::{self, Note, name_of};
use crate::store::row::{self, Row, sums};
use crate::store::{
    EnrollmentState, EnrollmentToken, Error, GROUPS, Loaded, OperationRow, RawRecord, Selection,
    TokenHash,
};

/// The columns that [`decode`] reads, in this order.
const COLUMNS: &str = "device_id, module_id, revision, status, tags, desired, reported, posture, \
                       body, opaque, checksum";

/// Reads what is selected; notes what has no readable key and belongs to no selection of its own.
pub(super) fn load(
    connection: &Connection,
    selections: &[Selection],
    notes: &mut Vec<Note>,
) -> Result<Vec<Loaded>, Error> {
    let mut loaded = Vec::with_capacity(selections.len());
    for selection in selections {
        let before = loaded.len();
        let Err(error) = load_one(connection, selection, &mut loaded, notes) else {
            continue;
        };
        // What was found of a family before is of no use without the rest.
        loaded.truncate(before);
        let (name, part) = name_of(selection);
        loaded.push(Loaded::Damaged(
            selection.clone(),
            damage(error, &name, part)?,
        ));
    }
    notes.extend(loaded.iter().filter_map(Note::of_loaded));
    Ok(loaded)
}

fn load_one(
    connection: &Connection,
    selection: &Selection,
    loaded: &mut Vec<Loaded>,
    notes: &mut Vec<Note>,
) -> Result<(), Error> {
    match selection {
        Selection::One(key) => {
            let found = find(connection, key)?;
            loaded.extend(found.map(|result| into_loaded(key.clone(), result)));
        }
        Selection::Family(device) => {
            let unnamed = family(connection, device, loaded)?;
            notes.extend(unnamed.iter().map(Note::of_twin));
        }
        Selection::Token(hash, device) => {
            let state = enrollment_token(connection, *hash, device)?;
            loaded.extend(state.map(|state| Loaded::Token(device.clone(), state)));
        }
        Selection::Request(id) => {
            loaded.extend(operations::request(connection, id)?.map(Loaded::Request));
        }
        Selection::Operation(id) => {
            loaded.extend(operations::operation(connection, id)?.map(Loaded::Operation));
        }
        Selection::Running => {
            loaded.extend(going_on(operations::running(connection)?, notes));
        }
        Selection::Provisioning(key) => {
            loaded.extend(provisioning::find(connection, key)?.map(Loaded::Provisioning));
        }
        Selection::Groups => {
            let page = provisioning::list(connection, &GROUPS, u32::MAX)?;
            notes.extend(page.damaged.iter().map(Note::of_provisioning));
            loaded.extend(page.records.into_iter().map(Loaded::Provisioning));
        }
    }
    Ok(())
}

/// What an error says of the rows that were read: that they are damaged. Anything else stays the
/// error that it is.
pub(super) fn damage(error: Error, key: &str, part: &'static str) -> Result<Damaged, Error> {
    quarantine::damage(error, key, part, |source| {
        source.downcast_ref().is_some_and(is_damage)
    })
}

/// Whether something failed because what is stored is damaged.
pub(super) fn is_of_damage(error: &Error) -> bool {
    match error {
        Error::Damaged(_) => true,
        Error::Engine { source, .. } => source.downcast_ref().is_some_and(is_damage),
        _ => false,
    }
}

/// Whether the engine says that a row or a page cannot be what was written.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig
        ),
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        _ => false,
    }
}

/// Operations that go on; one that cannot be read is noted and left alone.
fn going_on(rows: Vec<Result<OperationRow, Damaged>>, notes: &mut Vec<Note>) -> Vec<Loaded> {
    let mut running = Vec::with_capacity(rows.len());
    for row in rows {
        match row {
            Ok(row) => running.push(Loaded::Operation(row)),
            Err(damaged) => notes.push(Note::of_operation(&damaged)),
        }
    }
    running
}

/// Reads one record.
pub(super) fn get(connection: &Connection, key: &IdentityKey) -> Result<Option<Record>, Error> {
    match find(connection, key) {
        Ok(found) => Ok(found.transpose()?),
        Err(error) => Err(damage(error, &key.to_string(), "row")?.into()),
    }
}

pub(super) fn find(
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
        Err(damaged) => Loaded::Damaged(Selection::One(key), damaged),
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
            "SELECT device_id, expires_at, uses_max, checksum FROM enrollment_tokens
             WHERE hash = ?1",
            params![hash],
            |row| {
                let (device, expires_at): (String, i64) = (row.get(0)?, row.get(1)?);
                let (uses_max, checksum): (i64, Option<i64>) = (row.get(2)?, row.get(3)?);
                let sum = sums::token(&hash, &device, expires_at, uses_max);
                Ok(sums::check(checksum, sum)
                    .and_then(|()| parse_token(hash, &device, expires_at, uses_max)))
            },
        )
        .optional()
        .map_err(engine(action))?;
    let Some(token) = token else {
        return Ok(None);
    };
    let damaged = |problem: &str| Damaged {
        key: name_of(&Selection::Token(hash, device.clone())).0,
        part: "row",
        problem: problem.to_owned(),
    };
    let token = token.map_err(damaged)?;
    let uses = connection
        .query_row(
            "SELECT count(*) FROM enrollments WHERE hash = ?1",
            params![hash],
            |row| row.get(0),
        )
        .map_err(engine(action))?;
    let nonce = connection
        .query_row(
            "SELECT nonce, checksum FROM enrollments WHERE hash = ?1 AND device_id = ?2",
            params![hash, device.as_str()],
            |row| {
                let (nonce, checksum): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
                let sum = sums::enrollment(&hash, device.as_str(), &nonce);
                Ok(sums::check(checksum, sum).map(|()| nonce))
            },
        )
        .optional()
        .map_err(engine(action))?;
    let nonce = nonce
        .transpose()
        .map_err(|problem| damaged(&format!("its use by this device: {problem}")))?;
    Ok(Some(EnrollmentState { token, uses, nonce }))
}

fn parse_token(
    hash: TokenHash,
    only_device: &str,
    expires_at: i64,
    uses_max: i64,
) -> Result<EnrollmentToken, &'static str> {
    let device = match only_device {
        "" => None,
        id => Some(DeviceId::parse(id).map_err(|_| "its device is no id")?),
    };
    Ok(EnrollmentToken {
        hash,
        device,
        expires_at: Timestamp::from_second(expires_at).map_err(|_| "its end is no time")?,
        uses_max: u32::try_from(uses_max).map_err(|_| "its uses are no number")?,
    })
}
