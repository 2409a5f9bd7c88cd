//! What changed in a desired section since a version: for devices that are told changes, as those of
//! IoT Hub.
//!
//! The changes come out of the history, which has every version that is still kept, so whoever was
//! away from hints for a while is told each version all the same.

use std::collections::VecDeque;

use wire::twin::v1 as proto;

use super::Api;
use crate::error::Error;
use crate::history;
use crate::record::Record;
use crate::store::{HistoryEntry, HistoryRead};

/// Revisions read at once: a device is usually one version behind.
const CHUNK: u32 = 16;

/// Bytes of changes that one answer holds, and one more: whoever asks has to keep them until the
/// device has taken them, so the rest is asked for later.
const ANSWER_BYTES_MAX: usize = 128 << 10;

/// Revisions looked at before the whole section is answered instead: reading more would cost more
/// than it tells.
const SCAN_MAX: usize = 256;

impl Api {
    /// The changes that lead from `after` towards the present version, oldest first: all of them, or
    /// as many as fit into an answer.
    pub(super) async fn desired_changes(
        &self,
        record: &Record,
        after: u64,
    ) -> Result<Vec<proto::DesiredChange>, Error> {
        let present = record.twin.desired.version.get();
        if present <= after {
            return Ok(Vec::new());
        }
        let mut read = HistoryRead {
            key: record.key.clone(),
            before: None,
            from: None,
            to: None,
            limit: CHUNK,
        };
        // Newest first, as they are read; those that are too new for the answer are let go.
        let mut changes: VecDeque<proto::DesiredChange> = VecDeque::new();
        let mut bytes = 0;
        let mut scanned = 0;
        'looking: while scanned < SCAN_MAX {
            let entries = self.store.history(read.clone()).await?;
            for entry in &entries {
                // What a damaged revision did is not known, so the whole section is told.
                let Ok(entry) = entry else {
                    break 'looking;
                };
                read.before = Some(entry.first_revision);
                let Some(change) = change_of(entry) else {
                    continue;
                };
                // The twin may have moved on since the record was read; that is told next time.
                if change.version > present {
                    continue;
                }
                let reached = change.version <= after + 1;
                if change.version > after {
                    bytes += change.patch_json.len();
                    changes.push_back(change);
                }
                while bytes > ANSWER_BYTES_MAX && changes.len() > 1 {
                    let newest = changes.pop_front();
                    bytes -= newest.map_or(0, |newest| newest.patch_json.len());
                }
                if reached {
                    return Ok(changes.into_iter().rev().collect());
                }
            }
            scanned += entries.len();
            if entries.len() < CHUNK as usize {
                break;
            }
        }
        Ok(vec![proto::DesiredChange {
            version: present,
            patch_json: record.twin.desired.document.clone(),
        }])
    }
}

/// The version that a revision made of the desired section; `None` if it made none.
fn change_of(entry: &HistoryEntry) -> Option<proto::DesiredChange> {
    let (version, patch_json) = history::notification(entry)?;
    Some(proto::DesiredChange {
        version,
        patch_json,
    })
}
