//! Revisions in a row put together: the way there and the way back of all of them as one. Pure.

use std::time::Duration;

use serde_json::Value;

use super::{Delta, Unreadable, parse};
use crate::store::HistoryEntry;

/// Whether an entry may be put together with the last one of its identity: both moved nothing but
/// counters and times, all of it is within `within`, and nothing is missing between them.
pub fn may_merge(older: &HistoryEntry, newer: &HistoryEntry, within: Duration) -> bool {
    let span = newer.at.duration_since(older.first_at);
    older.key == newer.key
        && older.routine
        && newer.routine
        && older.revision < newer.first_revision
        && follows(older, newer)
        && Duration::try_from(span).is_ok_and(|span| span <= within && !within.is_zero())
}

/// Whether nothing is missing between an entry and the next one that is there, as far as that one knows. One
/// that knows does not become one with one that does not: what is missing before it would be forgotten.
pub fn follows(older: &HistoryEntry, newer: &HistoryEntry) -> bool {
    match newer.previous {
        None => true,
        Some(previous) => older.previous.is_some() && previous == older.revision,
    }
}

/// Two revisions in a row as one, with the actor and the cause of the newer.
///
/// # Errors
/// A patch cannot be read; nothing but a damaged store causes it.
pub fn merge(older: &HistoryEntry, newer: &HistoryEntry) -> Result<HistoryEntry, Unreadable> {
    let joined = join(&read(older)?, &read(newer)?);
    Ok(of_both(older, newer, &joined))
}

/// Revisions in a row as one; none of none. Each is read once, however many there are.
///
/// # Errors
/// A patch cannot be read; nothing but a damaged store causes it.
pub fn merge_all(entries: &[HistoryEntry]) -> Result<Option<HistoryEntry>, Unreadable> {
    let Some((first, rest)) = entries.split_first() else {
        return Ok(None);
    };
    let Some(last) = rest.last() else {
        return Ok(Some(first.clone()));
    };
    let mut joined = read(first)?;
    let mut changes = first.changes.clone();
    let mut has_registry = first.has_registry;
    for entry in rest {
        joined = join(&joined, &read(entry)?);
        changes.extend(&entry.changes);
        has_registry &= entry.has_registry;
    }
    let merged = of_both(first, last, &joined);
    Ok(Some(HistoryEntry {
        changes,
        has_registry,
        routine: entries.iter().all(|entry| entry.routine),
        ..merged
    }))
}

fn join(first: &Delta, second: &Delta) -> Delta {
    first.then(second).unwrap_or_else(|| {
        // Back where it began: nowhere, or with what it had.
        if second.patch.is_null() {
            Delta {
                patch: Value::Null,
                undo: Value::Null,
            }
        } else {
            Delta::nothing()
        }
    })
}

fn of_both(older: &HistoryEntry, newer: &HistoryEntry, joined: &Delta) -> HistoryEntry {
    HistoryEntry {
        first_revision: older.first_revision,
        first_at: older.first_at,
        changes: older.changes.union(&newer.changes).copied().collect(),
        patch: joined.patch.to_string(),
        undo: joined.undo.to_string(),
        has_registry: older.has_registry && newer.has_registry,
        routine: older.routine && newer.routine,
        previous: older.previous,
        // Routine ones have none, and of other two the patch says it all.
        notification: None,
        ..newer.clone()
    }
}

fn read(entry: &HistoryEntry) -> Result<Delta, Unreadable> {
    Ok(Delta {
        patch: parse(entry, "patch", &entry.patch)?,
        undo: parse(entry, "undo", &entry.undo)?,
    })
}
