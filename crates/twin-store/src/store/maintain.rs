//! Checks, backs up and restores whole stores, from outside the service; it may go on running.
//!
//! Everything goes over one logical form: the rows of every table, in one snapshot. So a check is
//! the same for every store, and a backup of one kind restores into the other. What implements a
//! store gives [`Maintain`]: `sqlite::SqliteFiles` for the embedded one, made with its folder.
//!
//! - [`verify`] reads every row and answers a [`Report`]: the rows of each table, and findings that
//!   name table, key and problem. It finds every flipped byte of a twin, a revision or a change of
//!   the log, gaps in a log, a broken chain of audit entries, and entries of the index that do not
//!   match their twin. It changes nothing. Exit code of a command: [`Report::is_sound`].
//! - [`backup`] writes a file and checks as it reads. The end of the file proves that it is whole: a
//!   store that cannot be read to its end gets none, unless that is asked for, and then the file says
//!   where it breaks off. Keys stay sealed in it: without the service's master key, which is not in
//!   it, they open nothing.
//! - [`restore`] fills an empty store, in one transaction, after it has seen the end of the file.
//!   What was damaged already when it was backed up is left out and reported, and with it the past
//!   that it would falsify. A restore is itself a change of every twin, whose versions it raises
//!   above all that were given since the backup, and the audit log has an entry of it.
//!
//! Each takes a function that is told now and then how many rows of a table were done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::Error;

mod backup;
mod check;
mod frames;
mod notice;
mod past;
mod raise;
mod restore;
mod table;
#[cfg(test)]
mod tests;

pub use backup::{Header, backup};
#[cfg(test)]
pub(crate) use check::check_rows;
pub use check::verify;
pub use restore::{Added, Restored, Restoring, restore};
pub use table::{Kind, Table};

/// Rows handed over at once.
pub(crate) const BATCH: usize = 256;
/// Batches that may wait between the one who reads and the one who writes.
const BATCHES: usize = 4;
/// Findings that are listed; more are only counted.
const FINDINGS_MAX: usize = 1000;

/// A store seen as rows.
pub trait Maintain: Send + Sync {
    /// What kind of store it is, for instance `sqlite`.
    fn kind(&self) -> &'static str;

    /// Reads every row in one snapshot and hands them over: tables in the order of [`Table::ALL`],
    /// rows in the order of their keys. The entries of the index come with the twins: those of a
    /// twin directly behind it, those of no twin behind the last. A table that cannot be read to
    /// its end is told of as [`Item::Unreadable`]. Ends early when nobody receives any more.
    fn dump(&self, into: mpsc::Sender<Vec<Item>>) -> BoxFuture<'_, Result<(), MaintainError>>;

    /// Has the engine check what it knows of, pages and indexes for instance; answers what is wrong.
    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, MaintainError>>;

    /// Fills a store that is empty or not there yet. All of it becomes durable at [`Batch::End`];
    /// when the channel ends without, nothing is written, and no store is there that was not there
    /// before. Every partition comes back unowned. Answers how many revisions were left out at the
    /// end, because their twin is missing although they do not end in its removal: what they would
    /// be rewound from is not there.
    fn fill(&self, from: mpsc::Receiver<Batch>) -> BoxFuture<'_, Result<u64, MaintainError>>;
}

/// Whether a backup or a restore may be of less than a whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// A table that breaks off ends the work.
    Refused,
    /// What there is of it is better than nothing.
    Accepted,
}

/// A piece of what [`Maintain::dump`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A row.
    Row(Row),
    /// The rest of this table cannot be read.
    Unreadable(Table, String),
}

/// A piece of what [`Maintain::fill`] writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Batch {
    /// Rows, in the order in which [`Maintain::dump`] reads them.
    Rows(Vec<Row>),
    /// Revisions of an identity that came before must not be kept.
    Forget(Revisions),
    /// That was all.
    End,
}

/// The oldest revisions of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisions {
    /// The device, as the rows have it.
    pub device: String,
    /// The module; empty: the device itself.
    pub module: String,
    /// The newest of them.
    pub through: i64,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Of which.
    pub table: Table,
    /// One for each of [`Table::columns`].
    pub values: Vec<Value>,
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// None.
    Null,
    /// A number; a truth is 0 or 1.
    Integer(i64),
    /// A text.
    Text(String),
    /// Bytes; also a text that is damaged and no UTF-8.
    Bytes(Vec<u8>),
}

impl Row {
    /// Gives a row of an older backup the columns that were added since.
    pub(crate) fn with_added_columns(mut self) -> Row {
        let missing = self.table.columns().iter().skip(self.values.len());
        let all_optional = missing
            .clone()
            .all(|(_, kind)| *kind == Kind::OptionalInteger);
        if all_optional {
            let missing = missing.count();
            self.values
                .extend(std::iter::repeat_n(Value::Null, missing));
        }
        self
    }
}

impl Value {
    /// Whether it may stand in a column of this kind.
    pub const fn fits(&self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Value::Integer(_), Kind::Integer | Kind::OptionalInteger)
                | (Value::Integer(0 | 1), Kind::Truth)
                | (Value::Text(_), Kind::Text | Kind::OptionalText)
                | (Value::Null, Kind::OptionalText | Kind::OptionalInteger)
                | (Value::Bytes(_), Kind::Bytes)
        )
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => formatter.write_str("none"),
            Value::Integer(number) => write!(formatter, "{number}"),
            Value::Text(text) => formatter.write_str(text),
            Value::Bytes(bytes) => {
                for byte in bytes {
                    write!(formatter, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many rows of each table were read.
    pub rows: BTreeMap<Table, u64>,
    /// What is wrong, in the order in which it was found; the first thousand.
    pub findings: Vec<Finding>,
    /// How much is wrong, listed or not.
    pub found: u64,
    /// Tables that break off: nobody knows what is missing of them.
    pub incomplete: BTreeSet<Table>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which table; none: the engine found it.
    pub table: Option<Table>,
    /// The row's key, its parts with `/` between; empty: of the table as a whole.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.found == 0
    }

    fn note(&mut self, table: Option<Table>, key: String, problem: String) {
        self.found += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                table,
                key,
                problem,
            });
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.map_or("engine", Table::name);
        match self.key.as_str() {
            "" => write!(formatter, "{table}: {}", self.problem),
            key => write!(formatter, "{table} {key}: {}", self.problem),
        }
    }
}

/// Why a store cannot be checked, backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum MaintainError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] Error),
    /// There is no store.
    #[error("there is no store in {}", .0.display())]
    Missing(PathBuf),
    /// The store is of an older program.
    #[error(
        "the store has schema {found}, this program knows {known}; start the service once, it migrates it"
    )]
    Older {
        /// Of the store.
        found: i64,
        /// Of this program.
        known: i64,
    },
    /// A restore would mix two stores.
    #[error("the store that is to be restored into is not empty; give an empty one")]
    NotEmpty,
    /// The store cannot be read to its end, and a backup of a part of it was not asked for.
    #[error("the backup would not be whole: {0}")]
    Unreadable(Finding),
    /// The backup is of a part of a store, and that was not asked for.
    #[error("the backup is not whole: {0}; nothing was restored")]
    Incomplete(Finding),
    /// Without its partitions a store is none: they say how far everything has come.
    #[error("the backup lacks what no store can be without: {0}; nothing was restored")]
    NoPartitions(Finding),
    /// The backup cannot be written.
    #[error("the backup cannot be written")]
    Write(#[source] std::io::Error),
    /// The backup cannot be read.
    #[error("the backup cannot be read")]
    Read(#[source] std::io::Error),
    /// The file is no backup.
    #[error("the file is no backup of a twin-store")]
    Foreign,
    /// The backup was made by a newer program.
    #[error("the backup has format {found}, this program knows {known}; use a newer program")]
    Newer {
        /// Of the backup.
        found: u32,
        /// Of this program.
        known: u32,
    },
    /// The backup is cut off or damaged; nothing was restored.
    #[error("the backup is damaged at byte {at}: {problem}; nothing was restored")]
    Damaged {
        /// Where.
        at: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The work was ended from outside.
    #[error("the work was stopped")]
    Stopped,
}
