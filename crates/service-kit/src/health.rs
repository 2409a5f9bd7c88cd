//! What state the service and its parts are in, for probes, load balancers and operators.
//!
//! Each part reports for itself through its [`Component`]; this module only adds up. It never
//! checks anything on its own, and being degraded or failed never stops the process: that is for
//! the supervisor ([`crate::tasks`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// The state of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// Not yet able to work.
    Starting,
    /// Working.
    Serving,
    /// Working with less than it should; the reason says what is missing.
    Degraded {
        /// What is missing.
        reason: String,
    },
    /// Not working; the reason says why.
    Failed {
        /// Why.
        reason: String,
    },
}

impl State {
    /// True if requests that need this part can be answered.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Serving | Self::Degraded { .. } => true,
            Self::Starting | Self::Failed { .. } => false,
        }
    }
}

/// The state of the whole and of each part, as the HTTP endpoints print it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// True while the service is on its way out; it then takes no new work.
    pub stopping: bool,
    /// The parts by name.
    pub components: BTreeMap<String, State>,
}

impl Report {
    /// True if the service should be sent work: it has parts, all of them are ready, and it is not
    /// stopping. A service that has not named its parts yet is starting.
    pub fn is_ready(&self) -> bool {
        !self.stopping
            && !self.components.is_empty()
            && self.components.values().all(State::is_ready)
    }
}

/// The health of a service. Clones share the same state.
#[derive(Debug, Clone)]
pub struct Health(Arc<watch::Sender<Report>>);

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A service without parts, which is not ready.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Report::default())))
    }

    /// Adds a part, in state starting. Adding a name again gives a second handle to the part and
    /// sets it back to starting.
    #[must_use]
    pub fn component(&self, name: impl Into<String>) -> Component {
        let component = Component {
            health: self.clone(),
            name: name.into(),
        };
        component.set(State::Starting);
        component
    }

    /// The present state.
    pub fn report(&self) -> Report {
        self.0.borrow().clone()
    }

    /// True if the service should be sent work.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_ready()
    }

    /// Reports the service not ready from now on, because it stops.
    pub fn stopping(&self) {
        self.0.send_modify(|report| report.stopping = true);
    }

    /// Follows the changes.
    pub fn watch(&self) -> watch::Receiver<Report> {
        self.0.subscribe()
    }

    /// Waits until the service is ready.
    pub async fn ready(&self) {
        // It cannot fail: `self` holds the sender.
        let _ = self.watch().wait_for(Report::is_ready).await;
    }
}

/// The handle by which one part reports its state.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    name: String,
}

impl Component {
    /// The part works.
    pub fn serving(&self) {
        self.set(State::Serving);
    }

    /// The part works with less than it should.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(State::Degraded {
            reason: reason.into(),
        });
    }

    /// The part does not work.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(State::Failed {
            reason: reason.into(),
        });
    }

    /// The part starts (again).
    pub fn starting(&self) {
        self.set(State::Starting);
    }

    /// Sets the state. Setting the same state again is cheap and wakes nobody, so it may be called
    /// with every heartbeat.
    pub fn set(&self, state: State) {
        self.health.0.send_if_modified(|report| {
            let before = report.components.get(&self.name);
            if before == Some(&state) {
                return false;
            }
            log_change(&self.name, before, &state);
            report.components.insert(self.name.clone(), state);
            true
        });
    }
}

/// Levels by who must act: a part that fails or runs with less is survived, so it is a warning.
fn log_change(component: &str, before: Option<&State>, after: &State) {
    match after {
        State::Starting => tracing::debug!(component, "component is starting"),
        State::Serving if before == Some(&State::Starting) => {
            tracing::debug!(component, "component is serving");
        }
        State::Serving => tracing::info!(component, "component is serving again"),
        State::Degraded { reason } => tracing::warn!(component, reason, "component is degraded"),
        State::Failed { reason } => tracing::warn!(component, reason, "component has failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_when_all_its_parts_are() {
        let health = Health::new();
        assert!(!health.is_ready(), "no parts yet");
        let store = health.component("store");
        let bus = health.component("bus");
        store.serving();
        assert!(!health.is_ready(), "the bus is starting");
        bus.degraded("one of three servers is away");
        assert!(health.is_ready());
        bus.failed("no server answers");
        assert!(!health.is_ready());
        bus.serving();
        assert!(health.is_ready());
        health.stopping();
        assert!(!health.is_ready(), "on its way out");
    }

    #[test]
    fn the_same_state_again_wakes_nobody() {
        let health = Health::new();
        let store = health.component("store");
        store.serving();
        let mut watch = health.watch();
        watch.mark_unchanged();
        store.serving();
        assert!(!watch.has_changed().expect("the sender lives"));
    }

    #[test]
    fn a_report_prints_states_with_their_reasons() {
        let health = Health::new();
        health.component("bus").failed("no server answers");
        assert_eq!(
            serde_json::to_value(health.report()).expect("plain data"),
            serde_json::json!({
                "stopping": false,
                "components": {"bus": {"state": "failed", "reason": "no server answers"}}
            })
        );
    }
}
