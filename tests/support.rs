//! What stories need: a hub of separate processes, in one, or with replicas, an agent by hand, an API client.

pub(crate) mod agent;
pub(crate) mod api;
pub(crate) mod fleet;
pub(crate) mod front;
pub(crate) mod hub;
pub(crate) mod raw;
pub(crate) mod real_agent;
pub(crate) mod sdk;

use std::time::Duration;

/// How long anything may take in a story. Generous: the machine is shared, and a passing story
/// never waits for it.
pub(crate) const SOON: Duration = Duration::from_mins(1);
