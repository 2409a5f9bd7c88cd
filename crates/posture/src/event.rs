//! Security events: what an agent observed, once.
//!
//! Types only, plus [`SecurityEvent::validate`], which holds an event against [`crate::limits`].
//! Numbering, batching and transport belong to the agent and to `ingestion`.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod activity;
mod epoch;
mod snapshot;
mod validate;

pub use self::activity::{
    ConnectionActivity, Direction, FileAction, FileActivity, LoginActivity, LoginOperation,
    ProcessAction, ProcessActivity,
};
pub use self::epoch::{EpochError, LaneEpoch};
pub use self::snapshot::{
    AgentStatus, CollectorState, CollectorStatus, ListeningPort, ListeningPorts, LocalUser,
    LocalUsers, NetworkInterface, Protocol, SystemInformation,
};
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
