//! What becomes of failures: they are counted, and told in the log as far as there is room for them.

use std::net::IpAddr;

use super::{AuthError, Authenticator, lock};

impl Authenticator {
    /// Notes a failure that happened before there was anybody to prove.
    pub(crate) fn refuse_device(&self, error: &AuthError, peer: Option<IpAddr>) {
        if error.is_the_peers_fault() {
            let now = self.shared.clock.monotonic();
            let account = self.shared.failures.account(peer, None, now);
            self.shared.failures.charge(account, peer, None, now);
        }
        self.note_failure(error, peer);
    }

    /// Word of changes may have been lost: whatever is known may be old.
    pub(crate) fn forget_all(&self) {
        lock(&self.shared.cache).forget_all();
    }

    pub(super) fn note_failure(&self, error: &AuthError, peer: Option<IpAddr>) {
        self.shared.metrics.auth_failure(error.code());
        let now = self.shared.clock.monotonic();
        // Whoever fails without end is not to fill the log; the counter has every failure.
        if matches!(error, AuthError::TooManyFailures { .. })
            && !self.shared.failures.tells(peer, now)
        {
            return;
        }
        // Nor are many who fail a little each, or one that is refused before it is looked at.
        let Some(untold) = self.shared.lines.tells(error.code(), now) else {
            return;
        };
        tracing::info!(
            peer = peer.map(tracing::field::display),
            reason = error.code(),
            error = service_kit::error::chain(error),
            untold,
            "a device was not let in"
        );
    }
}
