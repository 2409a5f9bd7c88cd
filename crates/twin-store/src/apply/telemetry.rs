//! Folds admitted telemetry into postures.

use jiff::Timestamp;
use posture::fold::SessionNotice;
use posture::{AgentBatch, Timeline, fold, fold_session};
use twin::IdentityKey;

use super::{Cause, ChangeKind, Overlay, Weight};

/// One entry of a telemetry message, as a value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Stream sequence of its message.
    pub sequence: u64,
    /// Place in its message.
    pub index: usize,
    /// Whose.
    pub key: IdentityKey,
    /// Generation of the identity that was authenticated.
    pub generation_id: String,
    /// When ingestion had it.
    pub received_at: Timestamp,
    /// W3C trace context of the fold.
    pub trace_parent: Option<String>,
    /// What it says.
    pub content: Content,
}

/// What an entry says.
#[derive(Debug, Clone)]
pub enum Content {
    /// Events of one lane.
    Batch(AgentBatch),
    /// A session began or ended.
    Session(SessionNotice),
}

/// What became of the entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folded {
    /// Events that had effect.
    pub applied: u64,
    /// Events that were known already.
    pub duplicates: u64,
    /// Events found missing.
    pub missing: u64,
    /// Entries that have no twin, and why: the identity was deleted or made anew meanwhile, or its
    /// record cannot be read. Index into the entries.
    pub refused: Vec<(usize, String)>,
}

/// Folds entries in their order.
pub fn fold_entries(overlay: &mut Overlay, entries: &[Entry], now: Timestamp) -> Folded {
    let mut folded = Folded::default();
    for (index, entry) in entries.iter().enumerate() {
        let record = match overlay.get_mut(&entry.key) {
            Ok(record) if record.identity.generation_id == entry.generation_id => record,
            Ok(_) => {
                let why = format!("{} was created anew since", entry.key);
                folded.refused.push((index, why));
                continue;
            }
            Err(error) => {
                folded.refused.push((index, error.to_string()));
                continue;
            }
        };
        let mut timeline = Timeline {
            received_at: Some(entry.received_at),
            folded_at: Some(now),
            ..Timeline::default()
        };
        let weight = match &entry.content {
            Content::Batch(batch) => {
                let outcome = fold(&mut record.posture, batch, entry.sequence);
                folded.applied += outcome.applied;
                folded.duplicates += outcome.duplicates;
                folded.missing += outcome.new_missing;
                timeline.observed_at = outcome.first_observed_at;
                let facts = outcome.changes;
                if facts.listening_ports
                    || facts.users
                    || facts.system
                    || facts.agent
                    || facts.logins
                {
                    Weight::Fact
                } else {
                    Weight::Routine
                }
            }
            Content::Session(notice) => {
                fold_session(&mut record.posture, notice, entry.sequence);
                Weight::Routine
            }
        };
        let cause = Cause {
            trace_parent: entry.trace_parent.clone(),
            timeline,
        };
        overlay.touch(&entry.key, &[ChangeKind::Posture], weight, cause);
    }
    folded
}

#[cfg(test)]
mod tests;
