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

use service_kit::client::Connection;
use service_kit::error::{Classified as _, Kind, chain};
use service_kit::metrics::{Counter, Gauge, Scope};
use service_kit::shutdown::ShutdownToken;
use tokio::sync::watch as signal;
use tracing::{debug, info, warn};
use twin::IdentityKey;
use wire::names::parse_identity;
use wire::twin::v1::Twin;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use crate::watch::{Begin, Event, Tuning, Watch, WatchError, What};

mod cache;
mod changes;

use cache::Cache;
pub use changes::{Change, Changes};

/// Makes of a twin what is kept of it; none: it is not kept.
type Keep<T> = Box<dyn Fn(&Twin) -> Option<T> + Send>;

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
    synced: signal::Receiver<bool>,
}

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Informer<T> {
        Informer {
            shared: self.shared.clone(),
            synced: self.synced.clone(),
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
    /// Makes an informer and what keeps it in step; run the latter under supervision.
    pub fn new(
        client: TwinServiceClient<Connection>,
        config: InformerConfig,
        scope: &Scope,
        keep: impl Fn(&Twin) -> Option<T> + Send + 'static,
    ) -> (Informer<T>, Runner<T>) {
        let shared = Arc::new(Shared {
            cache: Mutex::new(Cache::new()),
        });
        let (synced_in, synced) = signal::channel(false);
        let what = What {
            changes_only: false,
            ..config.what
        };
        let runner = Runner {
            watch: Watch::new(client, what, config.tuning),
            keep: Box::new(keep),
            entries_max: config.entries_max,
            shared: shared.clone(),
            synced: synced_in,
            metrics: Metrics::new(scope),
        };
        (Informer { shared, synced }, runner)
    }

    /// Whether the cache has held all twins once. It may lag behind since, but is never partial.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the cache has held all twins once; false if its runner ended before.
    pub async fn synced(&self) -> bool {
        self.synced.clone().wait_for(|synced| *synced).await.is_ok()
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

/// Keeps an [`Informer`] in step.
pub struct Runner<T> {
    watch: Watch,
    keep: Keep<T>,
    entries_max: usize,
    shared: Arc<Shared<T>>,
    synced: signal::Sender<bool>,
    metrics: Metrics,
}

impl<T> std::fmt::Debug for Runner<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

impl<T> Drop for Runner<T> {
    fn drop(&mut self) {
        // Followers would wait for ever.
        self.shared.cache().end();
    }
}

impl<T> Runner<T> {
    /// Works until the service stops, however often the connection is lost.
    ///
    /// # Errors
    /// See [`InformerError`].
    pub async fn run(mut self, shutdown: ShutdownToken) -> Result<(), InformerError> {
        loop {
            let Some(event) = shutdown.run_until(self.watch.next()).await else {
                return Ok(());
            };
            match event {
                Ok(event) => self.take(event)?,
                Err(refused) if can_be_mended(refused.refusal().kind()) => {
                    self.metrics.interruptions.inc();
                    warn!(
                        error = chain(&refused),
                        "twins cannot be watched; trying again"
                    );
                }
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<(), InformerError> {
        match event {
            Event::Twin { twin, .. } => self.put(&twin)?,
            Event::Deleted(name) | Event::Unmatched(name) => {
                self.metrics.events.inc();
                match parse_identity("name", &name) {
                    Ok(key) => self.shared.cache().remove(&key),
                    Err(error) => unreadable(&name, &error),
                }
            }
            Event::Begins(begin) => {
                self.metrics.snapshots.inc();
                match begin {
                    Begin::First => {}
                    Begin::Interrupted | Begin::TokenTooOld | Begin::TokenRefused => {
                        info!(why = ?begin, "all twins are read again");
                    }
                }
                self.shared.cache().begin();
            }
            Event::Synced(_) => {
                self.shared.cache().complete();
                self.synced.send_replace(true);
                self.metrics.synced.set(1);
            }
            Event::Bookmark => {}
            Event::Interrupted { why, pause } => {
                self.metrics.interruptions.inc();
                debug!(
                    why,
                    pause_ms = pause.as_millis(),
                    "the watch was interrupted"
                );
            }
        }
        self.metrics.entries.set(gauge(self.shared.cache().len()));
        Ok(())
    }

    fn put(&mut self, twin: &Twin) -> Result<(), InformerError> {
        self.metrics.events.inc();
        let key = match parse_identity("name", &twin.name) {
            Ok(key) => key,
            Err(error) => {
                unreadable(&twin.name, &error);
                return Ok(());
            }
        };
        let kept = (self.keep)(twin);
        let mut cache = self.shared.cache();
        match kept {
            None => cache.remove(&key),
            Some(value) => {
                cache.put(key, value);
                if cache.len() > self.entries_max {
                    return Err(InformerError::TooMany {
                        allowed: self.entries_max,
                    });
                }
            }
        }
        Ok(())
    }
}

fn unreadable(name: &str, error: &wire::InvalidField) {
    warn!(name, %error, "a twin has a name that this program cannot read; left out");
}

/// Whether an operator may mend what twin-store refuses; a question that cannot be asked never
/// gets better.
fn can_be_mended(kind: Kind) -> bool {
    !matches!(kind, Kind::InvalidArgument)
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

struct Metrics {
    entries: Gauge,
    events: Counter,
    snapshots: Counter,
    interruptions: Counter,
    synced: Gauge,
}

impl Metrics {
    fn new(scope: &Scope) -> Metrics {
        Metrics {
            entries: scope.gauge("informer_entries", "Twins kept in the local cache"),
            events: scope.counter("informer_events", "Twins and removals taken from the watch"),
            snapshots: scope.counter(
                "informer_snapshots",
                "Times that all twins were read, from the first",
            ),
            interruptions: scope.counter(
                "informer_interruptions",
                "Times that the watch was lost or refused",
            ),
            synced: scope.gauge(
                "informer_synced",
                "Whether the local cache has held all twins",
            ),
        }
    }
}
