//! Identities of which revisions cannot be removed.
//!
//! A row is twice in the file, in its table and in the index by time; where a disk changed one of them, the engine
//! does not remove it, nor its neighbours in the index. The index is made anew then, at once in a small store and
//! with the next start in a large one, where it takes minutes, and at most once a day. Where that does not help, nothing of that identity's
//! history is removed or put together any more, until the store is restored; that of all others is.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, params};
use service_kit::error::chain;
use tokio::time::Instant;

use super::look::Text;
use crate::store::maintain::Table;
use crate::store::quarantine::{NOTES_MAX, Note, STUCK};
use crate::store::sqlite::indexes::{self, AGAIN_AFTER, REINDEXED_MAX, is_final, is_of_index};
use crate::store::sqlite::{engine, read, write};
use crate::store::{Error, failpoint};

/// Transactions of one part, each of which may find one more identity stuck; what is left is done the next time.
const TRIES: u8 = 16;

/// Of this process: a later one finds them again.
#[derive(Debug)]
pub(in crate::store::sqlite) struct Stuck {
    /// Bytes of a store whose index is made anew at once.
    pub(super) reindexed_max: i64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: BTreeSet<(Text, Text)>,
    /// When the index was made anew.
    reindexed: Option<Instant>,
    /// When it was in this transaction, which may be undone yet.
    reindexing: Option<Instant>,
    /// Those that are not noted yet.
    notes: Vec<Note>,
    /// More identities were found stuck than one trim has tries for; nothing is wrong with the others.
    is_unfinished: bool,
}

impl Default for Stuck {
    fn default() -> Stuck {
        Stuck {
            reindexed_max: REINDEXED_MAX,
            known: Mutex::default(),
        }
    }
}

impl Stuck {
    /// Does something with the revisions of one identity, as a whole or not at all; none where damage keeps it
    /// from being done.
    ///
    /// # Errors
    /// Anything but damage, damage of more identities than can be noted, and damage after which the engine writes
    /// nothing more in this transaction: then the identity is passed over by the next one (see [`Stuck::part`]).
    pub(in crate::store::sqlite) fn apart<T>(
        &self,
        transaction: &Transaction<'_>,
        key: (&Text, &Text),
        work: impl Fn() -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let (device, module) = key;
        let key = (device.clone(), module.clone());
        if self.has(&key) {
            return Ok(None);
        }
        let mut done = write::whole(transaction, &work)?;
        let mut made = Made::Not;
        if done.as_ref().is_err_and(is_of_index) {
            made = self.reindex(transaction)?;
        }
        if made == Made::Anew {
            done = write::whole(transaction, &work)?;
        }
        match done {
            Ok(done) => Ok(Some(done)),
            Err(error) if read::is_of_damage(&error) && self.has_room() => {
                let (note, is_found) = note(transaction, device, module, &error);
                let mut known = self.known();
                known.notes.push(note);
                known.keys.insert(key);
                let is_over = is_final(&error) || !is_found || made == Made::InVain;
                if is_over { Err(error) } else { Ok(None) }
            }
            Err(error) => Err(error),
        }
    }

    /// Whether nothing of this one can be removed.
    pub(super) fn has(&self, key: &(Text, Text)) -> bool {
        self.known().keys.contains(key)
    }

    /// Does a part in a transaction of its own, and once more without each identity that is found stuck on the way and
    /// ends it: the engine writes nothing more in a transaction that has come upon a damaged page.
    pub(super) fn part<T>(
        &self,
        connection: &mut Connection,
        mut work: impl FnMut(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<Result<T, Error>, Error> {
        let mut tries = 0;
        self.known().is_unfinished = false;
        loop {
            // An index that was made anew in a transaction that did not end is as it was.
            self.known().reindexing = None;
            let stuck = self.known().keys.len();
            let transaction = write::begin(connection)?;
            let error = match work(&transaction) {
                Ok(done) => {
                    failpoint::hit("trim.written");
                    let ended = transaction.commit();
                    ended.map_err(engine("remove what is old"))?;
                    failpoint::hit("trim.durable");
                    let mut known = self.known();
                    let made = known.reindexing.take();
                    known.reindexed = made.or(known.reindexed);
                    return Ok(Ok(done));
                }
                Err(error) => error,
            };
            tries += 1;
            let is_less = self.known().keys.len() > stuck;
            if !is_less || !read::is_of_damage(&error) {
                return Ok(Err(error));
            }
            if tries == TRIES {
                self.known().is_unfinished = true;
                return Ok(Err(error));
            }
        }
    }

    /// What is noted of the histories as a whole because of how a part has failed; nothing if it is only not done yet.
    pub(super) fn of_all<T>(&self, part: &Result<T, Error>) -> Option<Note> {
        let is_unfinished = std::mem::take(&mut self.known().is_unfinished);
        let error = part.as_ref().err().filter(|one| read::is_of_damage(one))?;
        (!is_unfinished).then(|| Note::of_histories(&chain(error)))
    }

    /// What was found since the last time, and what could not be noted.
    pub(super) fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut self.known().notes)
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

    /// Notes that revisions of an identity are found by their times and not by their key.
    pub(super) fn note_hidden(&self, (device, module): (&Text, &Text), first: i64) {
        let why = format!(
            "revision {first} is found by its time and not by its key: it cannot be removed"
        );
        let note = Note::of_identity(&device.lossy(), &module.lossy(), why);
        self.keep_notes(vec![note]);
    }

    /// Makes the index anew, if it was not lately and the store is small.
    fn reindex(&self, transaction: &Transaction<'_>) -> Result<Made, Error> {
        let now = Instant::now();
        let is_late = |at: Instant| now.saturating_duration_since(at) < AGAIN_AFTER;
        let last = {
            let known = self.known();
            known.reindexing.or(known.reindexed)
        };
        if last.is_some_and(is_late) {
            return Ok(Made::Not);
        }
        if indexes::bytes(transaction)? > self.reindexed_max {
            return Ok(Made::Not);
        }
        // A table that cannot be read as a whole has no index either, and that is not tried again soon.
        let made = write::whole(transaction, || {
            indexes::reindex(transaction, Table::History)
        })?;
        if let Err(error) = made {
            let error = chain(&error);
            tracing::error!(error, "the index of the histories stays as it is");
            self.known().reindexed = Some(now);
            return Ok(Made::InVain);
        }
        self.known().reindexing = Some(now);
        Ok(Made::Anew)
    }

    fn has_room(&self) -> bool {
        i64::try_from(self.known().keys.len()).is_ok_and(|known| known < NOTES_MAX)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an index was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Anew,
    /// It was tried.
    InVain,
    Not,
}

/// What is noted of one, and whether its first revision could be looked for.
fn note(
    transaction: &Transaction<'_>,
    device: &Text,
    module: &Text,
    error: &Error,
) -> (Note, bool) {
    let first = transaction.query_row(
        "SELECT min(revision) FROM history WHERE device_id = ?1 AND module_id = ?2",
        params![device, module],
        |row| row.get::<_, Option<i64>>(0),
    );
    let mut problem = chain(error);
    if is_of_index(error) {
        problem = format!("{STUCK}: {problem}");
    }
    let (device, module) = (device.lossy(), module.lossy());
    // Whatever it is, the twin is named.
    let note = match first {
        Ok(Some(first)) => Note::of_revisions(&device, &module, first, problem),
        Ok(None) | Err(_) => Note::of_identity(&device, &module, problem),
    };
    (note, first.is_ok())
}
