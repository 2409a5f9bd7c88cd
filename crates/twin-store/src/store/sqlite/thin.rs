//! Puts routine revisions of the embedded store together when they are no longer young.
//!
//! What is put together is read and parsed by a reader; the writing thread, for which commits wait, only
//! looks whether it is there still, and writes. Revisions never change: they go, or become part of one with
//! another number, so it is enough to count them.

use rusqlite::{Connection, Row, Transaction, params};

use service_kit::error::chain;

use super::engine;
use super::read::is_of_damage;
use super::trails::{COLUMNS, history_row, insert};
use super::trim::{Stuck, Text, look};
use super::write::execute;
use crate::store::place::Walk;
use crate::store::quarantine::Note;
use crate::store::row::{history, parse_key};
use crate::store::thin::{Join, Joined, LIGHTS, Light, Reach, Run, Spans, Turn, joins_of};
use crate::store::{Error, Retention};

/// Reads what can be put together in one turn, and moves on.
pub(super) fn plan(
    connection: &Connection,
    retention: &Retention,
    walk: &mut Walk,
    notes: &mut Vec<Note>,
) -> Result<(Vec<Join>, Vec<Run>), Error> {
    let (mut joins, mut left) = (Vec::new(), Vec::new());
    let Some(spans) = Spans::of(retention) else {
        return Ok((joins, left));
    };
    let finds = Turn::finds(retention);
    let found = look(connection, &walk.place, spans.end, finds, notes)?;
    let mut turn = Turn::new(spans, retention, found);
    while let [reach, ..] = turn.next(1).as_slice() {
        let lights = match lights(connection, reach) {
            Ok(lights) => lights,
            Err(error) => {
                notes.push(passed(&reach.device, &reach.module, reach.revision, error)?);
                Vec::new()
            }
        };
        turn.take(&lights);
    }
    let (runs, place) = turn.end();
    walk.reach(place);
    for run in runs {
        match read(connection, &run) {
            Ok(Some(read)) => joins.extend(read),
            Ok(None) => left.push(run),
            Err(error) => notes.push(passed(&run.device, &run.module, run.first, error)?),
        }
    }
    Ok((joins, left))
}

/// What is noted where the engine cannot read on because of damage; anything else fails all.
fn passed(device: &str, module: &str, first: i64, error: Error) -> Result<Note, Error> {
    if !is_of_damage(&error) {
        return Err(error);
    }
    Ok(Note::of_revisions(device, module, first, chain(&error)))
}

/// Puts them together, but for what something came between.
pub(super) fn thin(
    transaction: &Transaction<'_>,
    joins: &[Join],
    stuck: &Stuck,
) -> Result<Joined, Error> {
    let mut joined = Joined::default();
    for join in joins {
        let Join { run, merged } = join;
        let (device, module) = (Text::from(&*run.device), Text::from(&*run.module));
        let is_joined = stuck.apart(transaction, (&device, &module), || {
            if !is_there(transaction, run)? {
                return Ok(false);
            }
            execute(
                transaction,
                "put revisions together",
                "DELETE FROM history WHERE device_id = ?1 AND module_id = ?2
                     AND revision BETWEEN ?3 AND ?4",
                params![run.device, run.module, run.first, run.last],
            )?;
            insert(transaction, merged)?;
            Ok(true)
        })?;
        match is_joined {
            Some(true) => joined.count(join),
            Some(false) => joined.left.push(run.clone()),
            None => {}
        }
    }
    Ok(joined)
}

fn is_there(transaction: &Transaction<'_>, run: &Run) -> Result<bool, Error> {
    let found: i64 = transaction
        .prepare_cached(
            "SELECT count(*) FROM history WHERE device_id = ?1 AND module_id = ?2
                 AND revision BETWEEN ?3 AND ?4",
        )
        .and_then(|mut statement| {
            statement.query_row(
                params![run.device, run.module, run.first, run.last],
                |row| row.get(0),
            )
        })
        .map_err(engine("look at revisions"))?;
    Ok(usize::try_from(found) == Ok(run.count))
}

/// Revisions of an identity up to where its reach ends, and the one before them, with which the first may be put
/// together.
pub(super) fn lights(connection: &Connection, reach: &Reach) -> Result<Vec<Light>, Error> {
    let action = "look at revisions";
    let mut statement = connection
        .prepare_cached(
            "SELECT revision, first_at, at, routine, octet_length(patch) + octet_length(undo)
             FROM history
             WHERE device_id = ?1 AND module_id = ?2 AND revision >= coalesce(
                 (SELECT max(revision) FROM history
                  WHERE device_id = ?1 AND module_id = ?2 AND revision < ?3), ?3)
             ORDER BY revision LIMIT ?4",
        )
        .map_err(engine(action))?;
    let parameters = params![reach.device, reach.module, reach.revision, LIGHTS];
    let mut rows = statement.query(parameters).map_err(engine(action))?;
    let mut lights = Vec::new();
    while let Some(row) = rows.next().map_err(engine(action))? {
        // One without a number is between no others.
        let Ok(light) = light(row) else { continue };
        let last = lights.last().map_or(i64::MIN, |last: &Light| last.revision);
        if light.revision <= last {
            // Its number is damaged, and of where it stands nothing is known.
            lights.push(Light::unreadable(last));
            continue;
        }
        // Steps of the engine are what costs, so there is none beyond.
        if reach.ends_at(&light) {
            break;
        }
        lights.push(light);
    }
    Ok(lights)
}

/// What decides on a revision.
fn light(row: &Row<'_>) -> rusqlite::Result<Light> {
    let revision = row.get(0)?;
    let read = || -> rusqlite::Result<Light> {
        Ok(Light {
            revision,
            first_at: row.get(1)?,
            at: row.get(2)?,
            routine: row.get(3)?,
            bytes: row.get(4)?,
        })
    };
    Ok(read().unwrap_or_else(|_| Light::unreadable(revision)))
}

/// Makes one of revisions in a row; none where there are others between them than were looked at.
fn read(connection: &Connection, run: &Run) -> Result<Option<Vec<Join>>, Error> {
    let action = "read revisions";
    let Ok(key) = parse_key(&run.device, &run.module) else {
        return Ok(Some(Vec::new()));
    };
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM history WHERE device_id = ?1 AND module_id = ?2
                 AND revision BETWEEN ?3 AND ?4 ORDER BY revision LIMIT ?5"
        ))
        .map_err(engine(action))?;
    let limit = i64::try_from(run.count)
        .unwrap_or(i64::MAX)
        .saturating_add(1);
    let mut rows = statement
        .query(params![run.device, run.module, run.first, run.last, limit])
        .map_err(engine(action))?;
    let mut entries = Vec::with_capacity(run.count);
    while let Some(row) = rows.next().map_err(engine(action))? {
        let read = history_row(row, 0).ok();
        entries.push(read.and_then(|row| history::decode(key.clone(), row).ok()));
    }
    Ok((entries.len() == run.count).then(|| joins_of(run, &entries)))
}
