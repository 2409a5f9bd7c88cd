//! Entries of the table of searched values, as a commit of the embedded store takes them away.
//!
//! One that an index does not fit cannot be removed. Where the index cannot be made anew right now, it stays, and is
//! noted: it leads searches to a twin that no longer has the value, which they see on the twin.

use rusqlite::{Transaction, params};
use service_kit::error::chain;
use twin::IdentityKey;

use super::indexes::is_of_index;
use super::write::{Care, execute, whole};
use super::{engine, module_text};
use crate::store::maintain::Table;
use crate::store::quarantine::{Note, UNFIT};
use crate::store::{Error, IndexEntry};

/// Takes entries away within one transaction.
pub(super) struct Entries<'t> {
    pub(super) transaction: &'t Transaction<'t>,
    pub(super) care: Care,
    /// Of those that stay.
    pub(super) notes: &'t mut Vec<Note>,
}

impl Entries<'_> {
    /// Removes one entry of a twin.
    pub(super) fn remove(&mut self, key: &IdentityKey, entry: &IndexEntry) -> Result<(), Error> {
        let transaction = self.transaction;
        let remove = || {
            execute(
                transaction,
                "remove an index entry",
                // By the key of the table: an index that has lost it would find nothing to remove.
                "DELETE FROM twin_index INDEXED BY sqlite_autoindex_twin_index_1
                 WHERE path = ?1 AND value = ?2 AND device_id = ?3 AND module_id = ?4",
                params![
                    entry.path,
                    entry.value,
                    key.device.as_str(),
                    module_text(key)
                ],
            )
        };
        if self.care == Care::Together {
            return remove().map(|_| ());
        }
        match whole(transaction, remove)? {
            Err(error) if is_of_index(&error) => {
                self.notes.push(note(key, entry, &error));
                Ok(())
            }
            done => done.map(|_| ()),
        }
    }

    /// Removes all entries of a twin.
    pub(super) fn remove_all(&mut self, key: &IdentityKey) -> Result<(), Error> {
        let transaction = self.transaction;
        let remove = || {
            execute(
                transaction,
                "remove the index entries of a twin",
                "DELETE FROM twin_index WHERE device_id = ?1 AND module_id = ?2",
                params![key.device.as_str(), module_text(key)],
            )
        };
        if self.care == Care::Together {
            return remove().map(|_| ());
        }
        match whole(transaction, remove)? {
            Err(error) if is_of_index(&error) => {
                for entry in self.all(key)? {
                    self.remove(key, &entry)?;
                }
                Ok(())
            }
            done => done.map(|_| ()),
        }
    }

    fn all(&self, key: &IdentityKey) -> Result<Vec<IndexEntry>, Error> {
        let action = "read the index entries of a twin";
        let mut statement = self
            .transaction
            .prepare_cached(
                "SELECT path, value FROM twin_index WHERE device_id = ?1 AND module_id = ?2",
            )
            .map_err(engine(action))?;
        let rows = statement
            .query_map(params![key.device.as_str(), module_text(key)], |row| {
                // One that is no text is removed by nobody who looks for a text.
                Ok(IndexEntry {
                    path: row.get(0).unwrap_or_default(),
                    value: row.get(1).unwrap_or_default(),
                })
            })
            .map_err(engine(action))?;
        rows.collect::<Result<_, _>>().map_err(engine(action))
    }
}

fn note(key: &IdentityKey, entry: &IndexEntry, error: &Error) -> Note {
    Note {
        table: Table::Index,
        key: vec![
            key.device.to_string(),
            module_text(key).to_owned(),
            entry.path.clone(),
            entry.value.clone(),
        ],
        problem: format!("{UNFIT}, and it stays: {}", chain(error)),
    }
}
