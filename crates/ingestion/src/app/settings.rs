//! What the configuration means to the parts that are not ours: the gRPC server, the bus, its streams.

use bus::{BusConfig, Replicas, StreamSpec};
use service_kit::secret::Secret;
use service_kit::server::GrpcConfig;
use service_kit::units::{ByteSize, Duration};
use twin::PartitionCount;
use wire::subjects;

use crate::config::Config;

/// How long the bus may take to answer at start: it often starts at the same time.
const BUS_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// Largest message that is read from the stream at all, as a multiple of the largest batch. What is
/// between is answered with `MESSAGE_TOO_LARGE`, what is over it ends the stream.
pub(super) const DECODE_FACTOR: u64 = 4;

pub(super) fn grpc_config(config: &Config) -> GrpcConfig {
    // Agents prove themselves with SAS tokens, so their service is open. Nothing else is; without
    // a configured token it is one that nobody knows.
    let token = if config.token.is_empty() {
        Secret::new(format!(
            "{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        ))
    } else {
        config.token.clone()
    };
    GrpcConfig {
        tls: config.tls.server(),
        connections: config.connections.clone(),
        token: Some(token),
        allow_insecure: config.allow_insecure,
        max_message: ByteSize::bytes(config.limits.batch_bytes_max.get() * DECODE_FACTOR),
        // Sessions end by themselves well before; this cuts those whose peer does not listen.
        drain: half(config.drain_within),
        ..GrpcConfig::on(config.listen)
    }
}

fn half(duration: Duration) -> Duration {
    let millis = u64::try_from(duration.get().as_millis()).unwrap_or(u64::MAX);
    Duration::millis(millis / 2)
}

pub(super) fn bus_config(config: &Config) -> BusConfig {
    BusConfig {
        replicas: Replicas::new(config.stream_replicas).unwrap_or(Replicas::ONE),
        connect_within: BUS_WITHIN,
        ..config
            .nats
            .bus(format!("twinward ingestion {}", config.instance))
    }
}

pub(super) fn streams(config: &Config, partitions: PartitionCount) -> Vec<StreamSpec> {
    let telemetry = partitions.partitions().map(|partition| {
        StreamSpec::telemetry(
            subjects::telemetry_stream(partition),
            subjects::telemetry_subject(partition),
            config.telemetry_stream_bytes.get(),
        )
    });
    let rejects = StreamSpec::rejects(
        subjects::REJECTS_STREAM,
        subjects::REJECTS_SUBJECTS,
        config.rejects_stream_bytes.get(),
    );
    let application = StreamSpec::application(
        subjects::APPLICATION_STREAM,
        subjects::APPLICATION_SUBJECTS,
        config.application_stream_bytes.get(),
    );
    let sessions = StreamSpec::values(
        subjects::MQTT_SESSIONS_STREAM,
        subjects::MQTT_SESSIONS_SUBJECTS,
        config.mqtt_sessions_stream_bytes.get(),
        "what devices have subscribed to by MQTT",
    );
    telemetry.chain([rejects, application, sessions]).collect()
}
