//! The engine's half of a trial: watches whether a new configuration leaves the service within reach, and
//! goes back to the last good one if it does not.
//!
//! Before it: `follow` (a configuration is in force) and `exchange` (the service was heard of). What to do
//! is decided by `configuration::trial`; this performs.

use service_kit::error::chain;
use tokio::task::block_in_place;
use tokio::time::Instant;
use uuid::Uuid;
use wire::agent::v1::GetTwin;
use wire::agent::v1::open_session_request::Message as Outgoing;

use super::Engine;
use crate::collectors::driver::Request;
use crate::collectors::set::Audience;
use crate::configuration::trial::{Next, Start, Watch};

impl Engine {
    /// Begins to watch whether the configuration in force leaves the service within reach. After a start
    /// its time begins anew: nobody knows how long the device was off.
    pub(super) fn watch_trial(&mut self) {
        let patience = self
            .revert_after
            .filter(|_| self.store.on_trial().is_some());
        self.state.trial = patience.map(|patience| Watch::begin(patience, Instant::now()));
    }

    /// The agent starts, perhaps on a configuration that has not proved good. Comes before it is put into
    /// force, so that one which kills the agent at once is counted as well.
    pub(super) fn start_on_trial(&mut self) {
        if self.revert_after.is_none() {
            return;
        }
        let reason = match block_in_place(|| self.store.start_on_trial()) {
            Ok(Start::GoOn) => return,
            Ok(Start::UnheardTooOften) => {
                "the agent started again and again before the service was heard of"
            }
            Ok(Start::KilledTooOften) => "the agent was killed again and again on trial",
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "cannot note that the agent started on trial"
                );
                return;
            }
        };
        self.take_back(reason);
    }

    /// The agent was told to stop.
    pub(super) fn stop_on_trial(&mut self) {
        if let Err(error) = block_in_place(|| self.store.stop_on_trial()) {
            // It counts as a kill, of which several are allowed.
            tracing::warn!(
                error = chain(&error),
                "cannot note that the agent was told to stop"
            );
        }
    }

    /// Something came from the service.
    pub(super) fn heard_of_service(&mut self) {
        let Some(trial) = &mut self.state.trial else {
            return;
        };
        trial.heard(Instant::now());
        if !self.store.has_started_unheard() {
            return;
        }
        if let Err(error) = block_in_place(|| self.store.hear_on_trial()) {
            tracing::warn!(
                error = chain(&error),
                "cannot note that the service was heard of on trial"
            );
        }
    }

    /// Looks what a configuration on trial has come to.
    pub(super) async fn look_at_trial(&mut self) {
        let Some(trial) = &mut self.state.trial else {
            return;
        };
        let now = Instant::now();
        match trial.next(now) {
            Next::Wait => {}
            Next::Ask => {
                trial.asked(now);
                // Any answer will do, and nothing is changed by this one.
                self.send(Outgoing::GetTwin(GetTwin {
                    request_id: Uuid::new_v4().to_string(),
                }));
            }
            Next::Prove => {
                self.state.trial = None;
                match block_in_place(|| self.store.prove()) {
                    Ok(()) => tracing::info!("the configuration has proved good"),
                    // After a restart it is on trial again.
                    Err(error) => tracing::warn!(
                        error = chain(&error),
                        "cannot note that a configuration has proved good"
                    ),
                }
            }
            Next::GoBack => {
                let patience = self.revert_after.unwrap_or_default().as_secs();
                let reason = format!(
                    "the service was not heard of for {patience} s after version {} was applied",
                    self.store.on_trial().unwrap_or_default()
                );
                self.go_back(&reason).await;
            }
        }
    }

    /// Goes back to the last good configuration. If that cannot be kept it is tried again with the next
    /// look: in force and on disk are the same.
    async fn go_back(&mut self, reason: &str) {
        self.gather(Audience::All, Request::Flush).await;
        self.commit();
        if !self.take_back(reason) {
            return;
        }
        self.state.trial = None;
        let started = self.switch_to(self.store.configuration());
        self.gather(Audience::Named(&started), Request::Snapshot)
            .await;
        self.commit();
        self.all_due();
        // What was open until now was as good as dead; the next session begins with the answer.
        self.reset_session();
    }

    /// Makes the last good configuration the one that is kept. Answers whether it could.
    fn take_back(&mut self, reason: &str) -> bool {
        let at = self.clock.now();
        if let Err(error) = block_in_place(|| self.store.go_back(reason.to_owned(), at)) {
            tracing::error!(
                error = chain(&error),
                "cannot go back to the last good configuration"
            );
            return false;
        }
        tracing::warn!(reason, "went back to the last good configuration");
        true
    }
}
