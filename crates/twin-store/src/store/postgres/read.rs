//! What the shared store does to read records.
//!
//! A row that cannot be read is reported for itself and never fails the rows beside it, whether its
//! content or its key is damaged.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::str::Utf8Error;

use deadpool_postgres::Client;
use tokio_postgres::Row as PgRow;
use tokio_postgres::types::{WasNull, WrongType};
use twin::{DeviceId, IdentityKey};

use super::write::key_columns;
use super::{operations, provisioning, query, tokens, unsigned};
use crate::record::{Damaged, Record};
use crate::store::quarantine::{self, Note, name_of};
use crate::store::row::{self, Row, module_text};
use crate::store::{Error, GROUPS, Loaded, OperationRow, RawRecord, Selection};

/// The columns that [`decode`] reads, in this order.
pub(super) const COLUMNS: &str = "t.device_id, t.module_id, t.revision, t.status, t.tags, t.desired, \
                       t.reported, t.posture, t.body, t.opaque, t.checksum";

/// Reads what is selected, in its order. All identities together take two statements, unless a row
/// is damaged so that the server cannot answer it: then each is read by itself.
pub(super) async fn load(
    client: &Client,
    selections: &[Selection],
    notes: &mut Vec<Note>,
) -> Result<Vec<Loaded>, Error> {
    let mut ones = one_by_one(client, selections).await?;
    let mut families = families(client, selections, notes).await?;
    let mut loaded = Vec::with_capacity(selections.len());
    for selection in selections {
        let found = match selection {
            Selection::One(key) => Ok(ones.remove(key)),
            Selection::Family(device) => {
                loaded.extend(families.remove(device).unwrap_or_default());
                continue;
            }
            Selection::Token(hash, device) => tokens::enrollment_token(client, *hash, device)
                .await
                .map(|state| state.map(|state| Loaded::Token(device.clone(), state))),
            Selection::Request(id) => {
                let answer = operations::request(client, id).await;
                answer.map(|answer| answer.map(Loaded::Request))
            }
            Selection::Operation(id) => {
                let operation = operations::operation(client, id).await;
                operation.map(|operation| operation.map(Loaded::Operation))
            }
            Selection::Running => {
                let running = operations::running(client).await?;
                loaded.extend(going_on(running, notes));
                continue;
            }
            Selection::Provisioning(key) => {
                let row = provisioning::find(client, key).await;
                row.map(|row| row.map(Loaded::Provisioning))
            }
            Selection::Groups => {
                let page = provisioning::list(client, &GROUPS, u32::MAX).await?;
                notes.extend(page.damaged.iter().map(Note::of_provisioning));
                loaded.extend(page.records.into_iter().map(Loaded::Provisioning));
                continue;
            }
        };
        loaded.extend(or_damaged(selection, found)?);
    }
    notes.extend(loaded.iter().filter_map(Note::of_loaded));
    Ok(loaded)
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

/// What was found of a selection, or that it is damaged.
fn or_damaged(
    selection: &Selection,
    found: Result<Option<Loaded>, Error>,
) -> Result<Option<Loaded>, Error> {
    let error = match found {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let (name, part) = name_of(selection);
    let damaged = damage(error, &name, part)?;
    Ok(Some(Loaded::Damaged(selection.clone(), damaged)))
}

/// What an error says of the rows that were read: that they are damaged. Anything else stays the
/// error that it is.
pub(super) fn damage(error: Error, key: &str, part: &'static str) -> Result<Damaged, Error> {
    quarantine::damage(error, key, part, |source| {
        source.downcast_ref().is_some_and(is_damage)
    })
}

/// Whether an error is damage of what is stored.
pub(super) fn is_of_damage(error: &Error) -> bool {
    match error {
        Error::Damaged(_) => true,
        Error::Engine { source, .. } => source.downcast_ref().is_some_and(is_damage),
        _ => false,
    }
}

/// Whether the server says that a row or a page cannot be what was written, or a value is none of
/// its column's.
pub(super) fn is_damage(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        // XX: what the server calls its own corruption; 22021: bytes that are no text; 58030: a
        // page that the disk does not give back.
        Some(code) => code.code().starts_with("XX") || matches!(code.code(), "22021" | "58030"),
        // Not the server's: a value that cannot be read.
        None => std::error::Error::source(error).is_some_and(|source| {
            source.is::<Utf8Error>() || source.is::<WrongType>() || source.is::<WasNull>()
        }),
    }
}

/// Reads one record.
pub(super) async fn get(client: &Client, key: &IdentityKey) -> Result<Option<Record>, Error> {
    match find(client, key).await {
        Ok(found) => Ok(found.transpose()?),
        Err(error) => Err(damage(error, &key.to_string(), "row")?.into()),
    }
}

async fn find(
    client: &Client,
    key: &IdentityKey,
) -> Result<Option<Result<Record, Damaged>>, Error> {
    let rows = query(
        client,
        "read a twin",
        &format!("SELECT {COLUMNS} FROM twins t WHERE t.device_id = $1 AND t.module_id = $2"),
        &[&key.device.as_str(), &module_text(key)],
    )
    .await?;
    Ok(rows.first().map(|row| decode(key.clone(), row)))
}

/// Reads one identity by itself.
async fn load_alone(client: &Client, key: &IdentityKey) -> Result<Option<Loaded>, Error> {
    let found = find(client, key).await;
    let found = found.map(|found| found.map(|result| into_loaded(key.clone(), result)));
    or_damaged(&Selection::One(key.clone()), found)
}

async fn one_by_one(
    client: &Client,
    selections: &[Selection],
) -> Result<HashMap<IdentityKey, Loaded>, Error> {
    let keys = selections.iter().filter_map(|selection| match selection {
        Selection::One(key) => Some(key),
        _ => None,
    });
    let keys: Vec<&IdentityKey> = keys.collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let (devices, modules) = key_columns(keys.iter().copied());
    let rows = query(
        client,
        "read twins",
        &format!(
            "SELECT {COLUMNS} FROM UNNEST($1::text[], $2::text[]) AS k (device_id, module_id)
             JOIN twins t ON t.device_id = k.device_id AND t.module_id = k.module_id"
        ),
        &[&devices, &modules],
    )
    .await;
    let mut found = HashMap::with_capacity(keys.len());
    match rows {
        Ok(rows) => {
            for row in &rows {
                // Of one that cannot be read nobody asked: it was found by its key.
                if let Ok(key) = key(row) {
                    found.insert(key.clone(), into_loaded(key.clone(), decode(key, row)));
                }
            }
        }
        Err(error) => {
            damage(error, "twins", "rows")?;
            for key in keys {
                let loaded = load_alone(client, key).await?;
                found.extend(loaded.map(|loaded| (key.clone(), loaded)));
            }
        }
    }
    Ok(found)
}

async fn families(
    client: &Client,
    selections: &[Selection],
    notes: &mut Vec<Note>,
) -> Result<BTreeMap<DeviceId, Vec<Loaded>>, Error> {
    let devices = selections.iter().filter_map(|selection| match selection {
        Selection::Family(device) => Some(device),
        _ => None,
    });
    let devices: Vec<&DeviceId> = devices.collect();
    let mut families: BTreeMap<DeviceId, Vec<Loaded>> = BTreeMap::new();
    if devices.is_empty() {
        return Ok(families);
    }
    let names: Vec<&str> = devices.iter().map(|device| device.as_str()).collect();
    let rows = query(
        client,
        "read the twins of devices",
        &format!(
            "SELECT {COLUMNS} FROM twins t WHERE t.device_id = ANY($1::text[])
             ORDER BY t.device_id, t.module_id"
        ),
        &[&names],
    )
    .await;
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            damage(error, "twins", "rows")?;
            for device in devices {
                families.insert(device.clone(), family_alone(client, device, notes).await?);
            }
            return Ok(families);
        }
    };
    for row in &rows {
        match key(row) {
            Ok(key) => {
                let family = families.entry(key.device.clone()).or_default();
                family.push(into_loaded(key.clone(), decode(key, row)));
            }
            Err(damaged) => notes.push(Note::of_twin(&damaged)),
        }
    }
    Ok(families)
}

/// Reads a device and its modules, each by itself.
async fn family_alone(
    client: &Client,
    device: &DeviceId,
    notes: &mut Vec<Note>,
) -> Result<Vec<Loaded>, Error> {
    let keys = query(
        client,
        "read the keys of a device",
        "SELECT t.device_id, t.module_id FROM twins t WHERE t.device_id = $1 ORDER BY t.module_id",
        &[&device.as_str()],
    )
    .await;
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => {
            let family = Selection::Family(device.clone());
            return Ok(or_damaged(&family, Err(error))?.into_iter().collect());
        }
    };
    let mut family = Vec::with_capacity(keys.len());
    for row in &keys {
        match key(row) {
            Ok(key) => family.extend(load_alone(client, &key).await?),
            Err(damaged) => notes.push(Note::of_twin(&damaged)),
        }
    }
    Ok(family)
}

fn into_loaded(key: IdentityKey, result: Result<Record, Damaged>) -> Loaded {
    match result {
        Ok(record) => Loaded::Whole(Box::new(record)),
        Err(damaged) => Loaded::Damaged(Selection::One(key), damaged),
    }
}

/// The key of a row.
pub(super) fn key(row: &PgRow) -> Result<IdentityKey, Damaged> {
    let text = |column| row.try_get(column).unwrap_or("\u{fffd}");
    row::parse_key(text(0), text(1))
}

/// Reads the record of a row.
pub(super) fn decode(key: IdentityKey, row: &PgRow) -> Result<Record, Damaged> {
    with_columns(key, row, row::decode)
}

/// Takes a row over as it is.
pub(super) fn raw(key: IdentityKey, row: &PgRow) -> Result<RawRecord, Damaged> {
    with_columns(key, row, RawRecord::new)
}

fn with_columns<R>(
    key: IdentityKey,
    row: &PgRow,
    read: impl FnOnce(IdentityKey, &Row<'_>) -> Result<R, Damaged>,
) -> Result<R, Damaged> {
    match columns(row) {
        Ok(columns) => read(key, &columns),
        Err(error) => Err(Damaged {
            key: key.to_string(),
            part: "row",
            problem: error.to_string(),
        }),
    }
}

fn columns(row: &PgRow) -> Result<Row<'_>, tokio_postgres::Error> {
    let text = |column| row.try_get(column).map(Cow::Borrowed);
    Ok(Row {
        revision: unsigned(row, 2)?,
        status: text(3)?,
        tags: text(4)?,
        desired: text(5)?,
        reported: text(6)?,
        posture: text(7)?,
        body: text(8)?,
        opaque: row.try_get(9)?,
        checksum: checksum(row, 10)?,
    })
}

/// A checksum; one that cannot be one differs from every one there is, in all but the rarest case.
pub(super) fn checksum(row: &PgRow, column: usize) -> Result<u32, tokio_postgres::Error> {
    let stored: i64 = row.try_get(column)?;
    Ok(u32::try_from(stored).unwrap_or(u32::MAX))
}
