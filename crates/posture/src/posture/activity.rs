//! The parts of a posture that count what happened and remember the newest of it.
//!
//! Recent lists hold the newest entries by the time of observation, so they do not depend on the
//! order in which events arrived.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Direction, FileAction, ProcessAction, Protocol};
use crate::limits;
use crate::time;

/// Facts about a list that a snapshot replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// Distinct entries in the snapshot; more than the list shows if the list is cut.
    pub count: u64,
    /// When it was observed; absent before the first snapshot.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
}

/// Logins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logins {
    /// Sessions begun.
    pub succeeded: u64,
    /// Attempts refused.
    pub failed: u64,
    /// Sessions ended.
    pub logged_out: u64,
    /// When the newest session began.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub last_succeeded_at: Option<Timestamp>,
    /// When the newest refusal was.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub last_failed_at: Option<Timestamp>,
    /// Newest refusals, newest first.
    pub recent_failures: Vec<RecentLogin>,
}

/// A login, as remembered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentLogin {
    /// When.
    #[serde(with = "time")]
    pub at: Timestamp,
    /// Account name, as typed.
    pub user: String,
    /// Terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<String>,
    /// Where from; absent for a local login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<String>,
}

/// Processes. Counters include the hits of aggregated events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Processes {
    /// Programs started (exec).
    pub started: u64,
    /// Processes made (fork).
    pub forked: u64,
    /// Processes ended.
    pub exited: u64,
    /// Newest programs started, newest first. Forks and exits are left out: they would push out
    /// what a reader looks for.
    pub recent: Vec<RecentProcess>,
}

/// A process, as remembered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentProcess {
    /// When.
    #[serde(with = "time")]
    pub at: Timestamp,
    /// What happened to it.
    pub action: ProcessAction,
    /// Process id.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Path of the program.
    pub executable: String,
    /// Arguments.
    pub command_line: String,
    /// How many equal ones this stands for.
    pub hit_count: u32,
}

/// Connections. Counters include the hits of aggregated events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connections {
    /// Begun by others.
    pub inbound: u64,
    /// Begun by this machine.
    pub outbound: u64,
    /// Nobody knows by whom; absent while there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub unknown: u64,
    /// Newest connections, newest first.
    pub recent: Vec<RecentConnection>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A connection, as remembered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentConnection {
    /// When.
    #[serde(with = "time")]
    pub at: Timestamp,
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
    /// Path of the owner's program, or its short name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// How many equal ones this stands for.
    pub hit_count: u32,
}

/// Watched files. Counters include the hits of aggregated events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Files {
    /// Files made.
    pub created: u64,
    /// Contents changed.
    pub modified: u64,
    /// Files removed.
    pub deleted: u64,
    /// Files renamed.
    pub moved: u64,
    /// Owner, mode or times changed.
    pub metadata_changed: u64,
    /// Newest activities, newest first.
    pub recent: Vec<RecentFile>,
}

/// A file activity, as remembered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentFile {
    /// When.
    #[serde(with = "time")]
    pub at: Timestamp,
    /// What happened.
    pub action: FileAction,
    /// The file.
    pub path: String,
    /// How many equal ones this stands for.
    pub hit_count: u32,
}

/// Puts an entry into a recent list: newest first, bounded. `T`'s order starts with the instant, and
/// goes on with the content, so that entries of one instant have one order too.
pub(crate) fn remember<T: Ord>(recent: &mut Vec<T>, entry: T) {
    let place = recent.partition_point(|known| *known >= entry);
    if place >= limits::RECENT_MAX {
        return;
    }
    recent.insert(place, entry);
    recent.truncate(limits::RECENT_MAX);
}

/// The text, cut to a number of bytes at a character's end, with an ellipsis if it was cut.
pub(crate) fn cut(text: &str, bytes_max: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max.saturating_sub(ELLIPSIS.len()));
    format!("{}{ELLIPSIS}", &text[..end])
}
