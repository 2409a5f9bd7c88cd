//! What the twin and the other instances are told of a session, whichever door it came through.

use jiff::Timestamp;
use prost::Message as _;
use twin::IdentityKey;
use wire::bus::v1 as bus_wire;
use wire::bus::v1::telemetry_entry::Content;

use crate::alive::Instance;
use crate::auth::Proof;
use crate::session::Opened;

/// That a session began. It says the same however often it is said: the time is that of the
/// beginning, so that an older session never passes for a newer one.
pub(crate) fn began(
    proof: &Proof,
    opened: &Opened,
    opened_at: Timestamp,
    instance: &Instance,
) -> bus_wire::TelemetryEntry {
    of(proof, opened, true, instance, opened_at)
}

/// That a session ended.
pub(crate) fn ended(
    proof: &Proof,
    opened: &Opened,
    instance: &Instance,
    now: Timestamp,
) -> bus_wire::TelemetryEntry {
    of(proof, opened, false, instance, now)
}

fn of(
    proof: &Proof,
    opened: &Opened,
    connected: bool,
    instance: &Instance,
    at: Timestamp,
) -> bus_wire::TelemetryEntry {
    let notice = bus_wire::SessionNotice {
        session_id: opened.session_id.clone(),
        connected,
        agent_version: opened.agent_version.clone(),
        instance: instance.name.clone(),
        run: instance.run.clone(),
        access_policy: proof.policy().unwrap_or_default().to_owned(),
        model_id: opened.model_id.as_deref().unwrap_or_default().to_owned(),
    };
    entry(proof, at, String::new(), Content::Session(notice))
}

/// An entry of whoever is proven.
pub(crate) fn entry(
    proof: &Proof,
    now: Timestamp,
    trace_parent: String,
    content: Content,
) -> bus_wire::TelemetryEntry {
    let IdentityKey { device, module } = &proof.identity;
    bus_wire::TelemetryEntry {
        device_id: device.to_string(),
        module_id: module.as_ref().map(ToString::to_string).unwrap_or_default(),
        generation_id: proof.generation_id.clone(),
        receive_time: Some(wire::time::to_wire(now)),
        trace_parent,
        content: Some(content),
    }
}

/// For the other instances, one of which may hold an older session of the identity: they compare
/// when each was entered, which is the time of the beginning.
pub(crate) fn hint(identity: &IdentityKey, began: &bus_wire::TelemetryEntry) -> bus::Outgoing {
    let subject = wire::subjects::session_subject(identity);
    bus::Outgoing::new(subject, began.encode_to_vec())
}
