//! What the twin and the other instances are told of a session, whichever door it came through.

use jiff::Timestamp;
use prost::Message as _;
use twin::IdentityKey;
use wire::bus::v1 as bus_wire;
use wire::bus::v1::telemetry_entry::Content;

use crate::auth::Proof;
use crate::session::Opened;

/// That a session began or ended.
pub(crate) fn of(
    proof: &Proof,
    opened: &Opened,
    connected: bool,
    instance: &str,
    now: Timestamp,
) -> bus_wire::TelemetryEntry {
    let notice = bus_wire::SessionNotice {
        session_id: opened.session_id.clone(),
        connected,
        agent_version: opened.agent_version.clone(),
        instance: instance.to_owned(),
    };
    entry(proof, now, String::new(), Content::Session(notice))
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
/// when each was entered.
pub(crate) fn hint(
    identity: &IdentityKey,
    notice: bus_wire::TelemetryEntry,
    opened_at: Timestamp,
) -> bus::Outgoing {
    let notice = bus_wire::TelemetryEntry {
        receive_time: Some(wire::time::to_wire(opened_at)),
        ..notice
    };
    let subject = wire::subjects::session_subject(identity);
    bus::Outgoing::new(subject, notice.encode_to_vec())
}
