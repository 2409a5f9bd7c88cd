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
    match row.get_ref(column).ok()? {
        ValueRef::Text(bytes) => Some(bytes),
        _ => None,
    }
}

/// A text as it is in the file. One that was damaged need not be UTF-8, and is found as any other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store::sqlite) struct Text(Vec<u8>);

impl ToSql for Text {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

impl Text {
    /// As people read it.
    pub(super) fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.as_bytes().to_vec())
    }
}

/// Rows that were found, and of which identities.
pub(super) struct Due {
    /// Each with the first of its revisions that was found, and how many there are; but for those that are no text
    /// at all.
    pub(super) keys: BTreeMap<(Text, Text), (Option<i64>, u32)>,
    /// All of them, whatever they are.
    pub(super) rows: u32,
}

/// So many rows of a statement, but for those of identities that are skipped.
pub(super) fn due(
    transaction: &Transaction<'_>,
    (action, sql): (&'static str, &str),
    parameters: impl rusqlite::Params,
    skip: impl Fn(&(Text, Text)) -> bool,
    limit: u32,
) -> Result<Due, Error> {
    let (mut keys, mut found) = (BTreeMap::new(), 0);
    let mut statement = transaction.prepare_cached(sql).map_err(engine(action))?;
    let mut rows = statement.query(parameters).map_err(engine(action))?;
    while found < limit
        && let Some(row) = rows.next().map_err(engine(action))?
    {
        if let (Some(device), Some(module)) = (bytes(row, 0), bytes(row, 1)) {
            let key = (Text(device.to_vec()), Text(module.to_vec()));
            if skip(&key) {
                continue;
            }
            keys.entry(key).or_insert((row.get(2).ok(), 0)).1 += 1;
        }
        found += 1;
    }
    Ok(Due { keys, rows: found })
}
