//! What keeps an informer's cache in step: it takes the events of a watch, one after another.

use std::sync::Arc;

use service_kit::client::Connection;
use service_kit::error::{Classified as _, Kind, chain};
use service_kit::metrics::{Counter, Gauge, Scope};
use service_kit::shutdown::ShutdownToken;
use tokio::sync::watch as signal;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use wire::names::parse_identity;
use wire::twin::v1 as proto;
use wire::twin::v1::Twin;
use wire::twin::v1::twin_service_client::TwinServiceClient;

use super::{InformerConfig, InformerError, Shared, State};
use crate::watch::{Begin, Event, Tuning, Watch, What};

/// What is kept of a twin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept<T> {
    /// This.
    New(T),
    /// What was kept of it before; nothing, if nothing was. Sparing the work of making it again is
    /// what it is for: most changes of a twin concern nobody.
    Same,
    /// Nothing.
    Nothing,
}

/// A twin as it came.
#[derive(Debug, Clone, Copy)]
pub struct Came<'a, T> {
    /// The twin, with the fields that were asked for.
    pub twin: &'a Twin,
    /// What changed since it came last; empty: it may be anything.
    pub changes: &'a [proto::Change],
    /// What is kept of it now, made by the same function; none: nothing is.
    pub before: Option<&'a T>,
}

/// Makes of a twin what is kept of it.
type Keep<T> = Box<dyn Fn(Came<'_, T>) -> Kept<T> + Send>;

/// Keeps an [`Informer`](super::Informer) in step.
pub struct Runner<T> {
    watch: Watch,
    client: TwinServiceClient<Connection>,
    tuning: Tuning,
    keep: Keep<T>,
    entries_max: usize,
    shared: Arc<Shared<T>>,
    state: signal::Sender<State>,
    /// The snapshot under way, or the last one, is complete.
    complete: bool,
    /// What is kept was made by the present function.
    fresh: bool,
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
    pub(super) fn new(
        client: TwinServiceClient<Connection>,
        config: InformerConfig,
        shared: Arc<Shared<T>>,
        state: signal::Sender<State>,
        keep: Keep<T>,
        scope: &Scope,
    ) -> Runner<T> {
        Runner {
            watch: Watch::new(client.clone(), with_snapshot(config.what), config.tuning),
            client,
            tuning: config.tuning,
            keep,
            entries_max: config.entries_max,
            shared,
            state,
            complete: false,
            fresh: true,
            metrics: Metrics::new(scope),
        }
    }

    /// Works until the service stops, however often the connection is lost.
    ///
    /// # Errors
    /// See [`InformerError`].
    pub async fn run(mut self, shutdown: ShutdownToken) -> Result<(), InformerError> {
        match shutdown.run_until(self.follow()).await {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Works until it cannot, and says why. May be dropped at any time and called again; nothing is
    /// lost. After it has ended, [`Runner::refocus`] makes a new beginning.
    pub async fn follow(&mut self) -> InformerError {
        loop {
            match self.watch.next().await {
                Ok(event) => {
                    if let Err(error) = self.take(event) {
                        self.fall_behind();
                        return error;
                    }
                }
                Err(refused) if can_be_mended(refused.refusal().kind()) => {
                    self.metrics.interruptions.inc();
                    self.fall_behind();
                    warn!(
                        error = chain(&refused),
                        "twins cannot be watched; trying again"
                    );
                }
                Err(refused) => return refused.into(),
            }
        }
    }

    /// Follows something else from now on, or makes something else of it. What is kept stays until
    /// the twin comes again, or until the new snapshot is complete and it has not come. `keep` also
    /// hears what changed and what it made of the twin before, and may spare itself the work.
    pub fn refocus(&mut self, what: What, keep: impl Fn(Came<'_, T>) -> Kept<T> + Send + 'static) {
        self.watch = Watch::new(self.client.clone(), with_snapshot(what), self.tuning);
        self.keep = Box::new(keep);
        self.complete = false;
        self.fresh = false;
        self.state.send_replace(State::default());
        self.metrics.synced.set(0);
    }

    /// Keeps nothing more.
    pub fn clear(&mut self) {
        let mut cache = self.shared.cache();
        cache.begin();
        cache.complete();
        self.metrics.entries.set(0);
    }

    fn fall_behind(&mut self) {
        self.state
            .send_if_modified(|state| state.in_step.take().is_some());
    }

    /// Everything up to here has come.
    fn keep_step(&mut self) {
        let complete = self.complete;
        self.state.send_if_modified(|state| {
            let before = (state.synced, state.in_step);
            if complete {
                state.synced = true;
                state.in_step.get_or_insert_with(Instant::now);
            }
            before != (state.synced, state.in_step)
        });
    }

    fn take(&mut self, event: Event) -> Result<(), InformerError> {
        match event {
            Event::Twin { twin, changes, .. } => self.put(&twin, &changes)?,
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
                self.complete = false;
                self.fall_behind();
                self.shared.cache().begin();
            }
            Event::Synced(_) => {
                self.shared.cache().complete();
                self.complete = true;
                self.fresh = true;
                self.keep_step();
                self.metrics.synced.set(1);
            }
            Event::Bookmark => self.keep_step(),
            Event::Interrupted { why, pause } => {
                self.metrics.interruptions.inc();
                self.fall_behind();
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

    fn put(&mut self, twin: &Twin, changes: &[proto::Change]) -> Result<(), InformerError> {
        self.metrics.events.inc();
        let key = match parse_identity("name", &twin.name) {
            Ok(key) => key,
            Err(error) => {
                unreadable(&twin.name, &error);
                return Ok(());
            }
        };
        // Until the first snapshot of a new function is complete nobody can say who made it.
        let before = if self.fresh {
            self.shared.cache().get(&key)
        } else {
            None
        };
        let kept = (self.keep)(Came {
            twin,
            changes,
            before: before.as_deref(),
        });
        let mut cache = self.shared.cache();
        match (kept, before) {
            (Kept::New(value), _) => {
                cache.put(key, value);
                if cache.len() > self.entries_max {
                    return Err(InformerError::TooMany {
                        allowed: self.entries_max,
                    });
                }
            }
            // It came in this round, too.
            (Kept::Same, Some(_)) => cache.confirm(&key),
            (Kept::Same, None) | (Kept::Nothing, _) => cache.remove(&key),
        }
        Ok(())
    }
}

/// A cache without the present twins would be no cache.
fn with_snapshot(what: What) -> What {
    What {
        changes_only: false,
        ..what
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
