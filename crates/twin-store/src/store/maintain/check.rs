//! Decides of every row whether it is sound, and of the whole whether its parts agree.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use twin::{IdentityKey, PartitionCount, Revision, partition_of};

use super::{BATCHES, Finding, Item, Maintain, MaintainError, Report, Row, Table, Value};
use crate::audit::Walk;
use crate::index;
use crate::record::Record;
use crate::store::row::history;
use crate::store::row::history::HistoryRow;
use crate::store::{AuditHead, HistoryEntry, IndexEntry};

mod fields;
mod small;
mod trails;

use fields::{Fields, hash, json, key, key_text, kind_name, told};

pub(super) use fields::{key_text as key_of, twin_of};

/// Reads every row of a store and answers what is wrong with it.
///
/// # Errors
/// The store cannot be read at all; what can be read of it is told by the report.
pub async fn verify(
    store: &dyn Maintain,
    mut progress: impl FnMut(Table, u64) + Send + 'static,
) -> Result<Report, MaintainError> {
    let problems = store.check().await?;
    let (into, mut from) = mpsc::channel::<Vec<Item>>(BATCHES);
    let check = tokio::task::spawn_blocking(move || {
        let mut checker = Checker::new(Whole::Store);
        for problem in problems {
            checker.report.note(None, String::new(), problem);
        }
        while let Some(items) = from.blocking_recv() {
            for item in items {
                checker.take(item);
            }
            checker.tell(&mut progress);
        }
        checker.end()
    });
    let (read, checked) = tokio::join!(store.dump(into), check);
    read?;
    checked.map_err(|_| MaintainError::Stopped)
}

/// Checks rows that somebody reads.
#[cfg(test)]
pub(crate) fn check_rows(read: impl FnOnce(&mut dyn FnMut(Item))) -> Report {
    let mut checker = Checker::new(Whole::Store);
    read(&mut |item| {
        checker.take(item);
    });
    checker.end()
}

/// Of what the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// Of a store, with its index.
    Store,
    /// Of a backup, which has none.
    Backup,
}

/// Whether a row may be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sound {
    /// It may; these rows of the index belong to it.
    Yes(Vec<Row>),
    /// It may not, and was noted.
    No,
}

/// Takes rows one after another, in the order of a dump.
pub(super) struct Checker {
    report: Report,
    whole: Whole,
    partitions: BTreeMap<u64, Standing>,
    count: Option<PartitionCount>,
    /// The twin whose entries of the index follow.
    twin: Option<Expected>,
    /// The last revision that was seen, with its identity.
    revision: Option<HistoryEntry>,
    last: Table,
    /// The row before.
    before: Option<Row>,
    /// The first thing because of which a backup is not whole.
    gap: Option<Finding>,
    /// Whether the index can be compared with the twins.
    index: Readable,
    told: u64,
}

/// Whether a part of a store can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readable {
    Yes,
    No,
}

/// What a partition's own row says, and how far its log and its chain were followed.
#[derive(Default)]
struct Standing {
    revision: u64,
    floor: u64,
    head: AuditHead,
    logged: u64,
    /// Changes that are not in the log by themselves, and in no other one yet.
    unlogged: BTreeSet<u64>,
    walk: Walk,
    broken: bool,
}

/// The entries that the index should have of a twin.
struct Expected {
    device: String,
    module: String,
    /// None: the twin is damaged, so nobody knows.
    entries: Option<BTreeSet<IndexEntry>>,
}

impl Checker {
    pub(super) fn new(whole: Whole) -> Checker {
        Checker {
            report: Report::default(),
            whole,
            partitions: BTreeMap::new(),
            count: None,
            twin: None,
            revision: None,
            last: Table::Partitions,
            before: None,
            gap: None,
            index: Readable::Yes,
            told: 0,
        }
    }

    /// Tells how many rows of the present table were done.
    pub(super) fn tell(&mut self, progress: &mut impl FnMut(Table, u64)) {
        let done = self.report.rows.get(&self.last).copied().unwrap_or(0);
        if done != self.told {
            self.told = done;
            progress(self.last, done);
        }
    }

    /// Takes the next row.
    pub(super) fn take(&mut self, item: Item) -> Sound {
        let row = match item {
            Item::Row(row) => row,
            Item::Unreadable(table, problem) => {
                self.reach(table);
                self.break_off(table, &problem);
                return Sound::No;
            }
        };
        self.reach(row.table);
        *self.report.rows.entry(row.table).or_default() += 1;
        let looked = self.look(&row);
        let sound = match looked {
            Ok(index) => Sound::Yes(index),
            Err(problem) if row.table == Table::Partitions => {
                self.note_gap(row.table, key_text(&row), problem);
                Sound::No
            }
            Err(problem) => {
                self.note(row.table, key_text(&row), problem);
                Sound::No
            }
        };
        // Entries of the index stand between the twins.
        if row.table != Table::Index {
            self.before = Some(row);
        }
        sound
    }

    fn break_off(&mut self, table: Table, problem: &str) {
        let before = self.before.as_ref().filter(|row| row.table == table);
        let place = before.map_or_else(String::new, |row| format!(" behind {}", key_text(row)));
        let problem = format!("it cannot be read{place}: {problem}");
        if table == Table::Index {
            // It follows from the twins, so nothing is missing; but it cannot be compared.
            self.index = Readable::No;
            self.note(table, String::new(), problem);
        } else {
            self.report.incomplete.insert(table);
            self.note_gap(table, String::new(), problem);
        }
    }

    /// The first finding because of which a backup is not whole: a table that breaks off, or a
    /// partition that is damaged, without which there is no store.
    pub(super) fn gap(&self) -> Option<&Finding> {
        self.gap.as_ref()
    }

    /// Notes something because of which a backup is not whole.
    fn note_gap(&mut self, table: Table, key: String, problem: String) {
        let finding = Finding {
            table: Some(table),
            key: key.clone(),
            problem: problem.clone(),
        };
        self.gap.get_or_insert(finding);
        self.note(table, key, problem);
    }

    /// Why there is no store without what is missing; findings of partitions come first.
    pub(super) fn without_partitions(&self) -> Option<Finding> {
        let findings = self.report.findings.iter();
        let mut of_partitions = findings.filter(|one| one.table == Some(Table::Partitions));
        of_partitions.next().cloned()
    }

    /// The last change of the partition of a twin or a revision.
    pub(super) fn last_revision(&self, row: &Row) -> Option<u64> {
        let fields = Fields(&row.values);
        let key = key(fields.text(0), fields.text(1)).ok()?;
        Some(self.standing_of(&key)?.revision)
    }

    /// Ends: what is missing at the end of a table is found here.
    pub(super) fn end(mut self) -> Report {
        self.close_twin();
        for (partition, standing) in std::mem::take(&mut self.partitions) {
            if let Some(missing) = standing.unlogged.first() {
                let gap = format!("the log has a gap: change {missing} is missing");
                self.note(Table::Log, partition.to_string(), gap);
            }
            if standing.logged < standing.revision {
                let gap = format!(
                    "changes {} to {} are missing",
                    standing.logged + 1,
                    standing.revision
                );
                self.note(Table::Log, partition.to_string(), gap);
            }
            if !standing.broken
                && let Err(broken) = standing.walk.end(standing.head)
            {
                self.note(Table::Audit, partition.to_string(), broken.to_string());
            }
        }
        self.report
    }

    pub(super) fn note(&mut self, table: Table, key: String, problem: String) {
        self.report.note(Some(table), key, problem);
    }

    /// Notes that another table begins.
    fn reach(&mut self, table: Table) {
        // The entries of the index come between the twins.
        let table = if table == Table::Index {
            Table::Twins
        } else {
            table
        };
        if table == self.last {
            return;
        }
        if self.last == Table::Partitions {
            let count = u16::try_from(self.partitions.len()).unwrap_or(u16::MAX);
            self.count = PartitionCount::new(count).ok();
            let gapless = self.partitions.keys().copied().eq(0..u64::from(count));
            if self.count.is_none() || !gapless {
                let problem =
                    format!("{count} partitions with gaps are none that a store can have");
                self.note_gap(Table::Partitions, String::new(), problem);
            }
        }
        if self.last == Table::Twins {
            self.close_twin();
        }
        self.last = table;
        self.told = 0;
    }

    fn look(&mut self, row: &Row) -> Result<Vec<Row>, String> {
        // Even a damaged twin may have entries in the index.
        if row.table == Table::Twins {
            self.close_twin();
            self.twin = Some(Expected {
                device: row.values.first().map(Value::to_string).unwrap_or_default(),
                module: row.values.get(1).map(Value::to_string).unwrap_or_default(),
                entries: None,
            });
        }
        let columns = row.table.columns();
        if row.values.len() != columns.len() {
            return Err(format!(
                "it has {} values instead of {}",
                row.values.len(),
                columns.len()
            ));
        }
        for (value, (name, kind)) in row.values.iter().zip(columns) {
            if !value.fits(*kind) {
                return Err(format!("the column {name} is no {}", kind_name(*kind)));
            }
        }
        let fields = Fields(&row.values);
        match row.table {
            Table::Partitions => self.partition(&fields)?,
            Table::Twins => return self.twin(&fields),
            Table::Index => self.index(&fields)?,
            Table::Log => self.log(&fields)?,
            Table::History => self.history(&fields)?,
            Table::Audit => self.audit(&fields)?,
            Table::Requests
            | Table::Tokens
            | Table::Enrollments
            | Table::Operations
            | Table::Results
            | Table::Provisioning => small::check(row.table, &fields)?,
        }
        Ok(Vec::new())
    }

    fn partition(&mut self, row: &Fields<'_>) -> Result<(), String> {
        let standing = Standing {
            revision: row.number(3),
            floor: row.number(5),
            head: AuditHead {
                sequence: row.number(6),
                hash: hash(row.bytes(7), "audit_hash")?,
            },
            logged: row.number(5),
            ..Standing::default()
        };
        let (revision, published, floor) = (standing.revision, row.number(4), standing.floor);
        self.partitions.insert(row.number(0), standing);
        if published > revision || floor > revision {
            return Err(format!(
                "its last change is {revision}, but {published} is published and {floor} forgotten"
            ));
        }
        Ok(())
    }

    fn twin(&mut self, row: &Fields<'_>) -> Result<Vec<Row>, String> {
        let record = fields::record(row)?;
        let key = record.key.clone();
        record.twin.parse(&key).map_err(|damaged| told(&damaged))?;
        let entries = index::entries(&record).map_err(|damaged| told(&damaged))?;
        let rows = entries.iter().map(|entry| index_row(row, entry)).collect();
        if let Some(twin) = &mut self.twin {
            twin.entries = Some(entries);
        }
        self.within(&record)?;
        match self.whole {
            Whole::Store => Ok(Vec::new()),
            Whole::Backup => Ok(rows),
        }
    }

    /// A record is not ahead of its partition.
    fn within(&self, record: &Record) -> Result<(), String> {
        let Some(standing) = self.standing_of(&record.key) else {
            return Ok(());
        };
        let (revision, last) = (record.revision.get(), standing.revision);
        if revision > last {
            return Err(format!(
                "its revision is {revision}, but its partition's last is {last}"
            ));
        }
        Ok(())
    }

    fn standing_of(&self, key: &IdentityKey) -> Option<&Standing> {
        let partition = partition_of(&key.device, self.count?);
        self.partitions.get(&u64::from(partition.get()))
    }

    fn index(&mut self, row: &Fields<'_>) -> Result<(), String> {
        let entry = IndexEntry {
            path: row.text(2).to_owned(),
            value: row.text(3).to_owned(),
        };
        let (device, module) = (row.text(0), row.text(1));
        let twin = self.twin.as_mut();
        let twin = twin.filter(|twin| twin.device == device && twin.module == module);
        let twin = twin.ok_or_else(|| "there is no such twin".to_owned())?;
        // Of a damaged twin nobody knows.
        let known = twin.entries.as_mut();
        if known.is_none_or(|entries| entries.remove(&entry)) {
            Ok(())
        } else {
            Err("the twin does not have this value".to_owned())
        }
    }

    /// What the index should have had of the last twin.
    fn close_twin(&mut self) {
        let Some(twin) = self.twin.take() else { return };
        if self.whole == Whole::Backup || self.index == Readable::No {
            return;
        }
        for entry in twin.entries.unwrap_or_default() {
            let key = format!(
                "{}/{}/{}/{}",
                twin.device, twin.module, entry.path, entry.value
            );
            let problem = "the twin has this value, the index does not".to_owned();
            self.note(Table::Index, key, problem);
        }
    }

    fn history(&mut self, row: &Fields<'_>) -> Result<(), String> {
        let key = key(row.text(0), row.text(1))?;
        let stored = HistoryRow {
            revision: row.number(2),
            first_revision: row.number(3),
            at: row.integer(4),
            first_at: row.integer(5),
            actor: row.text(6).to_owned(),
            cause: row.text(7).to_owned(),
            changes: row.text(8).to_owned(),
            patch: row.text(9).to_owned(),
            undo: row.text(10).to_owned(),
            routine: row.truth(11),
            trace_parent: row.optional(12),
            checksum: row.checksum(13)?,
            previous: row.optional_integer(14).map(i64::cast_unsigned),
        };
        // Of what is behind a damaged one nobody says that something is missing.
        let before = self.revision.take();
        let entry = history::decode(key, stored).map_err(|damaged| told(&damaged))?;
        json(&entry.patch, "patch")?;
        json(&entry.undo, "undo")?;
        self.revision = Some(entry.clone());
        let before = before.filter(|before| before.key == entry.key);
        if entry.first_revision > entry.revision
            || before
                .as_ref()
                .is_some_and(|before| before.revision >= entry.first_revision)
        {
            return Err("it overlaps the revision before it".to_owned());
        }
        if let Some(missing) = missing_before(before.as_ref(), &entry) {
            return Err(format!(
                "revision {missing}, which was before it, is missing"
            ));
        }
        let last = self
            .standing_of(&entry.key)
            .map(|standing| standing.revision);
        match last {
            Some(last) if entry.revision.get() > last => {
                Err(format!("the last change of its partition is {last}"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The revision that should stand before another one, if another stands there. Older ones of those there
/// were may be forgotten, so the oldest may lack the one before it; and what did not know which one was
/// before it is of a program that did not write down each.
fn missing_before(before: Option<&HistoryEntry>, entry: &HistoryEntry) -> Option<Revision> {
    let previous = entry
        .previous
        .filter(|previous| *previous != Revision::ZERO)?;
    let before = before.filter(|before| before.previous.is_some())?;
    (before.revision != previous).then_some(previous)
}

fn index_row(twin: &Fields<'_>, entry: &IndexEntry) -> Row {
    index_row_of((twin.text(0), twin.text(1)), entry)
}

/// The row of an entry of a twin's index.
pub(super) fn index_row_of((device, module): (&str, &str), entry: &IndexEntry) -> Row {
    let text = |text: &str| Value::Text(text.to_owned());
    Row {
        table: Table::Index,
        values: vec![
            text(device),
            text(module),
            text(&entry.path),
            text(&entry.value),
        ],
    }
}
