//! Publishes committed changes of one partition to TWINS, in order, and tells ingestion of the
//! ones that concern a session.
//!
//! The hop before is the engine's commit, which kept the changes beside the twins; the hops after
//! are policy and other readers of TWINS, and ingestion (hints). A change leaves the outbox after
//! it is durable in the stream; after a crash some may be published twice, which readers recognise
//! by the revision. Hints are not durable: they say "look again", and whoever misses one looks
//! anyway, later.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Headers, Outgoing};
use prost::Message as _;
use service_kit::backoff::{Backoff, Policy};
use service_kit::error::chain;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::broadcast;
use tracing::{debug, warn};
use twin::Revision;
use wire::bus::v1::{IdentityHint, PushHint, TwinChange, TwinChanges};
use wire::subjects;
use wire::twin::v1::Change;

use crate::engine::{Committed, Engine, OutboxEnd};
use crate::metrics::Metrics;
use crate::store::{self, OutboxChange, Store};

/// Changes read from the outbox at once.
const READ: u32 = 256;
/// Changes in one message, so that one that a reader chokes on does not take many with it.
const PACK_CHANGES: usize = 32;
/// Bytes of one message, well below the server's limit of 1 MiB; a single larger change goes alone.
const PACK_BYTES: usize = 256 * 1024;
/// How long the last changes may take to get out when the service stops.
const FLUSH: Duration = Duration::from_secs(3);

/// The publisher of one partition.
pub struct Outbox {
    bus: Bus,
    store: Arc<dyn Store>,
    metrics: Metrics,
    end: OutboxEnd,
}

impl Outbox {
    /// A publisher of what one partition's log says.
    pub fn new(bus: Bus, store: Arc<dyn Store>, metrics: Metrics, end: OutboxEnd) -> Outbox {
        Outbox {
            bus,
            store,
            metrics,
            end,
        }
    }

    /// Publishes until shutdown, then whatever is left if the bus takes it in time.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn run(mut self, shutdown: ShutdownToken) -> Result<(), store::Error> {
        let mut last = Revision::ZERO;
        let mut backoff = Backoff::new(Policy::FOREVER);
        loop {
            let changes = self.store.outbox(self.end.partition, last, READ).await?;
            if changes.is_empty() {
                if shutdown.is_triggered() {
                    return Ok(());
                }
                tokio::select! {
                    changed = self.end.log.changed() => {
                        if changed.is_err() {
                            // The engine has ended: nothing will be committed any more.
                            return self.flush(last).await;
                        }
                    }
                    () = shutdown.triggered() => {}
                }
                continue;
            }
            match self.publish(&changes).await {
                Ok(through) => {
                    last = through;
                    backoff = Backoff::new(Policy::FOREVER);
                    // A full channel only delays the cleaning; a later message says more.
                    let _ = self.end.published.try_send((self.end.partition, through));
                }
                Err(error) => {
                    if shutdown.is_triggered() {
                        warn!(partition = %self.end.partition, error = chain(&error),
                            "changes stay in the outbox until the next start");
                        return Ok(());
                    }
                    let delay = backoff.next_delay().unwrap_or(FLUSH);
                    warn!(partition = %self.end.partition, error = chain(&error),
                        delay_ms = delay.as_millis(), "changes cannot be published");
                    shutdown.run_until(tokio::time::sleep(delay)).await;
                }
            }
        }
    }

    async fn flush(&mut self, mut last: Revision) -> Result<(), store::Error> {
        loop {
            let changes = self.store.outbox(self.end.partition, last, READ).await?;
            if changes.is_empty() {
                return Ok(());
            }
            match tokio::time::timeout(FLUSH, self.publish(&changes)).await {
                Ok(Ok(through)) => last = through,
                Ok(Err(_)) | Err(_) => return Ok(()),
            }
        }
    }

    /// Publishes changes in order and answers how far it came.
    async fn publish(&self, changes: &[OutboxChange]) -> Result<Revision, bus::PublishError> {
        let mut through = Revision::ZERO;
        let mut rest = changes;
        while let Some(first) = rest.first() {
            let mut size = 0;
            let count = rest
                .iter()
                .take(PACK_CHANGES)
                .take_while(|change| {
                    size += change.change.len();
                    size <= PACK_BYTES
                })
                .count()
                .max(1);
            let (pack, later) = rest.split_at(count);
            let last = pack.last().unwrap_or(first);
            self.bus.publish(self.message(pack, first, last)).await?;
            self.metrics.published(pack.len());
            through = last.revision;
            rest = later;
        }
        Ok(through)
    }

    fn message(
        &self,
        pack: &[OutboxChange],
        first: &OutboxChange,
        last: &OutboxChange,
    ) -> Outgoing {
        let partition = self.end.partition;
        let mut message = TwinChanges {
            partition: partition.get().into(),
            changes: Vec::new(),
        };
        for change in pack {
            match TwinChange::decode(change.change.as_slice()) {
                Ok(change) => message.changes.push(change),
                // It was encoded by us and is in a database that checks nothing: say so and go on,
                // or the whole partition stands still.
                Err(error) => warn!(%partition, revision = %change.revision, error = chain(&error),
                    "a change in the outbox is damaged and is left out"),
            }
        }
        let trace_parent = message
            .changes
            .iter()
            .rev()
            .map(|change| &change.trace_parent)
            .find(|text| !text.is_empty());
        let mut headers = Headers::new().with(
            Headers::MESSAGE_ID,
            format!("twins-{partition}-{}-{}", first.revision, last.revision),
        );
        if let Some(trace_parent) = trace_parent {
            headers.insert(Headers::TRACEPARENT, trace_parent.clone());
        }
        Outgoing {
            subject: subjects::twins_subject(partition),
            headers,
            payload: message.encode_to_vec().into(),
        }
    }
}

/// Sends hints for committed changes until shutdown.
pub async fn send_hints(bus: Bus, engine: Engine, shutdown: ShutdownToken) {
    let mut changes = engine.watch();
    drop(engine);
    loop {
        let next = tokio::select! {
            next = changes.recv() => next,
            () = shutdown.triggered() => return,
        };
        match next {
            Ok(committed) => {
                for hint in hints(&committed) {
                    if let Err(error) = bus.send_hint(hint).await {
                        debug!(error = chain(&error), "a hint could not be sent");
                    }
                }
            }
            // Sessions compare versions by themselves now and then, so a lost hint costs time only.
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                warn!(missed, "hints were left out");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// What ingestion should look at again because of a change.
fn hints(committed: &Committed) -> Vec<Outgoing> {
    let change = &committed.change;
    let has = |kind: Change| change.changes.contains(&kind.into());
    let mut hints = Vec::new();
    if change.deleted || has(Change::Status) || has(Change::Created) {
        let hint = IdentityHint {
            etag: String::new(),
            deleted: change.deleted,
        };
        hints.push(Outgoing::new(
            subjects::identity_subject(&committed.key),
            hint.encode_to_vec(),
        ));
    }
    if has(Change::Desired) {
        let hint = PushHint {
            desired_version: change.twin.as_ref().map_or(0, |twin| twin.desired_version),
            trace_parent: change.trace_parent.clone(),
        };
        hints.push(Outgoing::new(
            subjects::push_subject(&committed.key),
            hint.encode_to_vec(),
        ));
    }
    hints
}
