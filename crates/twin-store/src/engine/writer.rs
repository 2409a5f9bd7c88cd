//! The writing side: one task that commits groups of work and tells of what it committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prost::Message as _;
use service_kit::clock::SharedClock;
use tokio::sync::{broadcast, mpsc, watch};
use twin::{Partition, PartitionCount, Revision, partition_of};

use super::{Answer, Committed, Work};
use crate::apply::{Outcome, Overlay};
use crate::encode;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::store::{self, Commit, LogEntry, PartitionState, Selection, Store, Upsert};

/// Work of one commit: bounds its memory and how long the first caller waits for the last.
const GROUP: usize = 1024;
/// Published changes that stay in the log of a partition, for watchers that come back.
const LOG_KEPT: u64 = 4096;
/// How often the outbox is relieved of what was published, when nothing else is committed.
const RELIEF_INTERVAL: Duration = Duration::from_secs(1);

/// The writer's side; [`Writer::run`] it under supervision.
pub struct Writer {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Metrics,
    pub(super) queue: mpsc::Receiver<Work>,
    pub(super) published: mpsc::Receiver<(Partition, Revision)>,
    pub(super) changes: broadcast::Sender<Arc<Committed>>,
    pub(super) logs: BTreeMap<Partition, watch::Sender<Revision>>,
    pub(super) states: BTreeMap<Partition, PartitionState>,
    pub(super) count: PartitionCount,
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
            tokens: outcome.tokens,
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
            commit.log.push(LogEntry {
                partition,
                revision,
                change: change.encode_to_vec(),
            });
            let record = Arc::new(record);
            commit.upserts.push(Upsert {
                record: record.clone(),
                index_remove: Vec::new(),
                index_add: Vec::new(),
            });
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
            commit.log.push(LogEntry {
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
        if !commit.tokens.is_empty()
            && states.is_empty()
            && let Some(any) = self.states.keys().next()
        {
            // A new token is of no partition; any that is ours fences it.
            self.next_state(&mut states, *any)?;
        }
        while let Ok((partition, through)) = self.published.try_recv() {
            self.published(&mut states, &mut commit, partition, through)?;
        }
        commit.partitions = states.into_values().collect();
        Ok((commit, changes))
    }

    /// Notes how far the log of a partition was published, and forgets what is far behind that.
    fn published(
        &self,
        states: &mut BTreeMap<Partition, PartitionState>,
        commit: &mut Commit,
        partition: Partition,
        through: Revision,
    ) -> Result<(), store::Error> {
        let state = self.next_state(states, partition)?;
        state.published = state.published.max(through);
        let kept = Revision::new(state.published.get().saturating_sub(LOG_KEPT));
        if kept > Revision::ZERO {
            commit.trim_log.push((partition, kept));
        }
        Ok(())
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
            self.published(&mut states, &mut commit, partition, through)?;
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
