//! Payloads that tell that something happened.

use posture::event as domain;

use super::{address, known, port, present, protocol_from_wire, protocol_to_wire, unknown_kind};
use crate::InvalidField;
use crate::agent::v1 as wire;

pub(super) fn process_to_wire(it: &domain::ProcessActivity) -> wire::ProcessActivity {
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

pub(super) fn process_from_wire(
    it: wire::ProcessActivity,
) -> Result<domain::ProcessActivity, InvalidField> {
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

pub(super) fn connection_to_wire(it: &domain::ConnectionActivity) -> wire::ConnectionActivity {
    use wire::connection_activity::Direction;
    let direction = match it.direction {
        domain::Direction::Inbound => Direction::Inbound,
        domain::Direction::Outbound => Direction::Outbound,
        domain::Direction::Unknown => Direction::Unknown,
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

pub(super) fn connection_from_wire(
    it: wire::ConnectionActivity,
) -> Result<domain::ConnectionActivity, InvalidField> {
    use wire::connection_activity::Direction;
    let direction = match it.direction() {
        Direction::Inbound => domain::Direction::Inbound,
        Direction::Outbound => domain::Direction::Outbound,
        Direction::Unknown => domain::Direction::Unknown,
        Direction::Unspecified => {
            return Err(InvalidField::new(
                "direction",
                "must be DIRECTION_INBOUND, DIRECTION_OUTBOUND or DIRECTION_UNKNOWN",
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

pub(super) fn login_to_wire(it: &domain::LoginActivity) -> wire::LoginActivity {
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

pub(super) fn login_from_wire(
    it: wire::LoginActivity,
) -> Result<domain::LoginActivity, InvalidField> {
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

pub(super) fn file_to_wire(it: &domain::FileActivity) -> wire::FileActivity {
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

pub(super) fn file_from_wire(it: wire::FileActivity) -> Result<domain::FileActivity, InvalidField> {
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
