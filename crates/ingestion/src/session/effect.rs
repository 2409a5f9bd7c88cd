//! What a session decides: the words that the loop performs.

use jiff::Timestamp;
use wire::agent::v1 as agent;

use crate::admit::Admission;

/// What the loop has to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// The session is open: tell the twin, and answer with a welcome.
    Open(Opened),
    /// Make an admission durable, then call [`super::Session::on_stored`].
    Publish {
        /// What was decided.
        admission: Admission,
        /// The agent's trace context; may be anything.
        trace_parent: String,
    },
    /// Ask twin-store, then call [`super::Session::on_answered`].
    Ask(Request),
    /// Read the desired section, then call [`super::Session::on_section`] or [`super::Session::on_no_section`].
    FetchDesired,
    /// Give an answer of the agent to whoever called the method.
    Answered(agent::MethodResponse),
    /// Say that a method was not called.
    Decline {
        /// Of the call.
        rid: String,
    },
    /// A message was refused; count it.
    Refused(&'static str),
}

/// Who opened the session, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The session's id, a UUID.
    pub(crate) session_id: String,
    /// The agent's version.
    pub(crate) agent_version: String,
    /// The DTDL model of the device, if it announced one.
    pub(crate) model_id: Option<Box<str>>,
}

/// A request that twin-store answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    /// Merge into reported.
    PatchReported(agent::PatchReported),
    /// Record how the agent decided.
    Acknowledge {
        /// The agent's words.
        acknowledge: agent::AcknowledgeDesired,
        /// When the version was pushed, if it was in this session.
        push_time: Option<Timestamp>,
    },
    /// Read both sections.
    GetTwin(agent::GetTwin),
}

impl Request {
    /// The id the agent gave it; empty when it has none.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::PatchReported(patch) => &patch.request_id,
            Self::Acknowledge { .. } => "",
            Self::GetTwin(get) => &get.request_id,
        }
    }
}
