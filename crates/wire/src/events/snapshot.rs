//! Payloads that tell a whole state.

use posture::event as domain;

use super::{address, each, known, port, present, protocol_from_wire, protocol_to_wire};
use crate::InvalidField;
use crate::agent::v1 as wire;

pub(super) fn system_to_wire(it: &domain::SystemInformation) -> wire::SystemInformation {
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

pub(super) fn system_from_wire(
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

pub(super) fn port_to_wire(it: &domain::ListeningPort) -> wire::ListeningPort {
    wire::ListeningPort {
        protocol: protocol_to_wire(it.protocol),
        address: it.address.to_string(),
        port: it.port.into(),
        process_id: it.pid.unwrap_or_default(),
        executable: it.executable.clone().unwrap_or_default(),
    }
}

pub(super) fn port_from_wire(
    it: wire::ListeningPort,
) -> Result<domain::ListeningPort, InvalidField> {
    Ok(domain::ListeningPort {
        protocol: protocol_from_wire(&it.protocol)?,
        port: port("port", it.port)?,
        address: address("address", &it.address)?,
        pid: known(it.process_id),
        executable: present(it.executable),
    })
}

pub(super) fn user_to_wire(it: &domain::LocalUser) -> wire::LocalUser {
    wire::LocalUser {
        name: it.name.clone(),
        user_id: it.uid,
        group_id: it.gid,
        groups: it.groups.clone(),
        shell: it.shell.clone().unwrap_or_default(),
    }
}

pub(super) fn user_from_wire(it: wire::LocalUser) -> domain::LocalUser {
    domain::LocalUser {
        uid: it.user_id,
        name: it.name,
        gid: it.group_id,
        groups: it.groups,
        shell: present(it.shell),
    }
}

pub(super) fn status_to_wire(it: &domain::AgentStatus) -> wire::AgentStatus {
    wire::AgentStatus {
        agent_version: it.agent_version.clone(),
        collectors: it.collectors.iter().map(collector_to_wire).collect(),
    }
}

pub(super) fn status_from_wire(it: wire::AgentStatus) -> Result<domain::AgentStatus, InvalidField> {
    Ok(domain::AgentStatus {
        agent_version: it.agent_version,
        collectors: each("collectors", it.collectors, collector_from_wire)?,
    })
}

pub(super) fn collector_to_wire(it: &domain::CollectorStatus) -> wire::CollectorStatus {
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

pub(super) fn collector_from_wire(
    it: wire::CollectorStatus,
) -> Result<domain::CollectorStatus, InvalidField> {
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
