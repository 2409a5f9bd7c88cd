//! The writing side: one task that commits groups of work and tells of what it committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use service_kit::clock::SharedClock;
use service_kit::error::chain;
use tokio::sync::{broadcast, mpsc, watch};
use tracing::warn;
use twin::{Partition, PartitionCount, Revision, partition_of};

use super::recording::record_change;
use super::sharing::{Sharing, commanded};
use super::spoilt::Spoilt;
use super::{Answer, Committed, Keep, Logs, Work};
use crate::apply::{Left, Numbers, Outcome, Overlay, Room};
use crate::audit;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::store::{
    self, AuditEntry, Commit, PartitionState, Population, Selection, Store, failpoint,
};

/// Work of one commit: bounds how long the first caller waits for the last.
const GROUP: usize = 1024;
/// Records that the work of one commit may load, unless a single piece of work loads more. With the
/// limits of a twin's size it bounds the memory of a commit.
const GROUP_RECORDS: usize = 8192;
/// Devices whose tags one commit hands down to their modules, of which each may have fifty, unless a single piece of
/// work has more: what is to be decided behind them waits for the next one.
const GIVERS: usize = 128;
/// How often it is noted what was published, and the log is trimmed.
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
    pub(super) keep: Keep,
    /// Identities of the hub. Other replicas change it as well, so it is read again and again, and
    /// may be behind by what they did within a [`RELIEF_INTERVAL`].
    pub(super) population: Population,
    /// How far each log was trimmed since the start.
    pub(super) trimmed: BTreeMap<Partition, Revision>,
    /// The other ends of `logs`, for those who have the engine.
    pub(super) readable_logs: Logs,
    /// If partitions come and go.
    pub(super) sharing: Option<Sharing>,
    pub(super) spoilt: Spoilt,
}

impl Writer {
    /// Writes until everybody who could hand in work has gone, or a commit to a store that is not
    /// shared fails. It does not watch
    /// the shutdown itself: calls that were taken are to be answered, and the doors close first.
    /// At the end it waits for the outboxes to publish what is left, and cleans up after them.
    ///
    /// # Errors
    /// The store failed, or another process took a partition.
    pub async fn run(mut self) -> Result<(), store::Error> {
        match self.store.population().await {
            Ok(population) => self.population = population,
            Err(error) => self.failed(error)?,
        }
        let mut relief = tokio::time::interval(RELIEF_INTERVAL);
        relief.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Nothing is lost when a branch is dropped: receiving is cancel-safe.
            let first = tokio::select! {
                biased;
                // First of all: an empty queue would otherwise go before a full one of commands.
                due = commanded(&mut self.sharing) => {
                    self.obey(due);
                    continue;
                }
                work = self.queue.recv() => work,
                _ = relief.tick() => {
                    if let Err(error) = self.relieve().await {
                        self.failed(error)?;
                    }
                    continue;
                }
            };
            let Some(first) = first else {
                return self.end().await;
            };
            let mut records = first.records_max();
            let mut group = vec![first];
            while group.len() < GROUP
                && records < GROUP_RECORDS
                && let Ok(work) = self.queue.try_recv()
            {
                records += work.records_max();
                group.push(work);
            }
            // What other replicas can overtake is written by itself, so that nobody else is told to
            // try again because of it.
            let (contended, other): (Vec<_>, Vec<_>) =
                group.into_iter().partition(Work::is_contended);
            for group in [other, contended] {
                let mut left = group;
                while !left.is_empty() {
                    left = match self.write(left).await {
                        Ok(left) => left,
                        Err(error) => {
                            self.failed(error)?;
                            Vec::new()
                        }
                    };
                }
            }
        }
    }

    /// One group: load, decide, commit, answer, tell. Answers what is left to be written apart.
    async fn write(&mut self, group: Vec<Work>) -> Result<Vec<Work>, store::Error> {
        let started = self.clock.monotonic();
        let selections: BTreeSet<Selection> = group
            .iter()
            .flat_map(|work| work.selections.iter().cloned())
            .collect();
        let loaded = match self.load(selections.into_iter().collect()).await {
            Ok(loaded) => loaded,
            Err(error) => return self.unread(group, error).map(|()| Vec::new()),
        };
        let now = self.clock.now();
        let room = Room::new(self.keep.limits, self.population);
        let mut overlay = Overlay::new(loaded, self.numbers(), now).within(room);
        let mut positions = BTreeMap::new();
        let mut answers: Vec<Answer> = Vec::with_capacity(group.len());
        let mut group = group.into_iter();
        while overlay.givers() < GIVERS
            && let Some(work) = group.next()
        {
            let ready = match self.elsewhere(&work) {
                None => {
                    if let Some((partition, sequence)) = work.position {
                        positions.insert(partition, sequence);
                    }
                    overlay.begin();
                    Ok((&mut overlay, now))
                }
                Some(partition) => Err(Error::NotOwned { partition }),
            };
            answers.push((work.decide)(ready));
        }
        if let Some(heirs) = overlay.heirs() {
            match self.load(heirs).await {
                Ok(loaded) => overlay.hand_down(loaded),
                Err(error) => return self.unheard(answers, error).map(|()| group.collect()),
            }
        }
        let outcome = overlay.into_outcome();
        let population = outcome.population;
        let prepared = self.prepare(outcome, &positions, now);
        let committed = match prepared {
            Ok((commit, changes)) => {
                failpoint::hit("writer.decided");
                self.commit(commit).await.map(|()| changes)
            }
            Err(error) => Err(error),
        };
        match committed {
            Ok(changes) => {
                failpoint::hit("writer.committed");
                self.population += population;
                let took = self.clock.monotonic().saturating_duration_since(started);
                self.metrics.committed(answers.len(), changes.len(), took);
                for answer in answers {
                    answer(Ok(()));
                }
                failpoint::hit("writer.answered");
                self.tell(changes);
                Ok(group.collect())
            }
            Err(store::Error::TokenUsedUp) => {
                // Nothing was written, and nothing is in doubt.
                for answer in answers {
                    answer(Err(Error::Overtaken));
                }
                Ok(group.collect())
            }
            Err(store::Error::Unwritable(said)) => {
                self.refused(answers, said).map(|()| group.collect())
            }
            Err(error) => {
                for answer in answers {
                    answer(Err(Error::Stopping));
                }
                Err(error)
            }
        }
    }

    /// The first partition that a decision needs and that is not ours. What needs none in particular
    /// is decided by whoever owns any.
    fn elsewhere(&self, work: &Work) -> Option<Partition> {
        let selections = work.selections.iter();
        selections
            .filter_map(|selection| match (selection, selection.device()) {
                // Operations belong to whoever owns the first partition: one runner in the hub. So do
                // enrolments, to be changed by one at a time.
                (Selection::Operation(_) | Selection::Running | Selection::Groups, _) => {
                    self.count.partitions().next()
                }
                (_, device) => device.map(|device| partition_of(device, self.count)),
            })
            .chain(work.position.map(|(partition, _)| partition))
            .find(|partition| !self.states.contains_key(partition))
            .or_else(|| {
                let any = self.count.partitions().next();
                any.filter(|_| self.states.is_empty())
            })
    }

    fn numbers(&self) -> Numbers {
        let heads = self.states.iter();
        let heads = heads.map(|(partition, state)| (*partition, state.revision));
        Numbers::new(self.count, heads.collect())
    }

    /// Makes the commit of what is left to be written.
    pub(super) fn prepare(
        &mut self,
        outcome: Outcome,
        positions: &BTreeMap<Partition, u64>,
        now: Timestamp,
    ) -> Result<(Commit, Vec<Arc<Committed>>), store::Error> {
        let mut states: BTreeMap<Partition, PartitionState> = BTreeMap::new();
        let mut commit = Commit {
            coalesce_within: self.keep.coalesce_within,
            ..Commit::default()
        };
        for (partition, sequence) in positions {
            let state = self.next_state(&mut states, *partition)?;
            // Not the larger of the two: a stream that was made anew starts again at 1.
            state.position = *sequence;
        }
        let mut changes = Vec::with_capacity(outcome.changes.len());
        for change in outcome.changes {
            let partition = partition_of(&change.key.device, self.count);
            self.next_state(&mut states, partition)?.revision = change.revision;
            changes.push(record_change(&mut commit, partition, change, now)?);
        }
        self.take_left(&mut commit, &mut states, outcome.left, now)?;
        while let Ok((partition, through)) = self.published.try_recv() {
            // It stays so when this commit is refused.
            if let Some(known) = self.states.get_mut(&partition) {
                known.published = known.published.max(through);
            }
            // Of one that was laid down since, the next owner publishes a few changes again.
            if let Ok(state) = self.next_state(&mut states, partition) {
                state.published = state.published.max(through);
            }
        }
        commit.partitions = states.into_values().collect();
        Ok((commit, changes))
    }

    /// Everything that is left beside changes of records. Each piece moves a partition, so that it
    /// is fenced like everything else.
    fn take_left(
        &self,
        commit: &mut Commit,
        states: &mut BTreeMap<Partition, PartitionState>,
        left: Left,
        now: Timestamp,
    ) -> Result<(), store::Error> {
        for use_of in &left.enrollments {
            self.next_state(states, partition_of(&use_of.device, self.count))?;
        }
        for event in left.audit {
            let partition = match &event.device {
                Some(device) => partition_of(device, self.count),
                None => self.any_partition()?,
            };
            let head = &mut self.next_state(states, partition)?.audit;
            let entry = AuditEntry {
                partition,
                sequence: 0,
                at: now,
                actor: event.actor,
                action: event.action.to_owned(),
                resource: event.resource,
                detail: event.detail.to_string(),
                trace_parent: event.trace_parent,
                hash: [0; 32],
            };
            commit.audit.push(audit::append(head, entry));
        }
        if (!left.operations.is_empty() || !left.provisioning.is_empty())
            && let Some(first) = self.count.partitions().next()
        {
            self.next_state(states, first)?;
        }
        // A result is its partition's owner's to give; what is handed over is not.
        for row in &left.results {
            let partition = partition_of(&row.key.device, self.count);
            if self.states.contains_key(&partition) {
                self.next_state(states, partition)?;
            }
        }
        let unfenced =
            !left.tokens.is_empty() || !left.requests.is_empty() || !left.results.is_empty();
        if unfenced && states.is_empty() {
            let partition = self.any_partition()?;
            self.next_state(states, partition)?;
        }
        commit.enrollments = left.enrollments;
        commit.tokens = left.tokens;
        commit.requests = left.requests;
        commit.operations = left.operations;
        commit.results = left.results;
        commit.provisioning = left.provisioning;
        Ok(())
    }

    fn any_partition(&self) -> Result<Partition, store::Error> {
        let first = self.states.keys().next().copied();
        first.ok_or(store::Error::Engine {
            action: "write without owning a partition",
            source: "no partition is owned".into(),
        })
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

    pub(super) async fn commit(&mut self, commit: Commit) -> Result<(), store::Error> {
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

    async fn end(mut self) -> Result<(), store::Error> {
        // Outboxes read this as the end of the log, publish the rest in bounded time, and go.
        self.logs.clear();
        let is_shared = self.stop_sharing();
        let mut states = BTreeMap::new();
        while let Some((partition, through)) = self.published.recv().await {
            if let Ok(state) = self.next_state(&mut states, partition) {
                state.published = state.published.max(through);
            }
        }
        let commit = Commit {
            partitions: states.into_values().collect(),
            ..Commit::default()
        };
        match self.commit(commit).await {
            // Whoever takes the partitions publishes a few changes again, which harms nobody.
            Err(error) if is_shared => {
                warn!(error = chain(&error), "what was published is not noted");
                Ok(())
            }
            ended => ended,
        }
    }
}
