//! Wakes when a policy opens, closes or ends, and puts in force what follows.
//!
//! What is open is worked out anew from the clock (`schedule`); nothing is remembered but the sweep
//! that an opening wants, which is kept before it takes effect. So a service that was down at an edge
//! finds it passed at the start, and a clock that jumps is noticed within a minute.

use std::time::Duration;

use service_kit::clock::SharedClock;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::{info, warn};

use crate::policies::Policies;

/// How long it sleeps at most while there is an edge to come: timers do not see the wall clock jump.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Before an edge is tried again that could not be kept.
const KEEP_AGAIN: Duration = Duration::from_secs(5);

/// What follows the times of policies.
#[derive(Debug)]
pub(crate) struct Edges {
    /// What is in force.
    pub policies: Policies,
    /// What time it is.
    pub clock: SharedClock,
    /// Ends it.
    pub shutdown: ShutdownToken,
}

impl Edges {
    /// Works until the service stops.
    pub(crate) async fn run(self) {
        let mut changes = self.policies.changes();
        // What opened or ended while nobody was there has not been looked at.
        let mut unseen = self.policies.has_hours();
        loop {
            // What changes from here on wakes us again.
            changes.set();
            let now = self.clock.now();
            let mut pause = self.policies.next_edge(now).map(|edge| {
                let ahead = edge.duration_since(now);
                Duration::try_from(ahead)
                    .unwrap_or_default()
                    .min(LOOK_EVERY)
            });
            if unseen || self.policies.is_behind(now) {
                match self.policies.pass_edge(unseen).await {
                    Ok(()) => {
                        unseen = false;
                        info!("policies opened, closed or ended by their times");
                        continue;
                    }
                    Err(error) => {
                        warn!(
                            error = chain(&error),
                            "cannot keep that policies opened or ended; trying again"
                        );
                        pause = Some(KEEP_AGAIN);
                    }
                }
            }
            let woken = async {
                match pause {
                    // A timer may be a little early: the edge itself is not.
                    Some(pause) => tokio::select! {
                        () = tokio::time::sleep(pause + Duration::from_millis(1)) => true,
                        more = changes.changed() => more,
                    },
                    None => changes.changed().await,
                }
            };
            match self.shutdown.run_until(woken).await {
                Some(true) => {}
                Some(false) | None => return,
            }
        }
    }
}
