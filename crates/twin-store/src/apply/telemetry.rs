//! Folds admitted telemetry into postures.

use jiff::Timestamp;
use posture::fold::SessionNotice;
use posture::{AgentBatch, FoldOutcome, MessageBatch, Timeline, fold, fold_message, fold_session};
use twin::{IdentityKey, Partition, Writer};

use super::{Cause, ChangeKind, Overlay, Weight};
use crate::record::Record;

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
    /// A security message of IoT Hub.
    Message(MessageBatch),
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

impl Folded {
    /// Counts what a fold did, and says how much it weighs.
    fn count(&mut self, outcome: &FoldOutcome) -> Weight {
        self.applied += outcome.applied;
        self.duplicates += outcome.duplicates;
        self.missing += outcome.new_missing;
        let facts = outcome.changes;
        let is_fact =
            facts.listening_ports || facts.users || facts.system || facts.agent || facts.logins;
        if is_fact {
            Weight::Fact
        } else {
            Weight::Routine
        }
    }
}

/// Folds entries of a partition in their order.
pub fn fold_entries(
    overlay: &mut Overlay,
    partition: Partition,
    entries: &[Entry],
    now: Timestamp,
) -> Folded {
    let mut folded = Folded::default();
    for (index, entry) in entries.iter().enumerate() {
        let record = match admitted(overlay, entry) {
            Ok(record) => record,
            Err(why) => {
                folded.refused.push((index, why));
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
                timeline.observed_at = outcome.first_observed_at;
                folded.count(&outcome)
            }
            Content::Message(message) => {
                let outcome = fold_message(&mut record.posture, message, entry.sequence);
                timeline.observed_at = outcome.first_observed_at;
                folded.count(&outcome)
            }
            Content::Session(notice) => {
                let was = record.posture.agent.connected;
                fold_session(&mut record.posture, notice, entry.sequence);
                if record.posture.agent.connected == was {
                    Weight::Routine
                } else {
                    Weight::Session
                }
            }
        };
        let why = match &entry.content {
            Content::Batch(_) | Content::Message(_) => {
                format!("events:{partition}/{}", entry.sequence)
            }
            Content::Session(_) => "session".to_owned(),
        };
        let cause = Cause {
            actor: Writer::Device,
            cause: why,
            trace_parent: entry.trace_parent.clone(),
            timeline,
        };
        overlay.folded(&entry.key, &[ChangeKind::Posture], weight, &cause);
    }
    folded
}

/// The record that an entry is folded into, or why there is none.
fn admitted<'o>(overlay: &'o mut Overlay, entry: &Entry) -> Result<&'o mut Record, String> {
    let present = overlay.get(&entry.key).map_err(|error| error.to_string())?;
    if present.identity.generation_id != entry.generation_id {
        return Err(format!("{} was created anew since", entry.key));
    }
    overlay
        .fold_mut(&entry.key)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
