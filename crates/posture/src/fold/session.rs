//! Folds ingestion's notices that a session began or ended.
//!
//! Notices of one identity can cross: when a new session takes over, its beginning may arrive before
//! the end of the old one. Only the newest session decides whether the agent is connected.
//!
//! The end of a session whose run of ingestion was killed is told by nobody. [`lose_session`] ends
//! it when that run has been silent for long; if the run was there after all, it says again that the
//! session began, and then it goes on.

use jiff::Timestamp;

use crate::limits;
use crate::posture::{Agent, Posture, cut};

/// A session began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionNotice {
    /// The session.
    pub session_id: String,
    /// What happened.
    pub change: SessionChange,
    /// The agent's version, as it said in this session.
    pub agent_version: Option<String>,
    /// The run of ingestion that holds the session; none: it did not say.
    pub run: Option<String>,
    /// The DTDL model that the device announced in this session.
    pub model_id: Option<String>,
    /// When it happened, as ingestion saw it. A beginning that is said again has the time of the
    /// first.
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

impl SessionNotice {
    /// Whether it is of the newest session that is known.
    pub fn is_of(&self, agent: &Agent) -> bool {
        agent.session_id.as_deref() == Some(self.session_id.as_str())
    }

    /// Whether it says nothing that is not known: that the newest session began, which nobody has
    /// taken for lost. Its end may have been folded already.
    pub fn is_known(&self, agent: &Agent) -> bool {
        self.change == SessionChange::Connected && self.is_of(agent) && !agent.session_lost
    }
}

/// Folds one notice; says whether anything but the version changed.
pub fn fold_session(posture: &mut Posture, notice: &SessionNotice, stream_sequence: u64) -> bool {
    let before = posture.agent.clone();
    let agent = &mut posture.agent;
    let current = notice.is_of(agent);
    match notice.change {
        SessionChange::Connected => {
            let newer = agent.connected_at.is_none_or(|known| notice.at >= known);
            // The same session again is a redelivery, unless we have given it up.
            let begins = if current { agent.session_lost } else { newer };
            if begins {
                agent.connected = true;
                agent.session_lost = false;
                agent.session_id = Some(cut(&notice.session_id, limits::NAME_BYTES_MAX));
                agent.session_run = notice
                    .run
                    .as_ref()
                    .map(|run| cut(run, limits::NAME_BYTES_MAX));
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
            if current {
                // Whoever held it has seen its end.
                agent.session_lost = false;
            }
        }
    }
    let changed = *agent != before;
    posture.version = posture.version.max(stream_sequence);
    posture.updated_at = posture.updated_at.max(Some(notice.at));
    changed
}

/// Takes the session that is open for ended if a run of ingestion holds it of which nobody has heard
/// for long; says whether it did.
pub fn lose_session(posture: &mut Posture, run: &str, now: Timestamp) -> bool {
    let agent = &mut posture.agent;
    if !agent.connected || agent.session_run.as_deref() != Some(run) {
        return false;
    }
    agent.connected = false;
    agent.session_lost = true;
    // The clocks of two machines may disagree; no session ends before it began.
    agent.disconnected_at = Some(now).max(agent.connected_at);
    posture.updated_at = posture.updated_at.max(Some(now));
    true
}
