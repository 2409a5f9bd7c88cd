//! Notes of damaged rows in the embedded store.

use rusqlite::types::Value;
use rusqlite::{Connection, Params, Transaction, params, params_from_iter};
use twin::IdentityKey;

use super::write::{begin, execute};
use super::{engine, module_text, read};
use crate::record::Damaged;
use crate::store::maintain::{Kind, Table};
use crate::store::quarantine::{NOTES_MAX, Note, STUCK, UNFIT, report};
use crate::store::{Error, failpoint};

/// Notes damaged rows and says so, once for each.
pub(super) fn note(connection: &mut Connection, notes: &[Note]) -> Result<(), Error> {
    // It may have been written anew since it was read. This is the connection that writes, so it
    // stays as it is now; and a transaction that came upon damage could write no more.
    let is_damaged = |note: &&Note| {
        if note.is_of_writing() {
            return true;
        }
        let found = note.twin().map(|key| read::find(connection, &key));
        !matches!(found, Some(Ok(None | Some(Ok(_)))))
    };
    let damaged: Vec<&Note> = notes.iter().filter(is_damaged).collect();
    let transaction = begin(connection)?;
    for note in damaged {
        let fresh = execute(
            &transaction,
            "note a damaged row",
            "INSERT INTO quarantine (table_name, key, found_at, problem)
             VALUES (?1, ?2, unixepoch() * 1000000000, ?3)
             ON CONFLICT (table_name, key) DO UPDATE SET
                 problem = excluded.problem || '; ' || quarantine.problem
             WHERE (substr(excluded.problem, 1, length(?4)) = ?4
                     OR substr(excluded.problem, 1, length(?5)) = ?5)
                 AND substr(quarantine.problem, 1, length(?4)) <> ?4
                 AND substr(quarantine.problem, 1, length(?5)) <> ?5",
            // Because of these notes an index is made anew, whatever else is noted of the row.
            params![
                note.table.name(),
                note.key_text(),
                note.problem,
                STUCK,
                UNFIT
            ],
        )?;
        if fresh > 0 {
            report(note);
        }
    }
    failpoint::hit("quarantine.written");
    transaction.commit().map_err(engine("note a damaged row"))?;
    failpoint::hit("quarantine.durable");
    Ok(())
}

/// What is noted, twins first.
pub(super) fn list(connection: &Connection) -> Result<Vec<Damaged>, Error> {
    let notes = notes(connection)?;
    Ok(notes.into_iter().map(Note::into_damaged).collect())
}

fn notes(connection: &Connection) -> Result<Vec<Note>, Error> {
    read_notes(
        connection,
        "SELECT table_name, key, problem FROM quarantine
         ORDER BY table_name <> ?1, table_name, key LIMIT ?2",
        params![Table::Twins.name(), NOTES_MAX],
    )
}

fn read_notes(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> Result<Vec<Note>, Error> {
    let action = "list damaged rows";
    let mut statement = connection.prepare_cached(sql).map_err(engine(action))?;
    let rows = statement
        .query_map(parameters, |row| {
            let read = || -> rusqlite::Result<_> {
                let (table, key): (String, String) = (row.get(0)?, row.get(1)?);
                Ok(Note::read(&table, &key, row.get(2)?))
            };
            // A note that is damaged itself keeps no other from being read.
            Ok(read().ok().flatten())
        })
        .map_err(engine(action))?;
    let notes = rows
        .collect::<Result<Vec<_>, _>>()
        .map_err(engine(action))?;
    Ok(notes.into_iter().flatten().collect())
}

/// Whether anything is noted; asked once in each commit.
pub(super) fn any(transaction: &Transaction<'_>) -> Result<bool, Error> {
    transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM quarantine)")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(engine("look for damaged rows"))
}

/// Forgets that a twin was damaged; answers whether it was. Its entries of the index have to go, too: whoever writes the
/// twin anew could not know which there were.
pub(super) fn clear(transaction: &Transaction<'_>, key: &IdentityKey) -> Result<bool, Error> {
    let noted = execute(
        transaction,
        "forget that a twin was damaged",
        "DELETE FROM quarantine WHERE table_name = ?1 AND key = json_array(?2, ?3)",
        params![Table::Twins.name(), key.device.as_str(), module_text(key)],
    )?;
    Ok(noted > 0)
}

/// Forgets notes of rows that are gone; of a revision whose key cannot be read, when it is older than the histories
/// that are kept.
pub(super) fn sweep(connection: &mut Connection, oldest_kept: i64) -> Result<(), Error> {
    let action = "forget notes of rows that are gone";
    let mut gone = notes(connection)?;
    gone.retain(|note| !is_there(connection, note));
    let unreadable = unreadable(connection, oldest_kept)?;
    if gone.is_empty() && unreadable.is_empty() {
        return Ok(());
    }
    gone.extend(unreadable);
    let transaction = begin(connection)?;
    for note in gone {
        execute(
            &transaction,
            action,
            "DELETE FROM quarantine WHERE table_name = ?1 AND key = ?2",
            params![note.table.name(), note.key_text()],
        )?;
    }
    failpoint::hit("sweep.written");
    transaction.commit().map_err(engine(action))?;
    failpoint::hit("sweep.durable");
    Ok(())
}

/// Notes of rows whose keys cannot be read, from before a time; but for twins, which never grow old.
fn unreadable(connection: &Connection, before: i64) -> Result<Vec<Note>, Error> {
    let mut notes = read_notes(
        connection,
        "SELECT table_name, key, problem FROM quarantine
         WHERE table_name <> ?1 AND found_at < ?2 LIMIT ?3",
        params![Table::Twins.name(), before, NOTES_MAX],
    )?;
    notes.retain(|note| note.place().is_none());
    Ok(notes)
}

/// Whether the row of a note is there; also if nobody can tell.
fn is_there(connection: &Connection, note: &Note) -> bool {
    let Some(place) = note.place() else {
        return true;
    };
    let names = place.iter().map(|(name, ..)| format!("{name} = ?"));
    let names: Vec<_> = names.collect();
    let values = place.iter().map(|(_, kind, text)| value(*kind, text));
    let Some(values) = values.collect::<Option<Vec<_>>>() else {
        return true;
    };
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM {} WHERE {})",
        note.table.name(),
        names.join(" AND ")
    );
    connection
        .query_row(&sql, params_from_iter(values), |row| row.get(0))
        .unwrap_or(true)
}

fn value(kind: Kind, text: &str) -> Option<Value> {
    Some(match kind {
        Kind::Text | Kind::OptionalText => Value::Text(text.to_owned()),
        Kind::Bytes => Value::Blob(crate::hex::bytes(text)?),
        Kind::Integer | Kind::OptionalInteger | Kind::Truth => Value::Integer(text.parse().ok()?),
    })
}
