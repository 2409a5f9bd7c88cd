//! Payloads that tell a whole state at one instant; each replaces the one before.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What the machine is. What the machine does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SystemInformation {
    /// The machine's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// Distribution, such as `Debian GNU/Linux`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_name: Option<String>,
    /// The distribution's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Platform, such as `linux`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_platform: Option<String>,
    /// Machine architecture, such as `x86_64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_architecture: Option<String>,
    /// The kernel's release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_version: Option<String>,
    /// From DMI, or from the agent's configuration where there is no DMI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_vendor: Option<String>,
    /// As above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_model: Option<String>,
    /// As above; often readable by root only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_serial_number: Option<String>,
    /// As above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware_vendor: Option<String>,
    /// As above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware_version: Option<String>,
    /// Physical memory in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_memory_kib: Option<u64>,
    /// Network interfaces, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<NetworkInterface>,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkInterface {
    /// Name, such as `eth0`.
    pub name: String,
    /// Hardware address, such as `02:42:ac:11:00:02`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Addresses of both families.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// Transport of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// TCP, of either address family.
    Tcp,
    /// UDP, of either address family.
    Udp,
}

impl Protocol {
    /// The protocol's name in documents and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The protocol of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => None,
        }
    }
}

/// All listening sockets at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListeningPorts {
    /// The whole list; it replaces the one before.
    pub ports: Vec<ListeningPort>,
}

/// One listening socket. Ordered by protocol, then port, then address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListeningPort {
    /// Transport.
    pub protocol: Protocol,
    /// Local port.
    pub port: u16,
    /// Local address; unspecified means all of them.
    pub address: IpAddr,
    /// Owner, where the agent may see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Path of the owner's program, or its short name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
}

/// All local accounts at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalUsers {
    /// The whole list; it replaces the one before.
    pub users: Vec<LocalUser>,
}

/// One local account. Ordered by uid, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalUser {
    /// User id.
    pub uid: u32,
    /// Account name.
    pub name: String,
    /// Primary group id.
    pub gid: u32,
    /// Names of all groups, the primary one included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Login shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
}

/// The agent's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// The agent's version.
    pub agent_version: String,
    /// Every collector the agent knows, running or not.
    pub collectors: Vec<CollectorStatus>,
}

/// One collector's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorStatus {
    /// The collector's name, as in its configuration keys: `Process`, `ListeningPorts`.
    pub name: String,
    /// What it does.
    pub state: CollectorState,
    /// Why, unless it simply runs.
    pub reason: Option<String>,
}

/// What a collector does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CollectorState {
    /// Collects.
    Running,
    /// Switched off by configuration.
    Disabled,
    /// Collects less than it should, for instance by polling.
    Degraded,
    /// Cannot run here, for instance for want of rights.
    Skipped,
    /// Broke.
    Failed,
}
