//! Reads the changes of one partition in order and has every concerned twin looked at.
//!
//! The hop before is twin-store's outbox, the hop after its `ApplyPolicySettings`. The position
//! moves when a whole batch has taken effect, so nothing is lost by a stop or a crash and what is
//! replayed finds everything in place. A batch waits for its slowest twin, but no longer than
//! [`crate::twin_store`] tries a single one.

use std::time::Duration;

use bus::{Bus, Fetched, Pull, PullError, PullOptions, Sequence};
use service_kit::backoff::{Backoff, Policy};
use service_kit::health::Component;
use service_kit::shutdown::ShutdownToken;
use tracing::{debug, info};
use twin::Partition;

use crate::batches::Batches;
use crate::metrics::PartitionLabel;

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
    /// What is done with them.
    pub batches: Batches,
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
                    let noted = self.parts.batches.skip_to(self.partition, before).await;
                    self.pull.accept_gap(got);
                    noted
                }
                Err(PullError::Ahead { position, last, .. }) => {
                    info!(stream = self.stream, %position, %last, "the stream was made anew");
                    let noted = self.parts.batches.skip_to(self.partition, last).await;
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

    /// Has a batch looked at; false if the service stopped before all of it had taken effect.
    async fn take(&mut self, batch: &[Fetched]) -> bool {
        let label = PartitionLabel {
            partition: self.partition.get(),
        };
        let backlog = i64::try_from(self.pull.backlog()).unwrap_or(i64::MAX);
        self.parts
            .batches
            .metrics
            .backlog
            .get_or_create(&label)
            .set(backlog);
        let messages = batch
            .iter()
            .map(|message| (message.sequence, &message.payload));
        self.parts
            .batches
            .take(self.partition, &self.stream, messages)
            .await
    }
}
