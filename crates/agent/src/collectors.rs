//! Collectors: what looks at the machine and says what it saw.
//!
//! A [`Collector`] is synchronous and knows neither lanes, nor the spool, nor the network: it is
//! asked to look, and hands out observations. When to ask is decided by `driver.rs`, which collectors
//! exist under a configuration by `set.rs`. Sources are read below a [`Machine`] root, so that
//! tests run on a tree of files as well as on the real machine.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use posture::EventPayload;
use posture::event::CollectorState;

pub(crate) mod aggregate;
pub(crate) mod connections;
pub(crate) mod driver;
pub(crate) mod file_system;
pub(crate) mod fit;
pub(crate) mod heartbeat;
pub(crate) mod listening_ports;
pub(crate) mod local_users;
pub(crate) mod logins;
pub(crate) mod machine;
pub(crate) mod processes;
pub(crate) mod set;
pub(crate) mod sockets;
pub(crate) mod system_information;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod text;

pub use self::machine::Machine;

/// Something a collector saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observation {
    /// When it happened; for aggregated ones, the first time.
    pub(crate) observed_at: Timestamp,
    pub(crate) payload: EventPayload,
    pub(crate) urgency: Urgency,
    /// Where to go on reading the source, to be kept once the observation is durable.
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Observation {
    /// An observation that waits for its lane's interval.
    pub(crate) fn routine(observed_at: Timestamp, payload: EventPayload) -> Self {
        Self {
            observed_at,
            payload,
            urgency: Urgency::Routine,
            checkpoint: None,
        }
    }

    /// An observation that a policy may want to react to now.
    pub(crate) fn immediate(observed_at: Timestamp, payload: EventPayload) -> Self {
        Self {
            observed_at,
            payload,
            urgency: Urgency::Immediate,
            checkpoint: None,
        }
    }
}

/// Whether an observation waits for its lane's interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// It waits.
    Routine,
    /// It is sent at once, and what its lane holds with it: seconds, not minutes.
    Immediate,
}

/// A file that says how far a source was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
}

/// Whether a collector does its work, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) state: CollectorState,
    pub(crate) reason: Option<String>,
}

impl Health {
    pub(crate) fn running() -> Self {
        Self {
            state: CollectorState::Running,
            reason: None,
        }
    }

    pub(crate) fn disabled() -> Self {
        Self {
            state: CollectorState::Disabled,
            reason: None,
        }
    }

    pub(crate) fn degraded(reason: impl Into<String>) -> Self {
        Self {
            state: CollectorState::Degraded,
            reason: Some(reason.into()),
        }
    }

    pub(crate) fn skipped(reason: impl Into<String>) -> Self {
        Self {
            state: CollectorState::Skipped,
            reason: Some(reason.into()),
        }
    }

    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        Self {
            state: CollectorState::Failed,
            reason: Some(reason.into()),
        }
    }
}

/// When a collector wants to look.
#[derive(Debug)]
pub(crate) enum Wakeup {
    /// Again and again.
    Every(Duration),
    /// When this descriptor becomes readable; the collector must then read until nothing is left.
    Readable(OwnedFd),
    /// Only when it is asked for a snapshot.
    Never,
}

/// Looks at one kind of source.
///
/// Implementations never panic on what they read: a source that cannot be read changes the health.
pub(crate) trait Collector: Send {
    /// When [`Self::observe`] wants to be called. Asked again after each change of health.
    fn wakeup(&self) -> Wakeup {
        Wakeup::Never
    }

    /// Looks at the source and hands out what is new, or keeps it to aggregate.
    fn observe(&mut self, now: Timestamp, out: &mut Vec<Observation>);

    /// The interval of the lane came: hands out the full state, where the collector has one.
    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>);

    /// Hands out everything it keeps.
    fn flush(&mut self, out: &mut Vec<Observation>);

    /// How it is.
    fn health(&self) -> Health;
}
