//! What arrived of each lane, and what did not: the rule that gives every event effect once.
//!
//! A lane numbers its events from 1 within an epoch. The fold keeps the highest sequence seen and
//! the ranges below it that are missing. An event is new if it is above the highest or in a missing
//! range; anything else was folded before, or was given up, and has no effect.
//!
//! An agent that is reinstalled starts a new epoch. Earlier epochs are kept for a while, so that a
//! late batch of one still takes effect exactly once; counters go on across epochs.

use serde::{Deserialize, Serialize};

use super::MessageDelivery;
use crate::event::{Lane, LaneEpoch};
use crate::limits;

/// What arrived, by lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the lanes
pub struct Delivery {
    pub high: LaneDelivery,
    pub medium: LaneDelivery,
    pub low: LaneDelivery,
    /// Security messages of IoT Hub, which have no lane; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<MessageDelivery>,
}

impl Delivery {
    /// One lane's.
    pub fn lane(&self, lane: Lane) -> &LaneDelivery {
        match lane {
            Lane::High => &self.high,
            Lane::Medium => &self.medium,
            Lane::Low => &self.low,
        }
    }

    pub(crate) fn lane_mut(&mut self, lane: Lane) -> &mut LaneDelivery {
        match lane {
            Lane::High => &mut self.high,
            Lane::Medium => &mut self.medium,
            Lane::Low => &mut self.low,
        }
    }
}

/// What arrived of one lane. Counters are totals over all epochs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LaneDelivery {
    /// The epoch in use; absent before the first batch.
    #[serde(flatten)]
    pub current: Option<EpochDelivery>,
    /// Events folded.
    pub received: u64,
    /// Events that arrived again and had no effect.
    pub duplicates: u64,
    /// Events that ingestion refused; they are not missing.
    pub rejected: u64,
    /// Events known to exist that have not arrived, of all epochs still kept. Goes down when they
    /// arrive late, and when they are given up as `lost`.
    pub missing: u64,
    /// Events given up: their range was forgotten because there were too many, or their epoch was.
    pub lost: u64,
    /// Events the agent said it dropped, over all epochs. They are missing or lost as well.
    pub dropped_by_agent: u64,
    /// Earlier epochs, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub previous_epochs: Vec<EpochDelivery>,
}

/// What arrived within one epoch of a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EpochDelivery {
    /// The epoch.
    pub epoch: LaneEpoch,
    /// Highest sequence seen, folded or rejected.
    pub last_sequence: u64,
    /// Ranges below it that have not arrived, ascending and apart; at most
    /// [`limits::MISSING_RANGES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_ranges: Vec<SequenceRange>,
    /// What the agent said it dropped in this epoch.
    #[serde(default)]
    pub dropped_in_epoch: u64,
}

/// A range of sequences, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SequenceRange {
    /// First sequence.
    pub first: u64,
    /// Last sequence, at least `first`.
    pub last: u64,
}

impl SequenceRange {
    /// How many sequences it holds.
    pub fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// Whether a sequence has effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Seen for the first time.
    New,
    /// Folded, rejected or given up before.
    Duplicate,
}

impl EpochDelivery {
    fn new(epoch: LaneEpoch) -> Self {
        Self {
            epoch,
            last_sequence: 0,
            missing_ranges: Vec::new(),
            dropped_in_epoch: 0,
        }
    }

    fn missing(&self) -> u64 {
        self.missing_ranges
            .iter()
            .fold(0, |sum, range| sum.saturating_add(range.count()))
    }

    /// Marks a sequence as seen. Ranges may grow past the bound until [`Self::forget_oldest`].
    fn admit(&mut self, sequence: u64) -> Admission {
        if sequence > self.last_sequence {
            if sequence - self.last_sequence > 1 {
                self.missing_ranges.push(SequenceRange {
                    first: self.last_sequence + 1,
                    last: sequence - 1,
                });
            }
            self.last_sequence = sequence;
            return Admission::New;
        }
        let index = self
            .missing_ranges
            .partition_point(|range| range.last < sequence);
        let Some(range) = self.missing_ranges.get_mut(index) else {
            return Admission::Duplicate;
        };
        if sequence < range.first {
            return Admission::Duplicate;
        }
        let SequenceRange { first, last } = *range;
        match (sequence == first, sequence == last) {
            (true, true) => {
                self.missing_ranges.remove(index);
            }
            (true, false) => range.first = sequence + 1,
            (false, true) => range.last = sequence - 1,
            (false, false) => {
                range.last = sequence - 1;
                let rest = SequenceRange {
                    first: sequence + 1,
                    last,
                };
                self.missing_ranges.insert(index + 1, rest);
            }
        }
        Admission::New
    }

    /// Gives up the oldest ranges over the bound; says how many events that were.
    fn forget_oldest(&mut self) -> u64 {
        let excess = self
            .missing_ranges
            .len()
            .saturating_sub(limits::MISSING_RANGES_MAX);
        self.missing_ranges
            .drain(..excess)
            .fold(0, |sum, range| sum.saturating_add(range.count()))
    }
}

impl LaneDelivery {
    /// The epoch's state, made the current one if it was never seen.
    pub(crate) fn epoch_mut(&mut self, epoch: LaneEpoch) -> &mut EpochDelivery {
        let known = self
            .previous_epochs
            .iter()
            .position(|previous| previous.epoch == epoch);
        if let Some(index) = known {
            return &mut self.previous_epochs[index];
        }
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.epoch != epoch)
        {
            self.retire_current();
        }
        self.current
            .get_or_insert_with(|| EpochDelivery::new(epoch))
    }

    /// Makes an epoch that was never seen the current one, counting from behind `settled_through`.
    pub(crate) fn begin(&mut self, epoch: LaneEpoch, settled_through: u64) {
        let mut known = self.current.iter().chain(&self.previous_epochs);
        if !known.any(|state| state.epoch == epoch) {
            self.epoch_mut(epoch).last_sequence = settled_through;
        }
    }

    /// Marks a sequence of an epoch as seen.
    pub(crate) fn admit(&mut self, epoch: LaneEpoch, sequence: u64) -> Admission {
        self.epoch_mut(epoch).admit(sequence)
    }

    /// Takes in the agent's own count of drops, which only grows within an epoch.
    pub(crate) fn dropped(&mut self, epoch: LaneEpoch, total: u64) {
        let state = self.epoch_mut(epoch);
        let more = total.saturating_sub(state.dropped_in_epoch);
        state.dropped_in_epoch = state.dropped_in_epoch.saturating_add(more);
        self.dropped_by_agent = self.dropped_by_agent.saturating_add(more);
    }

    /// Brings ranges back under their bound and counts again what is missing.
    pub(crate) fn settle(&mut self) {
        let mut lost = 0_u64;
        let mut missing = 0_u64;
        for state in self.current.iter_mut().chain(&mut self.previous_epochs) {
            lost = lost.saturating_add(state.forget_oldest());
            missing = missing.saturating_add(state.missing());
        }
        self.lost = self.lost.saturating_add(lost);
        self.missing = missing;
    }

    fn retire_current(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        self.previous_epochs.insert(0, current);
        for forgotten in self
            .previous_epochs
            .drain(limits::PREVIOUS_EPOCHS_MAX.min(self.previous_epochs.len())..)
        {
            self.lost = self.lost.saturating_add(forgotten.missing());
        }
    }
}

#[cfg(test)]
mod tests;
