//! What each kind of payload comes to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use posture::EventPayload;
use posture::event::{
    ConnectionActivity, Direction, ListeningPort, ListeningPorts, LocalUser, LocalUsers,
    LoginActivity, LoginOperation, ProcessAction, ProcessActivity, Protocol, SystemInformation,
};
use serde_json::Value;

use super::item::{Item, quoted};
use super::{Problem, Reason};

/// A kind of events that postures have a place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ProcessCreate,
    ProcessTerminate,
    ConnectionCreate,
    Login,
    ListeningPorts,
    LocalUsers,
    SystemInformation,
    Heartbeat,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::ProcessCreate,
        Self::ProcessTerminate,
        Self::ConnectionCreate,
        Self::Login,
        Self::ListeningPorts,
        Self::LocalUsers,
        Self::SystemInformation,
        Self::Heartbeat,
    ];

    /// Their names, in the same order.
    pub(super) const NAMES: [&'static str; 8] = [
        "ProcessCreate",
        "ProcessTerminate",
        "ConnectionCreate",
        "Login",
        "ListeningPorts",
        "LocalUsers",
        "SystemInformation",
        "Heartbeat",
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        let place = Self::NAMES.iter().position(|known| *known == name)?;
        Self::ALL.get(place).copied()
    }

    /// Whether all payloads of an event make one event of ours.
    pub(super) fn is_snapshot(self) -> bool {
        match self {
            Self::ListeningPorts | Self::LocalUsers | Self::SystemInformation | Self::Heartbeat => {
                true
            }
            Self::ProcessCreate | Self::ProcessTerminate | Self::ConnectionCreate | Self::Login => {
                false
            }
        }
    }
}

/// All payloads of an event together; `None` if they say nothing.
pub(super) fn snapshot(
    kind: Kind,
    path: &str,
    payloads: &[Value],
) -> Result<Option<EventPayload>, Problem> {
    Ok(Some(match kind {
        Kind::ListeningPorts => {
            let ports = each(path, payloads, listening_port)?;
            let ports = ports.into_iter().flatten().collect();
            EventPayload::ListeningPorts(ListeningPorts { ports })
        }
        Kind::LocalUsers => {
            let users = each(path, payloads, local_user)?;
            EventPayload::LocalUsers(LocalUsers { users })
        }
        Kind::SystemInformation => match each(path, payloads, system_information)?.pop() {
            Some(system) => EventPayload::SystemInformation(Box::new(system)),
            None => return Ok(None),
        },
        Kind::Heartbeat => EventPayload::Heartbeat,
        Kind::ProcessCreate | Kind::ProcessTerminate | Kind::ConnectionCreate | Kind::Login => {
            return Ok(None);
        }
    }))
}

/// One payload of an event.
pub(super) fn single(kind: Kind, item: &Item<'_>) -> Result<EventPayload, Problem> {
    match kind {
        Kind::ProcessCreate => process_create(item).map(EventPayload::ProcessActivity),
        Kind::ProcessTerminate => process_terminate(item).map(EventPayload::ProcessActivity),
        Kind::ConnectionCreate => connection(item).map(EventPayload::ConnectionActivity),
        Kind::Login => login(item).map(EventPayload::LoginActivity),
        Kind::ListeningPorts | Kind::LocalUsers | Kind::SystemInformation | Kind::Heartbeat => {
            Err((
                Reason::UnknownKind,
                "a snapshot has no single payloads".to_owned(),
            ))
        }
    }
}

fn each<T>(
    path: &str,
    payloads: &[Value],
    read: impl Fn(&Item<'_>) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let one = |(index, payload)| {
        let path = format!("{path}.Payload[{index}]");
        read(&Item::of(&path, payload)?)
    };
    payloads.iter().enumerate().map(one).collect()
}

fn process_create(item: &Item<'_>) -> Result<ProcessActivity, Problem> {
    Ok(ProcessActivity {
        action: ProcessAction::Exec,
        pid: item.number("ProcessId")?,
        parent_pid: item.number("ParentProcessId")?,
        uid: item.number("UserId")?,
        user: item.owned_if("UserName")?,
        executable: item.text("Executable")?.to_owned(),
        command_line: item.text("CommandLine")?.to_owned(),
        hit_count: item.hits()?,
    })
}

/// It does not say whose process it was. Nothing of an end is kept but its number, so a user that
/// stands for "unknown" does no harm.
fn process_terminate(item: &Item<'_>) -> Result<ProcessActivity, Problem> {
    Ok(ProcessActivity {
        action: ProcessAction::Exit,
        pid: item.number("ProcessId")?,
        parent_pid: 0,
        uid: u32::MAX,
        user: None,
        executable: item.text("Executable")?.to_owned(),
        command_line: String::new(),
        hit_count: item.hits()?,
    })
}

/// The C agent never names the local end, and aggregation blanks a port: 0, or no address, is "any".
fn connection(item: &Item<'_>) -> Result<ConnectionActivity, Problem> {
    let direction = match item.text("Direction")? {
        "In" => Direction::Inbound,
        "Out" => Direction::Outbound,
        other => {
            let problem = format!("is {}; allowed are \"In\" and \"Out\"", quoted(other));
            return Err(item.wrong("Direction", &problem));
        }
    };
    let remote_address = item
        .address_if("RemoteAddress")?
        .ok_or_else(|| item.wrong("RemoteAddress", "is absent; it is an IP address"))?;
    let any: IpAddr = if remote_address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let protocol = item.text("Protocol")?;
    Ok(ConnectionActivity {
        direction,
        protocol: transport(protocol).ok_or_else(|| no_transport(item, protocol))?,
        local_address: item.address_if("LocalAddress")?.unwrap_or(any),
        local_port: item.number_if("LocalPort")?.unwrap_or(0),
        remote_address,
        remote_port: item.number_if("RemotePort")?.unwrap_or(0),
        pid: item.number_if("ProcessId")?.filter(|pid| *pid != 0),
        executable: item.owned_if("Executable")?,
        hit_count: item.hits()?,
    })
}

fn login(item: &Item<'_>) -> Result<LoginActivity, Problem> {
    let operation = match item.text("Result")? {
        "Success" if item.text("Operation")?.eq_ignore_ascii_case("logout") => {
            LoginOperation::Logout
        }
        "Success" => LoginOperation::Login,
        "Fail" => LoginOperation::LoginFailed,
        other => {
            let problem = format!("is {}; allowed are \"Success\" and \"Fail\"", quoted(other));
            return Err(item.wrong("Result", &problem));
        }
    };
    let user = match item.owned_if("UserName")? {
        Some(name) => name,
        None => match item.number_if::<u32>("UserId")? {
            Some(uid) => uid.to_string(),
            None => {
                return Err(item.wrong("UserName", "is absent, and so is UserId; want either"));
            }
        },
    };
    Ok(LoginActivity {
        operation,
        user,
        pid: item.number_if("ProcessId")?.filter(|pid| *pid != 0),
        terminal: None,
        remote_address: item.owned_if("RemoteAddress")?,
    })
}

/// `None` for a raw socket: it listens on no port.
fn listening_port(item: &Item<'_>) -> Result<Option<ListeningPort>, Problem> {
    let name = item.text("Protocol")?;
    if matches!(&*name.to_ascii_lowercase(), "raw" | "raw6") {
        return Ok(None);
    }
    let protocol = transport(name).ok_or_else(|| no_transport(item, name))?;
    let any: IpAddr = if name.ends_with('6') {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let pid = match item.details()? {
        Some(details) => details.number_if("Pid")?,
        None => None,
    };
    Ok(Some(ListeningPort {
        protocol,
        port: item.number("LocalPort")?,
        address: item.address_if("LocalAddress")?.unwrap_or(any),
        pid: pid.filter(|pid| *pid != 0),
        executable: None,
    }))
}

/// The first group is the primary one: agents begin with that of the account's own entry.
fn local_user(item: &Item<'_>) -> Result<LocalUser, Problem> {
    let ids = item.text("GroupIds")?;
    let first = ids.split(';').next().unwrap_or_default().trim();
    let gid = first.parse().map_err(|_| {
        let problem = format!(
            "begins with {}; want a number, or several with ;",
            quoted(first)
        );
        item.wrong("GroupIds", &problem)
    })?;
    let groups = item.text("GroupNames")?.split(';').map(str::trim);
    Ok(LocalUser {
        uid: item.number("UserId")?,
        name: item.text("UserName")?.to_owned(),
        gid,
        groups: groups
            .filter(|group| !group.is_empty())
            .map(str::to_owned)
            .collect(),
        shell: None,
    })
}

fn system_information(item: &Item<'_>) -> Result<SystemInformation, Problem> {
    Ok(SystemInformation {
        host_name: item.owned_if("HostName")?,
        os_name: item.owned_if("OSName")?,
        os_version: item.owned_if("OSVersion")?,
        os_architecture: item.owned_if("OsArchitecture")?,
        firmware_version: item.owned_if("BIOSVersion")?,
        total_memory_kib: item.number_if("TotalPhysicalMemoryInKB")?,
        ..SystemInformation::default()
    })
}

fn transport(name: &str) -> Option<Protocol> {
    match &*name.to_ascii_lowercase() {
        "tcp" | "tcp6" => Some(Protocol::Tcp),
        "udp" | "udp6" => Some(Protocol::Udp),
        _ => None,
    }
}

fn no_transport(item: &Item<'_>, name: &str) -> Problem {
    let problem = format!("is {}; allowed are tcp and udp", quoted(name));
    item.wrong("Protocol", &problem)
}
