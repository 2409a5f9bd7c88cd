//! Publishes committed changes of one partition to TWINS, in order, and tells ingestion of the
//! ones that concern a session.
//!
//! The hop before is the engine's commit, which kept the changes beside the twins in the log; the
//! hops after are policy and other readers of TWINS, and ingestion (hints). How far the log is
//! published is noted after it is durable in the stream; after a crash some may be published twice,
//! which readers recognise by the revision. Hints are not durable: they say "look again", and whoever misses one looks
//! anyway, later.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Headers, LinkState, Outgoing, PublishError};
use prost::Message as _;
use service_kit::backoff::{Backoff, Policy};
use service_kit::error::chain;
use tokio::sync::{broadcast, watch};
use tracing::{debug, error, warn};
use twin::Revision;
use wire::bus::v1::{IdentityHint, PushHint, TwinChange, TwinChanges};
use wire::subjects;

use crate::apply::ChangeKind;
use crate::engine::{Committed, OutboxEnd};
use crate::grpc::commands::messages;
use crate::metrics::Metrics;
use crate::store::{self, LogEntry, Store, failpoint};

/// Changes read from the outbox at once.
const READ: u32 = 256;
/// Changes in one message, so that one that a reader chokes on does not take many with it.
const PACK_CHANGES: usize = 32;
/// Bytes of one message, well below the server's limit of 1 MiB; a single larger change goes alone.
const PACK_BYTES: usize = 256 * 1024;
/// How long the last changes may take to get out when the service stops.
const FLUSH: Duration = Duration::from_secs(3);
/// How long a hint may take to leave; it is only handed to the connection.
const HINT: Duration = Duration::from_millis(500);

/// The server does not take messages of this size.
struct TooLarge;

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

    /// Publishes until the writer has ended, then whatever is left if the bus takes it in time. A
    /// store that cannot be read is waited for: what it means that it fails is the writer's to say.
    ///
    /// # Errors
    /// The store is closed.
    pub async fn run(mut self) -> Result<(), store::Error> {
        let log = self.end.log.clone();
        let partition = self.end.partition;
        tokio::select! {
            biased;
            ended = self.publish_all() => ended,
            // What was under way is in the outbox still, and is published after the next start.
            () = overdue(log) => {
                warn!(%partition, "changes stay in the outbox until the next start");
                Ok(())
            }
        }
    }

    async fn publish_all(&mut self) -> Result<(), store::Error> {
        let mut last = self.end.published_before;
        loop {
            let changes = self.read(last).await?;
            if changes.is_empty() && self.end.log.changed().await.is_err() {
                // The writer has ended, and everything it told of was read.
                return Ok(());
            }
            for pack in packs(&changes) {
                failpoint::hit("outbox.read");
                self.deliver(pack).await;
                failpoint::hit("outbox.published");
                last = pack.last().map_or(last, |change| change.revision);
                // A full channel only delays the cleaning; a later message says more.
                let _ = self.end.published.try_send((self.end.partition, last));
                failpoint::hit("outbox.told");
            }
        }
    }

    /// Reads what follows in the log, however long it takes.
    async fn read(&self, after: Revision) -> Result<Vec<LogEntry>, store::Error> {
        let partition = self.end.partition;
        let mut backoff = Backoff::new(Policy::FOREVER);
        loop {
            let failure = match self.store.log(partition, after, READ).await {
                Ok(page) => return Ok(page.entries),
                Err(error @ store::Error::Closed) => return Err(error),
                Err(error) => error,
            };
            let delay = backoff.next_delay().unwrap_or(FLUSH);
            warn!(%partition, error = chain(&failure), delay_ms = delay.as_millis(),
                "the log cannot be read; changes are published later");
            tokio::time::sleep(delay).await;
        }
    }

    /// Publishes one pack, however long it takes: the next must not overtake it.
    async fn deliver(&self, pack: &[LogEntry]) {
        if self.send(pack).await.is_ok() {
            return;
        }
        // Too large for this server. Its changes may fit one by one.
        for change in pack.chunks(1) {
            if pack.len() > 1 && self.send(change).await.is_ok() {
                continue;
            }
            // Readers look at every twin now and then; standing still would help none of them.
            error!(
                partition = %self.end.partition,
                bytes = change.iter().map(|one| one.change.len()).sum::<usize>(),
                "a change is too large for NATS and is left out of TWINS; raise its max_payload"
            );
            self.metrics.unpublishable(1);
        }
    }

    /// Publishes one message, however long it takes. Every attempt has the same content and so the
    /// same message id, which the server recognises.
    async fn send(&self, pack: &[LogEntry]) -> Result<(), TooLarge> {
        let message = self.message(pack);
        let mut backoff = Backoff::new(Policy::FOREVER);
        loop {
            let Err(failure) = self.bus.publish(message.clone()).await else {
                self.metrics.published(pack.len());
                return Ok(());
            };
            if matches!(failure, PublishError::TooLarge { .. }) {
                return Err(TooLarge);
            }
            let delay = backoff.next_delay().unwrap_or(FLUSH);
            warn!(partition = %self.end.partition, error = chain(&failure),
                delay_ms = delay.as_millis(), "changes cannot be published");
            tokio::time::sleep(delay).await;
        }
    }

    fn message(&self, pack: &[LogEntry]) -> Outgoing {
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
        let bounds = pack.first().zip(pack.last());
        let (first, last) = bounds.map_or((Revision::ZERO, Revision::ZERO), |(first, last)| {
            (first.revision, last.revision)
        });
        let payload = message.encode_to_vec();
        // Revisions alone would be those of an older store, too, whose folder was removed.
        let id = format!(
            "twins-{partition}-{first}-{last}-{:08x}",
            crc32fast::hash(&payload)
        );
        let mut headers = Headers::new().with(Headers::MESSAGE_ID, id);
        if let Some(trace_parent) = trace_parent {
            headers.insert(Headers::TRACEPARENT, trace_parent.clone());
        }
        Outgoing {
            subject: subjects::twins_subject(partition),
            headers,
            payload: payload.into(),
        }
    }
}

/// Ends some time after the writer has: when what is left should have been published.
async fn overdue(mut log: watch::Receiver<Revision>) {
    while log.changed().await.is_ok() {}
    tokio::time::sleep(FLUSH).await;
}

/// Cuts changes into packs for one message each.
fn packs(changes: &[LogEntry]) -> Vec<&[LogEntry]> {
    let mut packs = Vec::new();
    let mut rest = changes;
    while !rest.is_empty() {
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
        packs.push(pack);
        rest = later;
    }
    packs
}

/// Sends hints for committed changes until the writer has ended. Hints that could not be sent, that a
/// connection may have ended with, or that came faster than they could be sent, are made up for by one to
/// all sessions.
pub async fn send_hints(bus: Bus, mut changes: broadcast::Receiver<Arc<Committed>>) {
    let mut link = bus.link();
    let mut generation = link.borrow().generation;
    let mut lost = false;
    loop {
        let now = *link.borrow_and_update();
        let up = now.state == LinkState::Up;
        // What was handed to the connection before may have ended with it.
        lost |= now.generation != generation;
        generation = now.generation;
        if lost && up {
            lost = !send_hint(&bus, Outgoing::new(subjects::HINTS_LOST_SUBJECT, "")).await;
        }
        let change = tokio::select! {
            change = changes.recv() => change,
            // The end of the link is that of the bus, which outlives the writer.
            Ok(()) = link.changed() => continue,
        };
        match change {
            Ok(committed) => {
                for hint in hints(&committed) {
                    // Without a connection the client would only pile them up, and then hold us.
                    lost |= !up || !send_hint(&bus, hint).await;
                }
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                warn!(
                    missed,
                    "hints were left out; all sessions are told to look again"
                );
                lost = true;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Whether a hint was handed to the connection.
async fn send_hint(bus: &Bus, hint: Outgoing) -> bool {
    match tokio::time::timeout(HINT, bus.send_hint(hint)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            debug!(error = chain(&error), "a hint could not be sent");
            false
        }
        Err(_) => {
            debug!("a hint could not be sent in time");
            false
        }
    }
}

/// Removes the queues of devices that were deleted, until the writer has ended. What is missed here
/// ends by itself, and no device gets it: each generation has a queue of its own.
pub async fn drop_queues(
    bus: Bus,
    store: Arc<dyn Store>,
    mut changes: broadcast::Receiver<Arc<Committed>>,
) {
    loop {
        match changes.recv().await {
            // Without a connection each would wait for its timeout, and then hold us.
            Ok(_) if bus.link().borrow().state != LinkState::Up => {}
            Ok(change) if change.record.is_none() && change.key.module.is_none() => {
                let dropping = messages::drop_old(&bus, &*store, &change.key);
                match tokio::time::timeout(FLUSH, dropping).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        debug!(error = chain(&error), "queues of a device were not removed");
                    }
                    Err(_) => debug!("queues of a device were not removed in time"),
                }
            }
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                debug!(
                    missed,
                    "queues of devices that are gone may end by themselves"
                );
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// What ingestion should look at again because of a change.
fn hints(committed: &Committed) -> Vec<Outgoing> {
    let mut hints = Vec::new();
    let touched = |kind| committed.touch.changes.contains(&kind);
    let Some(record) = &committed.record else {
        let gone = IdentityHint {
            etag: String::new(),
            deleted: true,
        };
        let subject = subjects::identity_subject(&committed.key);
        return vec![Outgoing::new(subject, gone.encode_to_vec())];
    };
    // A new identity, too: ingestion may remember that there was none.
    let proof = [
        ChangeKind::Status,
        ChangeKind::Identity,
        ChangeKind::Created,
    ];
    if proof.into_iter().any(touched) {
        let hint = IdentityHint {
            etag: record.identity.etag.to_string(),
            deleted: false,
        };
        hints.push(Outgoing::new(
            subjects::identity_subject(&committed.key),
            hint.encode_to_vec(),
        ));
    }
    if touched(ChangeKind::Desired) {
        let configuration = &record.posture.configuration;
        let hint = PushHint {
            desired_version: record.twin.desired.version.get(),
            trace_parent: configuration.trace_parent.clone().unwrap_or_default(),
        };
        hints.push(Outgoing::new(
            subjects::push_subject(&committed.key),
            hint.encode_to_vec(),
        ));
    }
    hints
}

#[cfg(test)]
mod tests {
    use bus::{BusConfig, StreamSpec};
    use service_kit::metrics::Registry;
    use testkit::NatsServer;
    use tokio::sync::mpsc;
    use twin::{IdentityKey, PartitionCount};

    use super::*;
    use crate::apply::Touch;

    /// How long a client may take to come back.
    const RETURN: Duration = Duration::from_secs(20);

    use crate::store::model::ModelStore;
    use crate::store::sample;
    use crate::store::{Commit, PartitionState};

    fn change(revision: u64, bytes: usize) -> LogEntry {
        let count = PartitionCount::new(1).unwrap();
        LogEntry {
            partition: count.partitions().next().unwrap(),
            revision: Revision::new(revision),
            change: vec![0; bytes],
        }
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_read_for_a_while_costs_nothing_but_time() {
        let nats = NatsServer::start().await;
        let bus = Bus::connect(BusConfig::local(nats.url(), "test")).await;
        let bus = bus.expect("the server is good");
        let store = ModelStore::new();
        let state = sample::take(&store).await[0];
        let partition = state.partition;
        let stream = subjects::twins_stream(partition);
        let spec = StreamSpec::twins(stream, subjects::twins_subject(partition), 1 << 20);
        bus.ensure_streams(&[spec]).await.expect("made");
        let committed = Commit {
            partitions: vec![PartitionState {
                revision: Revision::new(1),
                ..state
            }],
            log: vec![LogEntry {
                partition,
                ..change(1, 0)
            }],
            ..Commit::default()
        };
        store.commit(committed).await.expect("committed");
        store.break_logs(3);
        let (log_in, log) = watch::channel(Revision::new(1));
        let (published, mut told) = mpsc::channel(8);
        let end = OutboxEnd {
            partition,
            log,
            published_before: Revision::ZERO,
            published,
        };
        let metrics = Metrics::new(&Registry::new().scope("test"));
        let outbox = Outbox::new(bus, Arc::new(store), metrics, end);
        let ends = async {
            let through = told.recv().await;
            // As when the writer ends; what is left is published, and there is nothing.
            drop(log_in);
            through
        };
        let (ended, through) = tokio::join!(outbox.run(), ends);
        ended.expect("a good end");
        assert_eq!(through, Some((partition, Revision::new(1))));
    }

    #[tokio::test]
    async fn hints_that_were_left_out_are_made_up_for_by_one_to_all() {
        let nats = NatsServer::start().await;
        let bus = Bus::connect(BusConfig::local(nats.url(), "test")).await;
        let bus = bus.expect("the server is good");
        let mut lost = bus
            .listen(subjects::HINTS_LOST_SUBJECT)
            .await
            .expect("listens");
        let (changes_in, changes) = broadcast::channel(1);
        let gone = |name: &str| {
            Arc::new(Committed {
                key: IdentityKey::parse_path(name).expect("a name"),
                partition: PartitionCount::DEFAULT.partitions().next().expect("one"),
                revision: Revision::new(1),
                touch: Touch::default(),
                record: None,
            })
        };
        for name in ["a", "b"] {
            changes_in.send(gone(name)).expect("there is a receiver");
        }
        drop(changes_in);
        send_hints(bus.clone(), changes).await;
        let told = tokio::time::timeout(HINT, lost.recv()).await;
        assert!(told.expect("in time").is_some());
    }

    #[tokio::test]
    async fn hints_that_may_have_ended_with_a_connection_are_made_up_for() {
        let mut nats = NatsServer::start().await;
        let bus = Bus::connect(BusConfig::local(nats.url(), "test")).await;
        let bus = bus.expect("the server is good");
        // It is subscribed to again before anything else goes over the new connection.
        let mut lost = bus
            .listen(subjects::HINTS_LOST_SUBJECT)
            .await
            .expect("listens");
        let (changes_in, changes) = broadcast::channel(1);
        let outage = async {
            nats.kill();
            nats.restart().await;
            let told = tokio::time::timeout(RETURN, lost.recv()).await;
            drop(changes_in);
            told
        };
        let ((), told) = tokio::join!(send_hints(bus.clone(), changes), outage);
        assert!(told.expect("in time").is_some());
    }

    #[test]
    fn packs_keep_the_order_lose_nothing_and_keep_their_bounds() {
        let large = PACK_BYTES + 1;
        let sizes = [10, 10, large, 10, PACK_BYTES / 2, PACK_BYTES / 2, 10];
        let sizes = sizes.into_iter().chain(std::iter::repeat_n(1, 70));
        let changes: Vec<_> = (1..)
            .zip(sizes)
            .map(|(at, size)| change(at, size))
            .collect();
        let packs = packs(&changes);
        assert_eq!(packs.concat(), changes);
        for pack in &packs {
            let bytes: usize = pack.iter().map(|change| change.change.len()).sum();
            assert!(pack.len() == 1 || (pack.len() <= PACK_CHANGES && bytes <= PACK_BYTES));
        }
        let lengths: Vec<_> = packs.iter().map(|pack| pack.len()).collect();
        assert_eq!(lengths, [2, 1, 2, 32, 32, 8]);
        assert!(super::packs(&[]).is_empty());
    }
}
