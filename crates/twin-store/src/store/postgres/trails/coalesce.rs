//! Puts routine revisions together before they are written. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use twin::{IdentityKey, Revision};

use crate::history::{may_merge, merge};
use crate::store::HistoryEntry;

/// What to remove from the histories, and what to write: every entry, merged with the one before of
/// its identity where that is allowed. `last` are the last ones that are stored.
pub(super) fn coalesce(
    entries: &[HistoryEntry],
    last: &BTreeMap<IdentityKey, HistoryEntry>,
    within: Duration,
) -> (Vec<(IdentityKey, Revision)>, Vec<HistoryEntry>) {
    let mut replaced = Vec::new();
    let mut written: Vec<HistoryEntry> = Vec::with_capacity(entries.len());
    // Where the last entry of an identity is in `written`.
    let mut places: BTreeMap<&IdentityKey, usize> = BTreeMap::new();
    for entry in entries {
        let place = places.get(&entry.key).copied();
        let before = match place {
            Some(place) => written.get(place),
            None => last.get(&entry.key),
        };
        let merged = before
            .filter(|before| may_merge(before, entry, within))
            .and_then(|before| merge(before, entry).ok());
        match (merged, place) {
            (Some(merged), Some(place)) => written[place] = merged,
            (Some(merged), None) => {
                replaced.extend(before.map(|before| (before.key.clone(), before.revision)));
                places.insert(&entry.key, written.len());
                written.push(merged);
            }
            (None, _) => {
                places.insert(&entry.key, written.len());
                written.push(entry.clone());
            }
        }
    }
    (replaced, written)
}
