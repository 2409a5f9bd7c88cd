//! The one writer: gathers requests and telemetry, decides, commits once, answers all.
//!
//! Whoever wants something written hands a `Work` to the [`Engine`] and waits. The writer drains
//! what has queued up, loads the records, runs the decisions one after another on one overlay,
//! commits the lot durably, and only then answers (group commit: an fsync costs the same for one
//! record as for hundreds). It then tells watchers and outboxes. It decides nothing itself.
//!
//! A commit that fails ends the writer and with it the service: after a failed fsync or a lost
//! fence nobody can say what the store holds, and the next start finds out. One that the store refuses because
//! some of it is damaged has written nothing: it is decided on anew, without that (`spoilt.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jiff::Timestamp;
use service_kit::clock::SharedClock;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use twin::{IdentityKey, Partition, PartitionCount, Revision, partition_of};

use crate::apply::{Limits, Overlay, Touch};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::store::{PartitionState, Population, Selection, Store};

mod recording;
mod relief;
mod sharing;
mod spoilt;
mod unread;
mod work;
mod writer;

pub use sharing::Control;
pub use writer::Writer;

/// Work that waits. Over it, callers wait for a place: back-pressure up to the doors.
const QUEUE: usize = 4096;
/// Changes a watcher may lag behind before it is told to start again.
const WATCH_LAG: usize = 4096;

/// Tells whoever waits what became of its work.
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// Decides on an overlay; told why not, it only answers.
type Decide = Box<dyn FnOnce(Result<(&mut Overlay, Timestamp), Error>) -> Answer + Send>;

/// Something to decide and write.
struct Work {
    selections: Vec<Selection>,
    position: Option<(Partition, u64)>,
    decide: Decide,
}

/// A committed change, for watchers.
#[derive(Debug)]
pub struct Committed {
    /// Whose.
    pub key: IdentityKey,
    /// Of which partition's log.
    pub partition: Partition,
    /// Its place in the log.
    pub revision: Revision,
    /// What it touched, and why.
    pub touch: Touch,
    /// The record after it; none when it was removed.
    pub record: Option<Arc<Record>>,
}

/// The handle with which work is handed in. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    queue: mpsc::Sender<Work>,
    changes: broadcast::Sender<Arc<Committed>>,
    logs: Logs,
    count: PartitionCount,
}

/// A span of time in which the same partitions are owned without a break. What was read in one and
/// decided in it was not changed by another replica in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tenure(u64);

/// The logs of the partitions that are owned at the moment.
#[derive(Clone, Default)]
struct Logs {
    logs: Arc<RwLock<BTreeMap<Partition, watch::Receiver<Revision>>>>,
    tenure: Arc<AtomicU64>,
}

impl Logs {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Partition, watch::Receiver<Revision>>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever writes begins another tenure.
    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Partition, watch::Receiver<Revision>>> {
        let logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
        self.tenure.fetch_add(1, Ordering::SeqCst);
        logs
    }
}

/// What the outbox of one partition needs of the engine.
pub struct OutboxEnd {
    /// Which partition.
    pub partition: Partition,
    /// Its last committed change.
    pub log: watch::Receiver<Revision>,
    /// The last change that was published when the partition was taken.
    pub published_before: Revision,
    /// Tells the writer how far it has published.
    pub published: mpsc::Sender<(Partition, Revision)>,
}

/// What the writer keeps of what it wrote, and how much it takes in.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Routine revisions within this span are put together in the history.
    pub coalesce_within: Duration,
    /// Changes of each partition that stay in its log for watchers after they were published.
    pub log_changes: u64,
    /// Identities that the hub may have.
    pub limits: Limits,
}

/// Makes the engine of one of several replicas: it owns nothing yet, and is told what it owns.
pub fn shared_engine(
    store: Arc<dyn Store>,
    clock: SharedClock,
    metrics: Metrics,
    count: PartitionCount,
    keep: Keep,
) -> (Engine, Writer, Control) {
    let (published_in, published) = mpsc::channel(usize::from(count.get()) * 2);
    let (engine, mut writer, _) = engine(store, clock, metrics, count, Vec::new(), keep);
    writer.published = published;
    let (writer, control) = writer.shared(published_in);
    (engine, writer, control)
}

/// Makes the engine for partitions just taken.
pub fn engine(
    store: Arc<dyn Store>,
    clock: SharedClock,
    metrics: Metrics,
    count: PartitionCount,
    states: Vec<PartitionState>,
    keep: Keep,
) -> (Engine, Writer, Vec<OutboxEnd>) {
    let (queue_in, queue) = mpsc::channel(QUEUE);
    let (published_in, published) = mpsc::channel(usize::from(count.get()) * 2);
    let (changes, _) = broadcast::channel(WATCH_LAG);
    let mut logs = BTreeMap::new();
    let mut ends = Vec::new();
    for state in &states {
        let (log_in, log) = watch::channel(state.revision);
        logs.insert(state.partition, log_in);
        ends.push(OutboxEnd {
            partition: state.partition,
            log,
            published_before: state.published,
            published: published_in.clone(),
        });
    }
    let states = states
        .into_iter()
        .map(|state| (state.partition, state))
        .collect();
    let readable_logs = Logs::default();
    for end in &ends {
        let end: &OutboxEnd = end;
        readable_logs.write().insert(end.partition, end.log.clone());
    }
    let engine = Engine {
        queue: queue_in,
        changes: changes.clone(),
        logs: readable_logs.clone(),
        count,
    };
    let writer = Writer {
        store,
        clock,
        metrics,
        queue,
        published,
        changes,
        logs,
        states,
        count,
        keep,
        population: Population::default(),
        trimmed: BTreeMap::new(),
        readable_logs,
        sharing: None,
        spoilt: spoilt::Spoilt::default(),
    };
    (engine, writer, ends)
}

impl Engine {
    /// How many partitions the hub has.
    pub fn count(&self) -> PartitionCount {
        self.count
    }

    /// Whether the first partition is ours, with which go what belongs to no other.
    pub fn owns_first(&self) -> bool {
        let first = self.count.partitions().next();
        first.is_some_and(|first| self.logs.read().contains_key(&first))
    }

    /// Which tenure this is. Only the writer ends one, between two decisions.
    pub fn tenure(&self) -> Tenure {
        Tenure(self.logs.tenure.load(Ordering::SeqCst))
    }

    /// The partition of an identity.
    pub fn partition(&self, key: &IdentityKey) -> Partition {
        partition_of(&key.device, self.count)
    }

    /// Runs a decision on the selected records and waits until what it left is durable.
    ///
    /// # Errors
    /// The decision's own, [`Error::NotOwned`] or [`Error::Stopping`].
    pub async fn decide<T: Send + 'static>(
        &self,
        selections: impl Into<Vec<Selection>>,
        decide: impl FnOnce(&mut Overlay, Timestamp) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.submit(selections.into(), None, decide).await
    }

    /// As [`Engine::decide`], for telemetry of a partition up to a stream sequence, which is
    /// committed as the partition's position with whatever the decision left.
    ///
    /// # Errors
    /// [`Error::Stopping`].
    pub async fn fold<T: Send + 'static>(
        &self,
        selections: Vec<Selection>,
        position: (Partition, u64),
        decide: impl FnOnce(&mut Overlay, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.submit(selections, Some(position), |overlay, now| {
            Ok(decide(overlay, now))
        })
        .await
    }

    /// Changes as they are committed from now on.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.changes.subscribe()
    }

    /// The last change of each partition that watchers may have been told of.
    pub fn logs(&self) -> BTreeMap<Partition, Revision> {
        self.logs
            .read()
            .iter()
            .map(|(partition, log)| (*partition, *log.borrow()))
            .collect()
    }

    async fn submit<T: Send + 'static>(
        &self,
        selections: Vec<Selection>,
        position: Option<(Partition, u64)>,
        decide: impl FnOnce(&mut Overlay, Timestamp) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let decide: Decide = Box::new(move |ready| {
            let decided = ready.and_then(|(overlay, now)| decide(overlay, now));
            Box::new(move |committed: Result<(), Error>| {
                // The caller may have gone; what was decided is written all the same.
                let _ = answer.send(committed.and(decided));
            })
        });
        let work = Work {
            selections,
            position,
            decide,
        };
        self.queue.send(work).await.map_err(|_| Error::Stopping)?;
        answered.await.map_err(|_| Error::Stopping)?
    }
}

#[cfg(test)]
mod tests;
