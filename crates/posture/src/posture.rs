//! The posture document: what was concluded from an identity's telemetry.
//!
//! It is the `posture` section of a security twin, written by [`crate::fold()`] and, where the
//! configuration stands, by [`crate::configuration`]. Its JSON form
//! (camelCase) is what conditions of policies and people read; lists in it are bounded and in a
//! fixed order, so that equal facts give equal documents. Counters never go down.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod activity;
mod delivery;
mod messages;
mod recommendations;

pub use self::activity::{
    Connections, Files, Logins, Processes, RecentConnection, RecentFile, RecentLogin,
    RecentProcess, Snapshot,
};
pub use self::delivery::{Delivery, EpochDelivery, LaneDelivery, SequenceRange};
pub use self::messages::{MessageDelivery, MessageKey, MessageKeyError};
pub use self::recommendations::Recommendation;

pub(crate) use self::activity::{cut, remember};
pub(crate) use self::delivery::Admission;

use crate::configuration::ConfigurationState;
use crate::event::{CollectorState, EventKind, ListeningPort, LocalUser, SystemInformation};
use crate::time;

/// What was concluded from an identity's telemetry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Posture {
    /// Stream sequence of the last event folded: the same after any replay, unlike a clock.
    pub version: u64,
    /// When the newest message folded was received.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// The agent itself.
    pub agent: Agent,
    /// What arrived of each lane, and what did not.
    pub delivery: Delivery,
    /// Where the push of the configuration stands.
    pub configuration: ConfigurationState,
    /// What somebody should mend.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recommendations: Vec<Recommendation>,
    /// Events folded, in all.
    pub event_count: u64,
    /// Events folded, by kind.
    pub events_by_kind: BTreeMap<EventKind, u64>,
    /// What the machine is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemInformation>,
    /// When `system` was observed.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub system_observed_at: Option<Timestamp>,
    /// Listening sockets, ordered by protocol, port and address; at most
    /// [`crate::limits::POSTURE_LISTENING_PORTS_MAX`].
    pub listening_ports: Vec<ListeningPort>,
    /// How many there are in all, and when that was observed.
    pub listening_ports_snapshot: Snapshot,
    /// Local accounts, ordered by uid and name; at most
    /// [`crate::limits::POSTURE_LOCAL_USERS_MAX`].
    pub users: Vec<LocalUser>,
    /// How many there are in all, and when that was observed.
    pub users_snapshot: Snapshot,
    /// Logins.
    pub logins: Logins,
    /// Processes.
    pub processes: Processes,
    /// Connections.
    pub connections: Connections,
    /// Watched files.
    pub files: Files,
}

/// The agent itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Agent {
    /// Its version, as it last said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether its newest session is open.
    pub connected: bool,
    /// Its newest session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The run of ingestion that holds, or held, that session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_run: Option<String>,
    /// Whether that session counts as ended because its run was not heard of any more, and not
    /// because somebody saw its end.
    #[serde(skip_serializing_if = "is_false")]
    pub session_lost: bool,
    /// A session of another run of ingestion that began meanwhile, though by its clock before the
    /// newest: clocks differ, so it takes over when the newest ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_session: Option<OtherSession>,
    /// The shared access policy of the hub with whose key somebody opened that session for it; absent:
    /// it proved itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_access_policy: Option<String>,
    /// When that session began.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub connected_at: Option<Timestamp>,
    /// When that session ended.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub disconnected_at: Option<Timestamp>,
    /// When anything last arrived from it.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// When its newest heartbeat was observed.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_at: Option<Timestamp>,
    /// When its newest status was observed.
    #[serde(with = "time::option", skip_serializing_if = "Option::is_none")]
    pub status_observed_at: Option<Timestamp>,
    /// Its collectors by name.
    pub collectors: BTreeMap<String, Collector>,
}

/// A session beside the newest, of which one will turn out to be over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherSession {
    /// The session.
    pub session_id: String,
    /// The run of ingestion that holds it.
    pub run: String,
    /// When it began, by the clock of that run.
    #[serde(with = "time")]
    pub began_at: Timestamp,
    /// The agent's version, as it said there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The shared access policy that opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_policy: Option<String>,
}

/// One collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collector {
    /// What it does.
    pub state: CollectorState,
    /// Why, unless it simply runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is rarely true is written only then.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands over a reference
fn is_false(truth: &bool) -> bool {
    !*truth
}
