//! Messages from the cloud: reads the queue of the device for `session`, and removes what is done
//! with.

use bus::{EnsureError, Sequence};
use futures::{FutureExt as _, StreamExt as _};
use service_kit::error::chain;

use super::Running;
use super::perform::Answer;
use crate::mqtt::end::End;
use crate::mqtt::queue::{self, Found};
use crate::mqtt::session::Outcome;

impl Running {
    /// Reads the next message, if the session wants one.
    pub(super) fn look_for_messages(&mut self) {
        let Some(look) = self.session.next_message() else {
            return;
        };
        let parts = &self.door.parts;
        let (bus, proof, now) = (parts.bus.clone(), self.proof.clone(), parts.clock.now());
        let reading =
            async move { Answer::Message(queue::read(&bus, &proof, look, now).await) }.boxed();
        self.questions.push(reading);
    }

    /// The queue was read, or not.
    pub(super) fn on_message(&mut self, found: Result<Found, EnsureError>) -> Result<(), End> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                // The next look reads again.
                tracing::debug!(error = chain(&error), "the queue of a device was not read");
                self.session.on_no_message();
                return Ok(());
            }
        };
        if let Some(counts) = found.counts {
            self.session.on_message_counts(counts);
        }
        let Some(next) = found.next else {
            self.session.on_no_message();
            return Ok(());
        };
        let effects = self.session.on_message(next.sequence, next.message);
        self.perform(effects)
    }

    /// Removes a message that is done with.
    pub(super) fn remove(&mut self, sequence: Sequence, outcome: Outcome) {
        self.door.parts.metrics.device_message(outcome.label());
        let bus = self.door.parts.bus.clone();
        let removing = async move { queue::remove(&bus, sequence).await };
        self.removals.push(removing.boxed());
    }

    /// Waits for what is being removed: a message that was acknowledged must not come again.
    pub(super) async fn finish_removals(&mut self) {
        while self.removals.next().await.is_some() {}
    }

    /// Keeps what went out in vain for the next connection.
    pub(super) async fn keep_counts(&mut self) {
        let Some(counts) = self.session.message_counts() else {
            return;
        };
        let kept = queue::keep(&self.door.parts.bus, &self.proof, counts).await;
        if let Err(error) = kept {
            tracing::debug!(error = chain(&error), "deliveries in vain were not counted");
        }
    }
}
