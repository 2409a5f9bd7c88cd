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

fn system_to_wire(it: &domain::SystemInformation) -> wire::SystemInformation {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    wire::SystemInformation {
        host_name: text(&it.host_name),
        os_name: text(&it.os_name),
        os_version: text(&it.os_version),
        os_platform: text(&it.os_platform),
        os_architecture: text(&it.os_architecture),
        kernel_version: text(&it.kernel_version),
        hardware_vendor: text(&it.hardware_vendor),
        hardware_model: text(&it.hardware_model),
        hardware_serial_number: text(&it.hardware_serial_number),
        firmware_vendor: text(&it.firmware_vendor),
        firmware_version: text(&it.firmware_version),
        total_memory_kib: it.total_memory_kib.unwrap_or_default(),
        interfaces: it
            .interfaces
            .iter()
            .map(|nic| wire::NetworkInterface {
                name: nic.name.clone(),
                mac: text(&nic.mac),
                addresses: nic.addresses.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    }
}

fn system_from_wire(
    it: wire::SystemInformation,
) -> Result<domain::SystemInformation, InvalidField> {
    let interfaces = each("interfaces", it.interfaces, |nic| {
        Ok(domain::NetworkInterface {
            name: nic.name,
            mac: present(nic.mac),
            addresses: each("addresses", nic.addresses, |text| address("value", &text))?,
        })
    })?;
    Ok(domain::SystemInformation {
        host_name: present(it.host_name),
        os_name: present(it.os_name),
        os_version: present(it.os_version),
        os_platform: present(it.os_platform),
        os_architecture: present(it.os_architecture),
        kernel_version: present(it.kernel_version),
        hardware_vendor: present(it.hardware_vendor),
        hardware_model: present(it.hardware_model),
        hardware_serial_number: present(it.hardware_serial_number),
        firmware_vendor: present(it.firmware_vendor),
        firmware_version: present(it.firmware_version),
        total_memory_kib: Some(it.total_memory_kib).filter(|kib| *kib > 0),
        interfaces,
    })
}

fn process_to_wire(it: &domain::ProcessActivity) -> wire::ProcessActivity {
    use wire::process_activity::Kind;
    let kind = match it.action {
        domain::ProcessAction::Fork => Kind::Fork,
        domain::ProcessAction::Exec => Kind::Exec,
        domain::ProcessAction::Exit => Kind::Exit,
    };
    wire::ProcessActivity {
        kind: kind.into(),
        process_id: it.pid,
        parent_process_id: it.parent_pid,
        user_id: it.uid,
        user_name: it.user.clone().unwrap_or_default(),
        executable: it.executable.clone(),
        command_line: it.command_line.clone(),
        hit_count: it.hit_count,
    }
}

fn process_from_wire(it: wire::ProcessActivity) -> Result<domain::ProcessActivity, InvalidField> {
    use wire::process_activity::Kind;
    let action = match it.kind() {
        Kind::Fork => domain::ProcessAction::Fork,
        Kind::Exec => domain::ProcessAction::Exec,
        Kind::Exit => domain::ProcessAction::Exit,
        Kind::Unspecified => return Err(unknown_kind(it.kind, "KIND_FORK, KIND_EXEC, KIND_EXIT")),
    };
    Ok(domain::ProcessActivity {
        action,
        pid: it.process_id,
        parent_pid: it.parent_process_id,
        uid: it.user_id,
        user: present(it.user_name),
        executable: it.executable,
        command_line: it.command_line,
        hit_count: it.hit_count.max(1),
    })
}

fn port_to_wire(it: &domain::ListeningPort) -> wire::ListeningPort {
    wire::ListeningPort {
        protocol: protocol_to_wire(it.protocol),
        address: it.address.to_string(),
        port: it.port.into(),
        process_id: it.pid.unwrap_or_default(),
        executable: it.executable.clone().unwrap_or_default(),
    }
}

fn port_from_wire(it: wire::ListeningPort) -> Result<domain::ListeningPort, InvalidField> {
    Ok(domain::ListeningPort {
        protocol: protocol_from_wire(&it.protocol)?,
        port: port("port", it.port)?,
        address: address("address", &it.address)?,
        pid: known(it.process_id),
        executable: present(it.executable),
    })
}

fn connection_to_wire(it: &domain::ConnectionActivity) -> wire::ConnectionActivity {
    use wire::connection_activity::Direction;
    let direction = match it.direction {
        domain::Direction::Inbound => Direction::Inbound,
        domain::Direction::Outbound => Direction::Outbound,
    };
    wire::ConnectionActivity {
        direction: direction.into(),
        protocol: protocol_to_wire(it.protocol),
        local_address: it.local_address.to_string(),
        local_port: it.local_port.into(),
        remote_address: it.remote_address.to_string(),
        remote_port: it.remote_port.into(),
        process_id: it.pid.unwrap_or_default(),
        executable: it.executable.clone().unwrap_or_default(),
        hit_count: it.hit_count,
    }
}

fn connection_from_wire(
    it: wire::ConnectionActivity,
) -> Result<domain::ConnectionActivity, InvalidField> {
    use wire::connection_activity::Direction;
    let direction = match it.direction() {
        Direction::Inbound => domain::Direction::Inbound,
        Direction::Outbound => domain::Direction::Outbound,
        Direction::Unspecified => {
            return Err(InvalidField::new(
                "direction",
                "must be DIRECTION_INBOUND or DIRECTION_OUTBOUND",
            ));
        }
    };
    Ok(domain::ConnectionActivity {
        direction,
        protocol: protocol_from_wire(&it.protocol)?,
        local_address: address("local_address", &it.local_address)?,
        local_port: port("local_port", it.local_port)?,
        remote_address: address("remote_address", &it.remote_address)?,
        remote_port: port("remote_port", it.remote_port)?,
        pid: known(it.process_id),
        executable: present(it.executable),
        hit_count: it.hit_count.max(1),
    })
}

fn login_to_wire(it: &domain::LoginActivity) -> wire::LoginActivity {
    use wire::login_activity::Operation;
    let operation = match it.operation {
        domain::LoginOperation::Login => Operation::Login,
        domain::LoginOperation::Logout => Operation::Logout,
        domain::LoginOperation::LoginFailed => Operation::LoginFailed,
    };
    wire::LoginActivity {
        operation: operation.into(),
        user_name: it.user.clone(),
        process_id: it.pid.unwrap_or_default(),
        terminal: it.terminal.clone().unwrap_or_default(),
        remote_address: it.remote_address.clone().unwrap_or_default(),
    }
}

fn login_from_wire(it: wire::LoginActivity) -> Result<domain::LoginActivity, InvalidField> {
    use wire::login_activity::Operation;
    let operation = match it.operation() {
        Operation::Login => domain::LoginOperation::Login,
        Operation::Logout => domain::LoginOperation::Logout,
        Operation::LoginFailed => domain::LoginOperation::LoginFailed,
        Operation::Unspecified => {
            return Err(InvalidField::new(
                "operation",
                "must be OPERATION_LOGIN, OPERATION_LOGOUT or OPERATION_LOGIN_FAILED",
            ));
        }
    };
    Ok(domain::LoginActivity {
        operation,
        user: it.user_name,
        pid: known(it.process_id),
        terminal: present(it.terminal),
        remote_address: present(it.remote_address),
    })
}

fn user_to_wire(it: &domain::LocalUser) -> wire::LocalUser {
    wire::LocalUser {
        name: it.name.clone(),
        user_id: it.uid,
        group_id: it.gid,
        groups: it.groups.clone(),
        shell: it.shell.clone().unwrap_or_default(),
    }
}

fn user_from_wire(it: wire::LocalUser) -> domain::LocalUser {
    domain::LocalUser {
        uid: it.user_id,
        name: it.name,
        gid: it.group_id,
        groups: it.groups,
        shell: present(it.shell),
    }
}

fn file_to_wire(it: &domain::FileActivity) -> wire::FileActivity {
    use wire::file_activity::Kind;
    let kind = match it.action {
        domain::FileAction::Created => Kind::Created,
        domain::FileAction::Modified => Kind::Modified,
        domain::FileAction::MetadataChanged => Kind::MetadataChanged,
        domain::FileAction::Moved => Kind::Moved,
        domain::FileAction::Deleted => Kind::Deleted,
    };
    wire::FileActivity {
        kind: kind.into(),
        path: it.path.clone(),
        hit_count: it.hit_count,
    }
}

fn file_from_wire(it: wire::FileActivity) -> Result<domain::FileActivity, InvalidField> {
    use wire::file_activity::Kind;
    let action = match it.kind() {
        Kind::Created => domain::FileAction::Created,
        Kind::Modified => domain::FileAction::Modified,
        Kind::MetadataChanged => domain::FileAction::MetadataChanged,
        Kind::Moved => domain::FileAction::Moved,
        Kind::Deleted => domain::FileAction::Deleted,
        Kind::Unspecified => {
            return Err(unknown_kind(
                it.kind,
                "KIND_CREATED to KIND_METADATA_CHANGED",
            ));
        }
    };
    Ok(domain::FileActivity {
        action,
        path: it.path,
        hit_count: it.hit_count.max(1),
    })
}

fn status_to_wire(it: &domain::AgentStatus) -> wire::AgentStatus {
    wire::AgentStatus {
        agent_version: it.agent_version.clone(),
        collectors: it.collectors.iter().map(collector_to_wire).collect(),
    }
}

fn status_from_wire(it: wire::AgentStatus) -> Result<domain::AgentStatus, InvalidField> {
    Ok(domain::AgentStatus {
        agent_version: it.agent_version,
        collectors: each("collectors", it.collectors, collector_from_wire)?,
    })
}

fn collector_to_wire(it: &domain::CollectorStatus) -> wire::CollectorStatus {
    use wire::collector_status::State;
    let state = match it.state {
        domain::CollectorState::Running => State::Running,
        domain::CollectorState::Disabled => State::Disabled,
        domain::CollectorState::Degraded => State::Degraded,
        domain::CollectorState::Skipped => State::Skipped,
        domain::CollectorState::Failed => State::Failed,
    };
    wire::CollectorStatus {
        name: it.name.clone(),
        state: state.into(),
        reason: it.reason.clone().unwrap_or_default(),
    }
}

fn collector_from_wire(it: wire::CollectorStatus) -> Result<domain::CollectorStatus, InvalidField> {
    use wire::collector_status::State;
    let state = match it.state() {
        State::Running => domain::CollectorState::Running,
        State::Disabled => domain::CollectorState::Disabled,
        State::Degraded => domain::CollectorState::Degraded,
        State::Skipped => domain::CollectorState::Skipped,
        State::Failed => domain::CollectorState::Failed,
        State::Unspecified => {
            return Err(InvalidField::new(
                "state",
                "must be STATE_RUNNING to STATE_FAILED",
            ));
        }
    };
    Ok(domain::CollectorStatus {
        name: it.name,
        state,
        reason: present(it.reason),
    })
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
