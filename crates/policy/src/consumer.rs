//! Reads the changes of one partition in order and has every concerned twin looked at.
//!
//! The hop before is twin-store's outbox, the hop after its `ApplyPolicySettings`. The position
//! moves when a whole batch has taken effect, so nothing is lost by a stop or a crash and what is
//! replayed finds everything in place. A batch waits for its slowest twin, but no longer than
//! [`crate::twin_store`] tries a single one.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{Bus, Fetched, Pull, PullError, PullOptions, Sequence};
use futures::StreamExt;
use service_kit::backoff::{Attempt, Backoff, Policy, retry};
use service_kit::health::Component;
use service_kit::shutdown::ShutdownToken;
use tracing::{debug, info};
use twin::Partition;

use crate::gather::{Candidate, gather};
use crate::metrics::{Metrics, PartitionLabel};
use crate::policies::Policies;
use crate::positions::Positions;
use crate::rejects::{Reason, Rejected, Rejects};
use crate::store;
use crate::twin_document::{TwinDocument, scope_of};
use crate::writer::{Effect, Work, Writer};

/// Messages of one batch. More would coalesce better and answer later.
const BATCH_MESSAGES_MAX: usize = 64;

/// How long the reader stands at an empty stream before it looks up.
const BATCH_WAIT: Duration = Duration::from_secs(5);

/// While the stream does not exist: twin-store makes it when it starts.
const STREAM_MISSING: Policy = Policy {
    first: Duration::from_millis(50),
    cap: Duration::from_secs(2),
    budget: None,
};

/// Everything a consumer works with.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// Where changes come from.
    pub bus: Bus,
    /// What is in force.
    pub policies: Policies,
    /// Who writes.
    pub writer: Writer,
    /// Where poison goes.
    pub rejects: Rejects,
    /// Where positions go.
    pub positions: Positions,
    /// What is counted.
    pub metrics: Metrics,
    /// Twins that are written at the same time.
    pub writes_in_flight: usize,
    /// Ends the consumer.
    pub shutdown: ShutdownToken,
}

/// The reader of one partition.
pub(crate) struct Consumer {
    parts: Parts,
    partition: Partition,
    stream: String,
    health: Component,
    pull: Pull,
}

impl Consumer {
    /// Reads a partition from behind a position.
    pub(crate) fn new(
        parts: Parts,
        partition: Partition,
        after: Sequence,
        health: Component,
    ) -> Consumer {
        let stream = wire::subjects::twins_stream(partition);
        let pull = parts
            .bus
            .pull(stream.clone(), after, PullOptions::default());
        Consumer {
            parts,
            partition,
            stream,
            health,
            pull,
        }
    }

    /// Works until the service stops.
    pub(crate) async fn run(mut self) {
        let shutdown = self.parts.shutdown.clone();
        let mut missing = Backoff::new(STREAM_MISSING);
        // The first look only opens the reader, so that health does not wait for a first change.
        let mut wait = Duration::ZERO;
        loop {
            let next = self.pull.next_batch(BATCH_MESSAGES_MAX, wait);
            let Some(batch) = shutdown.run_until(next).await else {
                return;
            };
            let goes_on = match batch {
                Ok(batch) => {
                    self.health.serving();
                    wait = BATCH_WAIT;
                    missing = Backoff::new(STREAM_MISSING);
                    self.take(&batch).await
                }
                Err(PullError::Missing { stream }) => {
                    debug!(stream, "the stream does not exist yet");
                    let delay = missing.next_delay().unwrap_or(STREAM_MISSING.cap);
                    shutdown
                        .run_until(tokio::time::sleep(delay))
                        .await
                        .is_some()
                }
                Err(PullError::Gap { expected, got, .. }) => {
                    info!(stream = self.stream, %expected, %got, "changes are gone");
                    let before = Sequence::new(got.get().saturating_sub(1));
                    let noted = self.skip_to(before).await;
                    self.pull.accept_gap(got);
                    noted
                }
                Err(PullError::Ahead { position, last, .. }) => {
                    info!(stream = self.stream, %position, %last, "the stream was made anew");
                    let noted = self.skip_to(last).await;
                    let (bus, stream) = (&self.parts.bus, self.stream.clone());
                    self.pull = bus.pull(stream, last, PullOptions::default());
                    noted
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Evaluates a batch; false if the service stopped before all of it had taken effect.
    async fn take(&mut self, batch: &[Fetched]) -> bool {
        let label = PartitionLabel {
            partition: self.partition.get(),
        };
        let backlog = i64::try_from(self.pull.backlog()).unwrap_or(i64::MAX);
        self.parts
            .metrics
            .backlog
            .get_or_create(&label)
            .set(backlog);
        let Some(last) = batch.last() else {
            return true;
        };
        self.parts
            .metrics
            .messages
            .inc_by(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        let messages = batch
            .iter()
            .map(|message| (message.sequence, &message.payload));
        let gathered = gather(&self.stream, messages);
        for rejected in gathered.rejected {
            if !self.parts.rejects.put(rejected).await {
                return false;
            }
        }
        if let Some(restored) = gathered.restored
            && !self.look_at_all(restored).await
        {
            return false;
        }
        let effects: BTreeSet<bool> = futures::stream::iter(gathered.candidates)
            .map(|candidate| self.evaluate(candidate))
            .buffer_unordered(self.parts.writes_in_flight)
            .collect()
            .await;
        if effects.contains(&false) {
            return false;
        }
        self.parts
            .positions
            .advance(self.partition.get(), last.sequence);
        true
    }

    /// Looks at one changed twin; false if it must be looked at again after a stop.
    async fn evaluate(&self, candidate: Candidate) -> bool {
        let twin = &candidate.twin;
        let concerned = match wire::names::identity_from_ids(&twin.device_id, &twin.module_id) {
            Ok(key) => self
                .parts
                .policies
                .set()
                .is_concerned(scope_of(&key), candidate.changed),
            // Parsing below says what is wrong with it.
            Err(_) => true,
        };
        if !concerned {
            self.parts.metrics.count("skipped");
            return true;
        }
        let traceparent = Some(candidate.traceparent).filter(|text| !text.is_empty());
        let twin = match TwinDocument::from_wire(twin) {
            Ok(twin) => twin,
            Err(error) => {
                let rejected = Rejected {
                    id: candidate.source.clone(),
                    source: format!("{} in {}", candidate.twin.name, candidate.source),
                    reason: Reason::InvalidTwin,
                    message: error.to_string(),
                    traceparent,
                    original: prost::Message::encode_to_vec(&candidate.twin).into(),
                };
                return self.parts.rejects.put(rejected).await;
            }
        };
        let work = Work {
            twin,
            timeline: candidate.timeline,
            traceparent,
        };
        match self.parts.writer.carry_out(work).await {
            Effect::Held
            | Effect::Changed
            | Effect::Gone
            | Effect::Superseded
            | Effect::Rejected => true,
            Effect::Unfinished => {
                self.persist("want a sweep", || self.parts.policies.twins_unfinished())
                    .await
            }
            Effect::Stopped => false,
        }
    }

    /// Notes that changes were missed, durably, before anything behind them is read.
    async fn skip_to(&self, after: Sequence) -> bool {
        let partition = self.partition.get();
        self.parts.positions.advance(partition, after);
        self.persist("note missed changes", || {
            self.parts.policies.changes_missed(partition, after)
        })
        .await
    }

    /// The store was restored: what was told of twins may not be so any more. False if the service
    /// stopped before that was noted.
    async fn look_at_all(&self, restored: Sequence) -> bool {
        info!(stream = self.stream, %restored, "twin-store was restored; every twin is looked at");
        let partition = self.partition.get();
        // What stands before it in the batch needs no reading after a stop: the sweep covers it.
        let before = Sequence::new(restored.get().saturating_sub(1));
        self.persist("note a restore", || {
            self.parts.policies.changes_missed(partition, before)
        })
        .await
    }

    /// Writes to our own store until it works; false if the service stopped before.
    async fn persist<F>(&self, operation: &'static str, write: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), store::Error>>,
    {
        retry(operation, Policy::FOREVER, &self.parts.shutdown, || async {
            write().await.map_err(Attempt::Again)
        })
        .await
        .is_ok()
    }
}
