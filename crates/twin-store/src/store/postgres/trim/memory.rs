//! What a process remembers of the shared store's histories between two trims.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::quarantine::{NOTES_MAX, Note};
use crate::store::thin::Patience;

/// What cannot be removed is tried again after this long: somebody may have mended it.
const AGAIN_AFTER: Duration = Duration::from_hours(1);

/// A device and its module.
pub(super) type Key = (String, String);

/// Of this process: a later one, or another replica, finds it again.
#[derive(Debug, Default)]
pub(in crate::store::postgres) struct Memory {
    pub(super) patience: Patience,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Identities of which damage keeps old revisions from being removed.
    stuck: BTreeSet<Key>,
    /// Before this time only what cannot be removed is left.
    floor: Option<i64>,
    /// When the first of that was found.
    since: Option<Instant>,
    /// What could not be noted.
    notes: Vec<Note>,
}

impl Memory {
    /// What old revisions need not be looked for in: identities, and the time before one.
    pub(super) fn passed(&self) -> (BTreeSet<Key>, i64) {
        let mut known = self.known();
        let is_over = |since: Instant| since.elapsed() >= AGAIN_AFTER;
        if known.since.is_some_and(is_over) {
            known.stuck.clear();
            (known.floor, known.since) = (None, None);
        }
        (known.stuck.clone(), known.floor.unwrap_or(i64::MIN))
    }

    /// Passes an identity over for a while.
    pub(super) fn stick(&self, key: Key) {
        let mut known = self.known();
        // Those that are too many are tried each time.
        if i64::try_from(known.stuck.len()).is_ok_and(|stuck| stuck < NOTES_MAX) {
            known.stuck.insert(key);
            known.since.get_or_insert_with(Instant::now);
        }
    }

    /// Passes the time before one over for a while.
    pub(super) fn raise(&self, floor: i64) {
        let mut known = self.known();
        known.floor = Some(floor);
        known.since.get_or_insert_with(Instant::now);
    }

    /// Keeps what could not be noted for the next time.
    pub(super) fn keep_notes(&self, notes: Vec<Note>) {
        let mut known = self.known();
        for note in notes {
            let has_room = i64::try_from(known.notes.len()).is_ok_and(|kept| kept < NOTES_MAX);
            if has_room && !known.notes.contains(&note) {
                known.notes.push(note);
            }
        }
    }

    /// What could not be noted before.
    pub(super) fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut self.known().notes)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
