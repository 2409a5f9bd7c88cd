//! NATS as this service needs it: the connection, the streams, and what health says of both.

use std::time::Duration;

use bus::{Bus, BusConfig, LinkState, Replicas, StreamSpec};
use iot_hub::message::{QUEUE_MAX, TIME_TO_LIVE_MAX};
use service_kit::health::Health;
use service_kit::shutdown::ShutdownToken;
use twin::PartitionCount;
use wire::subjects;

use super::NAME;
use crate::config::Config;

/// How long the first connection to NATS may take: services and server often start together.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// Shows in the service's health whether NATS is there.
pub(super) fn follow(
    bus: Bus,
    health: &Health,
    shutdown: &ShutdownToken,
) -> impl Future<Output = ()> + Send + 'static {
    let component = health.component("nats");
    let shutdown = shutdown.clone();
    async move {
        let mut link = bus.link();
        loop {
            match link.borrow_and_update().state {
                LinkState::Up => component.serving(),
                LinkState::Down => component.degraded("not connected to NATS; reconnecting"),
                LinkState::Closed => return,
            }
            match shutdown.run_until(link.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}

pub(super) fn config(config: &Config) -> BusConfig {
    BusConfig {
        replicas: Replicas::new(config.stream_replicas).unwrap_or(Replicas::ONE),
        connect_within: CONNECT_WITHIN,
        ..config.nats.bus(NAME)
    }
}

pub(super) fn streams(config: &Config, count: PartitionCount) -> Vec<StreamSpec> {
    let mut specs = vec![StreamSpec::rejects(
        subjects::REJECTS_STREAM,
        subjects::REJECTS_SUBJECTS,
        config.rejects_stream_bytes.get(),
    )];
    specs.push(StreamSpec::queues(
        subjects::DEVICE_MESSAGES_STREAM,
        subjects::DEVICE_MESSAGES_SUBJECTS,
        config.device_messages_stream_bytes.get(),
        QUEUE_MAX,
        TIME_TO_LIVE_MAX,
        "messages that wait for devices, a queue for each",
    ));
    for partition in count.partitions() {
        specs.push(StreamSpec::telemetry(
            subjects::telemetry_stream(partition),
            subjects::telemetry_subject(partition),
            config.telemetry_stream_bytes.get(),
        ));
        specs.push(StreamSpec::twins(
            subjects::twins_stream(partition),
            subjects::twins_subject(partition),
            config.twins_stream_bytes.get(),
        ));
    }
    specs
}
