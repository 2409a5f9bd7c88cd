//! Looks at revisions of the shared store in the order of their times, also where some cannot be read.

use std::ops::Range;

use deadpool_postgres::Transaction;
use service_kit::error::chain;
use tokio_postgres::Row;

use crate::store::Error;
use crate::store::place::Place;
use crate::store::postgres::apart::{Care, Found, in_time};
use crate::store::postgres::query_in;
use crate::store::postgres::text::Raw;
use crate::store::quarantine::{NOTES_MAX, Note};

/// What a walk has found.
#[derive(Debug)]
pub(in crate::store::postgres) struct Looked {
    pub(in crate::store::postgres) found: Vec<Place>,
    /// Where to go on if nothing was found: behind what cannot be read.
    pub(in crate::store::postgres) beyond: Option<Place>,
}

/// Looks at revisions in the order of their times, up to one. What cannot be read of is noted and passed over;
/// a store with more of that than can be noted is to be restored.
pub(in crate::store::postgres) async fn look(
    transaction: &Transaction<'_>,
    from: &Place,
    end: i64,
    limit: u32,
    care: Care,
    notes: &mut Vec<Note>,
) -> Result<Looked, Error> {
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let read = |time: Range<i64>, most: usize| rows(transaction, from, time, most);
    let most = usize::try_from(i64::from(limit) + NOTES_MAX).unwrap_or(usize::MAX);
    let looked = in_time(transaction, care, from.at..end, most, read).await?;
    note_holes(&looked, notes);
    let beyond = looked.beyond().map(|at| Place {
        at,
        ..Place::default()
    });
    let mut found = Vec::new();
    for row in &looked.rows {
        if found.len() == wanted {
            break;
        }
        match place(row) {
            Ok(place) => found.push(place),
            Err(_) => notes.push(Note::of_unreadable_revision(
                bytes(row, 1),
                bytes(row, 2),
                row.try_get(3).ok(),
            )),
        }
    }
    Ok(Looked { found, beyond })
}

/// Notes where revisions cannot be read; of what is wrong in one way, as a page is, the first place.
pub(super) fn note_holes<T>(found: &Found<T>, notes: &mut Vec<Note>) {
    let mut known = Vec::new();
    for (at, why) in &found.holes {
        let why = chain(why);
        if !known.contains(&why) {
            notes.push(Note::of_unreadable_time(*at, &why));
            known.push(why);
        }
    }
}

async fn rows(
    transaction: &Transaction<'_>,
    from: &Place,
    time: Range<i64>,
    most: usize,
) -> Result<Vec<Row>, Error> {
    query_in(
        transaction,
        "look at revisions",
        "SELECT at, device_id, module_id, revision FROM history
         WHERE at >= $5 AND at < $6 AND (at, device_id, module_id, revision) > ($1, $2, $3, $4)
         ORDER BY at, device_id, module_id, revision LIMIT $7",
        &[
            &from.at,
            &from.device,
            &from.module,
            &from.revision,
            &time.start,
            &time.end,
            &i64::try_from(most).unwrap_or(i64::MAX),
        ],
    )
    .await
}

fn place(row: &Row) -> Result<Place, tokio_postgres::Error> {
    Ok(Place {
        at: row.try_get(0)?,
        device: row.try_get(1)?,
        module: row.try_get(2)?,
        revision: row.try_get(3)?,
    })
}

/// The bytes of a text, whatever they are; none if there is none.
fn bytes(row: &Row, column: usize) -> Option<&[u8]> {
    row.try_get(column).ok().map(|Raw(bytes)| bytes)
}
