//! Where the push of a configuration stands: pending, applied, rejected, timed out or reverted, and
//! when each hop was.
//!
//! Pure transitions on [`ConfigurationState`]. The versions are the desired section's `$version`s.
//! Versions never go down here, whatever arrives late or twice.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::time;

pub mod drift;
pub mod micro_agent;

use drift::Drift;

/// What became of the newest desired section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PushState {
    /// Nothing was ever desired.
    #[default]
    None,
    /// Desired, and the agent has not answered for this version.
    Pending,
    /// The agent applied this version.
    Applied,
    /// The agent refused this version and goes on with the one it had.
    Rejected,
    /// The agent was there and has not answered for this version in time. It may still do so.
    TimedOut,
    /// The agent applied this version and went back to the one before by itself.
    Reverted,
    /// The device applied this version and reports something else by now.
    Drifted,
}

impl PushState {
    /// As the posture's JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            PushState::None => "none",
            PushState::Pending => "pending",
            PushState::Applied => "applied",
            PushState::Rejected => "rejected",
            PushState::TimedOut => "timedOut",
            PushState::Reverted => "reverted",
            PushState::Drifted => "drifted",
        }
    }
}

/// When each hop of the loop was, as far as it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeline {
    /// The agent observed the fact that caused the change (agent's clock).
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// Ingestion received it.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub received_at: Option<Timestamp>,
    /// The posture that holds it was folded.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub folded_at: Option<Timestamp>,
    /// Policy decided.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Timestamp>,
    /// The desired section was committed.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<Timestamp>,
    /// Ingestion wrote it to the agent's stream.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub pushed_at: Option<Timestamp>,
    /// The agent applied or rejected it (agent's clock).
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Timestamp>,
    /// Its answer was committed.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<Timestamp>,
}

/// A path of the desired section that policies leave alone, because it went back and forth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenPath {
    /// Its keys, divided by dots.
    pub path: String,
    /// Who wrote there in turns.
    pub writers: Vec<String>,
    /// Since when.
    #[serde(with = "time")]
    pub at: Timestamp,
}

/// Where the push of a configuration stands; part of a posture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigurationState {
    /// What became of `desired_version`.
    pub state: PushState,
    /// Newest version of the desired section; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_version: Option<u64>,
    /// Newest version that the agent said it applied. After a rejection this is what it runs on, and
    /// after it went back what it went back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_version: Option<u64>,
    /// Why it was rejected, or why the agent went back; of a push that timed out, how long it was
    /// waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Keys that were refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invalid_fields: Vec<String>,
    /// How far the settings were pushed again to a device that does not stay with them.
    #[serde(skip_serializing_if = "Drift::is_nothing")]
    pub drift: Drift,
    /// When the state last changed.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Paths that policies leave alone, because they went back and forth.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<FrozenPath>,
    /// When each hop was, for `desired_version`.
    pub timeline: Timeline,
    /// W3C `traceparent` of the change that made `desired_version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
}

/// The agent's answer to a desired section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Version it answers for.
    pub version: u64,
    /// Applied or not.
    pub outcome: AckOutcome,
    /// When the answer arrived where it is committed.
    pub at: Timestamp,
    /// When ingestion wrote the section to the agent's stream, if it still knows.
    pub pushed_at: Option<Timestamp>,
    /// When the agent applied or rejected it, by its own clock.
    pub applied_at: Option<Timestamp>,
}

/// Applied or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AckOutcome {
    /// Everything is in force.
    Applied,
    /// Nothing of it is in force.
    Rejected {
        /// Why.
        reason: String,
        /// Keys that were refused.
        invalid_fields: Vec<String>,
    },
    /// It was in force, and is not any more.
    Reverted {
        /// Why.
        reason: String,
        /// The version that the agent went back to; none: to what it had before any.
        running: Option<u64>,
    },
}

/// What a transition did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The document changed and is to be stored.
    Changed,
    /// It said nothing new: a repetition, or older than what is known.
    Unchanged,
    /// It answers for a version that was never desired; nothing changed. The caller's mistake or
    /// the agent's, worth a log line.
    NeverDesired,
}

impl ConfigurationState {
    /// A new desired section was committed. `at` is the commit's instant.
    ///
    /// Call it for the first version of a twin too, so that its acknowledgement is not one of a
    /// version never desired.
    pub fn desired_changed(
        &mut self,
        version: u64,
        at: Timestamp,
        timeline: Timeline,
        trace_parent: Option<String>,
    ) -> Transition {
        if self.desired_version.is_some_and(|known| version <= known) {
            return Transition::Unchanged;
        }
        *self = Self {
            state: PushState::Pending,
            desired_version: Some(version),
            applied_version: self.applied_version,
            reason: None,
            invalid_fields: Vec::new(),
            drift: Drift::default(),
            at: Some(at),
            frozen: std::mem::take(&mut self.frozen),
            timeline: Timeline {
                committed_at: Some(at),
                // Hops after the commit cannot have been yet, whatever the caller copied.
                pushed_at: None,
                applied_at: None,
                acknowledged_at: None,
                ..timeline
            },
            trace_parent,
        };
        Transition::Changed
    }

    /// The agent answered.
    ///
    /// An answer for an older version only moves `applied_version`; the newest stays pending. A
    /// repeated answer, or one that arrived before the one already known, changes nothing.
    pub fn acknowledged(&mut self, ack: &Acknowledgement) -> Transition {
        let Some(desired) = self.desired_version else {
            return Transition::NeverDesired;
        };
        if ack.version > desired {
            return Transition::NeverDesired;
        }
        if ack.version < desired {
            return match ack.outcome {
                AckOutcome::Applied => self.raise_applied(ack.version),
                AckOutcome::Rejected { .. } => Transition::Unchanged,
                AckOutcome::Reverted { running, .. } => self.go_back(ack.version, running),
            };
        }
        if !matches!(self.state, PushState::Pending | PushState::TimedOut) {
            let older = self.at.is_some_and(|at| ack.at < at);
            if older || self.says_the_same(&ack.outcome) {
                return Transition::Unchanged;
            }
        }
        match &ack.outcome {
            AckOutcome::Applied => {
                self.state = PushState::Applied;
                self.raise_applied(ack.version);
                self.reason = None;
                self.invalid_fields = Vec::new();
            }
            AckOutcome::Rejected { .. } => {
                let (reason, invalid_fields) = kept(&ack.outcome);
                self.state = PushState::Rejected;
                self.reason = reason;
                self.invalid_fields = invalid_fields;
            }
            AckOutcome::Reverted { running, .. } => {
                let (reason, _) = kept(&ack.outcome);
                self.state = PushState::Reverted;
                self.go_back(ack.version, *running);
                self.note_drift(ack.at);
                self.reason = reason;
                self.invalid_fields = Vec::new();
            }
        }
        self.at = Some(ack.at);
        self.timeline.pushed_at = ack.pushed_at;
        self.timeline.applied_at = ack.applied_at;
        self.timeline.acknowledged_at = Some(ack.at);
        Transition::Changed
    }

    /// Since when the answer is waited for: a device that comes late gets the section late. None: nothing
    /// is waited for.
    pub fn awaited_since(&self, connected_at: Option<Timestamp>) -> Option<Timestamp> {
        (self.state == PushState::Pending).then_some(())?;
        self.at.max(connected_at)
    }

    /// The agent is connected and has not answered within the time that it has.
    ///
    /// It stays so until it answers or something newer is desired; an answer counts as if it had come
    /// in time.
    pub fn timed_out(
        &mut self,
        connected_at: Option<Timestamp>,
        within: SignedDuration,
        now: Timestamp,
    ) -> Transition {
        let since = self.awaited_since(connected_at);
        if since.is_none_or(|since| now.duration_since(since) < within) {
            return Transition::Unchanged;
        }
        self.state = PushState::TimedOut;
        self.reason = Some(format!("no answer within {within:#}"));
        self.at = Some(now);
        Transition::Changed
    }

    /// The device says that it is still working on the newest version: whatever it was held for before,
    /// it is pending, and has its whole time again.
    pub fn in_progress(&mut self, at: Timestamp) -> Transition {
        match self.state {
            PushState::Rejected | PushState::TimedOut => {}
            PushState::None
            | PushState::Pending
            | PushState::Applied
            | PushState::Reverted
            | PushState::Drifted => {
                return Transition::Unchanged;
            }
        }
        self.state = PushState::Pending;
        self.reason = None;
        self.invalid_fields = Vec::new();
        self.at = Some(at);
        Transition::Changed
    }

    /// The agent does not run on `version` any more, but on an older one or on none.
    fn go_back(&mut self, version: u64, running: Option<u64>) -> Transition {
        let running = running.filter(|running| *running < version);
        // It has applied something newer since.
        let outdated = self.applied_version.is_some_and(|known| known > version);
        if outdated || self.applied_version == running {
            return Transition::Unchanged;
        }
        self.applied_version = running;
        Transition::Changed
    }

    fn raise_applied(&mut self, version: u64) -> Transition {
        if self.applied_version.is_some_and(|known| version <= known) {
            return Transition::Unchanged;
        }
        self.applied_version = Some(version);
        Transition::Changed
    }

    fn says_the_same(&self, outcome: &AckOutcome) -> bool {
        let (reason, invalid_fields) = kept(outcome);
        let state = match outcome {
            AckOutcome::Applied => PushState::Applied,
            AckOutcome::Rejected { .. } => PushState::Rejected,
            AckOutcome::Reverted { .. } => PushState::Reverted,
        };
        self.state == state && self.reason == reason && self.invalid_fields == invalid_fields
    }
}

/// What a posture keeps of a refusal: the texts are the agent's, so they are cut to the limits.
fn kept(outcome: &AckOutcome) -> (Option<String>, Vec<String>) {
    match outcome {
        AckOutcome::Applied => (None, Vec::new()),
        AckOutcome::Rejected {
            reason,
            invalid_fields,
        } => (
            Some(crate::posture::cut(reason, limits::REASON_BYTES_MAX)),
            invalid_fields
                .iter()
                .take(limits::INVALID_FIELDS_MAX)
                .map(|field| crate::posture::cut(field, limits::NAME_BYTES_MAX))
                .collect(),
        ),
        AckOutcome::Reverted { reason, .. } => (
            Some(crate::posture::cut(reason, limits::REASON_BYTES_MAX)),
            Vec::new(),
        ),
    }
}

#[cfg(test)]
mod tests;
