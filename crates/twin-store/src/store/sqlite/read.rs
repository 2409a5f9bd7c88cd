//! What the embedded store's readers do.
//!
//! A row that cannot be read is reported for itself and never fails the rows beside it, whether its
//! body or its key is damaged.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use twin::{DeviceId, IdentityKey, ModuleId, Partition, Revision};

use super::{engine, module_text};
use crate::record::{Damaged, Record};
use crate::store::row::{self, Row};
use crate::store::{
    EnrollmentState, EnrollmentToken, Error, Listing, Loaded, OutboxChange, Page, Selection,
    TokenHash,
};

/// Reads what is selected.
pub(super) fn load(
    connection: &Connection,
    selections: &[Selection],
) -> Result<Vec<Loaded>, Error> {
    let mut loaded = Vec::with_capacity(selections.len());
    for selection in selections {
        match selection {
            Selection::One(key) => loaded.extend(one(connection, key)?),
            Selection::Family(device) => family(connection, device, &mut loaded)?,
            Selection::Token(hash, device) => {
                let state = enrollment_token(connection, *hash, device)?;
                loaded.extend(state.map(|state| Loaded::Token(device.clone(), state)));
            }
        }
    }
    Ok(loaded)
}

/// Reads one record.
pub(super) fn get(connection: &Connection, key: &IdentityKey) -> Result<Option<Record>, Error> {
    let found = find(connection, key)?;
    Ok(found
        .map(|row| row::decode(key.clone(), &row))
        .transpose()?)
}

fn one(connection: &Connection, key: &IdentityKey) -> Result<Option<Loaded>, Error> {
    Ok(find(connection, key)?.map(|row| loaded(key.clone(), &row)))
}

fn find(connection: &Connection, key: &IdentityKey) -> Result<Option<Row>, Error> {
    let action = "read a twin";
    connection
        .prepare_cached(
            "SELECT device_id, module_id, revision, body, checksum FROM twins
             WHERE device_id = ?1 AND module_id = ?2",
        )
        .map_err(engine(action))?
        .query_row(params![key.device.as_str(), module_text(key)], read_row)
        .optional()
        .map_err(engine(action))
}

fn family(connection: &Connection, device: &DeviceId, all: &mut Vec<Loaded>) -> Result<(), Error> {
    let action = "read the twins of a device";
    let mut statement = connection
        .prepare_cached(
            "SELECT device_id, module_id, revision, body, checksum FROM twins
             WHERE device_id = ?1 ORDER BY module_id",
        )
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params![device.as_str()])
        .map_err(engine(action))?;
    while let Some(row) = rows.next().map_err(engine(action))? {
        match read_key(row).map_err(engine(action))? {
            Ok(key) => all.push(loaded(key, &read_row(row).map_err(engine(action))?)),
            Err(damaged) => tracing::error!(error = %damaged, "a stored twin was left out"),
        }
    }
    Ok(())
}

/// Reads a page. Rows are stepped through one by one, because a page must end with a row whose key
/// can be read: the next page starts behind it.
pub(super) fn list(
    connection: &Connection,
    listing: Listing,
    after: Option<&IdentityKey>,
    limit: u32,
) -> Result<Page, Error> {
    let action = "list twins";
    let (device, module) = after.map_or(("", ""), |key| (key.device.as_str(), module_text(key)));
    let mut statement = connection
        .prepare_cached(match listing {
            Listing::All => {
                "SELECT device_id, module_id, revision, body, checksum FROM twins
                 WHERE (device_id, module_id) > (?1, ?2) ORDER BY device_id, module_id"
            }
            Listing::Devices => {
                "SELECT device_id, module_id, revision, body, checksum FROM twins
                 WHERE (device_id, module_id) > (?1, ?2) AND module_id = ''
                 ORDER BY device_id, module_id"
            }
        })
        .map_err(engine(action))?;
    let mut rows = statement
        .query(params![device, module])
        .map_err(engine(action))?;
    let mut page = Page::default();
    let (mut count, mut readable) = (0, true);
    while let Some(row) = rows.next().map_err(engine(action))? {
        if count >= limit && readable {
            return Ok(page);
        }
        count += 1;
        match read_key(row).map_err(engine(action))? {
            Ok(key) => {
                readable = true;
                page.next = Some(key.clone());
                match row::decode(key, &read_row(row).map_err(engine(action))?) {
                    Ok(record) => page.records.push(record),
                    Err(damaged) => page.damaged.push(damaged),
                }
            }
            Err(damaged) => {
                readable = false;
                page.damaged.push(damaged);
            }
        }
    }
    page.next = None;
    Ok(page)
}

fn loaded(key: IdentityKey, row: &Row) -> Loaded {
    match row::decode(key.clone(), row) {
        Ok(record) => Loaded::Whole(Box::new(record)),
        Err(damaged) => Loaded::Damaged(key, damaged),
    }
}

/// The key of a row; the inner error means that it is damaged. It is read as bytes, because a
/// flipped bit may leave no UTF-8.
fn read_key(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<IdentityKey, Damaged>> {
    let text = |column| -> rusqlite::Result<String> {
        let bytes = row.get_ref(column)?.as_bytes()?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    let (device, module) = (text(0)?, text(1)?);
    Ok(parse_key(&device, &module).map_err(|problem| Damaged {
        key: format!("{device}/{module}"),
        part: "key",
        problem: problem.to_string(),
    }))
}

fn parse_key(device: &str, module: &str) -> Result<IdentityKey, twin::IdError> {
    Ok(IdentityKey {
        device: DeviceId::parse(device)?,
        module: match module {
            "" => None,
            module => Some(ModuleId::parse(module)?),
        },
    })
}

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        revision: row.get::<_, i64>(2)?.cast_unsigned(),
        body: row.get(3)?,
        checksum: row.get(4)?,
    })
}

/// Reads what is still to be published.
pub(super) fn outbox(
    connection: &Connection,
    partition: Partition,
    after: Revision,
    limit: u32,
) -> Result<Vec<OutboxChange>, Error> {
    let action = "read its outbox";
    let mut statement = connection
        .prepare_cached(
            "SELECT revision, change FROM outbox WHERE partition = ?1 AND revision > ?2
             ORDER BY revision LIMIT ?3",
        )
        .map_err(engine(action))?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(OutboxChange {
            partition,
            revision: Revision::new(row.get::<_, i64>(0)?.cast_unsigned()),
            change: row.get(1)?,
        })
    };
    let rows = statement
        .query_map(
            params![partition.get(), after.get().cast_signed(), limit],
            read,
        )
        .map_err(engine(action))?;
    rows.collect::<Result<_, _>>().map_err(engine(action))
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
