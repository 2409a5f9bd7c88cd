//! Decides what a request or a batch of events changes: records in, records out.
//!
//! Pure: time, ids and sealed keys are arguments, nothing is read or written. The engine loads the
//! records that a decision needs, runs decisions one after another on one [`Overlay`], and commits
//! what they left there. A decision that is refused has changed nothing.

use std::collections::{BTreeMap, BTreeSet};

use posture::Timeline;
use twin::{DeviceId, IdentityKey};

use crate::error::Error;
use crate::record::{Damaged, Record};
use crate::store::{EnrollmentState, EnrollmentToken, EnrollmentUse, Loaded, TokenHash};

pub mod devices;
pub mod telemetry;
pub mod twins;

/// Where a change comes from: the trace it belongs to, and when the hops before it were.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cause {
    /// W3C trace context.
    pub trace_parent: Option<String>,
    /// Hops of the loop so far.
    pub timeline: Timeline,
}

/// What a change touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The identity is new.
    Created,
    /// The tags.
    Tags,
    /// The desired section.
    Desired,
    /// The reported section.
    Reported,
    /// What we concluded from events.
    Posture,
    /// Where the push of the configuration stands.
    ConfigurationState,
    /// Whether the device may connect.
    Status,
}

/// What happened to one identity since the overlay was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Touch {
    /// What changed, as a set: several decisions may touch one identity.
    pub changes: BTreeSet<ChangeKind>,
    /// Of the decision that tells most; see [`Weight`].
    pub cause: Cause,
    /// Of the cause kept.
    weight: Weight,
}

/// Which cause a change of several decisions carries: a change of facts tells more than a counter,
/// and of two equal ones the first began the loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Nothing was touched yet.
    #[default]
    None,
    /// Counters and times moved.
    Routine,
    /// A fact, a document or an identity changed.
    Fact,
}

/// Records as decisions see and leave them.
#[derive(Debug, Default)]
pub struct Overlay {
    records: BTreeMap<IdentityKey, Record>,
    damaged: BTreeMap<IdentityKey, Damaged>,
    tokens: BTreeMap<(TokenHash, DeviceId), EnrollmentState>,
    touched: BTreeMap<IdentityKey, Touch>,
    enrollments: Vec<EnrollmentUse>,
    new_tokens: Vec<EnrollmentToken>,
}

/// What decisions left to be written.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Records to write.
    pub upserts: Vec<(Record, Touch)>,
    /// Identities to remove.
    pub deletes: Vec<(IdentityKey, Touch)>,
    /// Uses of enrolment tokens.
    pub enrollments: Vec<EnrollmentUse>,
    /// New enrolment tokens.
    pub tokens: Vec<EnrollmentToken>,
}

impl Overlay {
    /// Starts from records as they are stored.
    pub fn new(loaded: Vec<Loaded>) -> Overlay {
        let mut overlay = Overlay::default();
        for record in loaded {
            match record {
                Loaded::Whole(record) => {
                    overlay.records.insert(record.key.clone(), *record);
                }
                Loaded::Damaged(key, damaged) => {
                    overlay.damaged.insert(key, damaged);
                }
                Loaded::Token(device, state) => {
                    overlay.tokens.insert((state.token.hash, device), state);
                }
                Loaded::Request(_) | Loaded::Operation(_) => {}
            }
        }
        overlay
    }

    /// The record of an identity, if there is one.
    ///
    /// # Errors
    /// It is there but cannot be read.
    pub fn find(&self, key: &IdentityKey) -> Result<Option<&Record>, Error> {
        match self.damaged.get(key) {
            Some(damaged) => Err(damaged.clone().into()),
            None => Ok(self.records.get(key)),
        }
    }

    /// The record of an identity.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn get(&self, key: &IdentityKey) -> Result<&Record, Error> {
        self.find(key)?.ok_or_else(|| Error::NotFound(key.clone()))
    }

    /// The record of an identity, to be changed in place by a decision that cannot be refused any
    /// more; [`Overlay::touch`] must follow.
    pub(crate) fn get_mut(&mut self, key: &IdentityKey) -> Result<&mut Record, Error> {
        if let Some(damaged) = self.damaged.get(key) {
            return Err(damaged.clone().into());
        }
        self.records
            .get_mut(key)
            .ok_or_else(|| Error::NotFound(key.clone()))
    }

    /// All modules of a device that are there, readable or not.
    pub fn modules(&self, device: &DeviceId) -> Vec<IdentityKey> {
        let mut keys: BTreeSet<_> = self.records.keys().chain(self.damaged.keys()).collect();
        keys.retain(|key| key.module.is_some() && key.device == *device);
        keys.into_iter().cloned().collect()
    }

    /// Leaves a record to be written.
    pub fn put(&mut self, record: Record, changes: &[ChangeKind], weight: Weight, cause: Cause) {
        self.touch(&record.key, changes, weight, cause);
        self.records.insert(record.key.clone(), record);
    }

    /// Leaves an identity to be removed.
    pub fn remove(&mut self, key: &IdentityKey, cause: Cause) {
        self.touch(key, &[], Weight::Fact, cause);
        self.records.remove(key);
        self.damaged.remove(key);
    }

    /// Leaves the use of an enrolment token to be written.
    pub fn enroll(&mut self, use_of: EnrollmentUse) {
        self.enrollments.push(use_of);
    }

    /// Leaves a new enrolment token to be written.
    pub fn add_token(&mut self, token: EnrollmentToken) {
        self.new_tokens.push(token);
    }

    /// An enrolment token as a device finds it, with the uses that are decided but not committed.
    pub fn token(&self, hash: TokenHash, device: &DeviceId) -> Option<EnrollmentState> {
        let mut state = self.tokens.get(&(hash, device.clone()))?.clone();
        for use_of in self.enrollments.iter().filter(|use_of| use_of.hash == hash) {
            state.uses = state.uses.saturating_add(1);
            if use_of.device == *device {
                state.nonce = Some(use_of.nonce.clone());
            }
        }
        Some(state)
    }

    /// What is left to be written.
    pub fn into_outcome(mut self) -> Outcome {
        let mut outcome = Outcome {
            enrollments: self.enrollments,
            tokens: self.new_tokens,
            ..Outcome::default()
        };
        for (key, touch) in self.touched {
            match self.records.remove(&key) {
                Some(record) => outcome.upserts.push((record, touch)),
                None => outcome.deletes.push((key, touch)),
            }
        }
        outcome
    }

    /// Notes that a record was changed.
    pub(crate) fn touch(
        &mut self,
        key: &IdentityKey,
        changes: &[ChangeKind],
        weight: Weight,
        cause: Cause,
    ) {
        let touch = self.touched.entry(key.clone()).or_default();
        touch.changes.extend(changes);
        if weight > touch.weight {
            touch.weight = weight;
            touch.cause = cause;
        }
    }
}
