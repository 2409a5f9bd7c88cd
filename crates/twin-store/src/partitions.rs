//! Works on the partitions that this replica owns: each has a reader of its telemetry and a publisher
//! of its changes, which come and go with it.
//!
//! In a store of its own the service owns everything from start to end. In a shared one, [`Ownership`]
//! claims every second; it starts what it got, and stops what it lost or is to surrender, in an order
//! in which nothing happens twice: the reader first, then the writer, then the publisher, and only
//! then is the partition given back. It commits nothing itself; the epoch of each partition keeps a
//! replica that missed something from doing harm.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesUnordered;
use service_kit::error::chain;
use service_kit::health::Component;
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::{BoxError, OnFailure, Tasks};
use tokio::sync::oneshot;
use tracing::{info, warn};
use twin::Partition;

use crate::consumer::Consumer;
use crate::engine::{Control, Engine, OutboxEnd};
use crate::forward::Owners;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::presence::Presence;
use crate::store::{self, Claims, Epoch, PartitionState, Replica, Store};

/// How often the partitions are claimed. A fifth of the shortest sensible lease.
const CLAIM_EVERY: Duration = Duration::from_secs(1);
/// A replica that others leave nothing to, round after round, is ready all the same: it forwards.
/// Before that it is one whose share has not been surrendered yet.
const SPARE_AFTER: u32 = 10;

/// What the tasks of a partition need.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) bus: Bus,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) engine: Engine,
    pub(crate) metrics: Metrics,
    pub(crate) presence: Presence,
    pub(crate) tasks: Tasks,
}

/// A partition that is worked on.
struct Running {
    epoch: Epoch,
    /// Ends the reader, after what it has in hand.
    reader: ShutdownToken,
    reader_ended: oneshot::Receiver<()>,
    /// Ends the publisher at once, whatever is left.
    publisher: ShutdownToken,
    publisher_ended: oneshot::Receiver<()>,
}

impl Parts {
    /// Starts the tasks of a partition that the engine has taken up.
    fn start(&self, state: PartitionState, end: OutboxEnd) -> Running {
        let shutdown = self.tasks.shutdown_token();
        let (reader, publisher) = (shutdown.child(), ShutdownToken::new());
        let (publisher_end, publisher_ended) = oneshot::channel();
        let (reader_end, reader_ended) = oneshot::channel();
        let outbox = Outbox::new(
            self.bus.clone(),
            self.store.clone(),
            self.metrics.clone(),
            end,
        );
        let cut_off = publisher.clone();
        self.spawn(
            format!("outbox-{}", state.partition),
            publisher_end,
            async move { cut_off.run_until(outbox.run()).await.unwrap_or(Ok(())) },
        );
        let consumer = Consumer::new(
            self.bus.clone(),
            self.engine.clone(),
            self.metrics.clone(),
            self.presence.clone(),
            state.partition,
            state.position,
        );
        let name = format!("consumer-{}", state.partition);
        self.spawn(name, reader_end, consumer.run(reader.clone()));
        Running {
            epoch: state.epoch,
            reader,
            reader_ended,
            publisher,
            publisher_ended,
        }
    }

    fn spawn<E: Into<BoxError> + 'static>(
        &self,
        name: String,
        end: oneshot::Sender<()>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(name, OnFailure::StopService, async move {
            let ended = task.await.map_err(Into::into);
            drop(end);
            ended
        });
    }

    /// Starts everything, for good.
    pub(crate) fn start_all(&self, states: &[PartitionState], ends: Vec<OutboxEnd>) {
        let ends = ends.into_iter().map(|end| (end.partition, end));
        let mut ends: BTreeMap<_, _> = ends.collect();
        for state in states {
            if let Some(end) = ends.remove(&state.partition) {
                // Nobody stops them one by one.
                let _running = self.start(*state, end);
            }
        }
    }
}

/// Keeps up with what this replica owns of a shared store.
pub(crate) struct Ownership {
    parts: Option<Parts>,
    store: Arc<dyn Store>,
    metrics: Metrics,
    replica: Replica,
    control: Control,
    owners: Owners,
    health: Component,
    running: BTreeMap<Partition, Running>,
    /// Partitions whose tasks are ending.
    stopping: FuturesUnordered<BoxFuture<'static, Partition>>,
    /// Ended, and to be given back before they may be taken up again: only then is it certain that no
    /// commit of ours is still under way.
    ended: BTreeSet<Partition>,
    /// How often nothing was left to us, in a row.
    spare: u32,
}

impl Ownership {
    /// Owns nothing yet.
    pub(crate) fn new(
        parts: Parts,
        replica: Replica,
        control: Control,
        owners: Owners,
        health: Component,
    ) -> Ownership {
        Ownership {
            store: parts.store.clone(),
            metrics: parts.metrics.clone(),
            parts: Some(parts),
            replica,
            control,
            owners,
            health,
            running: BTreeMap::new(),
            stopping: FuturesUnordered::new(),
            ended: BTreeSet::new(),
            spare: 0,
        }
    }

    /// Claims and follows until the service stops, then keeps the leases until the writer has ended,
    /// and gives everything back.
    ///
    /// # Errors
    /// The store was made with another number of partitions.
    pub(crate) async fn run(mut self) -> Result<(), store::Error> {
        let shutdown = self
            .parts
            .as_ref()
            .map(|parts| parts.tasks.shutdown_token());
        let shutdown = shutdown.unwrap_or_default();
        let mut tick = tokio::time::interval(CLAIM_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Cancelling loses nothing: what is ready in another branch is still ready next time.
            tokio::select! {
                biased;
                () = shutdown.triggered() => break,
                () = self.control.given_up() => self.stop_all("the store failed"),
                Some(ended) = self.stopping.next() => {
                    self.ended.insert(ended);
                    self.give_back().await;
                }
                _ = tick.tick() => self.claim().await?,
            }
        }
        // Whoever has the engine keeps the writer from ending.
        self.parts = None;
        loop {
            tokio::select! {
                biased;
                () = self.control.ended() => break,
                _ = tick.tick() => {
                    // Only for the lease; what it takes beside goes back below.
                    let _ = self.store.claim(self.replica.clone()).await;
                }
            }
        }
        let all = self.replica.count.partitions().collect();
        if let Err(error) = self.store.release(self.replica.id.clone(), all).await {
            warn!(
                error = chain(&error),
                "others take over when the lease has ended"
            );
        }
        Ok(())
    }

    async fn claim(&mut self) -> Result<(), store::Error> {
        self.give_back().await;
        match self.store.claim(self.replica.clone()).await {
            Ok(claims) => {
                self.follow(claims).await;
                Ok(())
            }
            Err(error @ (store::Error::PartitionCount { .. } | store::Error::Closed)) => Err(error),
            Err(error) => {
                self.metrics.claim_failed();
                self.health.degraded("the partitions cannot be claimed");
                warn!(
                    error = chain(&error),
                    "the partitions cannot be claimed; trying again"
                );
                Ok(())
            }
        }
    }

    async fn follow(&mut self, claims: Claims) {
        let owned = claims.owned.iter();
        let owned: BTreeMap<Partition, &PartitionState> =
            owned.map(|state| (state.partition, state)).collect();
        let lost = self.running.iter().filter(|(partition, running)| {
            owned
                .get(partition)
                .is_none_or(|state| state.epoch != running.epoch)
        });
        let lost: Vec<Partition> = lost.map(|(partition, _)| *partition).collect();
        self.stop(&lost, "lost");
        let surrendered = claims.surrender.iter();
        let surrendered = surrendered.filter(|partition| self.running.contains_key(partition));
        let surrendered: Vec<Partition> = surrendered.copied().collect();
        self.stop(&surrendered, "surrendered");
        let mut taken = Vec::new();
        for state in &claims.owned {
            let partition = &state.partition;
            let known = self.running.contains_key(partition)
                || self.ended.contains(partition)
                || lost.contains(partition)
                || claims.surrender.contains(partition);
            if !known && self.stopping.is_empty() && self.start(*state).await {
                taken.push(*partition);
            }
        }
        if !taken.is_empty() {
            self.metrics.ownership("taken", taken.len());
            info!(partitions = list(&taken), "partitions taken");
        }
        self.metrics.owned(self.running.len());
        self.report(&claims);
        self.owners.set(claims.elsewhere);
    }

    async fn start(&mut self, state: PartitionState) -> bool {
        let Some(parts) = &self.parts else {
            return false;
        };
        let Some(end) = self.control.take(state).await else {
            return false;
        };
        let running = parts.start(state, end);
        self.running.insert(state.partition, running);
        true
    }

    fn stop_all(&mut self, why: &'static str) {
        let all: Vec<Partition> = self.running.keys().copied().collect();
        self.health.degraded("no partition is owned at the moment");
        self.stop(&all, why);
    }

    /// Begins to stop partitions; they turn up in `stopping` when they have.
    fn stop(&mut self, partitions: &[Partition], why: &'static str) {
        if partitions.is_empty() {
            return;
        }
        self.metrics.ownership(why, partitions.len());
        info!(partitions = list(partitions), why, "partitions given up");
        for partition in partitions {
            let Some(running) = self.running.remove(partition) else {
                continue;
            };
            let surrendered = why == "surrendered";
            let lay_down = self.control.laying_down(*partition);
            let partition = *partition;
            let stopped = async move {
                running.reader.trigger();
                // An error is the end of the task, which is what is waited for.
                let _ = running.reader_ended.await;
                lay_down.await;
                // Of what was lost, another replica publishes the rest already.
                if !surrendered {
                    running.publisher.trigger();
                }
                let _ = running.publisher_ended.await;
                partition
            };
            self.stopping.push(stopped.boxed());
        }
    }

    /// Gives back what has ended, so that others or we ourselves may take it with a new epoch.
    async fn give_back(&mut self) {
        if self.ended.is_empty() || !self.stopping.is_empty() {
            return;
        }
        let ended: Vec<Partition> = self.ended.iter().copied().collect();
        match self.store.release(self.replica.id.clone(), ended).await {
            Ok(()) => self.ended.clear(),
            Err(error) => warn!(error = chain(&error), "partitions cannot be given back yet"),
        }
    }

    fn report(&mut self, claims: &Claims) {
        let everything_owned = claims.elsewhere.len() == usize::from(self.replica.count.get());
        self.spare = if everything_owned { self.spare + 1 } else { 0 };
        if !self.running.is_empty() || self.spare >= SPARE_AFTER {
            self.health.serving();
        } else {
            // Nothing is wrong: the others surrender our share, or a lease has to end.
            self.health.starting();
        }
    }
}

fn list(partitions: &[Partition]) -> String {
    let mut text = String::new();
    for partition in partitions {
        let separator = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{partition}");
    }
    text
}
