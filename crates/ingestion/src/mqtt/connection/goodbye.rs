//! How a connection ends: what is under way is acknowledged, the will is published, the twin is told.

use std::time::Duration;

use futures::{FutureExt, StreamExt};

use super::Running;
use super::perform::Answer;
use crate::mqtt::end::{End, Finishes};
use crate::notice;

/// How long an end waits for messages that are being published and requests that were read, so that
/// they are acknowledged and not sent again; and what was sent without wanting that is not lost.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// How long a device has to take the last bytes.
pub(super) const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// How long the will and the counts of messages may take.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

impl Running {
    pub(super) async fn say_goodbye(&mut self, end: &End) {
        self.log_end(end);
        self.place.mailbox().take_no_methods();
        if let Some(mail) = self.place.mailbox().take().now_or_never() {
            self.decline(mail.calls);
        }
        // Whoever is not done by then sends again, which is harmless.
        let finishing = self.finish(end.finishes());
        let _ = tokio::time::timeout(FLUSH_WITHIN, finishing).await;
        self.place.finished();
        let _ = tokio::time::timeout(GOODBYE_WITHIN, self.wire.writer.finish()).await;
        // What is left comes again, which is harmless.
        let _ = tokio::time::timeout(FLUSH_WITHIN, self.finish_removals()).await;
        let told = async {
            self.keep_counts().await;
            self.publish_will(end).await;
        };
        let _ = tokio::time::timeout(TOLD_WITHIN, told).await;
        self.tell_disconnected().await;
    }

    async fn finish(&mut self, what: Finishes) {
        match what {
            Finishes::Everything => {}
            Finishes::Patches => self.session.ask_for_patches_only(),
            Finishes::Acknowledgements => {
                self.session.ask_no_more();
                self.patches.clear();
            }
            Finishes::Nothing => return,
        }
        super::finished(&mut self.older).await;
        while !self.acks.is_empty() || self.session.is_asking() {
            let outcome = tokio::select! {
                Some(stored) = self.acks.next() => self.on_stored(stored),
                Some(answer) = self.questions.next() => match answer {
                    Answer::Twin { .. }
                    | Answer::Patched { .. }
                    | Answer::Remembered { .. }
                    | Answer::Proven(_) => self.on_answer(answer),
                    // Nothing new goes to a device that leaves.
                    Answer::Changes(_)
                    | Answer::Message(_)
                    | Answer::Told
                    | Answer::NotTold => Ok(()),
                },
                else => return,
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    async fn publish_will(&mut self, end: &End) {
        let Some(will) = self.will.take().filter(|_| end.opens_the_will()) else {
            return;
        };
        if let Err(error) = self.publish(&will).await {
            tracing::debug!(%error, "a will was not published");
        }
    }

    async fn tell_disconnected(&mut self) {
        let parts = &self.door.parts;
        let now = parts.clock.now();
        let entry = notice::ended(&self.proof, &self.opened, &parts.instance, now);
        parts.tell_end(self.partition, entry).await;
    }

    fn log_end(&self, end: &End) {
        let (identity, peer) = (&self.proof.identity, self.peer);
        let (reason, error) = (end.code(), service_kit::error::chain(end));
        let parts = &self.door.parts;
        if !end.is_told() {
            tracing::debug!(%identity, %peer, reason, error, "device left");
        } else if let Some(untold) = parts.ends.tells(reason, parts.clock.monotonic()) {
            tracing::info!(%identity, %peer, reason, error, untold, "device was disconnected");
        } else {
            tracing::debug!(%identity, %peer, reason, error, "device was disconnected");
        }
    }
}
