//! Folds what ingestion admitted into a posture.
//!
//! The hop before is a message of a TELEMETRY stream, the hop after the store's transaction. The
//! fold decides everything: what is new, what is a repetition, what is missing. It may be run twice,
//! late, or on batches in another order; an event has effect once.
//!
//! Snapshots (ports, users, system, agent status) replace what is known only if they were observed
//! no earlier, so a late event cannot turn back time. An agent's clock that runs ahead is held to
//! the instant of reception, or a wrong clock once would freeze a snapshot for years.

use jiff::Timestamp;

use crate::event::{Lane, LaneEpoch, SecurityEvent};
use crate::posture::{Admission, Posture};

mod message;
mod payload;
mod session;

pub use self::message::{MessageBatch, fold_message};
pub use self::session::{SessionChange, SessionNotice, fold_session, lose_session};

/// Admitted events of one lane of one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentBatch {
    /// The lane.
    pub lane: Lane,
    /// The lane's epoch.
    pub epoch: LaneEpoch,
    /// Events that were admitted.
    pub events: Vec<SecurityEvent>,
    /// Sequences that were refused; they do not count as missing.
    pub rejected_sequences: Vec<u64>,
    /// Events the agent had to drop in this lane and epoch so far, in all.
    pub dropped_by_agent: u64,
    /// Everything of the epoch at or below was acknowledged to the agent before, or dropped by it.
    /// What was acknowledged stands earlier in the stream, so only a posture that never saw the
    /// epoch looks at this: it belongs to an identity that was created again, and what its
    /// predecessor got is not missing here.
    pub settled_through: u64,
    /// When ingestion received the batch.
    pub received_at: Timestamp,
}

/// What a fold did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldOutcome {
    /// Events that had effect.
    pub applied: u64,
    /// Events and rejections that were repetitions.
    pub duplicates: u64,
    /// Events newly found missing. Ones that arrived late are not subtracted.
    pub new_missing: u64,
    /// Which facts changed.
    pub changes: Changes,
    /// When the oldest event that had effect was observed: where the loop's timeline begins.
    pub first_observed_at: Option<Timestamp>,
}

/// Which facts changed, apart from counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent flags, each read by name
pub struct Changes {
    /// The set of listening ports.
    pub listening_ports: bool,
    /// The local users.
    pub users: bool,
    /// The system information.
    pub system: bool,
    /// The agent's version or collectors.
    pub agent: bool,
    /// A login, logout or failed login was counted.
    pub logins: bool,
}

/// Folds one batch. `stream_sequence` is that of the message it came in; several batches of one
/// message share it.
pub fn fold(posture: &mut Posture, batch: &AgentBatch, stream_sequence: u64) -> FoldOutcome {
    let mut outcome = FoldOutcome::default();
    let missing_before = {
        let lane = posture.delivery.lane_mut(batch.lane);
        lane.begin(batch.epoch, batch.settled_through);
        lane.missing.saturating_add(lane.lost)
    };
    let mut filled = 0_u64;
    for arrival in in_sequence(batch) {
        let lane = posture.delivery.lane_mut(batch.lane);
        let highest = lane.epoch_mut(batch.epoch).last_sequence;
        if lane.admit(batch.epoch, arrival.sequence) == Admission::Duplicate {
            lane.duplicates = lane.duplicates.saturating_add(1);
            outcome.duplicates += 1;
            continue;
        }
        if arrival.sequence < highest {
            filled += 1;
        }
        let Some(event) = arrival.event else {
            lane.rejected = lane.rejected.saturating_add(1);
            continue;
        };
        lane.received = lane.received.saturating_add(1);
        outcome.applied += 1;
        let observed_at = event.observed_at.min(batch.received_at);
        if outcome
            .first_observed_at
            .is_none_or(|first| observed_at < first)
        {
            outcome.first_observed_at = Some(observed_at);
        }
        payload::apply(posture, event, observed_at, &mut outcome.changes);
    }

    let lane = posture.delivery.lane_mut(batch.lane);
    lane.dropped(batch.epoch, batch.dropped_by_agent);
    lane.settle();
    let missing_after = lane.missing.saturating_add(lane.lost);
    outcome.new_missing = missing_after
        .saturating_add(filled)
        .saturating_sub(missing_before);

    seen(posture, batch.received_at, stream_sequence);
    outcome
}

/// An admitted or rejected sequence of a batch.
struct Arrival<'a> {
    sequence: u64,
    /// None if it was rejected.
    event: Option<&'a SecurityEvent>,
}

/// Admitted and rejected ones in the order of their sequences: taken one kind after the other they
/// would tear holes into each other's range, and too many holes at once are given up as lost.
fn in_sequence(batch: &AgentBatch) -> Vec<Arrival<'_>> {
    let events = batch.events.iter().map(|event| Arrival {
        sequence: event.sequence,
        event: Some(event),
    });
    let rejected = batch.rejected_sequences.iter().map(|sequence| Arrival {
        sequence: *sequence,
        event: None,
    });
    let mut arrivals: Vec<_> = events.chain(rejected).collect();
    arrivals.sort_by_key(|arrival| arrival.sequence);
    arrivals
}

/// Notes that something arrived from the agent.
fn seen(posture: &mut Posture, received_at: Timestamp, stream_sequence: u64) {
    posture.version = posture.version.max(stream_sequence);
    posture.updated_at = posture.updated_at.max(Some(received_at));
    posture.agent.last_seen_at = posture.agent.last_seen_at.max(Some(received_at));
}

#[cfg(test)]
mod tests;
