//! Puts routine revisions of the shared store together when they are no longer young.
//!
//! In few statements, whatever their number. Who puts revisions together holds their rows; a replica whose
//! commit puts one of them to another one comes before or after.

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use twin::IdentityKey;

use super::trails::{COLUMNS, revision, write};
use super::trim::look;
use super::{engine, execute, query_in};
use crate::store::place::Walk;
use crate::store::quarantine::Note;
use crate::store::row::parse_key;
use crate::store::thin::{AT_ONCE, Join, Joined, LIGHTS, Light, Reach, Run, Spans, Turn, joins_of};
use crate::store::{Error, HistoryEntry, Retention};

/// Puts together what can be in one turn, and moves on.
pub(super) async fn thin(
    transaction: &Transaction<'_>,
    retention: &Retention,
    walk: &mut Walk,
    notes: &mut Vec<Note>,
) -> Result<Joined, Error> {
    let Some(spans) = Spans::of(retention) else {
        return Ok(Joined::default());
    };
    let finds = Turn::finds(retention);
    let found = look(transaction, &walk.place, spans.end, finds, notes).await?;
    let mut turn = Turn::new(spans, retention, found);
    loop {
        let next = turn.next(AT_ONCE);
        if next.is_empty() {
            break;
        }
        for lights in lights(transaction, &next).await? {
            turn.take(&lights);
        }
    }
    let (runs, place) = turn.end();
    walk.reach(place);
    if runs.is_empty() {
        return Ok(Joined::default());
    }
    let read = read(transaction, &runs).await?;
    // Parsing takes longer than other tasks may wait for the thread.
    let (joins, left) = tokio::task::spawn_blocking(move || joins(&runs, &read))
        .await
        .map_err(engine("put revisions together"))?;
    let mut joined = Joined {
        left,
        ..Joined::default()
    };
    replace(transaction, &joins).await?;
    for join in &joins {
        joined.count(join);
    }
    Ok(joined)
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

/// What becomes of the runs, and which are not as they were when they were looked at.
fn joins(runs: &[Run], rows: &[Row]) -> (Vec<Join>, Vec<Run>) {
    let number = |row: &Row| row.try_get::<_, i64>(0).unwrap_or_default();
    let (mut joins, mut left) = (Vec::new(), Vec::new());
    for (index, run) in runs.iter().enumerate() {
        let Ok(key) = parse_key(&run.device, &run.module) else {
            continue;
        };
        let rows: Vec<&Row> = {
            let wanted = i64::try_from(index).map_or(0, |index| index + 1);
            let from = rows.partition_point(|row| number(row) < wanted);
            let rows = rows.get(from..).unwrap_or_default().iter();
            rows.take_while(|row| number(row) == wanted).collect()
        };
        if rows.len() != run.count {
            left.push(run.clone());
            continue;
        }
        joins.extend(joins_of(run, &entries(&key, &rows)));
    }
    (joins, left)
}

fn entries(key: &IdentityKey, rows: &[&Row]) -> Vec<Option<HistoryEntry>> {
    let read = rows.iter().map(|row| revision(key.clone(), row, 1).ok());
    read.collect()
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
