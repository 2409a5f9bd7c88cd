//! Looks at revisions of the embedded store in the order of their times, also where a key is damaged.

use std::collections::BTreeMap;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, Transaction, params};

use super::engine;
use crate::store::Error;
use crate::store::place::Place;
use crate::store::quarantine::{NOTES_MAX, Note};

/// Looks at revisions in the order of their times, up to one. What cannot be read of is noted and passed over;
/// a store with more of that than can be noted is to be restored.
pub(in crate::store::sqlite) fn look(
    connection: &Connection,
    from: &Place,
    end: i64,
    limit: u32,
    notes: &mut Vec<Note>,
) -> Result<Vec<Place>, Error> {
    let action = "look at revisions";
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let rows = i64::from(limit) + NOTES_MAX;
    let mut statement = connection
        .prepare_cached(
            "SELECT at, device_id, module_id, revision FROM history
             WHERE (at, device_id, module_id, revision) > (?1, ?2, ?3, ?4) AND at < ?5
             ORDER BY at, device_id, module_id, revision LIMIT ?6",
        )
        .map_err(engine(action))?;
    let parameters = params![from.at, from.device, from.module, from.revision, end, rows];
    let mut rows = statement.query(parameters).map_err(engine(action))?;
    let mut found = Vec::new();
    while found.len() < wanted
        && let Some(row) = rows.next().map_err(engine(action))?
    {
        match place(row) {
            Ok(place) => found.push(place),
            Err(_) => notes.push(Note::of_unreadable_revision(
                bytes(row, 1),
                bytes(row, 2),
                row.get(3).ok(),
            )),
        }
    }
    Ok(found)
}

fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        at: row.get(0)?,
        device: row.get(1)?,
        module: row.get(2)?,
        revision: row.get(3)?,
    })
}

/// The bytes of a text, whatever they are; none if it is something else.
fn bytes<'r>(row: &'r Row<'_>, column: usize) -> Option<&'r [u8]> {
    row.get_ref(column).ok()?.as_bytes().ok()
}

/// A text as it is in the file. One that was damaged need not be UTF-8, and is found as any other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text(Vec<u8>);

impl ToSql for Text {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

/// Identities, with how often they are named; but for those that are no text at all.
pub(super) fn keys(
    transaction: &Transaction<'_>,
    action: &'static str,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<BTreeMap<(Text, Text), u32>, Error> {
    let mut keys = BTreeMap::new();
    let mut statement = transaction.prepare_cached(sql).map_err(engine(action))?;
    let mut rows = statement.query(parameters).map_err(engine(action))?;
    while let Some(row) = rows.next().map_err(engine(action))? {
        if let (Some(device), Some(module)) = (bytes(row, 0), bytes(row, 1)) {
            let key = (Text(device.to_vec()), Text(module.to_vec()));
            *keys.entry(key).or_insert(0) += 1;
        }
    }
    Ok(keys)
}
