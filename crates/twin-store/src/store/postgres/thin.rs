//! Puts routine revisions of the shared store together when they are no longer young.
//!
//! In few statements, whatever their number. Who puts revisions together holds their rows; a replica whose
//! commit puts one of them to another one comes before or after.

use std::borrow::Borrow;
use std::ops::Range;

use deadpool_postgres::Transaction;
use service_kit::error::chain;
use tokio_postgres::Row;
use twin::IdentityKey;

use super::apart::{Care, each, part, whole};
use super::read::is_of_damage;
use super::trails::{COLUMNS, revision, write};
use super::trim::look;
use super::{engine, execute, query_in};
use crate::store::place::Walk;
use crate::store::quarantine::Note;
use crate::store::row::parse_key;
use crate::store::thin::{AT_ONCE, Join, Joined, LIGHTS, Light, Reach, Run, Spans, Turn, joins_of};
use crate::store::{Error, HistoryEntry, Retention};

/// Identities of one turn whose revisions cannot be looked at; with more it ends early, and the next one goes on.
const FAILED_MAX: usize = 100;

/// Puts together what can be in one turn, and moves on. With care, what cannot be read stays as it is, between what
/// is put together, and is noted.
pub(super) async fn thin(
    transaction: &Transaction<'_>,
    retention: &Retention,
    walk: &mut Walk,
    care: Care,
    notes: &mut Vec<Note>,
) -> Result<Joined, Error> {
    let Some(spans) = Spans::of(retention) else {
        return Ok(Joined::default());
    };
    let finds = Turn::finds(retention);
    let looked = look(transaction, &walk.place, spans.end, finds, care, notes).await?;
    let mut turn = Turn::new(spans, retention, looked.found);
    let mut failed = 0;
    while failed < FAILED_MAX {
        let next = turn.next(AT_ONCE);
        if next.is_empty() {
            break;
        }
        let (all, unseen) = all_lights(transaction, &next, care).await?;
        failed += unseen.len();
        notes.extend(unseen);
        for lights in all {
            turn.take(&lights);
        }
    }
    let (runs, place) = turn.end();
    walk.reach(place.or(looked.beyond));
    if runs.is_empty() {
        return Ok(Joined::default());
    }
    let (joins, left) = read_all(transaction, runs, care, notes).await?;
    let mut joined = Joined {
        left,
        ..Joined::default()
    };
    let replaced = each(transaction, care, &joins, |range| {
        replace(transaction, part(&joins, range))
    });
    let replaced = replaced.await?;
    for (number, error) in &replaced.failed {
        notes.extend(joins.get(*number).map(|join| stays(&join.run, error)));
    }
    let done = replaced.done.into_iter().map(|(range, ())| range);
    for join in done.flat_map(|range| joins.get(range).unwrap_or_default()) {
        joined.count(join);
    }
    Ok(joined)
}

/// What is noted of a run that cannot be put together.
fn stays(run: &Run, error: &Error) -> Note {
    let why = format!(
        "up to {} they cannot be put together: {}",
        run.last,
        chain(error)
    );
    Note::of_revisions(&run.device, &run.module, run.first, why)
}

/// What decides on the revisions of each, and what is noted of those that cannot be looked at.
async fn all_lights(
    transaction: &Transaction<'_>,
    reaches: &[Reach],
    care: Care,
) -> Result<(Vec<Vec<Light>>, Vec<Note>), Error> {
    let looked = each(transaction, care, reaches, |range| {
        lights(transaction, part(reaches, range))
    });
    let looked = looked.await?;
    let mut all = vec![Vec::new(); reaches.len()];
    for (range, part) in looked.done {
        for (slot, lights) in all.iter_mut().skip(range.start).zip(part) {
            *slot = lights;
        }
    }
    let unseen = looked.failed.iter().filter_map(|(number, error)| {
        let reach = reaches.get(*number)?;
        let why = format!("from here on they cannot be looked at: {}", chain(error));
        let (device, module) = (&reach.device, &reach.module);
        Some(Note::of_revisions(device, module, reach.revision, why))
    });
    Ok((all, unseen.collect()))
}

/// Of each identity the revisions from one on up to where its reach ends, and the one before it, with which it may
/// be put together.
pub(super) async fn lights(
    transaction: &Transaction<'_>,
    reaches: &[Reach],
) -> Result<Vec<Vec<Light>>, Error> {
    let action = "look at revisions";
    let devices: Vec<&str> = reaches.iter().map(|reach| &*reach.device).collect();
    let modules: Vec<&str> = reaches.iter().map(|reach| &*reach.module).collect();
    let revisions: Vec<i64> = reaches.iter().map(|reach| reach.revision).collect();
    let ends: Vec<i64> = reaches.iter().map(|reach| reach.end).collect();
    let lasts: Vec<i64> = reaches.iter().map(|reach| reach.last).collect();
    let rows = query_in(
        transaction,
        action,
        "SELECT k.number, l.revision, l.first_at, l.at, l.routine, l.bytes
         FROM UNNEST($1::text[], $2::text[], $3::bigint[], $5::bigint[], $6::bigint[])
             WITH ORDINALITY AS k (device_id, module_id, revision, ends, last, number)
         CROSS JOIN LATERAL
             (SELECT h.revision, h.first_at, h.at, h.routine,
                  octet_length(h.patch) + octet_length(h.undo) AS bytes
              FROM history h
              WHERE h.device_id = k.device_id AND h.module_id = k.module_id
                  AND h.revision >= coalesce(
                      (SELECT max(b.revision) FROM history b
                       WHERE b.device_id = k.device_id AND b.module_id = k.module_id
                           AND b.revision < k.revision), k.revision)
                  AND h.revision < coalesce(
                      (SELECT min(e.revision) FROM
                           (SELECT i.revision, i.routine, i.at FROM history i
                            WHERE i.device_id = k.device_id AND i.module_id = k.module_id
                                AND i.revision > k.last
                            ORDER BY i.revision LIMIT $4) AS e
                       WHERE NOT e.routine OR e.at >= k.ends), 9223372036854775807)
              ORDER BY h.revision LIMIT $4) AS l
         ORDER BY k.number, l.revision",
        &[
            &devices,
            &modules,
            &revisions,
            &i64::from(LIGHTS),
            &ends,
            &lasts,
        ],
    )
    .await?;
    let mut lights = vec![Vec::new(); reaches.len()];
    for row in &rows {
        // One without a number is between no others.
        let Ok((number, light)) = light(row) else {
            continue;
        };
        let of = usize::try_from(number - 1).ok();
        if let Some(lights) = of.and_then(|of| lights.get_mut(of)) {
            let last = lights.last().map_or(i64::MIN, |last: &Light| last.revision);
            // One whose number is damaged is where an index has it.
            let is_in_order = light.revision > last;
            lights.push(if is_in_order {
                light
            } else {
                Light::unreadable(last)
            });
        }
    }
    Ok(lights)
}

fn light(row: &Row) -> Result<(i64, Light), tokio_postgres::Error> {
    let revision = row.try_get(1)?;
    let read = || -> Result<Light, tokio_postgres::Error> {
        Ok(Light {
            revision,
            first_at: row.try_get(2)?,
            at: row.try_get(3)?,
            routine: row.try_get(4)?,
            bytes: i64::from(row.try_get::<_, i32>(5)?),
        })
    };
    let light = read().unwrap_or_else(|_| Light::unreadable(revision));
    Ok((row.try_get(0)?, light))
}

/// What becomes of runs, and which are not as they were when they were looked at.
async fn read_all(
    transaction: &Transaction<'_>,
    runs: Vec<Run>,
    care: Care,
    notes: &mut Vec<Note>,
) -> Result<(Vec<Join>, Vec<Run>), Error> {
    let read = each(transaction, care, &runs, |range| {
        read(transaction, part(&runs, range))
    });
    let read = read.await?;
    let mut pieces = Vec::new();
    let mut left = Vec::new();
    for (number, _) in &read.failed {
        let Some(run) = runs.get(*number) else {
            continue;
        };
        match read_alone(transaction, run, notes).await? {
            Some(rows) if rows.is_empty() => {}
            Some(rows) => pieces.push((run.clone(), rows)),
            None => left.push(run.clone()),
        }
    }
    // Parsing takes longer than other tasks may wait for the thread.
    let parsed = tokio::task::spawn_blocking(move || {
        let (mut joins, mut left) = joins(&runs, &read.done);
        for (run, rows) in &pieces {
            take(run, rows, &mut joins, &mut left);
        }
        (joins, left)
    });
    let (joins, changed) = parsed.await.map_err(engine("put revisions together"))?;
    left.extend(changed);
    Ok((joins, left))
}

/// Reads the revisions of runs and holds them.
async fn read(transaction: &Transaction<'_>, runs: &[Run]) -> Result<Vec<Row>, Error> {
    let (devices, modules, firsts, lasts) = ranges(runs.iter());
    query_in(
        transaction,
        "read revisions",
        &format!(
            "SELECT n.number, {COLUMNS}
             FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
                 AS n (device_id, module_id, first, last, number)
             JOIN history h ON h.device_id = n.device_id AND h.module_id = n.module_id
                 AND h.revision BETWEEN n.first AND n.last
             ORDER BY n.number, h.revision FOR UPDATE OF h"
        ),
        &[&devices, &modules, &firsts, &lasts],
    )
    .await
}

/// Reads a run of which the server cannot read all: one place for each revision, none where it cannot be read, which
/// is noted. None if the run is not as it was when it was looked at.
async fn read_alone(
    transaction: &Transaction<'_>,
    run: &Run,
    notes: &mut Vec<Note>,
) -> Result<Option<Vec<Option<Row>>>, Error> {
    let numbers = match whole(transaction, numbers(transaction, run)).await? {
        Ok(numbers) if numbers.len() == run.count => numbers,
        Ok(_) => return Ok(None),
        Err(error) if is_of_damage(&error) => {
            // Not even which there are: nothing is put together.
            notes.push(stays(run, &error));
            return Ok(Some(Vec::new()));
        }
        Err(error) => return Err(error),
    };
    let read = each(transaction, Care::Apart, &numbers, |range| {
        read_some(transaction, run, part(&numbers, range))
    });
    let read = read.await?;
    let mut rows: Vec<Option<Row>> = numbers.iter().map(|_| None).collect();
    for (range, part) in read.done {
        if part.len() != range.len() {
            return Ok(None);
        }
        for (slot, row) in rows.iter_mut().skip(range.start).zip(part) {
            *slot = Some(row);
        }
    }
    for (number, error) in read.failed {
        let revision = numbers.get(number).copied().unwrap_or(run.first);
        let why = format!("it cannot be read, and stays by itself: {}", chain(&error));
        notes.push(Note::of_revisions(&run.device, &run.module, revision, why));
    }
    Ok(Some(rows))
}

/// Which revisions a run has; they are held.
async fn numbers(transaction: &Transaction<'_>, run: &Run) -> Result<Vec<i64>, Error> {
    let action = "look at revisions";
    let rows = query_in(
        transaction,
        action,
        "SELECT h.revision FROM history h WHERE h.device_id = $1 AND h.module_id = $2
             AND h.revision BETWEEN $3 AND $4 ORDER BY h.revision FOR UPDATE",
        &[&run.device, &run.module, &run.first, &run.last],
    )
    .await?;
    let numbers = rows
        .iter()
        .map(|row| row.try_get(0).map_err(engine(action)));
    numbers.collect()
}

async fn read_some(
    transaction: &Transaction<'_>,
    run: &Run,
    numbers: &[i64],
) -> Result<Vec<Row>, Error> {
    // The number is where [`joins`] finds that of a run.
    let sql = format!(
        "SELECT 1::bigint, {COLUMNS} FROM history h WHERE h.device_id = $1 AND h.module_id = $2
             AND h.revision = ANY($3) ORDER BY h.revision"
    );
    let keys: [super::Parameter<'_>; 3] = [&run.device, &run.module, &numbers];
    query_in(transaction, "read revisions", &sql, &keys).await
}

/// What becomes of the runs, and which are not as they were when they were looked at.
fn joins(runs: &[Run], parts: &[(Range<usize>, Vec<Row>)]) -> (Vec<Join>, Vec<Run>) {
    let number = |row: &Row| row.try_get::<_, i64>(0).unwrap_or_default();
    let (mut joins, mut left) = (Vec::new(), Vec::new());
    for (range, rows) in parts {
        let runs = runs.get(range.clone()).unwrap_or_default();
        for (run, wanted) in runs.iter().zip(1..) {
            let from = rows.partition_point(|row| number(row) < wanted);
            let rows = rows.get(from..).unwrap_or_default().iter();
            let rows = rows.take_while(|row| number(row) == wanted).map(Some);
            take(run, &rows.collect::<Vec<_>>(), &mut joins, &mut left);
        }
    }
    (joins, left)
}

/// What becomes of one, of which some rows may be missing.
fn take<R: Borrow<Row>>(run: &Run, rows: &[Option<R>], joins: &mut Vec<Join>, left: &mut Vec<Run>) {
    let Ok(key) = parse_key(&run.device, &run.module) else {
        return;
    };
    if rows.len() == run.count {
        joins.extend(joins_of(run, &entries(&key, rows)));
    } else {
        left.push(run.clone());
    }
}

fn entries<R: Borrow<Row>>(key: &IdentityKey, rows: &[Option<R>]) -> Vec<Option<HistoryEntry>> {
    let read = |row: &Option<R>| revision(key.clone(), row.as_ref()?.borrow(), 1).ok();
    rows.iter().map(read).collect()
}

/// Writes what has become of runs in their place.
async fn replace(transaction: &Transaction<'_>, joins: &[Join]) -> Result<(), Error> {
    if joins.is_empty() {
        return Ok(());
    }
    let (devices, modules, firsts, lasts) = ranges(joins.iter().map(|join| &join.run));
    execute(
        transaction,
        "put revisions together",
        "DELETE FROM history h
         USING UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[])
             AS n (device_id, module_id, first, last)
         WHERE h.device_id = n.device_id AND h.module_id = n.module_id
             AND h.revision BETWEEN n.first AND n.last",
        &[&devices, &modules, &firsts, &lasts],
    )
    .await?;
    let merged: Vec<_> = joins.iter().map(|join| join.merged.clone()).collect();
    write(transaction, &merged).await
}

type Ranges<'r> = (Vec<&'r str>, Vec<&'r str>, Vec<i64>, Vec<i64>);

fn ranges<'r>(runs: impl Iterator<Item = &'r Run>) -> Ranges<'r> {
    let mut ranges = Ranges::default();
    for run in runs {
        ranges.0.push(&run.device);
        ranges.1.push(&run.module);
        ranges.2.push(run.first);
        ranges.3.push(run.last);
    }
    ranges
}
