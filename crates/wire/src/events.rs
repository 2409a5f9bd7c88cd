//! Security events: `twinward.agent.v1` outside, `posture` inside.
//!
//! Reading is strict about form (kinds, addresses, ports) and says which field is wrong; limits on
//! sizes are the domain's, in `SecurityEvent::validate`.

use std::net::IpAddr;

use posture::event as domain;
use posture::{EventPayload, Lane, SecurityEvent};

use crate::agent::v1 as wire;
use crate::agent::v1::security_event::Payload;
use crate::{InvalidField, time};

mod activity;
mod snapshot;

use activity::{
    connection_from_wire, connection_to_wire, file_from_wire, file_to_wire, login_from_wire,
    login_to_wire, process_from_wire, process_to_wire,
};
use snapshot::{
    port_from_wire, port_to_wire, status_from_wire, status_to_wire, system_from_wire,
    system_to_wire, user_from_wire, user_to_wire,
};

/// Prints a lane for the wire.
pub fn lane_to_wire(lane: Lane) -> wire::Lane {
    match lane {
        Lane::High => wire::Lane::High,
        Lane::Medium => wire::Lane::Medium,
        Lane::Low => wire::Lane::Low,
    }
}

/// Reads a lane.
///
/// # Errors
/// Names `field` when the lane is none of the three.
pub fn lane_from_wire(field: &str, lane: i32) -> Result<Lane, InvalidField> {
    match wire::Lane::try_from(lane) {
        Ok(wire::Lane::High) => Ok(Lane::High),
        Ok(wire::Lane::Medium) => Ok(Lane::Medium),
        Ok(wire::Lane::Low) => Ok(Lane::Low),
        Ok(wire::Lane::Unspecified) | Err(_) => Err(InvalidField::new(
            field,
            format!("{lane} is no lane; allowed are LANE_HIGH (1), LANE_MEDIUM (2), LANE_LOW (3)"),
        )),
    }
}

/// Prints an event for the wire.
pub fn event_to_wire(event: &SecurityEvent) -> wire::SecurityEvent {
    wire::SecurityEvent {
        sequence: event.sequence,
        observe_time: Some(time::to_wire(event.observed_at)),
        payload: Some(payload_to_wire(&event.payload)),
    }
}

/// Reads an event.
///
/// # Errors
/// Names the first field that has no valid form.
pub fn event_from_wire(event: wire::SecurityEvent) -> Result<SecurityEvent, InvalidField> {
    if event.sequence == 0 {
        return Err(InvalidField::new("sequence", "is 0; sequences start at 1"));
    }
    let payload = event
        .payload
        .ok_or_else(|| InvalidField::new("payload", "is absent or of a kind unknown here"))?;
    Ok(SecurityEvent {
        sequence: event.sequence,
        observed_at: time::required("observe_time", event.observe_time)?,
        payload: payload_from_wire(payload)?,
    })
}

fn payload_to_wire(payload: &EventPayload) -> Payload {
    match payload {
        EventPayload::SystemInformation(it) => Payload::SystemInformation(system_to_wire(it)),
        EventPayload::ProcessActivity(it) => Payload::Process(process_to_wire(it)),
        EventPayload::ListeningPorts(it) => Payload::ListeningPorts(wire::ListeningPorts {
            ports: it.ports.iter().map(port_to_wire).collect(),
        }),
        EventPayload::ConnectionActivity(it) => Payload::Connection(connection_to_wire(it)),
        EventPayload::LoginActivity(it) => Payload::Login(login_to_wire(it)),
        EventPayload::LocalUsers(it) => Payload::LocalUsers(wire::LocalUsers {
            users: it.users.iter().map(user_to_wire).collect(),
        }),
        EventPayload::Heartbeat => Payload::Heartbeat(wire::Heartbeat {}),
        EventPayload::FileActivity(it) => Payload::File(file_to_wire(it)),
        EventPayload::AgentStatus(it) => Payload::AgentStatus(status_to_wire(it)),
    }
}

fn payload_from_wire(payload: Payload) -> Result<EventPayload, InvalidField> {
    match payload {
        Payload::SystemInformation(it) => system_from_wire(it)
            .map(|it| EventPayload::SystemInformation(Box::new(it)))
            .map_err(|error| error.within("system_information")),
        Payload::Process(it) => process_from_wire(it)
            .map(EventPayload::ProcessActivity)
            .map_err(|error| error.within("process")),
        Payload::ListeningPorts(it) => {
            let ports = each("ports", it.ports, port_from_wire)
                .map_err(|error| error.within("listening_ports"))?;
            Ok(EventPayload::ListeningPorts(domain::ListeningPorts {
                ports,
            }))
        }
        Payload::Connection(it) => connection_from_wire(it)
            .map(EventPayload::ConnectionActivity)
            .map_err(|error| error.within("connection")),
        Payload::Login(it) => login_from_wire(it)
            .map(EventPayload::LoginActivity)
            .map_err(|error| error.within("login")),
        Payload::LocalUsers(it) => {
            let users = it.users.into_iter().map(user_from_wire).collect();
            Ok(EventPayload::LocalUsers(domain::LocalUsers { users }))
        }
        Payload::Heartbeat(wire::Heartbeat {}) => Ok(EventPayload::Heartbeat),
        Payload::File(it) => file_from_wire(it)
            .map(EventPayload::FileActivity)
            .map_err(|error| error.within("file")),
        Payload::AgentStatus(it) => status_from_wire(it)
            .map(EventPayload::AgentStatus)
            .map_err(|error| error.within("agent_status")),
    }
}

fn protocol_to_wire(protocol: domain::Protocol) -> String {
    protocol.as_str().to_owned()
}

fn protocol_from_wire(text: &str) -> Result<domain::Protocol, InvalidField> {
    domain::Protocol::from_name(text).ok_or_else(|| {
        InvalidField::new(
            "protocol",
            format!("{text:?} is not allowed; \"tcp\" and \"udp\" are"),
        )
    })
}

/// Reads each item of a list and names the one that is wrong.
fn each<T, U>(
    field: &str,
    items: Vec<T>,
    read: impl Fn(T) -> Result<U, InvalidField>,
) -> Result<Vec<U>, InvalidField> {
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| read(item).map_err(|error| error.within(&format!("{field}[{index}]"))))
        .collect()
}

/// An empty text on the wire means: not known.
fn present(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// 0 on the wire means: not known.
fn known(pid: u32) -> Option<u32> {
    Some(pid).filter(|pid| *pid != 0)
}

fn address(field: &str, text: &str) -> Result<IpAddr, InvalidField> {
    text.parse()
        .map_err(|_| InvalidField::new(field, format!("{text:?} is no IPv4 or IPv6 address")))
}

fn port(field: &str, number: u32) -> Result<u16, InvalidField> {
    u16::try_from(number)
        .map_err(|_| InvalidField::new(field, format!("is {number}; allowed are 0 to 65535")))
}

fn unknown_kind(kind: i32, allowed: &str) -> InvalidField {
    InvalidField::new("kind", format!("{kind} is not allowed; {allowed} are"))
}

#[cfg(test)]
mod tests;
