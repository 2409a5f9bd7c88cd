//! The one writer: gathers requests and telemetry, decides, commits once, answers all.
//!
//! Whoever wants something written hands a [`Work`] to the [`Engine`] and waits. The writer drains
//! what has queued up, loads the records, runs the decisions one after another on one overlay,
//! commits the lot durably, and only then answers (group commit: an fsync costs the same for one
//! record as for hundreds). It then tells watchers and outboxes. It decides nothing itself.
//!
//! A commit that fails ends the writer and with it the service: after a failed fsync or a lost
//! fence nobody can say what the store holds, and the next start finds out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prost::Message as _;
use service_kit::clock::SharedClock;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use twin::{IdentityKey, Partition, PartitionCount, Revision, partition_of};

use crate::apply::{Outcome, Overlay, Touch};
use crate::encode;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::store::{self, Commit, OutboxChange, PartitionState, Selection, Store};

/// Work that waits. Over it, callers wait for a place: back-pressure up to the doors.
const QUEUE: usize = 4096;
/// Work of one commit: bounds its memory and how long the first caller waits for the last.
const GROUP: usize = 1024;
/// Changes a watcher may lag behind before it is told to start again.
const WATCH_LAG: usize = 4096;
/// How often the outbox is relieved of what was published, when nothing else is committed.
const RELIEF_INTERVAL: Duration = Duration::from_secs(1);

/// Tells whoever waits what became of its work.
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;
type Decide = Box<dyn FnOnce(&mut Overlay, Timestamp) -> Answer + Send>;

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
    logs: Arc<BTreeMap<Partition, watch::Receiver<Revision>>>,
    count: PartitionCount,
}

/// The writer's side; [`Writer::run`] it under supervision.
pub struct Writer {
    store: Arc<dyn Store>,
    clock: SharedClock,
    metrics: Metrics,
    queue: mpsc::Receiver<Work>,
    published: mpsc::Receiver<(Partition, Revision)>,
    changes: broadcast::Sender<Arc<Committed>>,
    logs: BTreeMap<Partition, watch::Sender<Revision>>,
    states: BTreeMap<Partition, PartitionState>,
    count: PartitionCount,
}

/// What the outbox of one partition needs of the engine.
pub struct OutboxEnd {
    /// Which partition.
    pub partition: Partition,
    /// Its last committed change.
    pub log: watch::Receiver<Revision>,
    /// Tells the writer how far it has published.
    pub published: mpsc::Sender<(Partition, Revision)>,
}

/// Makes the engine for partitions just taken.
pub fn engine(
    store: Arc<dyn Store>,
    clock: SharedClock,
    metrics: Metrics,
    count: PartitionCount,
    states: Vec<PartitionState>,
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
            published: published_in.clone(),
        });
    }
    let states = states
        .into_iter()
        .map(|state| (state.partition, state))
        .collect();
    let engine = Engine {
        queue: queue_in,
        changes: changes.clone(),
        logs: Arc::new(
            ends.iter()
                .map(|end: &OutboxEnd| (end.partition, end.log.clone()))
                .collect(),
        ),
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
    };
    (engine, writer, ends)
}

impl Engine {
    /// The partition of an identity.
    pub fn partition(&self, key: &IdentityKey) -> Partition {
        partition_of(&key.device, self.count)
    }

    /// Runs a decision on the selected records and waits until what it left is durable.
    ///
    /// # Errors
    /// The decision's own, or [`Error::Stopping`].
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
        let decide: Decide = Box::new(move |overlay, now| {
            let decided = decide(overlay, now);
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

impl Writer {
    /// Writes until everybody who could hand in work has gone, or a commit fails. It does not watch
    /// the shutdown itself: calls that were taken are to be answered, and the doors close first.
    /// At the end it waits for the outboxes to publish what is left, and cleans up after them.
    ///
    /// # Errors
    /// The store failed, or another process took a partition.
    pub async fn run(mut self) -> Result<(), store::Error> {
        let mut relief = tokio::time::interval(RELIEF_INTERVAL);
        relief.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Nothing is lost when a branch is dropped: receiving is cancel-safe.
            let first = tokio::select! {
                biased;
                work = self.queue.recv() => work,
                _ = relief.tick() => {
                    self.relieve().await?;
                    continue;
                }
            };
            let Some(first) = first else {
                return self.end().await;
            };
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(work) = self.queue.try_recv()
            {
                group.push(work);
            }
            self.write(group).await?;
        }
    }

    /// One group: load, decide, commit, answer, tell.
    async fn write(&mut self, group: Vec<Work>) -> Result<(), store::Error> {
        let started = self.clock.monotonic();
        let selections: BTreeSet<Selection> = group
            .iter()
            .flat_map(|work| work.selections.iter().cloned())
            .collect();
        let loaded = match self.store.load(selections.into_iter().collect()).await {
            Ok(loaded) => loaded,
            Err(error) => return Err(fail(group, error)),
        };
        let now = self.clock.now();
        let mut overlay = Overlay::new(loaded);
        let mut positions = BTreeMap::new();
        let mut answers: Vec<Answer> = Vec::with_capacity(group.len());
        for work in group {
            answers.push((work.decide)(&mut overlay, now));
            if let Some((partition, sequence)) = work.position {
                positions.insert(partition, sequence);
            }
        }
        let prepared = self.prepare(overlay.into_outcome(), &positions, now);
        let committed = match prepared {
            Ok((commit, changes)) => self.commit(commit).await.map(|()| changes),
            Err(error) => Err(error),
        };
        match committed {
            Ok(changes) => {
                let took = self.clock.monotonic().saturating_duration_since(started);
                self.metrics.committed(answers.len(), changes.len(), took);
                for answer in answers {
                    answer(Ok(()));
                }
                self.tell(changes);
                Ok(())
            }
            Err(error) => {
                for answer in answers {
                    answer(Err(Error::Stopping));
                }
                Err(error)
            }
        }
    }

    /// Numbers and encodes what is left to be written.
    fn prepare(
        &mut self,
        outcome: Outcome,
        positions: &BTreeMap<Partition, u64>,
        now: Timestamp,
    ) -> Result<(Commit, Vec<Arc<Committed>>), store::Error> {
        let mut states: BTreeMap<Partition, PartitionState> = BTreeMap::new();
        let mut commit = Commit {
            enrollments: outcome.enrollments,
            ..Commit::default()
        };
        let mut changes = Vec::new();
        for (partition, sequence) in positions {
            let state = self.next_state(&mut states, *partition)?;
            // Not the larger of the two: a stream that was made anew starts again at 1.
            state.position = *sequence;
        }
        for (mut record, touch) in outcome.upserts {
            let partition = partition_of(&record.key.device, self.count);
            let revision = next_revision(self.next_state(&mut states, partition)?)?;
            record.revision = revision;
            record.updated_at = now;
            let change = encode::change(&record, &touch).map_err(unencodable)?;
            commit.outbox.push(OutboxChange {
                partition,
                revision,
                change: change.encode_to_vec(),
            });
            let record = Arc::new(record);
            commit.upserts.push(record.clone());
            changes.push(Arc::new(Committed {
                key: record.key.clone(),
                partition,
                revision,
                touch,
                record: Some(record),
            }));
        }
        for (key, touch) in outcome.deletes {
            let partition = partition_of(&key.device, self.count);
            let revision = next_revision(self.next_state(&mut states, partition)?)?;
            let change = encode::deletion(&key, revision, &touch);
            commit.outbox.push(OutboxChange {
                partition,
                revision,
                change: change.encode_to_vec(),
            });
            commit.deletes.push(key.clone());
            changes.push(Arc::new(Committed {
                key,
                partition,
                revision,
                touch,
                record: None,
            }));
        }
        for partition in commit
            .enrollments
            .iter()
            .map(|use_of| partition_of(&use_of.device, self.count))
        {
            // Fences the use of a token like everything else.
            self.next_state(&mut states, partition)?;
        }
        while let Ok((partition, through)) = self.published.try_recv() {
            self.next_state(&mut states, partition)?;
            commit.published.push((partition, through));
        }
        commit.partitions = states.into_values().collect();
        Ok((commit, changes))
    }

    fn next_state<'a>(
        &self,
        states: &'a mut BTreeMap<Partition, PartitionState>,
        partition: Partition,
    ) -> Result<&'a mut PartitionState, store::Error> {
        let known = self
            .states
            .get(&partition)
            .copied()
            .ok_or(store::Error::Fenced { partition })?;
        Ok(states.entry(partition).or_insert(known))
    }

    async fn commit(&mut self, commit: Commit) -> Result<(), store::Error> {
        // Nothing is written without the partition it belongs to, so this is an empty commit.
        if commit.partitions.is_empty() {
            return Ok(());
        }
        let states = commit.partitions.clone();
        self.store.commit(commit).await?;
        for state in states {
            self.states.insert(state.partition, state);
        }
        Ok(())
    }

    /// Tells watchers and outboxes; both catch up by themselves if they miss it.
    fn tell(&self, changes: Vec<Arc<Committed>>) {
        for committed in changes {
            let (partition, revision) = (committed.partition, committed.revision);
            // An error means that nobody watches. The log follows, so that who reads it and then
            // watches misses nothing behind it.
            let _ = self.changes.send(committed);
            if let Some(log) = self.logs.get(&partition) {
                log.send_replace(revision);
            }
        }
    }

    /// Takes what was published out of the outbox.
    async fn relieve(&mut self) -> Result<(), store::Error> {
        let nothing = Outcome::default();
        let (commit, _) = self.prepare(nothing, &BTreeMap::new(), self.clock.now())?;
        self.commit(commit).await
    }

    async fn end(mut self) -> Result<(), store::Error> {
        // Outboxes read this as the end of the log, publish the rest in bounded time, and go.
        self.logs.clear();
        let mut states = BTreeMap::new();
        let mut commit = Commit::default();
        while let Some((partition, through)) = self.published.recv().await {
            self.next_state(&mut states, partition)?;
            commit.published.push((partition, through));
        }
        commit.partitions = states.into_values().collect();
        self.commit(commit).await
    }
}

fn next_revision(state: &mut PartitionState) -> Result<Revision, store::Error> {
    state.revision = state.revision.next().ok_or(store::Error::Engine {
        action: "number a change",
        source: "the log of the partition is full".into(),
    })?;
    Ok(state.revision)
}

fn unencodable(error: serde_json::Error) -> store::Error {
    store::Error::Engine {
        action: "encode a change",
        source: Box::new(error),
    }
}

fn fail(group: Vec<Work>, error: store::Error) -> store::Error {
    // Dropping the work drops its answers, and its callers read that as `Stopping`.
    drop(group);
    error
}

#[cfg(test)]
mod tests;
