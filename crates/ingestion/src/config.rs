//! What ingestion can be told. Read by `service_kit::config`; nothing here touches the environment,
//! a file or a socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service_kit::error::Violation;
use service_kit::secret::Secret;
use service_kit::units::{ByteSize, Duration};
use twin::PartitionCount;

/// Settings of one instance of ingestion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where agents connect, `address:port`; port 0 lets the system choose. Default
    /// `127.0.0.1:8420`: a door to the network is opened by hand, together with TLS.
    pub listen: SocketAddr,
    /// Where health and metrics are served over plain HTTP. Default `127.0.0.1:8421`.
    pub admin_listen: SocketAddr,
    /// PEM file with the certificate chain of the agents' door. Empty: no TLS, which is accepted
    /// everywhere but warned about outside loopback.
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file with the key of the certificate. Needed if and only if there is a certificate.
    pub tls_key_file: Option<PathBuf>,
    /// The hub's host name: it stands in connection strings and in the resource of every SAS
    /// token, so changing it invalidates both. Without scheme and port. Default `localhost`.
    pub public_host: String,
    /// NATS servers, `nats://host:port`, separated by commas. Default `nats://127.0.0.1:4222`.
    pub nats_url: String,
    /// NATS credentials file (`.creds`). Empty: none.
    pub nats_credentials_file: Option<PathBuf>,
    /// PEM file of the authority that signed the NATS server's certificate. Empty: the system's.
    pub nats_ca_file: Option<PathBuf>,
    /// Copies of each stream: 1 on a single server, 3 or 5 in a cluster. Default 1.
    pub stream_replicas: u8,
    /// Bound of each partition's `TELEMETRY` stream on disk. Over it batches wait. Must be the
    /// same for every service of a hub. Default 1 GiB.
    pub telemetry_stream_bytes: ByteSize,
    /// Bound of the `REJECTS` stream on disk; the oldest go. Default 256 MiB.
    pub rejects_stream_bytes: ByteSize,
    /// Where twin-store serves gRPC, `http://host:port` or `https://host:port`. Default
    /// `http://127.0.0.1:8430`.
    pub twin_store_url: String,
    /// PEM file of the authority that signed twin-store's certificate. Empty: the system's.
    pub twin_store_ca_file: Option<PathBuf>,
    /// Bearer token that twin-store asks for. Empty: none is sent.
    pub twin_store_token: Secret,
    /// Partitions of the hub, 1 to 256, fixed when the hub is created. Default 16.
    pub partitions: u16,
    /// Name of this instance in notices and logs; unique among the instances of a hub. Default
    /// `ingestion-0`.
    pub instance: String,
    /// How long a stop may take before what is left is dropped (agents then send it again).
    /// Default 10s.
    pub drain_within: Duration,
    /// Limits of what agents may send and how often.
    pub limits: Limits,
}

/// Limits, each with its reason.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest event, encoded. Default 64 KiB: the largest legal snapshot of listening ports.
    pub event_bytes_max: ByteSize,
    /// Largest batch, encoded. Default 256 KiB: two fit one packed bus message.
    pub batch_bytes_max: ByteSize,
    /// Most events in one batch. Default 500: more would not make them cheaper.
    pub batch_events_max: u32,
    /// Batches of one session that may wait for their durable publish; when they do, the stream is
    /// not read, and HTTP/2's flow control slows the agent. Default 4.
    pub session_batches_max: u32,
    /// Bytes of batches that may wait over all sessions: the memory that telemetry may take.
    /// Default 256 MiB.
    pub waiting_bytes_max: ByteSize,
    /// Sessions of this instance. Over it new ones are refused with RESOURCE_EXHAUSTED. Default
    /// 50000: about 2 GB with TLS.
    pub sessions_max: u32,
    /// Failed authentications per minute and peer address before the peer must wait. Default 60: a
    /// site behind one address may hold a few agents with wrong keys.
    pub auth_failures_per_minute: u32,
    /// Failed enrolments per minute and peer address before the peer must wait. Default 30.
    pub enroll_failures_per_minute: u32,
    /// Rejected events per minute and session that are kept in `REJECTS`; the rest is counted
    /// only. Default 60: enough to see what is wrong, too little to fill a disk with.
    pub rejects_per_minute: u32,
    /// Bytes waiting in a partition's stream above which that partition's agents are not read any
    /// more, until half of it is folded. Default 64 MiB.
    pub backlog_bytes_max: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8420)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8421)),
            tls_cert_file: None,
            tls_key_file: None,
            public_host: "localhost".to_owned(),
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            nats_credentials_file: None,
            nats_ca_file: None,
            stream_replicas: 1,
            telemetry_stream_bytes: ByteSize::mib(1024),
            rejects_stream_bytes: ByteSize::mib(256),
            twin_store_url: "http://127.0.0.1:8430".to_owned(),
            twin_store_ca_file: None,
            twin_store_token: Secret::default(),
            partitions: PartitionCount::DEFAULT.get(),
            instance: "ingestion-0".to_owned(),
            drain_within: Duration::secs(10),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_bytes_max: ByteSize::kib(64),
            batch_bytes_max: ByteSize::kib(256),
            batch_events_max: 500,
            session_batches_max: 4,
            waiting_bytes_max: ByteSize::mib(256),
            sessions_max: 50_000,
            auth_failures_per_minute: 60,
            enroll_failures_per_minute: 30,
            rejects_per_minute: 60,
            backlog_bytes_max: ByteSize::mib(64),
        }
    }
}
