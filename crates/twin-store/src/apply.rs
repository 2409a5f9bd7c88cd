//! Decides what a request or a batch of events changes: records in, records out.
//!
//! Pure: time, ids and sealed keys are arguments, nothing is read or written. The engine loads the
//! records that a decision needs, runs decisions one after another on one [`Overlay`], and commits
//! what they left there. A decision that is refused has changed nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use posture::Timeline;
use serde_json::Value;
use twin::{DeviceId, IdentityKey, Revision, Writer};

use crate::record::Record;
use crate::store::{
    EnrollmentToken, EnrollmentUse, OperationResultRow, OperationRow, Population,
    ProvisioningWrite, RequestAnswer,
};

mod answers;
pub mod credentials;
pub mod devices;
pub mod enrollment;
mod overlay;
pub mod provisioning;
pub mod pushes;
mod room;
pub mod telemetry;
pub mod twins;

pub use overlay::{Numbers, Overlay};
pub use room::{Limits, Room};

/// Who changes something and why: kept in the history, and the trace that the change belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// Who.
    pub actor: Writer,
    /// Why: `request:<id or trace>`, `policy:<id>@<revision>`, `events:<partition>/<sequence>`,
    /// `session`, `timeout`, `drift`, `revert:<revision>`, `operation:<id>`.
    pub cause: String,
    /// W3C trace context.
    pub trace_parent: Option<String>,
    /// Hops of the loop so far.
    pub timeline: Timeline,
}

impl Default for Cause {
    fn default() -> Cause {
        Cause {
            actor: Writer::System,
            cause: "request".to_owned(),
            trace_parent: None,
            timeline: Timeline::default(),
        }
    }
}

/// Whether a decision is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is written.
    Write,
    /// It is only asked what it would be.
    Validate,
}

impl Mode {
    /// As a request says it.
    pub fn new(validate_only: bool) -> Mode {
        if validate_only {
            Mode::Validate
        } else {
            Mode::Write
        }
    }
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
    /// How the identity proves itself, or what else the registry says of it.
    Identity,
    /// Where configurations of IoT Hub stand.
    Configurations,
    /// The tags of the module's device.
    DeviceTags,
    /// The identity is gone. Only the history names it: everywhere else there is no record after.
    Deleted,
}

/// What happened to one identity, and why.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Touch {
    /// What changed, as a set: several decisions may touch one identity.
    pub changes: BTreeSet<ChangeKind>,
    /// Of the decision that tells most; see [`Weight`].
    pub cause: Cause,
    /// What devices are to be told of the desired section, one JSON object per write of it: the
    /// patch as it was sent, or what leads to a replacement.
    pub notifications: Vec<String>,
    /// Of the cause kept.
    weight: Weight,
}

impl Touch {
    /// What one decision did.
    pub fn of(
        changes: impl IntoIterator<Item = ChangeKind>,
        weight: Weight,
        cause: Cause,
    ) -> Touch {
        Touch {
            changes: changes.into_iter().collect(),
            cause,
            notifications: Vec::new(),
            weight,
        }
    }

    /// Whether only counters and times moved.
    pub fn is_routine(&self) -> bool {
        self.weight <= Weight::Routine
    }

    /// Whether nothing but the posture was touched: events of one batch stay together.
    fn only_folds(&self) -> bool {
        self.changes
            .iter()
            .all(|change| *change == ChangeKind::Posture)
    }

    fn add(&mut self, changes: &[ChangeKind], weight: Weight, cause: &Cause) {
        self.changes.extend(changes);
        if weight > self.weight {
            self.weight = weight;
            self.cause = cause.clone();
        }
    }
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
    /// A session began or ended: a revision of its own, but what was observed in it tells more.
    Session,
    /// A fact, a document or an identity changed.
    Fact,
}

/// What became of one identity.
#[derive(Debug, Clone)]
pub struct Change {
    /// Whose.
    pub key: IdentityKey,
    /// As it is stored; none: it is not there.
    pub before: Option<Arc<Record>>,
    /// As it is to be stored; none: it is to be removed.
    pub after: Option<Arc<Record>>,
    /// All that happened to it.
    pub touch: Touch,
    /// Place of the change in the partition's log.
    pub revision: Revision,
    /// What happened to it, one after another; each is a revision of its history. The last is
    /// this change's.
    pub steps: Vec<Step>,
}

/// What one decision, or several that fold events, did to one identity.
#[derive(Debug, Clone)]
pub struct Step {
    /// The record before; none: it was not there.
    pub before: Option<Arc<Record>>,
    /// The record after; none: it was removed.
    pub after: Option<Arc<Record>>,
    /// What happened.
    pub touch: Touch,
    /// Its number.
    pub revision: Revision,
}

/// An administrative change, for the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// Whose partition's chain it goes to; none: any that is ours.
    pub device: Option<DeviceId>,
    /// Who.
    pub actor: String,
    /// What, for instance `device.create`.
    pub action: &'static str,
    /// To what.
    pub resource: String,
    /// A JSON object without secrets.
    pub detail: Value,
    /// W3C trace context.
    pub trace_parent: Option<String>,
}

impl AuditEvent {
    /// A change of one identity.
    pub fn on(key: &IdentityKey, action: &'static str, detail: Value, cause: &Cause) -> AuditEvent {
        AuditEvent {
            device: Some(key.device.clone()),
            actor: cause.actor.to_string(),
            action,
            resource: wire::names::identity_name(key),
            detail,
            trace_parent: cause.trace_parent.clone(),
        }
    }
}

/// What decisions left to be written, beside changes of records.
#[derive(Debug, Default)]
pub struct Left {
    /// New enrolment tokens.
    pub tokens: Vec<EnrollmentToken>,
    /// Uses of enrolment tokens.
    pub enrollments: Vec<EnrollmentUse>,
    /// Administrative changes, in their order.
    pub audit: Vec<AuditEvent>,
    /// Answers to calls that may be repeated.
    pub requests: Vec<RequestAnswer>,
    /// Operations, the last state of each.
    pub operations: Vec<OperationRow>,
    /// Results of operations.
    pub results: Vec<OperationResultRow>,
    /// Rows of provisioning, the last state of each.
    pub provisioning: Vec<ProvisioningWrite>,
}

/// All that decisions left to be written.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Changes of records, in the order of their revisions within each partition.
    pub changes: Vec<Change>,
    /// Everything else.
    pub left: Left,
    /// By how many identities the hub changes.
    pub population: Population,
}
