//! How a session ends: what is under way is acknowledged, the agent is told why, the twin is told.

use std::time::Duration;

use bus::PackError;
use futures::{FutureExt, StreamExt};
use service_kit::status::to_status;

use super::{Running, has_room};
use crate::error::SessionEnd;

/// How long a session that ends waits for batches that are being published, so that they are
/// acknowledged and not sent again.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// How long an agent has to take the last message, the reason of the end.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

impl Running {
    /// Ends the session: acknowledges what is still being published, says why, and tells the twin.
    pub(super) async fn say_goodbye(&mut self, end: &SessionEnd) {
        self.place.mailbox().take_no_methods();
        if let Some(mail) = self.place.mailbox().take().now_or_never() {
            self.decline(mail.calls);
        }
        let flushes = match end {
            SessionEnd::Left | SessionEnd::NotStored(_) => false,
            SessionEnd::Finished
            | SessionEnd::Broken { .. }
            | SessionEnd::NoHello { .. }
            | SessionEnd::NotProven(_)
            | SessionEnd::TakenOver
            | SessionEnd::Stopping
            | SessionEnd::TooMany { .. } => true,
        };
        if flushes {
            // Whoever is not done by then sends again, which is harmless.
            let _ = tokio::time::timeout(FLUSH_WITHIN, self.flush()).await;
        }
        self.log_end(end);
        if !matches!(end, SessionEnd::Finished | SessionEnd::Left) {
            let goodbye = self.responses.send(Err(to_status(end)));
            let _ = tokio::time::timeout(GOODBYE_WITHIN, goodbye).await;
        }
        self.tell_disconnected().await;
    }

    async fn flush(&mut self) {
        loop {
            while self.session.has_response() {
                has_room(&self.responses).await;
                if self.responses.is_closed() {
                    return;
                }
                self.give_response();
            }
            let Some(stored) = self.stores.next().await else {
                return;
            };
            if self.on_stored(stored).is_err() {
                return;
            }
        }
    }

    fn log_end(&self, end: &SessionEnd) {
        let identity = &self.proof.identity;
        let peer = self.peer.map(tracing::field::display);
        let (reason, error) = (end.code(), service_kit::error::chain(end));
        // An outage of the bus is reported once, by the bus, not by each of its sessions. What
        // will not pass by itself is a defect, and somebody must act.
        if matches!(end, SessionEnd::NotStored(cause) if is_lasting(cause)) {
            tracing::error!(%identity, peer, reason, error, "events cannot be stored");
        } else {
            tracing::debug!(%identity, peer, reason, error, "session ended");
        }
    }
}

/// Whether sending the same events again would fail again.
fn is_lasting(error: &PackError) -> bool {
    match error {
        PackError::Publish(error) => !error.is_transient(),
        PackError::ItemTooLarge { .. } => true,
        PackError::QueueFull | PackError::Closed => false,
    }
}
