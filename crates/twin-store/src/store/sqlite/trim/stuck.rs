//! Identities of which revisions cannot be removed.
//!
//! A row is twice in the file, in its table and in the index by time; where a disk changed one of them, the engine
//! does not remove it, nor its neighbours in the index. The index is made anew then, at once in a small store and
//! with the next start in a large one, where it takes minutes, and at most once a day. Where that does not help, nothing of that identity's
//! history is removed or put together any more, until the store is restored; that of all others is.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, ffi, params};
use service_kit::error::chain;
use tokio::time::Instant;

use super::look::Text;
use crate::store::maintain::Table;
use crate::store::quarantine::{NOTES_MAX, Note, STUCK};
use crate::store::sqlite::{engine, read, write};
use crate::store::{Error, failpoint};

/// Bytes of a store whose index is made anew while commits wait, for some seconds.
const REINDEXED_MAX: i64 = 1 << 30;
/// It is made anew no more often than this: what is found damaged again is so in its table.
const AGAIN_AFTER: Duration = Duration::from_hours(24);
/// Transactions of one part, each of which may find one more identity stuck; what is left is done the next time.
const TRIES: u8 = 16;
/// Name of the fact that says when a start began to make it anew last, in seconds since 1970.
const MENDED: &str = "history_mended";

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
            if !is_less || tries == TRIES || !read::is_of_damage(&error) {
                return Ok(Err(error));
            }
        }
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
        let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let bytes: i64 = transaction
            .query_row(sql, [], |row| row.get(0))
            .map_err(engine("look how large it is"))?;
        if bytes > self.reindexed_max {
            return Ok(Made::Not);
        }
        // A table that cannot be read as a whole has no index either, and that is not tried again soon.
        if write::whole(transaction, || reindex(transaction))?.is_err() {
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

/// Whether the engine writes nothing more in the transaction that has failed so.
fn is_final(error: &Error) -> bool {
    code(error) == Some(ffi::SQLITE_CORRUPT)
}

/// Whether an index that can be read does not fit its table. Only such a one is made anew: to empty one whose pages
/// are damaged frees whatever pages they seem to name.
fn is_of_index(error: &Error) -> bool {
    code(error) == Some(ffi::SQLITE_CORRUPT_INDEX)
}

fn code(error: &Error) -> Option<i32> {
    let Error::Engine { source, .. } = error else {
        return None;
    };
    let source = source.downcast_ref::<rusqlite::Error>();
    let code = source.and_then(rusqlite::Error::sqlite_error)?;
    Some(code.extended_code)
}

pub(super) fn reindex(transaction: &Transaction<'_>) -> Result<(), Error> {
    refuse_damaged_pages(transaction)?;
    tracing::warn!("the index of the histories is damaged, and is made anew");
    write::execute(transaction, "make an index anew", "REINDEX history_at", [])?;
    Ok(())
}

/// Fails where the structure of a page is damaged. An entry is not found either where a pointer of the index leads to
/// a page of another table, and to make such an index anew frees that table's pages.
fn refuse_damaged_pages(transaction: &Transaction<'_>) -> Result<(), Error> {
    let action = "look whether pages are damaged before an index is made anew";
    let mut statement = transaction
        .prepare("PRAGMA quick_check")
        .map_err(engine(action))?;
    let lines = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect::<Result<Vec<String>, _>>)
        .map_err(engine(action))?;
    // Others are of values that do not fit, which is what an index is made anew for.
    let of_pages = ["Tree ", "Page ", "Freelist", "***"];
    match lines
        .into_iter()
        .find(|line| of_pages.iter().any(|start| line.starts_with(start)))
    {
        Some(line) => Err(Error::Engine {
            action,
            source: line.into(),
        }),
        None => Ok(()),
    }
}

/// Makes the index anew if a process before this one has noted revisions that could not be removed, and forgets
/// these notes: whatever is still damaged is found again. Where it cannot be done, the service starts all the same.
pub(in crate::store::sqlite) fn mend(connection: &mut Connection) {
    if let Err(error) = try_to_mend(connection) {
        let error = chain(&error);
        tracing::error!(error, "the index of the histories stays as it is");
    }
}

fn try_to_mend(connection: &mut Connection) -> Result<(), Error> {
    let action = "look whether an index is to be made anew";
    let is_wanted: bool = connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM quarantine
                 WHERE table_name = ?1 AND substr(problem, 1, length(?2)) = ?2)
             AND NOT EXISTS (SELECT 1 FROM facts
                 WHERE name = ?3 AND CAST(value AS INTEGER) > unixepoch() - ?4)",
            params![
                Table::History.name(),
                STUCK,
                MENDED,
                AGAIN_AFTER.as_secs().cast_signed()
            ],
            |row| row.get(0),
        )
        .map_err(engine(action))?;
    if !is_wanted {
        return Ok(());
    }
    // First that it is tried: whoever is killed for being slow to start is to start the next time.
    let transaction = write::begin(connection)?;
    write::execute(
        &transaction,
        "note that an index is made anew",
        "INSERT INTO facts (name, value) VALUES (?1, CAST(unixepoch() AS TEXT))
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [MENDED],
    )?;
    failpoint::hit("mend.begun");
    let noted = transaction.commit();
    noted.map_err(engine("note that an index is made anew"))?;
    failpoint::hit("mend.noted");
    let transaction = write::begin(connection)?;
    reindex(&transaction)?;
    write::execute(
        &transaction,
        "forget what could not be removed",
        "DELETE FROM quarantine WHERE table_name = ?1 AND substr(problem, 1, length(?2)) = ?2",
        params![Table::History.name(), STUCK],
    )?;
    failpoint::hit("mend.made");
    let done = transaction.commit();
    done.map_err(engine("make an index anew"))?;
    failpoint::hit("mend.durable");
    Ok(())
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
