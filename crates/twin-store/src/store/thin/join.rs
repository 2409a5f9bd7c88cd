//! Revisions that become one, and what is left as it is. Pure but for a count of tries.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::history;
use crate::store::HistoryEntry;
use crate::store::place::Walk;
use crate::store::quarantine::Note;

/// Revisions in a row of one identity that become one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Run {
    pub(in crate::store) device: String,
    pub(in crate::store) module: String,
    pub(in crate::store) first: i64,
    pub(in crate::store) last: i64,
    pub(in crate::store) count: usize,
}

impl Run {
    /// That it is never found as it was read.
    pub(in crate::store) fn note(&self) -> Note {
        let why = format!(
            "up to {} they are not found as they are read, and are not put together",
            self.last
        );
        Note::of_revisions(&self.device, &self.module, self.first, why)
    }
}

/// Revisions that become one, and what they become.
#[derive(Debug)]
pub(in crate::store) struct Join {
    pub(in crate::store) run: Run,
    pub(in crate::store) merged: HistoryEntry,
}

/// What was put together.
#[derive(Debug, Default)]
pub(in crate::store) struct Joined {
    /// Revisions that are part of another one now.
    pub(in crate::store) gone: u64,
    /// Revisions that were written for it.
    pub(in crate::store) written: u64,
    /// Runs that were left, because they are not as they were read: something came between.
    pub(in crate::store) left: Vec<Run>,
}

impl Joined {
    /// One was put together.
    pub(in crate::store) fn count(&mut self, join: &Join) {
        let gone = join.run.count.saturating_sub(1);
        self.gone += u64::try_from(gone).unwrap_or(u64::MAX);
        self.written += 1;
    }
}

/// Turns in which one and the same run may be left. What came between is there the next time; what is never as it
/// was read is damaged. (Of a run that age comes upon the first revision is gone, so the next turn has another run.)
const TRIES: u8 = 3;
/// Turns in a row that may leave any runs at one place, or what is behind it would never have its turn: a history may
/// grow old as fast as it is put together.
const TURNS: u8 = 16;

/// Which runs were left at one place, and how often.
#[derive(Debug, Default)]
pub(in crate::store) struct Patience(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Where the walk stands.
    place: Option<String>,
    turns: u8,
    tries: BTreeMap<Run, u8>,
}

impl Patience {
    /// What is to be noted of the runs that a turn has left, if the walk is to go on all the same; none to look again
    /// from where it began.
    pub(in crate::store) fn given_up(&self, walk: &Walk, left: &[Run]) -> Option<Vec<Note>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_empty() {
            *known = Waiting::default();
            return Some(Vec::new());
        }
        if known.place.as_deref() != walk.stored() {
            *known = Waiting {
                place: walk.stored().map(str::to_owned),
                ..Waiting::default()
            };
        }
        known.turns = known.turns.saturating_add(1);
        // What is not left any more is another one now.
        let before = std::mem::take(&mut known.tries);
        known.tries = left
            .iter()
            .map(|run| {
                (
                    run.clone(),
                    before.get(run).map_or(1, |tries| tries.saturating_add(1)),
                )
            })
            .collect();
        let is_damaged = |tries: u8| tries >= TRIES;
        let is_over = known.turns >= TURNS || known.tries.values().all(|tries| is_damaged(*tries));
        is_over.then(|| {
            let damaged = known.tries.iter().filter(|(_, tries)| is_damaged(**tries));
            damaged.map(|(run, _)| run.note()).collect()
        })
    }
}

/// Puts the revisions of a run together. One that cannot be read (none) stays as it is, between what is made of
/// those before it and of those behind it. Where one is missing, what is before it and what is behind it stay
/// apart, or nobody could tell any more.
pub(in crate::store) fn joins_of(run: &Run, entries: &[Option<HistoryEntry>]) -> Vec<Join> {
    let mut joins = Vec::new();
    for readable in entries.split(Option::is_none) {
        let readable: Vec<_> = readable.iter().flatten().cloned().collect();
        for whole in readable.chunk_by(history::follows) {
            joins.extend(join_of(run, whole));
        }
    }
    joins
}

/// None of one alone, nor if a patch is no JSON, though its checksum is right: then they stay.
fn join_of(run: &Run, entries: &[HistoryEntry]) -> Option<Join> {
    let [first, .., last] = entries else {
        return None;
    };
    let merged = history::merge_all(entries).ok().flatten()?;
    let run = Run {
        first: first.revision.get().cast_signed(),
        last: last.revision.get().cast_signed(),
        count: entries.len(),
        ..run.clone()
    };
    Some(Join { run, merged })
}
