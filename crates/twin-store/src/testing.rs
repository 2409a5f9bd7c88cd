//! Builders for the tests of this crate.

use std::collections::BTreeMap;

use jiff::Timestamp;
use posture::{AgentBatch, EventPayload, Lane, LaneEpoch, SecurityEvent};
use twin::{DeviceId, IdentityKey, Map, ModuleId, Partition, PartitionCount, Revision, TwinPatch};

use crate::apply::devices::{self, NewDevice, NewIdentity};
use crate::apply::telemetry::{Content, Entry};
use crate::apply::twins::{Conditions, Form, OperatorWrite};
use crate::apply::{Cause, Mode, Numbers, Overlay};
use crate::record::{Authentication, IdentityEtag, Record, Status};
use crate::secrets::Sealed;
use crate::store::Loaded;

/// An instant that many tests call now.
pub(crate) fn now() -> Timestamp {
    "2026-03-04T05:06:07Z".parse().expect("an instant")
}

/// A key of `device` or `device/module`.
pub(crate) fn key(text: &str) -> IdentityKey {
    match text.split_once('/') {
        None => IdentityKey::new_device(device(text)),
        Some((id, module)) => {
            IdentityKey::new_module(device(id), ModuleId::parse(module).expect("a module id"))
        }
    }
}

pub(crate) fn device(text: &str) -> DeviceId {
    DeviceId::parse(text).expect("a device id")
}

/// What a new identity is made of.
pub(crate) fn identity(generation: &str) -> NewIdentity {
    NewIdentity {
        generation_id: generation.to_owned(),
        etag: IdentityEtag::from_number(1),
        status: Status::Enabled,
        status_reason: String::new(),
        authentication: Authentication::Sas {
            primary: Sealed("cHJpbWFyeQ==".to_owned()),
            secondary: Sealed("c2Vjb25kYXJ5".to_owned()),
        },
        iot_edge: false,
        managed_by: String::new(),
        sections: TwinPatch::default(),
    }
}

/// A device to be made, without a module.
pub(crate) fn new_device(id: &str, generation: &str) -> NewDevice {
    NewDevice {
        device: device(id),
        identity: identity(generation),
        security_module: None,
    }
}

/// A fresh record with this generation.
pub(crate) fn record(text: &str, generation: &str) -> Record {
    let key = key(text);
    let mut overlay = overlay([]);
    let (at, cause) = (now(), Cause::default());
    let device = new_device(key.device.as_str(), generation);
    devices::create_device(&mut overlay, device, Mode::Write, at, &cause).expect("a device");
    if key.module.is_some() {
        let identity = identity(generation);
        devices::create_module(&mut overlay, &key, identity, Mode::Write, at, &cause)
            .expect("a module");
    }
    let mut record = overlay.get(&key).expect("it was just made").clone();
    // The number is that of this overlay, and means nothing elsewhere.
    record.revision = Revision::ZERO;
    record
}

/// An overlay that holds these as if the store had them.
pub(crate) fn overlay(records: impl IntoIterator<Item = Record>) -> Overlay {
    let whole = |record| Loaded::Whole(Box::new(record));
    overlay_of(records.into_iter().map(whole).collect())
}

/// An overlay of whatever was loaded.
pub(crate) fn overlay_of(loaded: Vec<Loaded>) -> Overlay {
    let numbers = Numbers::new(PartitionCount::DEFAULT, BTreeMap::new());
    Overlay::new(loaded, numbers, now())
}

/// A write of an operator under no condition.
pub(crate) fn operator_write(form: Form, sections: TwinPatch) -> OperatorWrite {
    OperatorWrite {
        form,
        sections,
        conditions: Conditions::default(),
        mode: Mode::Write,
        action: "twin.patch",
    }
}

/// The first partition, for entries that are folded.
pub(crate) fn partition() -> Partition {
    let mut all = PartitionCount::DEFAULT.partitions();
    all.next().expect("there is one at least")
}

/// A JSON object.
pub(crate) fn object(value: serde_json::Value) -> Map {
    match value {
        serde_json::Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

/// Heartbeats of one lane with these sequences.
pub(crate) fn heartbeats(sequences: impl IntoIterator<Item = u64>) -> AgentBatch {
    let event = |sequence| SecurityEvent {
        sequence,
        observed_at: now(),
        payload: EventPayload::Heartbeat,
    };
    AgentBatch {
        lane: Lane::Low,
        epoch: "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11"
            .parse::<LaneEpoch>()
            .expect("an epoch"),
        events: sequences.into_iter().map(event).collect(),
        rejected_sequences: Vec::new(),
        dropped_by_agent: 0,
        settled_through: 0,
        received_at: now(),
    }
}

/// An entry of a telemetry message.
pub(crate) fn entry(text: &str, generation: &str, sequence: u64, batch: AgentBatch) -> Entry {
    Entry {
        sequence,
        index: 0,
        key: key(text),
        generation_id: generation.to_owned(),
        received_at: now(),
        trace_parent: None,
        content: Content::Batch(batch),
    }
}
