//! What the machine's JetStream can do without us: the messages that ingestion published in this
//! run, published again to streams of our own, with one in flight per partition as ingestion has.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bus::{Bus, BusConfig, Credentials, Outgoing, PullOptions, Sequence, StreamSpec};
use bytes::Bytes;
use futures::future::try_join_all;
use loadgen::hub::Hub;
use loadgen::latency::{Latencies, Summary};
use prost::Message as _;
use service_kit::shutdown::ShutdownToken;
use tokio::time::Instant;
use twin::{Partition, PartitionCount};
use wire::bus::v1 as api;
use wire::bus::v1::telemetry_entry::Content;

use crate::stats::{add, get};

/// Messages kept per partition: enough for the sizes to be the real ones.
const KEPT_PER_PARTITION: usize = 128;
/// A look at one stream that has nothing new.
const LOOK: Duration = Duration::from_millis(200);
/// Bound of our streams, which drop the oldest: they are written, never read.
const STREAM_BYTES: u64 = 64 << 20;

/// One message as ingestion published it.
#[derive(Debug, Clone)]
struct Sample {
    payload: Bytes,
    events: u64,
}

/// The messages that were kept, by partition.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Vec<Sample>>);

/// How many streams the bare messages go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    /// All to one.
    One,
    /// One for each partition, as ours.
    PerPartition,
}

/// What bare publishing came to.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) streams: usize,
    pub(crate) messages_per_second: f64,
    pub(crate) events_per_second: f64,
    pub(crate) events_per_message: f64,
    pub(crate) bytes_per_message: f64,
    pub(crate) latency: Option<Summary>,
}

/// A connection to the hub's own NATS server.
pub(crate) async fn connect(hub: &Hub) -> Result<Bus> {
    let mut config = BusConfig::local(&hub.nats_url, "twinward-loadgen");
    if let Some(token) = &hub.nats_token {
        config.credentials = Credentials::Token(token.expose().to_owned());
    }
    Bus::connect(config)
        .await
        .context("cannot reach the hub's NATS server")
}

/// Reads what ingestion publishes, until enough is kept or the run stops.
pub(crate) async fn sample(bus: Bus, stop: ShutdownToken) -> Result<Samples> {
    let partitions = PartitionCount::DEFAULT.partitions();
    let kept = try_join_all(partitions.map(|partition| sample_one(&bus, partition, &stop))).await?;
    Ok(Samples(kept))
}

async fn sample_one(bus: &Bus, partition: Partition, stop: &ShutdownToken) -> Result<Vec<Sample>> {
    let stream = wire::subjects::telemetry_stream(partition);
    let last = bus.last_sequence(&stream).await.unwrap_or(Sequence::new(0));
    let mut pull = bus.pull(&stream, last, PullOptions::default());
    let mut kept = Vec::new();
    while kept.len() < KEPT_PER_PARTITION && !stop.is_triggered() {
        let wanted = KEPT_PER_PARTITION - kept.len();
        // A hole (the hub trimmed before we read) ends the sampling; what was read is good.
        let Ok(batch) = pull.next_batch(wanted, LOOK).await else {
            break;
        };
        kept.extend(batch.into_iter().filter_map(|it| Sample::of(it.payload)));
    }
    Ok(kept)
}

impl Sample {
    /// Messages without events (sessions that begin) are not what is measured.
    fn of(payload: Bytes) -> Option<Self> {
        let message = api::TelemetryMessage::decode(payload.clone()).ok()?;
        let events = message.entries.iter().map(|entry| match &entry.content {
            Some(Content::Batch(batch)) => batch.events.len() as u64,
            Some(Content::SecurityMessage(message)) => message.events.len() as u64,
            Some(Content::Session(_)) | None => 0,
        });
        let events = events.sum();
        (events > 0).then_some(Self { payload, events })
    }
}

/// Publishes the samples again and again for a while.
pub(crate) async fn publish(
    bus: &Bus,
    samples: &Samples,
    streams: Streams,
    time: Duration,
) -> Result<Bare> {
    let partitions: Vec<_> = samples.0.iter().filter(|kept| !kept.is_empty()).collect();
    ensure!(
        !partitions.is_empty(),
        "no message of the hub was seen, so none can be published"
    );
    let count = match streams {
        Streams::One => 1,
        Streams::PerPartition => partitions.len(),
    };
    let specs: Vec<_> = (0..count)
        .map(|index| StreamSpec::twins(format!("LOADGEN_{index}"), subject(index), STREAM_BYTES))
        .collect();
    bus.ensure_streams(&specs)
        .await
        .context("cannot make the streams for bare publishing")?;

    let totals = Arc::new(Totals::default());
    let began = Instant::now();
    let workers = partitions
        .iter()
        .enumerate()
        .map(|(index, kept)| publish_one(bus, kept, subject(index % count), began + time, &totals));
    try_join_all(workers).await?;
    Ok(totals.summary(count, began.elapsed()))
}

fn subject(index: usize) -> String {
    format!("loadgen.{index}")
}

async fn publish_one(
    bus: &Bus,
    samples: &[Sample],
    subject: String,
    until: Instant,
    totals: &Totals,
) -> Result<()> {
    for sample in samples.iter().cycle() {
        let began = Instant::now();
        if began >= until {
            break;
        }
        bus.publish(Outgoing::new(subject.clone(), sample.payload.clone()))
            .await
            .context("bare publishing failed")?;
        totals.latency.record(began.elapsed());
        add(&totals.messages, 1);
        add(&totals.events, sample.events);
        add(&totals.bytes, sample.payload.len() as u64);
    }
    Ok(())
}

#[derive(Default)]
struct Totals {
    messages: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
    latency: Latencies,
}

impl Totals {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of one run are far below 2^52"
    )]
    fn summary(&self, streams: usize, took: Duration) -> Bare {
        let (messages, events) = (get(&self.messages) as f64, get(&self.events) as f64);
        Bare {
            streams,
            messages_per_second: messages / took.as_secs_f64(),
            events_per_second: events / took.as_secs_f64(),
            events_per_message: events / messages.max(1.0),
            bytes_per_message: get(&self.bytes) as f64 / messages.max(1.0),
            latency: self.latency.summary(),
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::agent::v1::SecurityEvent;

    use super::*;

    #[test]
    fn only_messages_with_events_count_and_all_their_entries_do() {
        let batch = |events| api::TelemetryEntry {
            content: Some(Content::Batch(api::AdmittedBatch {
                events: vec![SecurityEvent::default(); events],
                ..Default::default()
            })),
            ..Default::default()
        };
        let session = api::TelemetryEntry {
            content: Some(Content::Session(api::SessionNotice::default())),
            ..Default::default()
        };
        let of = |entries: Vec<api::TelemetryEntry>| {
            Sample::of(api::TelemetryMessage { entries }.encode_to_vec().into())
        };
        assert_eq!(
            of(vec![batch(3), session.clone(), batch(2)])
                .unwrap()
                .events,
            5
        );
        assert!(of(vec![session]).is_none());
        assert!(Sample::of(Bytes::from_static(&[0xff])).is_none());
    }
}
