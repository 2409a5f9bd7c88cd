//! Payloads that tell that something happened; each counts.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Protocol;

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

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// The other side did.
    Inbound,
    /// This machine did.
    Outbound,
    /// Who observed it cannot tell: flows are counted both ways.
    Unknown,
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
