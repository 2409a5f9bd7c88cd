//! Security events: what an agent observed, once.
//!
//! Types only, plus [`SecurityEvent::validate`], which holds an event against [`crate::limits`].
//! Numbering, batching and transport belong to the agent and to `ingestion`.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod epoch;
mod validate;

pub use self::epoch::{EpochError, LaneEpoch};
pub use self::validate::{InvalidEvent, Violation};

/// The lane an event travels in. Each lane has its own epoch and sequence, so that urgent events
/// never wait behind a backlog of cheap ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lane {
    /// Sent first and dropped last.
    High,
    /// Between the two.
    Medium,
    /// Sent last; the first to be dropped when the agent's spool is full.
    Low,
}

impl Lane {
    /// All lanes, most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Medium, Self::Low];

    /// The lane's name in documents, metrics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One observation of an agent. Its lane, epoch and sequence identify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityEvent {
    /// Place in the lane's sequence, from 1.
    pub sequence: u64,
    /// When it was observed (first seen, for an aggregated event), by the agent's clock.
    pub observed_at: Timestamp,
    /// What was observed.
    pub payload: EventPayload,
}

impl SecurityEvent {
    /// The kind of its payload.
    pub fn kind(&self) -> EventKind {
        self.payload.kind()
    }
}

/// What was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventPayload {
    /// What the machine is.
    SystemInformation(Box<SystemInformation>),
    /// A process came or went.
    ProcessActivity(ProcessActivity),
    /// All listening sockets at one instant.
    ListeningPorts(ListeningPorts),
    /// A connection was seen.
    ConnectionActivity(ConnectionActivity),
    /// Someone logged in or out, or failed to.
    LoginActivity(LoginActivity),
    /// All local accounts at one instant.
    LocalUsers(LocalUsers),
    /// The agent lives.
    Heartbeat,
    /// Something happened to a watched file.
    FileActivity(FileActivity),
    /// The agent's own state.
    AgentStatus(AgentStatus),
}

impl EventPayload {
    /// The kind of this payload.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::SystemInformation(_) => EventKind::SystemInformation,
            Self::ProcessActivity(_) => EventKind::ProcessActivity,
            Self::ListeningPorts(_) => EventKind::ListeningPorts,
            Self::ConnectionActivity(_) => EventKind::ConnectionActivity,
            Self::LoginActivity(_) => EventKind::LoginActivity,
            Self::LocalUsers(_) => EventKind::LocalUsers,
            Self::Heartbeat => EventKind::Heartbeat,
            Self::FileActivity(_) => EventKind::FileActivity,
            Self::AgentStatus(_) => EventKind::AgentStatus,
        }
    }
}

/// The kinds of events, as counted in a posture and named in logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // each is the payload of the same name
pub enum EventKind {
    SystemInformation,
    ProcessActivity,
    ListeningPorts,
    ConnectionActivity,
    LoginActivity,
    LocalUsers,
    Heartbeat,
    FileActivity,
    AgentStatus,
}

impl EventKind {
    /// The kind's name in documents, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SystemInformation => "systemInformation",
            Self::ProcessActivity => "processActivity",
            Self::ListeningPorts => "listeningPorts",
            Self::ConnectionActivity => "connectionActivity",
            Self::LoginActivity => "loginActivity",
            Self::LocalUsers => "localUsers",
            Self::Heartbeat => "heartbeat",
            Self::FileActivity => "fileActivity",
            Self::AgentStatus => "agentStatus",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessAction {
    /// A process was made.
    Fork,
    /// A program was started in it.
    Exec,
    /// It ended.
    Exit,
}

/// A process came or went. In an aggregated event (hit count above 1) the ids are of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessActivity {
    /// What happened.
    pub action: ProcessAction,
    /// Process id.
    pub pid: u32,
    /// Parent's process id; 0 if unknown.
    pub parent_pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Name of that user.
    pub user: Option<String>,
    /// Path of the program; empty if unknown.
    pub executable: String,
    /// Arguments joined by blanks; empty for kernel threads.
    pub command_line: String,
    /// How many equal ones this stands for, at least 1.
    pub hit_count: u32,
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

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// The other side did.
    Inbound,
    /// This machine did.
    Outbound,
}

/// A connection was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionActivity {
    /// Who began it.
    pub direction: Direction,
    /// Transport.
    pub protocol: Protocol,
    /// This machine's address.
    pub local_address: IpAddr,
    /// This machine's port.
    pub local_port: u16,
    /// The other side's address.
    pub remote_address: IpAddr,
    /// The other side's port.
    pub remote_port: u16,
    /// Owner, where the agent may see it.
    pub pid: Option<u32>,
    /// Path of the owner's program, or its short name.
    pub executable: Option<String>,
    /// How many equal ones this stands for, at least 1.
    pub hit_count: u32,
}

/// What a login event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoginOperation {
    /// A session began.
    Login,
    /// A session ended.
    Logout,
    /// Someone was refused.
    LoginFailed,
}

/// Someone logged in or out, or failed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginActivity {
    /// What happened.
    pub operation: LoginOperation,
    /// Account name; for a failure whatever was typed.
    pub user: String,
    /// Process that served the login.
    pub pid: Option<u32>,
    /// Terminal, such as `pts/0` or `ssh:notty`.
    pub terminal: Option<String>,
    /// Where from: an address or a host name; absent for a local login.
    pub remote_address: Option<String>,
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

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the micro agent's own words, one inotify mask each
pub enum FileAction {
    Created,
    Modified,
    Deleted,
    Moved,
    MetadataChanged,
}

/// Something happened to a watched file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileActivity {
    /// What happened.
    pub action: FileAction,
    /// The file's path.
    pub path: String,
    /// How many equal ones this stands for, at least 1.
    pub hit_count: u32,
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
