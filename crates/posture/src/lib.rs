//! What agents observe, and what follows from it.
//!
//! `posture` holds the domain types of security events and the pure rules around them: the fold of
//! events into a [`Posture`] (the section of a security twin that only Twinward writes), the state
//! of a configuration push, and the typed form of the agent's configuration keys.
//!
//! It never reads a clock, draws a random number, logs, or does I/O: times and ids are arguments.
//! It knows no wire format; `wire` converts to and from these types. [`Posture`] alone derives
//! serde, because it *is* a document: its JSON form is what the twin shows.

pub mod limits;

pub mod agent_config;
pub mod configuration;
pub mod event;
pub mod fold;
pub mod posture;

pub mod time;

pub use crate::agent_config::{AgentConfiguration, InvalidField};
pub use crate::configuration::{Acknowledgement, ConfigurationState, FrozenPath, Timeline};
pub use crate::event::{EventKind, EventPayload, Lane, LaneEpoch, SecurityEvent};
pub use crate::fold::{
    AgentBatch, FoldOutcome, MessageBatch, SessionNotice, fold, fold_message, fold_session,
    lose_session,
};
pub use crate::posture::{MessageKey, Posture};
