//! What the shared store does to read records.
//!
//! A row that cannot be read is reported for itself and never fails the rows beside it, whether its
//! content or its key is damaged.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use deadpool_postgres::Client;
use jiff::Timestamp;
use tokio_postgres::Row as PgRow;
use twin::{DeviceId, IdentityKey};

use super::{engine, operations, query, text, unsigned};
use crate::record::{Damaged, Record};
use crate::store::row::{self, Row, module_text};
use crate::store::{
    EnrollmentState, EnrollmentToken, Error, Loaded, OperationRow, RawRecord, Selection, TokenHash,
};

/// The columns that [`decode`] reads, in this order.
const COLUMNS: &str = "t.device_id, t.module_id, t.revision, t.status, t.tags, t.desired, \
                       t.reported, t.posture, t.body, t.opaque, t.checksum";

/// Reads what is selected, in its order. All identities together take two statements.
pub(super) async fn load(client: &Client, selections: &[Selection]) -> Result<Vec<Loaded>, Error> {
    let mut ones = one_by_one(client, selections).await?;
    let mut families = families(client, selections).await?;
    let mut loaded = Vec::with_capacity(selections.len());
    for selection in selections {
        match selection {
            Selection::One(key) => loaded.extend(ones.remove(key)),
            Selection::Family(device) => loaded.extend(families.remove(device).unwrap_or_default()),
            Selection::Token(hash, device) => {
                let state = enrollment_token(client, *hash, device).await?;
                loaded.extend(state.map(|state| Loaded::Token(device.clone(), state)));
            }
            Selection::Request(id) => {
                let answer = operations::request(client, id).await?;
                loaded.extend(answer.map(Loaded::Request));
            }
            Selection::Operation(id) => {
                let operation = operations::operation(client, id).await?;
                loaded.extend(operation.and_then(readable));
            }
            Selection::Running => {
                let running = operations::running(client).await?;
                loaded.extend(running.into_iter().filter_map(readable));
            }
        }
    }
    Ok(loaded)
}

/// An operation; one that cannot be read is said and left alone.
fn readable(operation: Result<OperationRow, Damaged>) -> Option<Loaded> {
    operation
        .map(Loaded::Operation)
        .inspect_err(|damaged| tracing::error!(error = %damaged, "an operation is left alone"))
        .ok()
}

/// Reads one record.
pub(super) async fn get(client: &Client, key: &IdentityKey) -> Result<Option<Record>, Error> {
    let rows = query(
        client,
        "read a twin",
        &format!("SELECT {COLUMNS} FROM twins t WHERE t.device_id = $1 AND t.module_id = $2"),
        &[&key.device.as_str(), &module_text(key)],
    )
    .await?;
    let record = rows.first().map(|row| decode(key.clone(), row));
    Ok(record.transpose()?)
}

async fn one_by_one(
    client: &Client,
    selections: &[Selection],
) -> Result<HashMap<IdentityKey, Loaded>, Error> {
    let keys = selections.iter().filter_map(|selection| match selection {
        Selection::One(key) => Some((key.device.as_str(), module_text(key))),
        _ => None,
    });
    let (devices, modules): (Vec<&str>, Vec<&str>) = keys.unzip();
    if devices.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = query(
        client,
        "read twins",
        &format!(
            "SELECT {COLUMNS} FROM UNNEST($1::text[], $2::text[]) AS k (device_id, module_id)
             JOIN twins t ON t.device_id = k.device_id AND t.module_id = k.module_id"
        ),
        &[&devices, &modules],
    )
    .await?;
    let found = rows.iter().filter_map(readable_key);
    Ok(found
        .map(|(key, row)| (key.clone(), into_loaded(key.clone(), decode(key, row))))
        .collect())
}

async fn families(
    client: &Client,
    selections: &[Selection],
) -> Result<BTreeMap<DeviceId, Vec<Loaded>>, Error> {
    let devices = selections.iter().filter_map(|selection| match selection {
        Selection::Family(device) => Some(device.as_str()),
        _ => None,
    });
    let devices: Vec<&str> = devices.collect();
    let mut families: BTreeMap<DeviceId, Vec<Loaded>> = BTreeMap::new();
    if devices.is_empty() {
        return Ok(families);
    }
    let rows = query(
        client,
        "read the twins of devices",
        &format!(
            "SELECT {COLUMNS} FROM twins t WHERE t.device_id = ANY($1::text[])
             ORDER BY t.device_id, t.module_id"
        ),
        &[&devices],
    )
    .await?;
    for (key, row) in rows.iter().filter_map(readable_key) {
        let family = families.entry(key.device.clone()).or_default();
        family.push(into_loaded(key.clone(), decode(key, row)));
    }
    Ok(families)
}

/// The key of a row; one that cannot be read is told of and left out.
fn readable_key(row: &PgRow) -> Option<(IdentityKey, &PgRow)> {
    match key(row) {
        Ok(key) => Some((key, row)),
        Err(damaged) => {
            tracing::error!(error = %damaged, "a stored twin was left out");
            None
        }
    }
}

fn into_loaded(key: IdentityKey, result: Result<Record, Damaged>) -> Loaded {
    match result {
        Ok(record) => Loaded::Whole(Box::new(record)),
        Err(damaged) => Loaded::Damaged(key, damaged),
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

async fn enrollment_token(
    client: &Client,
    hash: TokenHash,
    device: &DeviceId,
) -> Result<Option<EnrollmentState>, Error> {
    let action = "read an enrolment token";
    let rows = query(
        client,
        action,
        "SELECT t.device_id, t.expires_at, t.uses_max,
             (SELECT count(*) FROM enrollments e WHERE e.hash = t.hash),
             (SELECT e.nonce FROM enrollments e WHERE e.hash = t.hash AND e.device_id = $2)
         FROM enrollment_tokens t WHERE t.hash = $1",
        &[&&hash[..], &device.as_str()],
    )
    .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let Some(token) = parse_token(hash, row) else {
        // A token that cannot be read opens nothing; its owner asks for a new one.
        tracing::error!("a stored enrolment token is damaged");
        return Ok(None);
    };
    let uses: i64 = row.try_get(3).map_err(engine(action))?;
    let nonce: Option<&str> = row.try_get(4).map_err(engine(action))?;
    Ok(Some(EnrollmentState {
        token,
        uses: u32::try_from(uses).unwrap_or(u32::MAX),
        nonce: nonce.map(text::unpack),
    }))
}

fn parse_token(hash: TokenHash, row: &PgRow) -> Option<EnrollmentToken> {
    let device = match row.try_get(0).ok()? {
        "" => None,
        id => Some(DeviceId::parse(id).ok()?),
    };
    Some(EnrollmentToken {
        hash,
        device,
        expires_at: Timestamp::from_second(row.try_get(1).ok()?).ok()?,
        uses_max: u32::try_from(row.try_get::<_, i64>(2).ok()?).ok()?,
    })
}
