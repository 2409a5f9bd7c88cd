//! A local cache of twins that is kept in step (list and watch).
//!
//! It holds of each twin what its user's function makes of it, and nothing more; twins of which the
//! function makes nothing are not held. When the watch has to begin anew, twins that did not come
//! again are removed at the end of the new snapshot, as if their deletions had been told.
//!
//! Readers either look ([`Informer::get`], [`Informer::snapshot`]) or follow ([`Changes`]): a
//! follower is told which keys changed and sees their last value, so a slow one sees fewer changes
//! and costs no more memory than the cache has keys.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use service_kit::client::Connection;
use service_kit::metrics::Scope;
use tokio::sync::watch as signal;
use tokio::time::Instant;
use twin::IdentityKey;
use wire::twin::v1::Twin;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use crate::watch::{Tuning, WatchError, What};

mod cache;
mod changes;
mod runner;

use cache::Cache;
pub use changes::{Change, Changes};
pub use runner::{Came, Kept, Runner};

/// What an informer follows, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InformerConfig {
    /// What to watch; `changes_only` is not heeded.
    pub what: What,
    /// How patient it is.
    pub tuning: Tuning,
    /// Twins it may keep. One more ends it: a cache that leaves some out would lie.
    pub entries_max: usize,
}

impl InformerConfig {
    /// Follows these twins, a million at most.
    pub fn of(what: What) -> InformerConfig {
        InformerConfig {
            what,
            tuning: Tuning::default(),
            entries_max: 1_000_000,
        }
    }
}

/// Why an informer ended.
#[derive(Debug, thiserror::Error)]
pub enum InformerError {
    /// The watch cannot be asked for in this way.
    #[error(transparent)]
    Refused(#[from] WatchError),
    /// There are more twins to keep than allowed.
    #[error(
        "more than {allowed} twins would have to be kept; raise the limit or narrow the filter"
    )]
    TooMany {
        /// How many may be kept.
        allowed: usize,
    },
}

/// A cache of twins. Clones share it.
#[derive(Debug)]
pub struct Informer<T> {
    shared: Arc<Shared<T>>,
    state: signal::Receiver<State>,
}

/// How complete a cache is.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// It has held all twins once.
    synced: bool,
    /// Since when it holds every change that twin-store has told of; none: it is behind, and cannot
    /// say how far.
    in_step: Option<Instant>,
}

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Informer<T> {
        Informer {
            shared: self.shared.clone(),
            state: self.state.clone(),
        }
    }
}

/// What the runner and the readers share. The lock is held for moments, never while waiting.
#[derive(Debug)]
struct Shared<T> {
    cache: Mutex<Cache<T>>,
}

impl<T> Shared<T> {
    fn cache(&self) -> MutexGuard<'_, Cache<T>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Informer<T> {
    /// Makes an informer and what keeps it in step; run the latter under supervision. `keep` makes
    /// of a twin what is kept of it; none: it is not kept.
    pub fn new(
        client: TwinServiceClient<Connection>,
        config: InformerConfig,
        scope: &Scope,
        keep: impl Fn(&Twin) -> Option<T> + Send + 'static,
    ) -> (Informer<T>, Runner<T>) {
        let shared = Arc::new(Shared {
            cache: Mutex::new(Cache::new()),
        });
        let (state_in, state) = signal::channel(State::default());
        let keep = move |came: Came<'_, T>| keep(came.twin).map_or(Kept::Nothing, Kept::New);
        let keep = Box::new(keep);
        let runner = Runner::new(client, config, shared.clone(), state_in, keep, scope);
        (Informer { shared, state }, runner)
    }

    /// Whether the cache has held all twins once. It may lag behind since, but is never partial.
    pub fn is_synced(&self) -> bool {
        self.state.borrow().synced
    }

    /// Waits until the cache has held all twins once; false if its runner ended before.
    pub async fn synced(&self) -> bool {
        let mut state = self.state.clone();
        state.wait_for(|state| state.synced).await.is_ok()
    }

    /// How long the cache has been in step with twin-store without a break; none while twins are
    /// read for the first time or anew, and from the loss of a connection until what was missed
    /// has come.
    pub fn in_step_for(&self) -> Option<Duration> {
        self.state.borrow().in_step.map(|since| since.elapsed())
    }

    /// What is kept of a twin.
    pub fn get(&self, key: &IdentityKey) -> Option<Arc<T>> {
        self.shared.cache().get(key)
    }

    /// Everything kept at this moment, in no order.
    pub fn snapshot(&self) -> Vec<(IdentityKey, Arc<T>)> {
        self.shared.cache().snapshot()
    }

    /// How many twins are kept.
    pub fn len(&self) -> usize {
        self.shared.cache().len()
    }

    /// Whether no twin is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Follows the cache: first everything kept, then every change.
    pub fn changes(&self) -> Changes<T> {
        Changes::new(self.shared.cache().subscribe(), self.shared.clone())
    }
}
