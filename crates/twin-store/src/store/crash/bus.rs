//! Kills a child between NATS and its store: telemetry comes through a reader, changes go through a
//! publisher. What was folded counts once, and every change gets out, in order; those that were under
//! way get out twice at most, and are recognised by their revision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::bus::{Bus, BusConfig, Headers, Outgoing, PullOptions, Sequence, StreamSpec};
use posture::{EventPayload, Lane, SecurityEvent};
use prost::Message as _;
use testkit::{NatsServer, wait_for};
use twin::partition_of;
use wire::bus::v1::telemetry_entry::Content;
use wire::bus::v1::{AdmittedBatch, TelemetryEntry, TelemetryMessage, TwinChanges};
use wire::subjects;

use super::child::Plan;
use super::{Fresh, Told, hold, live};
use crate::store::sample::count;
use crate::store::{Store, failpoint, sample};
use crate::testing::{key, now};

/// More than anything here takes.
pub(super) const SOON: Duration = Duration::from_mins(1);
/// Bytes of each stream.
const STREAM_BYTES: u64 = 64 * 1024 * 1024;

/// A connection to a server that has the streams.
pub(super) async fn connect(url: &str) -> Bus {
    let bus = Bus::connect(BusConfig::local(url, "crash")).await;
    let bus = bus.expect("the server is good");
    let specs: Vec<_> = count()
        .partitions()
        .flat_map(|partition| {
            let telemetry = subjects::telemetry_stream(partition);
            let twins = subjects::twins_stream(partition);
            [
                StreamSpec::telemetry(
                    telemetry,
                    subjects::telemetry_subject(partition),
                    STREAM_BYTES,
                ),
                StreamSpec::twins(twins, subjects::twins_subject(partition), STREAM_BYTES),
            ]
        })
        .collect();
    bus.ensure_streams(&specs).await.expect("made");
    bus
}

/// Publishes the heartbeat of a device with this number, which is also that of the message: one that
/// was published by an earlier life is not taken again.
pub(super) async fn publish(bus: &Bus, device: &str, number: u64) {
    let event = wire::events::event_to_wire(&SecurityEvent {
        sequence: number,
        observed_at: now(),
        payload: EventPayload::Heartbeat,
    });
    let batch = AdmittedBatch {
        lane: wire::events::lane_to_wire(Lane::Low).into(),
        epoch: "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11".to_owned(),
        events: vec![event],
        ..AdmittedBatch::default()
    };
    let message = TelemetryMessage {
        entries: vec![TelemetryEntry {
            device_id: device.to_owned(),
            generation_id: "g".to_owned(),
            receive_time: Some(wire::time::to_wire(now())),
            content: Some(Content::Batch(batch)),
            ..TelemetryEntry::default()
        }],
    };
    let subject = subjects::telemetry_subject(partition_of(&key(device).device, count()));
    let message = Outgoing::new(subject, message.encode_to_vec())
        .header(Headers::MESSAGE_ID, format!("{device}-{number}"));
    bus.publish(message).await.expect("stored");
}

/// Waits until the heartbeat with this number is in the device's posture.
pub(super) async fn folded(store: &dyn Store, device: &str, number: u64) {
    wait_for("the telemetry to be folded", SOON, async || {
        let record = store.get(key(device)).await.expect("read")?;
        (record.posture.delivery.low.received >= number).then_some(())
    })
    .await;
}

/// What was published: of each partition the revisions in the order in which they first came, each
/// with the earlier ones of its twin that it puts together.
async fn published(bus: &Bus) -> BTreeMap<u16, Vec<u64>> {
    let mut all = BTreeMap::new();
    for partition in count().partitions() {
        let stream = subjects::twins_stream(partition);
        let last = bus.last_sequence(&stream).await.expect("it is there");
        let mut pull = bus.pull(stream, Sequence::new(0), PullOptions::default());
        let mut seen = BTreeMap::new();
        let mut order: Vec<u64> = Vec::new();
        while pull.position() < last {
            for message in pull.next_batch(64, SOON).await.expect("whole") {
                let message = TwinChanges::decode(message.payload).expect("ours");
                for change in message.changes {
                    let revision = change.revision;
                    match seen.get(&revision) {
                        None => {
                            let before = seen.last_key_value().map_or(0, |(last, _)| *last);
                            assert!(before < revision, "{revision} came behind {before}");
                            order.extend(&change.earlier_revisions);
                            order.push(revision);
                        }
                        Some(before) => assert_eq!(before, &change, "another under its number"),
                    }
                    seen.insert(revision, change);
                }
            }
        }
        all.insert(partition.get(), order);
    }
    all
}

/// What was marked as published is, in order and without a gap.
async fn is_out(at: &Fresh, bus: &Bus, everything: bool) {
    let out = published(bus).await;
    let store = at.place.open().await;
    for state in sample::take(&*store).await {
        let revisions = &out[&state.partition.get()];
        let last = u64::try_from(revisions.len()).expect("small");
        let gapless: BTreeSet<u64> = (1..=last).collect();
        let all: BTreeSet<u64> = revisions.iter().copied().collect();
        assert_eq!(all, gapless, "without a gap: {revisions:?}");
        assert!(state.published.get() <= last, "{state:?}: {last}");
        assert!(last <= state.revision.get(), "{state:?}: {last}");
        if everything {
            assert_eq!(last, state.revision.get());
        }
    }
    store.close().await;
}

#[tokio::test]
async fn a_kill_between_the_bus_and_the_store_folds_once_and_publishes_everything() {
    let nats = NatsServer::start_durable().await;
    let at = Fresh::folder();
    let bus = connect(&nats.url()).await;
    let mut told = Told::default();
    let mut run = 0;
    for point in failpoint::BUS {
        for nth in [1, 7] {
            run += 1;
            let plan = Plan {
                run,
                point: Some(((*point).to_owned(), nth)),
                nats: Some(nats.url()),
                ..Plan::at(&at.place)
            };
            live(&plan, &mut told, None);
            assert!(!told.done, "{point} kills");
            hold(&at.place, &told).await;
            is_out(&at, &bus, false).await;
        }
    }
    let plan = Plan {
        run: run + 1,
        nats: Some(nats.url()),
        ..Plan::at(&at.place)
    };
    live(&plan, &mut told, None);
    assert!(told.done);
    hold(&at.place, &told).await;
    is_out(&at, &bus, true).await;
    bus.close().await;
}
