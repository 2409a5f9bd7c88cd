//! Identities of which revisions cannot be removed.
//!
//! A row is twice in the file, in its table and in the index by time; where a disk changed one of them, the engine
//! does not remove it, nor its neighbours in the index. The index is made anew then, at once in a small store and
//! with the next start in a large one, where it takes minutes. Where that does not help, nothing of that identity's
//! history is removed or put together any more, until the store is restored; that of all others is.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, params};
use service_kit::error::chain;

use super::look::Text;
use crate::store::Error;
use crate::store::maintain::Table;
use crate::store::quarantine::{NOTES_MAX, Note, STUCK};
use crate::store::sqlite::{engine, read, write};

/// Rows of an index that is made anew while commits wait: some seconds of them.
const REINDEXED_MAX: i64 = 1_000_000;

/// Of this process: a later one finds them again.
#[derive(Debug)]
pub(in crate::store::sqlite) struct Stuck {
    /// Rows of an index that is made anew at once.
    pub(super) reindexed_max: i64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: BTreeSet<(Text, Text)>,
    /// Whether the index was made anew already.
    is_reindexed: bool,
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
    /// Anything but damage, and damage of more identities than can be noted.
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
        if done.as_ref().is_err_and(read::is_of_damage) && self.reindex(transaction)? {
            done = write::whole(transaction, &work)?;
        }
        match done {
            Ok(done) => Ok(Some(done)),
            Err(error) if read::is_of_damage(&error) && self.has_room() => {
                let note = note(transaction, device, module, &error);
                let mut known = self.known();
                known.notes.push(note);
                known.keys.insert(key);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether nothing of this one can be removed.
    pub(super) fn has(&self, key: &(Text, Text)) -> bool {
        self.known().keys.contains(key)
    }

    /// What was found since the last time.
    pub(super) fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut self.known().notes)
    }

    /// Makes the index anew, once; answers whether it did.
    fn reindex(&self, transaction: &Transaction<'_>) -> Result<bool, Error> {
        if std::mem::replace(&mut self.known().is_reindexed, true) {
            return Ok(false);
        }
        let rows: i64 = transaction
            .query_row(
                "SELECT count(*) FROM (SELECT 1 FROM history LIMIT ?1)",
                [self.reindexed_max.saturating_add(1)],
                |row| row.get(0),
            )
            .map_err(engine("count revisions"))?;
        if rows > self.reindexed_max {
            return Ok(false);
        }
        // A table that cannot be read as a whole has no index either.
        let made = write::whole(transaction, || reindex(transaction))?;
        Ok(made.is_ok())
    }

    fn has_room(&self) -> bool {
        i64::try_from(self.known().keys.len()).is_ok_and(|known| known < NOTES_MAX)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reindex(transaction: &Transaction<'_>) -> Result<(), Error> {
    tracing::warn!("the index of the histories is damaged, and is made anew");
    write::execute(transaction, "make an index anew", "REINDEX history_at", [])?;
    Ok(())
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
    let transaction = write::begin(connection)?;
    let forgotten = write::execute(
        &transaction,
        "forget what could not be removed",
        "DELETE FROM quarantine WHERE table_name = ?1 AND substr(problem, 1, length(?2)) = ?2",
        params![Table::History.name(), STUCK],
    )?;
    if forgotten == 0 {
        return Ok(());
    }
    reindex(&transaction)?;
    let done = transaction.commit();
    done.map_err(engine("make an index anew"))
}

fn note(transaction: &Transaction<'_>, device: &Text, module: &Text, error: &Error) -> Note {
    let first = transaction.query_row(
        "SELECT min(revision) FROM history WHERE device_id = ?1 AND module_id = ?2",
        params![device, module],
        |row| row.get::<_, Option<i64>>(0),
    );
    // Whatever it is, the twin is named.
    let first = first.ok().flatten().unwrap_or_default();
    Note::of_stuck_revisions(&device.lossy(), &module.lossy(), first, &chain(error))
}
