//! What the policy service can be told. Read by `service_kit::config`; nothing here touches the
//! environment, a file or a socket. [`Config::check`] reports every problem at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service_kit::error::Violation;
use service_kit::secret::Secret;
use service_kit::units::{ByteSize, Duration};
use twin::PartitionCount;

/// Configuration of the policy service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the gRPC API listens, `address:port`; port 0 lets the system choose. Default
    /// `127.0.0.1:8440`: policies change what devices do, so the door to the network is opened by
    /// hand.
    pub listen: SocketAddr,
    /// Where health and metrics are served over plain HTTP. Default `127.0.0.1:8441`.
    pub admin_listen: SocketAddr,
    /// Bearer token that callers of the gRPC API must send. Empty: none is asked for.
    pub token: Secret,
    /// NATS servers, `nats://host:port`, separated by commas. Default `nats://127.0.0.1:4222`.
    pub nats_url: String,
    /// NATS credentials file (`.creds`). Empty: none.
    pub nats_credentials_file: Option<PathBuf>,
    /// PEM file of the authority that signed the NATS server's certificate. Empty: the system's.
    pub nats_ca_file: Option<PathBuf>,
    /// Copies of each stream: 1 on a single server, 3 or 5 in a cluster. Default 1.
    pub stream_replicas: u8,
    /// Bound of the `REJECTS` stream on disk; the oldest go. Must be the same for every service of
    /// a hub. Default 256 MiB.
    pub rejects_stream_bytes: ByteSize,
    /// Where twin-store serves gRPC, `http://host:port` or `https://host:port`. Default
    /// `http://127.0.0.1:8430`.
    pub twin_store_url: String,
    /// PEM file of the authority that signed twin-store's certificate. Empty: the system's.
    pub twin_store_ca_file: Option<PathBuf>,
    /// Bearer token that twin-store asks for. Empty: none is sent.
    pub twin_store_token: Secret,
    /// Folder of `policy.db`; made when absent. Default `data/policy`.
    pub data_dir: PathBuf,
    /// Partitions of the hub, 1 to 256, fixed when the hub is created. Default 16.
    pub partitions: u16,
    /// Twins of one partition that are written at the same time, 1 to 256. Default 16: enough to
    /// hide the answer time of twin-store, few enough that sixteen partitions do not bury it.
    pub writes_in_flight: u16,
    /// How long a stop may take before what is left is dropped (it is then evaluated again).
    /// Default 10s.
    pub drain_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Config {
            listen: local(8440),
            admin_listen: local(8441),
            token: Secret::default(),
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            nats_credentials_file: None,
            nats_ca_file: None,
            stream_replicas: 1,
            rejects_stream_bytes: ByteSize::mib(256),
            twin_store_url: "http://127.0.0.1:8430".to_owned(),
            twin_store_ca_file: None,
            twin_store_token: Secret::default(),
            data_dir: PathBuf::from("data/policy"),
            partitions: PartitionCount::DEFAULT.get(),
            writes_in_flight: 16,
            drain_within: Duration::secs(10),
        }
    }
}

/// Upper bound of `writes_in_flight`: beyond it one partition alone could fill twin-store's queue.
const WRITES_IN_FLIGHT_MAX: u16 = 256;

impl Config {
    /// Everything that is wrong, each with its field and what is allowed.
    pub fn check(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.nats_servers().is_empty() {
            found.push(Violation::new(
                "nats_url",
                "names no server; needed is nats://host:port",
            ));
        }
        if bus::Replicas::new(self.stream_replicas).is_none() {
            let text = format!("is {}; allowed are 1, 3 and 5", self.stream_replicas);
            found.push(Violation::new("stream_replicas", text));
        }
        if let Err(error) = PartitionCount::new(self.partitions) {
            found.push(Violation::new("partitions", error.to_string()));
        }
        if !(1..=WRITES_IN_FLIGHT_MAX).contains(&self.writes_in_flight) {
            let text = format!(
                "is {}; allowed are 1 to {WRITES_IN_FLIGHT_MAX}",
                self.writes_in_flight
            );
            found.push(Violation::new("writes_in_flight", text));
        }
        found
    }

    /// The servers of [`Config::nats_url`].
    pub(crate) fn nats_servers(&self) -> Vec<String> {
        let names = self
            .nats_url
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }
}
