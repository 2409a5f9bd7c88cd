//! Many changes as few: of each twin the last, with all that was touched in between. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use twin::{IdentityKey, Revision};

use super::feed::Logged;

/// Twins of one batch and their bytes, beyond which no further one is begun: what a slow reader costs
/// at most.
const TWINS_MAX: usize = 256;
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// Changes looked at for one batch.
const CHANGES_MAX: usize = 4096;

/// What happened to one twin.
#[derive(Debug, Clone)]
pub(super) struct Gathered {
    /// The last change.
    pub(super) last: Arc<Logged>,
    /// What all of them touched.
    pub(super) changes: BTreeSet<i32>,
}

/// Changes of one partition, gathered.
#[derive(Debug, Default)]
pub(super) struct Batch {
    twins: BTreeMap<IdentityKey, Gathered>,
    bytes: usize,
    seen: usize,
}

impl Batch {
    /// Takes a change; they must come in their order.
    pub(super) fn take(&mut self, logged: Arc<Logged>) {
        self.seen += 1;
        self.bytes += logged.bytes;
        let touched = logged.change.changes.iter().copied();
        if let Some(gathered) = self.twins.get_mut(&logged.key) {
            if gathered.last.change.deleted {
                // Another identity of the same name: what the first was has gone with it.
                gathered.changes.clear();
            }
            gathered.changes.extend(touched);
            self.bytes -= gathered.last.bytes;
            gathered.last = logged;
            return;
        }
        let changes = touched.collect();
        let key = logged.key.clone();
        let last = logged;
        self.twins.insert(key, Gathered { last, changes });
    }

    /// Whether no more should be taken.
    pub(super) fn is_full(&self) -> bool {
        self.twins.len() >= TWINS_MAX || self.bytes >= BYTES_MAX || self.seen >= CHANGES_MAX
    }

    /// One change of each twin, in the order of the last ones.
    pub(super) fn into_changes(self) -> Vec<Gathered> {
        let by_revision: BTreeMap<Revision, Gathered> = self
            .twins
            .into_values()
            .map(|gathered| (gathered.last.revision, gathered))
            .collect();
        by_revision.into_values().collect()
    }
}

/// Which twins a reader was shown, so that it is told of those alone that they match no more.
///
/// It holds so many at most; beyond them, or after a resumption, it cannot say, and a reader may
/// be told of a twin that it does not know.
#[derive(Debug)]
pub(super) struct Shown {
    known: Option<BTreeSet<u64>>,
}

/// Twins remembered: a few MB.
const SHOWN_MAX: usize = 100_000;

impl Shown {
    /// Of a reader that has been shown nothing.
    pub(super) fn nothing() -> Shown {
        Shown {
            known: Some(BTreeSet::new()),
        }
    }

    /// Of a reader of whom it is not known.
    pub(super) fn unknown() -> Shown {
        Shown { known: None }
    }

    /// The reader is shown a twin.
    pub(super) fn add(&mut self, key: &IdentityKey) {
        if let Some(known) = &mut self.known {
            known.insert(hash(key));
            if known.len() > SHOWN_MAX {
                self.known = None;
            }
        }
    }

    /// The reader is told that a twin is gone; whether it may have been shown it.
    pub(super) fn remove(&mut self, key: &IdentityKey) -> bool {
        match &mut self.known {
            Some(known) => known.remove(&hash(key)),
            None => true,
        }
    }
}

fn hash(key: &IdentityKey) -> u64 {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
