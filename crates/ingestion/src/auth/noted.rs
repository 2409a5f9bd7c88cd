//! What becomes of failures: they are counted, charged to the address, and told in the log as far as
//! there is room for them.

use std::net::IpAddr;

use service_kit::accounts::network_of;

use super::{AuthError, Authenticator, lock};

impl Authenticator {
    /// Notes a failure that happened before there was anybody to prove.
    pub(crate) fn refuse_device(&self, error: &AuthError, peer: Option<IpAddr>) {
        self.note_failure(error, peer);
    }

    /// Word of changes may have been lost: whatever is known may be old.
    pub(crate) fn forget_all(&self) {
        lock(&self.shared.cache).forget_all();
    }

    pub(super) fn note_failure(&self, error: &AuthError, peer: Option<IpAddr>) {
        self.shared.metrics.auth_failure(error.code());
        let account = peer.map(network_of);
        let now = self.shared.clock.monotonic();
        if error.is_the_peers_fault() {
            lock(&self.shared.limiter).failed(account, now);
        }
        // Whoever fails without end is not to fill the log; the counter has every failure.
        if matches!(error, AuthError::TooManyFailures { .. }) {
            let mut told = lock(&self.shared.told);
            if told.check(&account, now).is_err() {
                return;
            }
            told.failed(account, now);
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
