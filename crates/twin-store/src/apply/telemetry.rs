//! Folds admitted telemetry into postures.

use jiff::Timestamp;
use posture::fold::{SessionChange, SessionNotice};
use posture::{
    AgentBatch, FoldOutcome, MessageBatch, Timeline, fold, fold_message, fold_session, lose_session,
};
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
    /// Runs of ingestion whose sessions were noted beside others and count now: nobody may have heard
    /// of them for long.
    pub taken_up: Vec<String>,
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
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(why) => {
                folded.refused.push((index, why));
                continue;
            }
        };
        let mut changes = vec![ChangeKind::Posture];
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
                folded.taken_up.extend(taken_up(record, notice));
                if takes_model(record, notice) {
                    changes.push(ChangeKind::Identity);
                    Weight::Fact
                } else if record.posture.agent.connected == was {
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
        overlay.folded(&entry.key, &changes, weight, &cause);
    }
    folded
}

/// Ends sessions of runs of ingestion of which nobody has heard for long: what else was said of them
/// meanwhile, another session above all, stands. Answers how many it ended, and the runs whose sessions
/// count instead.
pub fn lose_sessions(
    overlay: &mut Overlay,
    sessions: &[(IdentityKey, String)],
    now: Timestamp,
) -> (usize, Vec<String>) {
    let (mut lost, mut taken_up) = (0, Vec::new());
    for (key, run) in sessions {
        // One that is gone or cannot be read has nothing to end.
        let Ok(record) = overlay.get(key) else {
            continue;
        };
        let agent = &record.posture.agent;
        let session_run = agent.session_run.as_deref().unwrap_or_default();
        if !agent.connected || session_run != run {
            continue;
        }
        let Ok(record) = overlay.fold_mut(key) else {
            continue;
        };
        lose_session(&mut record.posture, run, now);
        let agent = &record.posture.agent;
        taken_up.extend(agent.session_run.clone().filter(|_| agent.connected));
        let cause = Cause {
            cause: "session".to_owned(),
            ..Cause::default()
        };
        overlay.folded(key, &[ChangeKind::Posture], Weight::Session, &cause);
        lost += 1;
    }
    (lost, taken_up)
}

/// The run whose session counts now that the one of the notice has ended.
fn taken_up(record: &Record, notice: &SessionNotice) -> Option<String> {
    let agent = &record.posture.agent;
    let others = agent.connected && notice.change == SessionChange::Disconnected;
    let run = agent.session_run.as_ref().filter(|_| others)?;
    (notice.run.as_ref() != Some(run)).then(|| run.clone())
}

/// Takes over the model that a device announced when its newest session began; says whether it is
/// another than before.
fn takes_model(record: &mut Record, notice: &SessionNotice) -> bool {
    let Some(model) = &notice.model_id else {
        return false;
    };
    let newest = notice.is_of(&record.posture.agent);
    if !newest || record.identity.model_id == *model {
        return false;
    }
    record.identity.model_id.clone_from(model);
    true
}

/// The record that an entry is folded into; none if the entry says nothing that is not known; or why
/// there is no record.
fn admitted<'o>(overlay: &'o mut Overlay, entry: &Entry) -> Result<Option<&'o mut Record>, String> {
    let present = overlay.get(&entry.key).map_err(|error| error.to_string())?;
    if present.identity.generation_id != entry.generation_id {
        return Err(format!("{} was created anew since", entry.key));
    }
    if let Content::Session(notice) = &entry.content
        && notice.is_known(&present.posture.agent)
    {
        // After an outage of the bus all sessions say again that they are there: that costs no write.
        return Ok(None);
    }
    overlay
        .fold_mut(&entry.key)
        .map(Some)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
