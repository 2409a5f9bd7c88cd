//! Makes of a restore a change of every twin. Devices, operators and readers of `TWINS` know versions
//! and revisions that were given after the backup was made; were they given again for other content,
//! a device would take the new for the old, and an etag would hold that should not. So all of them are
//! raised above whatever can have been given since. Pure.
//!
//! Each twin gets a revision with the cause `restore`, which leads back to the versions before. The log
//! of each partition is one entry, which tells readers of `TWINS` to look at every twin.

use jiff::Timestamp;
use posture::Timeline;
use prost::Message as _;
use twin::{Etag, IdentityKey, Revision, Version, Writer};
use wire::bus::v1::TwinChange;

use super::check::{index_row_of, twin_of};
use super::{Row, Table, Value};
use crate::apply::{Cause, ChangeKind, Touch, Weight};
use crate::history;
use crate::index;
use crate::record::{Damaged, IdentityEtag};
use crate::store::HistoryEntry;
use crate::store::row::{self, change, module_text};

/// Versions of one twin that may have been given in each second since the backup; a device is written
/// to once in some seconds at most.
const VERSIONS_PER_SECOND: u64 = 100;
/// Changes of one partition; a whole store makes some ten thousand.
const REVISIONS_PER_SECOND: u64 = 1_000_000;
/// Cause of the revisions.
const CAUSE: &str = "restore";

/// Columns of a partition.
const PARTITION: usize = 0;
const PARTITION_REVISION: usize = 3;
const PUBLISHED: usize = 4;
const LOG_FLOOR: usize = 5;

/// By how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raise {
    seconds: u64,
    at: Timestamp,
}

impl Raise {
    /// For a backup of that time.
    pub(super) fn since(made_at: Timestamp, now: Timestamp) -> Raise {
        // A clock that was put back lies in between by as much.
        let passed = now.duration_since(made_at).abs();
        Raise {
            // One more, for what is less than a second.
            seconds: passed.as_secs().unsigned_abs().saturating_add(1),
            at: now,
        }
    }

    /// By how much, for people.
    pub(super) fn by(self) -> serde_json::Value {
        serde_json::json!({
            "versions": self.seconds.saturating_mul(VERSIONS_PER_SECOND),
            "revisions": self.seconds.saturating_mul(REVISIONS_PER_SECOND),
        })
    }

    /// The revision of a restore, after the partition's last.
    pub(super) fn revision(self, last: u64) -> u64 {
        let step = self.seconds.saturating_mul(REVISIONS_PER_SECOND);
        last.saturating_add(step)
    }

    /// Raises a partition, and makes its log.
    pub(super) fn partition(self, row: &mut Row) -> Option<Row> {
        let number = |column: usize| match row.values.get(column) {
            Some(Value::Integer(number)) => Some(number.cast_unsigned()),
            Some(Value::Null | Value::Text(_) | Value::Bytes(_)) | None => None,
        };
        let index = u16::try_from(number(PARTITION)?).ok()?;
        let revision = self.revision(number(PARTITION_REVISION)?);
        for (column, raised) in [
            (PARTITION_REVISION, revision),
            (PUBLISHED, revision - 1),
            (LOG_FLOOR, revision - 1),
        ] {
            *row.values.get_mut(column)? = Value::Integer(raised.cast_signed());
        }
        let restored = TwinChange {
            revision,
            restored: true,
            ..TwinChange::default()
        };
        let entry = restored.encode_to_vec();
        let sealed = change::seal_numbered(index, Revision::new(revision), &entry);
        Some(Row {
            table: Table::Log,
            values: vec![
                Value::Integer(index.into()),
                Value::Integer(revision.cast_signed()),
                Value::Bytes(sealed),
            ],
        })
    }

    /// Raises the versions of a twin whose partition's last change was `last`; answers its row, that of
    /// the revision and those of its index.
    pub(super) fn twin(self, row: &Row, last: u64) -> Result<Vec<Row>, String> {
        let told = |damaged: Damaged| damaged.to_string();
        let before = twin_of(&row.values)?;
        let step = self.seconds.saturating_mul(VERSIONS_PER_SECOND);
        let raised = |version: Version| {
            let number = version.get().saturating_add(step);
            Version::new(number).unwrap_or(version)
        };
        let mut after = before.clone();
        let twin = &mut after.twin;
        for section in [&mut twin.tags, &mut twin.desired, &mut twin.reported] {
            section.version = raised(section.version);
        }
        twin.version = raised(twin.version);
        twin.etag = Etag::from_counter(twin.etag.counter().saturating_add(step));
        let desired = twin.desired.version.get();
        let etag = after.identity.etag.number().saturating_add(step);
        after.identity.etag = IdentityEtag::from_number(etag);
        after.revision = Revision::new(self.revision(last));
        after.updated_at = self.at;
        if after.posture.configuration.desired_version.is_some() {
            // Whatever the device has applied meanwhile, it is to apply this.
            let configuration = &mut after.posture.configuration;
            configuration.desired_changed(desired, self.at, Timeline::default(), None);
        }
        let changes = [
            ChangeKind::Tags,
            ChangeKind::Desired,
            ChangeKind::Reported,
            ChangeKind::Identity,
        ];
        let cause = Cause {
            actor: Writer::System,
            cause: CAUSE.to_owned(),
            ..Cause::default()
        };
        let touch = Touch::of(changes, Weight::Fact, cause);
        let revision = after.revision;
        let states = [Some(&before), Some(&after)];
        let entry = history::entry(&after.key, states, &touch, revision, self.at).map_err(told)?;
        let twin = twin_row(&after).map_err(|error| error.to_string())?;
        let revision = history_row(&entry).ok_or("the present is centuries away")?;
        let device = after.key.device.as_str();
        let index = index::entries(&after).map_err(told)?;
        let index = index
            .iter()
            .map(|entry| index_row_of((device, module_text(&after.key)), entry));
        Ok([twin, revision].into_iter().chain(index).collect())
    }
}

fn key_values(key: &IdentityKey) -> [Value; 2] {
    [text(key.device.as_str()), text(module_text(key))]
}

fn twin_row(record: &crate::record::Record) -> Result<Row, serde_json::Error> {
    let row = row::encode(record)?;
    let mut values = key_values(&record.key).to_vec();
    values.extend([
        Value::Integer(row.revision.cast_signed()),
        text(&row.status),
        text(&row.tags),
        text(&row.desired),
        text(&row.reported),
        text(&row.posture),
        text(&row.body),
        Value::Integer(row.opaque.into()),
        Value::Integer(row.checksum.into()),
    ]);
    Ok(Row {
        table: Table::Twins,
        values,
    })
}

fn history_row(entry: &HistoryEntry) -> Option<Row> {
    let row = row::history::encode(entry)?;
    let mut values = key_values(&entry.key).to_vec();
    values.extend([
        Value::Integer(row.revision.cast_signed()),
        Value::Integer(row.first_revision.cast_signed()),
        Value::Integer(row.at),
        Value::Integer(row.first_at),
        text(&row.actor),
        text(&row.cause),
        text(&row.changes),
        text(&row.patch),
        text(&row.undo),
        Value::Integer(row.routine.into()),
        row.trace_parent.as_deref().map_or(Value::Null, text),
        Value::Integer(row.checksum.into()),
        row.previous.map_or(Value::Null, |previous| {
            Value::Integer(previous.cast_signed())
        }),
    ]);
    Some(Row {
        table: Table::History,
        values,
    })
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}
