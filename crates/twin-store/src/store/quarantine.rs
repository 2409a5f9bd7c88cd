//! What was found damaged, as it is noted: which row of which table, and what is wrong with it.
//!
//! A note never touches the row, which stays where it is as evidence. Notes are made by whoever
//! comes upon the row, once; stores keep them in a table of their own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use twin::{IdentityKey, Partition, Revision};

use super::maintain::{Kind, Table};
use super::row::module_text;
use super::{Error, Hole, Loaded, OperationId, ProvisioningKey, Selection};
use crate::hex;
use crate::record::Damaged;

/// After this long a row that is still damaged is noted again: another replica may have written it
/// anew and forgotten the note, and a note of a key that nobody can look up is not kept for ever.
const AGAIN_AFTER: Duration = Duration::from_mins(10);
/// Stands in keys for what is no text.
const UNREADABLE: char = '\u{fffd}';
/// How a note begins of revisions that cannot be removed because an index does not fit them.
pub(crate) const STUCK: &str = "from here on revisions stay as they are";
/// How a note begins of another row that cannot be removed or changed because an index does not fit it.
pub(crate) const UNFIT: &str = "an index does not fit it";
/// How a note begins of what can perhaps be read, and not be changed.
pub(crate) const UNWRITABLE: &str = "it cannot be changed";
/// Notes that are listed and looked through at once; a store with more is to be restored.
pub(crate) const NOTES_MAX: i64 = 1000;

/// That a row is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// Of which table.
    pub(crate) table: Table,
    /// Its key, a text for each column.
    pub(crate) key: Vec<String>,
    /// What is wrong.
    pub(crate) problem: String,
}

impl Note {
    fn new(table: Table, key: Vec<String>, damaged: &Damaged) -> Note {
        Note {
            table,
            key,
            problem: format!("{}: {}", damaged.part, damaged.problem),
        }
    }

    /// Of a twin, by its key's text.
    pub(crate) fn of_twin(damaged: &Damaged) -> Note {
        let (device, module) = damaged.key.split_once('/').unwrap_or((&damaged.key, ""));
        Note::new(
            Table::Twins,
            vec![device.to_owned(), module.to_owned()],
            damaged,
        )
    }

    /// Of something that a decision needs.
    pub(crate) fn of_loaded(loaded: &Loaded) -> Option<Note> {
        let Loaded::Damaged(selection, damaged) = loaded else {
            return None;
        };
        let (table, key) = match selection {
            Selection::One(key) => (Table::Twins, twin_key(key)),
            Selection::Family(device) => (Table::Twins, vec![device.to_string(), String::new()]),
            Selection::Token(hash, _) => (Table::Tokens, vec![hex::text(hash)]),
            Selection::Request(id) => (Table::Requests, vec![id.0.clone()]),
            Selection::Operation(id) => (Table::Operations, vec![id.0.clone()]),
            Selection::Provisioning(key) => (Table::Provisioning, provisioning_key(key)),
            // Which of them, nobody can tell.
            Selection::Running | Selection::Groups => return None,
        };
        Some(Note::new(table, key, damaged))
    }

    /// Of a revision.
    pub(crate) fn of_revision(key: &IdentityKey, hole: &Hole<Revision>) -> Note {
        let mut of = twin_key(key);
        of.push(hole.at.to_string());
        Note::new(Table::History, of, &hole.damaged)
    }

    /// Of a revision whose key cannot be read as a whole.
    pub(crate) fn of_unreadable_revision(
        device: Option<&[u8]>,
        module: Option<&[u8]>,
        revision: Option<i64>,
    ) -> Note {
        let text = |part: Option<&[u8]>| {
            let text = part.map(|part| String::from_utf8_lossy(part).into_owned());
            text.unwrap_or_else(|| UNREADABLE.to_string())
        };
        let revision = revision.map_or_else(|| UNREADABLE.to_string(), |one| one.to_string());
        Note {
            table: Table::History,
            key: vec![text(device), text(module), revision],
            problem: "its key or its time cannot be read".to_owned(),
        }
    }

    /// Of revisions of an identity, by the first of them.
    pub(crate) fn of_revisions(device: &str, module: &str, first: i64, problem: String) -> Note {
        Note {
            table: Table::History,
            key: vec![device.to_owned(), module.to_owned(), first.to_string()],
            problem,
        }
    }

    /// Of an identity whose revisions are not where they are looked for.
    pub(crate) fn of_identity(device: &str, module: &str, problem: String) -> Note {
        Note {
            table: Table::History,
            key: vec![device.to_owned(), module.to_owned(), UNREADABLE.to_string()],
            problem,
        }
    }

    /// Of revisions of one time, in nanoseconds, that cannot be read, not even of whom they are.
    pub(crate) fn of_unreadable_time(at: i64, why: &str) -> Note {
        let unreadable = UNREADABLE.to_string();
        Note {
            table: Table::History,
            key: vec![unreadable.clone(), unreadable, format!("{UNREADABLE}{at}")],
            problem: format!("revisions of {} cannot be read: {why}", time(at)),
        }
    }

    /// Of rows of one time that cannot be read, not even which they are.
    pub(crate) fn of_unreadable_rows(table: Table, at: i64, why: &str) -> Note {
        let key = (0..table.key_columns()).map(|_| format!("{UNREADABLE}{at}"));
        Note {
            table,
            key: key.collect(),
            problem: format!("rows of {at} cannot be read: {why}"),
        }
    }

    /// Of rows that their index by time hides.
    pub(crate) fn of_index(table: Table) -> Note {
        Note {
            table,
            key: vec![UNREADABLE.to_string(); table.key_columns()],
            problem: format!("{UNFIT}: those behind its first entry are not found by their times"),
        }
    }

    /// Of the histories as a whole.
    pub(crate) fn of_histories(why: &str) -> Note {
        Note {
            table: Table::History,
            key: vec![UNREADABLE.to_string(); 3],
            problem: format!(
                "nothing is removed or put together until the store is restored: {why}"
            ),
        }
    }

    /// Of a change of the log.
    pub(crate) fn of_change(partition: Partition, at: Revision) -> Note {
        Note {
            table: Table::Log,
            key: vec![partition.to_string(), at.to_string()],
            problem: "its checksum does not match".to_owned(),
        }
    }

    /// Of an audit entry.
    pub(crate) fn of_audit(partition: Partition, hole: &Hole<u64>) -> Note {
        let key = vec![partition.to_string(), hole.at.to_string()];
        Note::new(Table::Audit, key, &hole.damaged)
    }

    /// Of an audit entry that was found by its time.
    pub(crate) fn of_audit_by_time(hole: &Hole<(Partition, u64)>) -> Note {
        let (partition, sequence) = hole.at;
        let key = vec![partition.to_string(), sequence.to_string()];
        Note::new(Table::Audit, key, &hole.damaged)
    }

    /// Of an operation.
    pub(crate) fn of_operation(damaged: &Damaged) -> Note {
        let id = damaged.key.strip_prefix("operations/");
        let id = id.unwrap_or(&damaged.key);
        Note::new(Table::Operations, vec![id.to_owned()], damaged)
    }

    /// Of a result of an operation.
    pub(crate) fn of_result(operation: &OperationId, damaged: &Damaged) -> Note {
        let twin = Note::of_twin(damaged);
        let mut key = vec![operation.0.clone()];
        key.extend(twin.key);
        Note::new(Table::Results, key, damaged)
    }

    /// Of a row of provisioning.
    pub(crate) fn of_provisioning(damaged: &Damaged) -> Note {
        let parts = damaged.key.splitn(3, '/').skip(1);
        let key = parts.map(str::to_owned).collect();
        Note::new(Table::Provisioning, key, damaged)
    }

    /// The key as it lies in a row.
    pub(crate) fn key_text(&self) -> String {
        serde_json::Value::from(self.key.clone()).to_string()
    }

    /// Reads a row of notes; none if it is damaged itself.
    pub(crate) fn read(table: &str, key: &str, problem: String) -> Option<Note> {
        let known = Table::ALL.into_iter().find(|one| one.name() == table)?;
        let key = serde_json::from_str(key).ok()?;
        Some(Note {
            table: known,
            key,
            problem,
        })
    }

    /// Whether it is of what can perhaps be read, and not be changed.
    pub(crate) fn is_of_writing(&self) -> bool {
        self.problem.contains(UNWRITABLE)
    }

    /// The twin it is of, if it is of one whose key can be read.
    pub(crate) fn twin(&self) -> Option<IdentityKey> {
        let (device, module) = (self.key.first()?, self.key.get(1)?);
        let is_twin = self.table == Table::Twins;
        is_twin
            .then(|| super::row::parse_key(device, module).ok())
            .flatten()
    }

    /// The columns of its key with their kinds and values; none if no row can be found by them.
    pub(crate) fn place(&self) -> Option<Vec<(&'static str, Kind, &str)>> {
        let columns = self.table.columns().iter().take(self.table.key_columns());
        let is_readable = self.key.len() == self.table.key_columns()
            && !self.key.iter().any(|part| part.contains(UNREADABLE));
        let place = columns
            .zip(&self.key)
            .map(|((name, kind), part)| (*name, *kind, part.as_str()));
        is_readable.then(|| place.collect())
    }

    /// As callers know it.
    pub(crate) fn into_damaged(self) -> Damaged {
        let parts = self.key.into_iter().filter(|part| !part.is_empty());
        Damaged {
            key: parts.collect::<Vec<_>>().join("/"),
            part: match self.table {
                Table::Twins => "row",
                other => other.name(),
            },
            problem: self.problem,
        }
    }
}

/// As people read a time that rows have in nanoseconds.
fn time(at: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(at));
    time.map_or_else(|_| at.to_string(), |time| time.to_string())
}

fn provisioning_key(key: &ProvisioningKey) -> Vec<String> {
    vec![key.kind.as_str().to_owned(), key.id.clone()]
}

fn twin_key(key: &IdentityKey) -> Vec<String> {
    vec![key.device.to_string(), module_text(key).to_owned()]
}

/// What this process has noted lately, so that a row which is read often is noted once.
#[derive(Clone, Default)]
pub(crate) struct Noted(Arc<Mutex<BTreeMap<Place, Instant>>>);

/// A row: its table and its key.
type Place = (Table, Vec<String>);

impl Noted {
    /// What of it is not noted yet.
    pub(crate) fn fresh(&self, mut notes: Vec<Note>) -> Vec<Note> {
        if !notes.is_empty() {
            let now = Instant::now();
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, at| now.saturating_duration_since(*at) < AGAIN_AFTER);
            notes.retain(|note| known.insert((note.table, note.key.clone()), now).is_none());
        }
        notes
    }

    /// Forgets what could not be noted.
    pub(crate) fn forget_notes(&self, notes: &[Note]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for note in notes {
            known.remove(&(note.table, note.key.clone()));
        }
    }

    /// Forgets twins that were written or removed as a whole.
    pub(crate) fn forget<'k>(&self, keys: impl Iterator<Item = &'k IdentityKey>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted.is_empty() {
            for key in keys {
                noted.remove(&(Table::Twins, twin_key(key)));
            }
        }
    }
}

/// Says that something is damaged; once, when it is noted.
pub(crate) fn report(note: &Note) {
    tracing::error!(
        table = note.table.name(),
        key = note.key.join("/"),
        problem = note.problem,
        "a stored row is damaged; see `twinward store verify`"
    );
}

/// What an error says of the rows that were read: that they are damaged. Anything else is the
/// engine's failure, and stays the error that it is.
pub(crate) fn damage(
    error: Error,
    key: &str,
    part: &'static str,
    is_damage: fn(&(dyn std::error::Error + 'static)) -> bool,
) -> Result<Damaged, Error> {
    match error {
        Error::Damaged(damaged) => Ok(damaged),
        Error::Engine { source, .. } if is_damage(&*source) => Ok(Damaged {
            key: key.to_owned(),
            part,
            problem: service_kit::error::chain(&*source),
        }),
        other => Err(other),
    }
}

/// What a selection is of, for whoever is told that it is damaged.
pub(crate) fn name_of(selection: &Selection) -> (String, &'static str) {
    match selection {
        Selection::One(key) => (key.to_string(), "row"),
        Selection::Family(device) => (device.to_string(), "rows"),
        // The hash of a secret is none; still, the whole of it helps nobody.
        Selection::Token(hash, _) => (format!("token {}", hex::text(&hash[..8])), "row"),
        Selection::Request(id) => (format!("request {}", id.0), "row"),
        Selection::Operation(id) => (format!("operations/{}", id.0), "row"),
        Selection::Running => ("operations".to_owned(), "rows"),
        Selection::Provisioning(key) => (key.to_string(), "row"),
        Selection::Groups => ("provisioning/group".to_owned(), "rows"),
    }
}
