//! A revision as it lies in a row: columns of its own, and a CRC-32 over all of them.
//!
//! What devices are told stands behind the patch, on a line of its own; printed JSON has no line
//! breaks, and most rows have no such line.

use std::collections::BTreeSet;

use jiff::Timestamp;
use twin::{IdentityKey, Revision};

use super::Sum;
use crate::apply::ChangeKind;
use crate::history::GONE;
use crate::record::Damaged;
use crate::store::HistoryEntry;

/// Stands among the changes of an entry that follows the registry; rows from before have it not.
const REGISTRY: &str = "registry";

/// A revision, without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistoryRow {
    pub(crate) revision: u64,
    pub(crate) first_revision: u64,
    pub(crate) at: i64,
    pub(crate) first_at: i64,
    pub(crate) actor: String,
    pub(crate) cause: String,
    pub(crate) changes: String,
    pub(crate) patch: String,
    pub(crate) undo: String,
    pub(crate) routine: bool,
    pub(crate) trace_parent: Option<String>,
    pub(crate) checksum: u32,
    pub(crate) previous: Option<u64>,
}

/// Nanoseconds since 1970; none for an instant far from our time.
pub(crate) fn nanoseconds(at: Timestamp) -> Option<i64> {
    i64::try_from(at.as_nanosecond()).ok()
}

/// Reads what [`nanoseconds`] wrote; any number is an instant.
pub(crate) fn instant(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Prints a revision; none when a time in it is far from ours.
pub(crate) fn encode(entry: &HistoryEntry) -> Option<HistoryRow> {
    let mut changes: Vec<_> = entry.changes.iter().map(|kind| name(*kind)).collect();
    if entry.has_registry {
        changes.push(REGISTRY);
    }
    let mut row = HistoryRow {
        revision: entry.revision.get(),
        first_revision: entry.first_revision.get(),
        at: nanoseconds(entry.at)?,
        first_at: nanoseconds(entry.first_at)?,
        actor: entry.actor.clone(),
        cause: entry.cause.clone(),
        changes: changes.join(","),
        patch: match &entry.notification {
            Some(notification) => format!("{}\n{notification}", entry.patch),
            None => entry.patch.clone(),
        },
        undo: entry.undo.clone(),
        routine: entry.routine,
        trace_parent: entry.trace_parent.clone(),
        checksum: 0,
        previous: entry.previous.map(Revision::get),
    };
    row.checksum = row.sum(&entry.key);
    Some(row)
}

/// Reads a revision back.
pub(crate) fn decode(key: IdentityKey, row: HistoryRow) -> Result<HistoryEntry, Damaged> {
    let damaged = |problem: String| Damaged {
        key: key.to_string(),
        part: "history",
        problem: format!("revision {}: {problem}", row.revision),
    };
    if row.sum(&key) != row.checksum {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    let mut changes = BTreeSet::new();
    let mut has_registry = false;
    for text in row.changes.split(',').filter(|text| !text.is_empty()) {
        if text == REGISTRY {
            has_registry = true;
            continue;
        }
        changes.insert(kind(text).ok_or_else(|| damaged(format!("{text:?} is no change")))?);
    }
    let (patch, notification) = match row.patch.split_once('\n') {
        Some((patch, notification)) => (patch.to_owned(), Some(notification.to_owned())),
        None => (row.patch, None),
    };
    // Rows from before deletions had a name.
    if changes.is_empty() && patch == GONE {
        changes.insert(ChangeKind::Deleted);
    }
    Ok(HistoryEntry {
        key,
        revision: Revision::new(row.revision),
        first_revision: Revision::new(row.first_revision),
        at: instant(row.at),
        first_at: instant(row.first_at),
        actor: row.actor,
        cause: row.cause,
        changes,
        patch,
        undo: row.undo,
        notification,
        has_registry,
        routine: row.routine,
        previous: row.previous.map(Revision::new),
        trace_parent: row.trace_parent,
    })
}

impl HistoryRow {
    /// The checksum that the row should have.
    fn sum(&self, key: &IdentityKey) -> u32 {
        let mut sum = Sum::new(key);
        for number in [
            self.revision,
            self.first_revision,
            self.at.cast_unsigned(),
            self.first_at.cast_unsigned(),
        ] {
            sum.number(number);
        }
        for text in [
            &self.actor,
            &self.cause,
            &self.changes,
            &self.patch,
            &self.undo,
        ] {
            sum.text(text);
        }
        sum.number(u64::from(self.routine));
        sum.number(u64::from(self.trace_parent.is_some()));
        sum.text(self.trace_parent.as_deref().unwrap_or_default());
        // Rows from before it was noted have the sum that they had.
        if let Some(previous) = self.previous {
            sum.number(previous);
        }
        sum.finish()
    }
}

/// The name of a kind in rows; names are frozen.
fn name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Created => "created",
        ChangeKind::Tags => "tags",
        ChangeKind::Desired => "desired",
        ChangeKind::Reported => "reported",
        ChangeKind::Posture => "posture",
        ChangeKind::ConfigurationState => "configuration",
        ChangeKind::Status => "status",
        ChangeKind::Identity => "identity",
        ChangeKind::Configurations => "configurations",
        ChangeKind::DeviceTags => "deviceTags",
        ChangeKind::Deleted => "deleted",
    }
}

fn kind(name: &str) -> Option<ChangeKind> {
    match name {
        "created" => Some(ChangeKind::Created),
        "tags" => Some(ChangeKind::Tags),
        "desired" => Some(ChangeKind::Desired),
        "reported" => Some(ChangeKind::Reported),
        "posture" => Some(ChangeKind::Posture),
        "configuration" => Some(ChangeKind::ConfigurationState),
        "status" => Some(ChangeKind::Status),
        "identity" => Some(ChangeKind::Identity),
        "configurations" => Some(ChangeKind::Configurations),
        "deviceTags" => Some(ChangeKind::DeviceTags),
        "deleted" => Some(ChangeKind::Deleted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sample::revision;
    use crate::testing::key;

    /// A row as a version of ours wrote it that knew less.
    fn old(changes: &str, patch: &str) -> HistoryRow {
        let mut row = encode(&revision(&key("d"), 7)).expect("near");
        changes.clone_into(&mut row.changes);
        patch.clone_into(&mut row.patch);
        row.checksum = row.sum(&key("d"));
        row
    }

    #[test]
    fn rows_from_before_the_registry_was_followed_say_so() {
        let mut entry = revision(&key("d"), 7);
        for follows in [true, false] {
            entry.has_registry = follows;
            let row = encode(&entry).expect("near");
            assert_eq!(decode(key("d"), row), Ok(entry.clone()));
        }
        let read = decode(key("d"), old("tags,status", "{}")).expect("readable");
        assert!(!read.has_registry);
        assert_eq!(read.changes, [ChangeKind::Tags, ChangeKind::Status].into());
    }

    #[test]
    fn rows_from_before_deletions_had_a_name_are_deletions() {
        let read = decode(key("d"), old("", GONE)).expect("readable");
        assert_eq!(read.changes, [ChangeKind::Deleted].into());
        let read = decode(key("d"), old("", "{}")).expect("readable");
        assert!(read.changes.is_empty());
        assert!(decode(key("d"), old("vanished", GONE)).is_err());
    }
}
