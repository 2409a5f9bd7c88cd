//! Fills an empty store from a file.

use std::io::Read;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::backup::Header;
use super::check::{Checker, Sound, Whole, key_of};
use super::frames::{Frame, FrameReader};
use super::notice::Notice;
use super::past::Past;
use super::raise::Raise;
use super::{
    BATCH, BATCHES, Batch, Gaps, Item, Maintain, MaintainError, Report, Revisions, Row, Table,
};

/// Who restores what, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restoring {
    /// When.
    pub now: Timestamp,
    /// Whether less than a whole store will do.
    pub gaps: Gaps,
    /// Who, as the audit log will have it: `os:<name>`, since nobody proves to a file who he is.
    pub actor: String,
    /// Where the backup comes from, in words: the name of a file.
    pub source: String,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup says of itself.
    pub header: Header,
    /// Rows that were read, and what was left out because it was damaged when it was backed up.
    pub report: Report,
    /// Revisions left out because the twin that they would be rewound from is missing.
    pub orphans: u64,
    /// Rows that the restore made beside those of the backup, because it is itself a change.
    pub added: Added,
}

/// What a restore adds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// Revisions: one of each twin.
    pub revisions: u64,
    /// Audit entries: one of the restore.
    pub audit_entries: u64,
}

impl Restored {
    /// Whether everything was restored that the store had.
    pub fn is_whole(&self) -> bool {
        self.report.is_sound() && self.orphans == 0
    }
}

/// Fills an empty store from a backup. Every twin is as it was, with versions above all that were
/// given since the backup, so that devices and readers take them for new. The audit log says so: its
/// entry is part of the restore, so that no store has come from a backup without telling.
///
/// # Errors
/// The backup is damaged, of a newer program or of no store, the store is not empty, or cannot be
/// written; with [`Gaps::Refused`] also when a table breaks off in the backup. Nothing was restored
/// then.
pub async fn restore<R: Read + Send + 'static>(
    from: R,
    store: &dyn Maintain,
    restoring: Restoring,
    progress: impl FnMut(Table, u64) + Send + 'static,
) -> Result<Restored, MaintainError> {
    let (into, batches) = mpsc::channel(BATCHES);
    let read = tokio::task::spawn_blocking(move || read(from, &into, &restoring, progress));
    let (read, filled) = tokio::join!(read, store.fill(batches));
    let read = read.map_err(|_| MaintainError::Stopped)?;
    // Whichever failed first made the other one stop.
    match (read, filled) {
        (Err(error), Ok(_) | Err(MaintainError::Stopped)) | (_, Err(error)) => Err(error),
        (Ok((header, report, added)), Ok(orphans)) => Ok(Restored {
            header,
            report,
            orphans,
            added,
        }),
    }
}

fn read<R: Read>(
    from: R,
    into: &mpsc::Sender<Batch>,
    restoring: &Restoring,
    mut progress: impl FnMut(Table, u64),
) -> Result<(Header, Report, Added), MaintainError> {
    let mut frames = FrameReader::begin(from)?;
    let Frame::Header(header) = frames.next()? else {
        return Err(MaintainError::Foreign);
    };
    let header = Header::parse(&header).ok_or(MaintainError::Foreign)?;
    let mut sieve = Sieve {
        checker: Checker::new(Whole::Backup),
        past: Past::default(),
        notice: Notice::new(&header, restoring),
        raise: Raise::since(header.made_at, restoring.now),
        added: Added::default(),
        rows: Vec::with_capacity(BATCH),
    };
    let send = |batch| {
        into.blocking_send(batch)
            .map_err(|_| MaintainError::Stopped)
    };
    loop {
        let forget = match frames.next()? {
            Frame::Header(_) => return Err(MaintainError::Foreign),
            Frame::Row(row) => sieve.row(row.with_added_columns()),
            Frame::Break(table, problem) => sieve.broken(table, problem),
            Frame::End => {
                let Sieve {
                    checker,
                    mut rows,
                    notice,
                    mut added,
                    ..
                } = sieve;
                let notice = notice.into_row();
                added.audit_entries += u64::from(notice.is_some());
                rows.extend(notice);
                let report = checker.end();
                send(Batch::Rows(rows))?;
                send(Batch::End)?;
                return Ok((header, report, added));
            }
        };
        if let Some(lacking) = sieve.checker.without_partitions() {
            return Err(MaintainError::NoPartitions(lacking));
        }
        if restoring.gaps == Gaps::Refused
            && let Some(gap) = sieve.checker.gap()
        {
            return Err(MaintainError::Incomplete(gap.clone()));
        }
        if sieve.rows.len() >= BATCH || forget.is_some() {
            send(Batch::Rows(std::mem::take(&mut sieve.rows)))?;
            sieve.checker.tell(&mut progress);
        }
        if let Some(revisions) = forget {
            send(Batch::Forget(revisions))?;
        }
    }
}

/// Lets through what may be restored.
struct Sieve {
    checker: Checker,
    past: Past,
    notice: Notice,
    raise: Raise,
    added: Added,
    rows: Vec<Row>,
}

impl Sieve {
    /// Takes a row; answers which revisions must not be kept because of it.
    fn row(&mut self, mut row: Row) -> Option<Revisions> {
        if row.table == Table::Index {
            // It follows from the twins.
            return None;
        }
        let index = match self.checker.take(Item::Row(row.clone())) {
            Sound::Yes(index) => index,
            Sound::No if row.table == Table::History => {
                let newest = self.last_revision(&row).unwrap_or(i64::MAX);
                let lost = self.past.damaged(&row, newest);
                return self.forget(lost);
            }
            Sound::No => return None,
        };
        match row.table {
            Table::Partitions => {
                self.notice.partition(&mut row, self.raise);
                let log = self.raise.partition(&mut row);
                self.rows.push(row);
                self.rows.extend(log);
            }
            Table::Twins => {
                let last = self.last_revision(&row).unwrap_or(0).cast_unsigned();
                match self.raise.twin(&row, last) {
                    // Not what the check made of it as it was: what is raised may be found by other
                    // values.
                    Ok(raised) => {
                        self.added.revisions += 1;
                        self.rows.extend(raised);
                        return None;
                    }
                    Err(problem) => {
                        let key = key_of(&row);
                        self.checker.note(Table::Twins, key, problem);
                        return None;
                    }
                }
            }
            // The restore is in their place.
            Table::Log => {}
            Table::History => {
                self.past.kept(&row);
                self.rows.push(row);
            }
            // What a chain has behind its end was cut off from it; the check has told.
            Table::Audit if self.notice.is_in_the_way(&row) => {}
            Table::Index
            | Table::Audit
            | Table::Requests
            | Table::Tokens
            | Table::Enrollments
            | Table::Operations
            | Table::Results
            | Table::Provisioning => self.rows.push(row),
        }
        self.rows.extend(index);
        None
    }

    /// The backup lacks the rest of a table.
    fn broken(&mut self, table: Table, problem: String) -> Option<Revisions> {
        self.checker.take(Item::Unreadable(table, problem));
        if table != Table::History {
            return None;
        }
        let lost = self.past.broken();
        self.forget(lost)
    }

    fn forget(&mut self, lost: Option<Revisions>) -> Option<Revisions> {
        let lost = lost?;
        let problem = format!(
            "revisions up to {} are left out: the twin cannot be rewound past what is missing",
            lost.through
        );
        let key = format!("{}/{}", lost.device, lost.module);
        self.checker.note(Table::History, key, problem);
        Some(lost)
    }

    /// The last change of the partition of the identity of a row.
    fn last_revision(&self, row: &Row) -> Option<i64> {
        let last = self.checker.last_revision(row)?;
        i64::try_from(last).ok()
    }
}
