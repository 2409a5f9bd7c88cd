//! Puts one change into a commit: the record, its index entries, the log, the history.
//!
//! It numbers nothing and decides nothing; that was done before.

use std::sync::Arc;

use jiff::Timestamp;
use prost::Message as _;
use tracing::error;
use twin::Partition;

use super::Committed;
use crate::apply::Change;
use crate::store::{self, Commit, LogEntry, Upsert};
use crate::{encode, history, index};

/// Puts the change of one identity into a commit.
pub(super) fn record_change(
    commit: &mut Commit,
    partition: Partition,
    change: Change,
    now: Timestamp,
) -> Result<Arc<Committed>, store::Error> {
    for step in &change.steps {
        let states = [step.before.as_deref(), step.after.as_deref()];
        match history::entry(&change.key, states, &step.touch, step.revision, now) {
            Ok(entry) => commit.history.push(entry),
            // What was there before cannot be read; that must not keep it from being mended.
            Err(damaged) => error!(error = %damaged, "a revision is not kept in the history"),
        }
    }
    let steps = change.steps.iter().map(|step| step.revision.get());
    let earlier_revisions = steps.filter(|step| *step < change.revision.get()).collect();
    let Change {
        key,
        before,
        after,
        touch,
        revision,
        ..
    } = change;
    let mut encoded = match &after {
        Some(record) => encode::change(record, &touch).map_err(unencodable)?,
        None => encode::deletion(&key, revision, &touch),
    };
    encoded.earlier_revisions = earlier_revisions;
    commit.log.push(LogEntry {
        partition,
        revision,
        change: encoded.encode_to_vec(),
    });
    match &after {
        Some(record) => {
            let (index_remove, index_add) = index::changes(before.as_deref(), Some(record))?;
            commit.upserts.push(Upsert {
                record: Arc::clone(record),
                index_remove,
                index_add,
            });
        }
        None => commit.deletes.push(key.clone()),
    }
    Ok(Arc::new(Committed {
        key,
        partition,
        revision,
        touch,
        record: after,
    }))
}

fn unencodable(error: serde_json::Error) -> store::Error {
    store::Error::Engine {
        action: "encode a change",
        source: Box::new(error),
    }
}
