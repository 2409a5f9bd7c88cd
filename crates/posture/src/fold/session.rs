//! Folds ingestion's notices that a session began or ended.
//!
//! Notices of one identity can cross: when a new session takes over, its beginning may arrive before
//! the end of the old one. Only the newest session decides whether the agent is connected.

use jiff::Timestamp;

use crate::limits;
use crate::posture::{Posture, cut};

/// A session began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionNotice {
    /// The session.
    pub session_id: String,
    /// What happened.
    pub change: SessionChange,
    /// The agent's version, as it said in this session.
    pub agent_version: Option<String>,
    /// When ingestion saw it.
    pub at: Timestamp,
}

/// What happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// It began.
    Connected,
    /// It ended.
    Disconnected,
}

/// Folds one notice; says whether anything but the version changed.
pub fn fold_session(posture: &mut Posture, notice: &SessionNotice, stream_sequence: u64) -> bool {
    let before = posture.agent.clone();
    let agent = &mut posture.agent;
    let current = agent.session_id.as_deref() == Some(notice.session_id.as_str());
    match notice.change {
        SessionChange::Connected => {
            let newer = agent.connected_at.is_none_or(|known| notice.at >= known);
            // The same session again is a redelivery; its end may have been folded already.
            if !current && newer {
                agent.connected = true;
                agent.session_id = Some(cut(&notice.session_id, limits::NAME_BYTES_MAX));
                agent.connected_at = Some(notice.at);
                agent.disconnected_at = None;
                if let Some(version) = &notice.agent_version {
                    agent.version = Some(cut(version, limits::NAME_BYTES_MAX));
                }
            }
            agent.last_seen_at = agent.last_seen_at.max(Some(notice.at));
        }
        SessionChange::Disconnected => {
            if current && agent.connected {
                agent.connected = false;
                agent.disconnected_at = Some(notice.at);
            }
        }
    }
    let changed = *agent != before;
    posture.version = posture.version.max(stream_sequence);
    posture.updated_at = posture.updated_at.max(Some(notice.at));
    changed
}
