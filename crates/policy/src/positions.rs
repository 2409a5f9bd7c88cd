//! How far each partition was evaluated, kept in memory and written to the store about once a
//! second, all partitions in one transaction.
//!
//! Writing late is safe: a crash replays at most a second, and a policy that already holds writes
//! nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bus::Sequence;
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tracing::warn;

use crate::store::Store;

/// At most this much is evaluated again after a crash.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The handle to the positions. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Positions {
    store: Store,
    dirty: Arc<Mutex<BTreeMap<u16, Sequence>>>,
}

impl Positions {
    /// Writes to this store.
    pub(crate) fn new(store: Store) -> Positions {
        Positions {
            store,
            dirty: Arc::default(),
        }
    }

    /// Everything of a partition up to here has taken effect.
    pub(crate) fn advance(&self, partition: u16, sequence: Sequence) {
        self.dirty().insert(partition, sequence);
    }

    /// Writes what is new until the service stops; the last writing is [`Positions::flush`].
    pub(crate) async fn keep(self, shutdown: ShutdownToken) {
        while shutdown
            .run_until(tokio::time::sleep(WRITE_EVERY))
            .await
            .is_some()
        {
            self.flush().await;
        }
    }

    /// Writes what is new. A failure is survived: it is tried again with the next.
    pub(crate) async fn flush(&self) {
        let taken = std::mem::take(&mut *self.dirty());
        if taken.is_empty() {
            return;
        }
        if let Err(error) = self.store.save_positions(taken.clone()).await {
            warn!(error = chain(&error), "cannot write positions");
            let mut dirty = self.dirty();
            for (partition, sequence) in taken {
                dirty.entry(partition).or_insert(sequence);
            }
        }
    }

    fn dirty(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, Sequence>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
