//! A call of a connection that is being answered, and who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Peer;

/// A call being answered.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(super) peer: Arc<Peer>,
    /// Whether it is counted: it waits for us and not we for the rest of it.
    pub(super) awaits_us: AtomicBool,
}

impl Asking {
    /// Whether the call goes on only with more from the client.
    pub(crate) fn awaits_the_client(&self, does: bool) {
        let did = !self.awaits_us.swap(!does, Ordering::AcqRel);
        if does && !did {
            self.peer.calls.fetch_sub(1, Ordering::AcqRel);
        } else if did && !does {
            self.peer.calls.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if *self.awaits_us.get_mut() {
            self.peer.calls.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
