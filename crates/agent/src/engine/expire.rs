//! Gives up what has waited too long for a service.

use std::time::Duration;

use service_kit::error::chain;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::Engine;

/// How often the engine looks for events that waited too long; the limit is in minutes.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

impl Engine {
    /// `IothubModule_MessageTimeout`: what waits for longer without a service is given up, and counted.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        if self.state.expire_at.is_some_and(|at| now < at) {
            return;
        }
        self.state.expire_at = Some(now + EXPIRE_EVERY);
        let kept_for = self.state.configuration.message_timeout.0;
        let Ok(before) = self.clock.now().checked_sub(kept_for) else {
            return;
        };
        match block_in_place(|| self.spool.expire(before)) {
            Ok(()) => self.commit_soon(),
            Err(error) => tracing::error!(error = chain(&error), "cannot drop old events"),
        }
    }
}
