//! Folds ingestion's notices that a session began or ended.
//!
//! Notices of one identity can cross: when a new session takes over, its beginning may arrive before
//! the end of the old one. Only the newest session decides whether the agent is connected.
//!
//! The end of a session whose run of ingestion was killed is told by nobody. [`lose_session`] ends
//! it when that run has been silent for long; if the run was there after all, it says again that the
//! session began, and then it goes on.
//!
//! Times are those of the machines that hold the sessions, and their clocks differ. A beginning at
//! another run that seems older than the newest session is noted beside it, and counts as soon as
//! that one has ended or is lost; so a device that moved to a machine whose clock is behind is not
//! told as away while it is there.

use jiff::Timestamp;

use crate::limits;
use crate::posture::{Agent, OtherSession, Posture, cut};

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
    /// The shared access policy that vouched for the identity; none: it proved itself.
    pub access_policy: Option<String>,
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
    /// taken for lost, or the one beside it. Its end may have been folded already.
    pub fn is_known(&self, agent: &Agent) -> bool {
        let noted = self.is_of(agent) && !agent.session_lost || self.is_of_other(agent);
        self.change == SessionChange::Connected && noted
    }

    fn is_of_other(&self, agent: &Agent) -> bool {
        let other = agent.other_session.as_ref();
        other.is_some_and(|other| other.session_id == self.session_id)
    }

    /// Its beginning as one beside the newest session, if that is of another run.
    fn beside(&self, agent: &Agent) -> Option<OtherSession> {
        let run = self.run.as_ref()?;
        let is_of_another = agent.session_run.as_ref().is_some_and(|it| it != run);
        is_of_another.then(|| self.as_session(run))
    }

    fn as_session(&self, run: &str) -> OtherSession {
        let cut = |text: &str| cut(text, limits::NAME_BYTES_MAX);
        OtherSession {
            session_id: cut(&self.session_id),
            run: cut(run),
            began_at: self.at,
            agent_version: self.agent_version.as_deref().map(cut),
            access_policy: self.access_policy.as_deref().map(cut),
        }
    }
}

/// A session is the newest.
fn begin(agent: &mut Agent, notice: &SessionNotice) {
    agent.connected = true;
    agent.session_lost = false;
    agent.other_session = None;
    let cut = |text: &String| cut(text, limits::NAME_BYTES_MAX);
    agent.session_id = Some(cut(&notice.session_id));
    agent.session_run = notice.run.as_ref().map(cut);
    agent.session_access_policy = notice.access_policy.as_ref().map(cut);
    agent.connected_at = Some(notice.at);
    agent.disconnected_at = None;
    if let Some(version) = &notice.agent_version {
        agent.version = Some(cut(version));
    }
}

/// The session that seemed older is the one that is open.
fn take_over(agent: &mut Agent, other: OtherSession) {
    agent.connected = true;
    agent.session_lost = false;
    agent.session_id = Some(other.session_id);
    agent.session_run = Some(other.run);
    agent.session_access_policy = other.access_policy;
    agent.connected_at = Some(other.began_at);
    agent.disconnected_at = None;
    if other.agent_version.is_some() {
        agent.version = other.agent_version;
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
                begin(agent, notice);
            } else if !current && let Some(other) = notice.beside(agent) {
                if agent.session_lost {
                    take_over(agent, other);
                } else if agent.connected {
                    agent.other_session = Some(other);
                }
            }
            agent.last_seen_at = agent.last_seen_at.max(Some(notice.at));
        }
        SessionChange::Disconnected if notice.is_of_other(agent) => agent.other_session = None,
        SessionChange::Disconnected if current => {
            if agent.connected {
                agent.connected = false;
                agent.disconnected_at = Some(notice.at);
                if let Some(other) = agent.other_session.take() {
                    take_over(agent, other);
                }
            }
            // Whoever held it has seen its end.
            agent.session_lost = false;
        }
        SessionChange::Disconnected => {}
    }
    let changed = *agent != before;
    posture.version = posture.version.max(stream_sequence);
    posture.updated_at = posture.updated_at.max(Some(notice.at));
    changed
}

/// Takes the session that is open for ended if a run of ingestion holds it of which nobody has heard
/// for long; says whether it did. Sessions that name no run are of the one without a name.
pub fn lose_session(posture: &mut Posture, run: &str, now: Timestamp) -> bool {
    let agent = &mut posture.agent;
    if !agent.connected || agent.session_run.as_deref().unwrap_or_default() != run {
        return false;
    }
    agent.connected = false;
    agent.session_lost = true;
    // The clocks of two machines may disagree; no session ends before it began.
    agent.disconnected_at = Some(now).max(agent.connected_at);
    // One of the run that is gone went with it.
    if let Some(other) = agent.other_session.take().filter(|other| other.run != run) {
        take_over(agent, other);
    }
    posture.updated_at = posture.updated_at.max(Some(now));
    true
}
