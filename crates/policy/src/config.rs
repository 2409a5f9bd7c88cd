//! What the policy service can be told. Read by `service_kit::config`; nothing here touches the
//! environment, a file or a socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bus::{BusConfig, Credentials, Replicas};
use serde::{Deserialize, Serialize};
use service_kit::auth::AuthConfig;
use service_kit::client::ClientConfig;
use service_kit::config::{Problems, Validate};
use service_kit::secret::Secret;
use service_kit::server::GrpcConfig;
use service_kit::tls::{ClientTls, ServerTls};
use service_kit::units::{ByteSize, Duration};
use twin::PartitionCount;

/// Upper bound of `writes_in_flight`: beyond it one partition alone could fill twin-store's queue.
const WRITES_IN_FLIGHT_MAX: u16 = 256;

/// Configuration of the policy service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the gRPC API listens, `address:port`; port 0 lets the system choose. Default
    /// `127.0.0.1:8440`: policies change what devices do, so the door to the network is opened by
    /// hand.
    pub listen: SocketAddr,
    /// Where health and metrics are served over plain HTTP. Default `127.0.0.1:8441`.
    pub admin_listen: SocketAddr,
    /// PEM file with the certificate chain of the gRPC API. Unset: no TLS, which is allowed on
    /// loopback only (see `allow_insecure`).
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file with the key of the certificate. Needed if and only if there is a certificate.
    pub tls_key_file: Option<PathBuf>,
    /// Bearer token that callers of the gRPC API must send. Empty: none is asked for, which is
    /// allowed on loopback only.
    pub token: Secret,
    /// Who else may call, and which roles callers have.
    pub auth: AuthConfig,
    /// Serves other machines without TLS or token, because something else protects the way.
    /// Default false.
    pub allow_insecure: bool,
    /// Where twin-store serves gRPC, `http://host:port` or `https://host:port`. Default
    /// `http://127.0.0.1:8430`.
    pub twin_store_url: String,
    /// PEM file of the authority that signed twin-store's certificate. Needed for `https`.
    pub twin_store_ca_file: Option<PathBuf>,
    /// Bearer token that twin-store asks for. Empty: none is sent.
    pub twin_store_token: Secret,
    /// NATS servers, `nats://host:port`, separated by commas. Default `nats://127.0.0.1:4222`.
    pub nats_url: String,
    /// Token that the NATS server asks for. Empty: none.
    pub nats_token: Secret,
    /// NATS credentials file (`.creds`). Unset (default): none.
    pub nats_credentials_file: Option<PathBuf>,
    /// PEM file of the authority that signed the NATS server's certificate. Unset (default): the
    /// system's, if the address asks for TLS.
    pub nats_ca_file: Option<PathBuf>,
    /// Copies of each stream: 1 on a single server, 3 or 5 in a cluster. Default 1.
    pub stream_replicas: u8,
    /// Bound of the `REJECTS` stream on disk; the oldest go. Must be the same for every service of
    /// a hub. Default 256 MiB.
    pub rejects_stream_bytes: ByteSize,
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
            tls_cert_file: None,
            tls_key_file: None,
            token: Secret::default(),
            auth: AuthConfig::default(),
            allow_insecure: false,
            twin_store_url: "http://127.0.0.1:8430".to_owned(),
            twin_store_ca_file: None,
            twin_store_token: Secret::default(),
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            nats_token: Secret::default(),
            nats_credentials_file: None,
            nats_ca_file: None,
            stream_replicas: Replicas::ONE.get(),
            rejects_stream_bytes: ByteSize::mib(256),
            data_dir: PathBuf::from("data/policy"),
            partitions: PartitionCount::DEFAULT.get(),
            writes_in_flight: 16,
            drain_within: Duration::secs(10),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        problems.require(
            self.tls_cert_file.is_some() == self.tls_key_file.is_some(),
            "tls_key_file",
            "is needed together with tls_cert_file",
        );
        problems.spelled_out("", &self.grpc());
        problems.spelled_out("twin_store_", &self.twin_store());
        let named = !self.nats_servers().is_empty();
        problems.require(named, "nats_url", "must name a server, nats://host:port");
        let possible = Replicas::new(self.stream_replicas).is_some();
        problems.require(possible, "stream_replicas", "must be 1, 3 or 5");
        if let Err(error) = PartitionCount::new(self.partitions) {
            problems.add("partitions", error.to_string());
        }
        problems.require(
            (1..=WRITES_IN_FLIGHT_MAX).contains(&self.writes_in_flight),
            "writes_in_flight",
            format!("must be from 1 to {WRITES_IN_FLIGHT_MAX}"),
        );
        let bound = self.rejects_stream_bytes.get() > 0;
        problems.require(bound, "rejects_stream_bytes", "must be more than nothing");
        let patient = !self.drain_within.is_zero();
        problems.require(patient, "drain_within", "must be longer than nothing");
    }
}

impl Config {
    /// How the gRPC API is served.
    pub(crate) fn grpc(&self) -> GrpcConfig {
        let tls = match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(cert), Some(key)) => Some(ServerTls {
                cert_file: cert.clone(),
                key_file: key.clone(),
                client_ca_file: None,
            }),
            (_, None) | (None, _) => None,
        };
        GrpcConfig {
            tls,
            token: (!self.token.is_empty()).then(|| self.token.clone()),
            auth: self.auth.clone(),
            allow_insecure: self.allow_insecure,
            ..GrpcConfig::on(self.listen)
        }
    }

    /// How to reach twin-store.
    pub(crate) fn twin_store(&self) -> ClientConfig {
        let token = &self.twin_store_token;
        ClientConfig {
            tls: ClientTls {
                ca_file: self.twin_store_ca_file.clone(),
                domain: None,
            },
            token: (!token.is_empty()).then(|| token.clone()),
            ..ClientConfig::to(self.twin_store_url.clone())
        }
    }

    /// How to reach NATS.
    pub(crate) fn bus(&self) -> BusConfig {
        BusConfig {
            servers: self.nats_servers(),
            credentials: match &self.nats_credentials_file {
                Some(path) => Credentials::File(path.clone()),
                None if self.nats_token.is_empty() => Credentials::None,
                None => Credentials::Token(self.nats_token.expose().to_owned()),
            },
            tls: self.nats_ca_file.clone().map(|file| bus::config::Tls {
                ca_file: Some(file),
                client: None,
            }),
            replicas: Replicas::new(self.stream_replicas).unwrap_or(Replicas::ONE),
            ..BusConfig::local("", "twinward-policy")
        }
    }

    fn nats_servers(&self) -> Vec<String> {
        let names = self
            .nats_url
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let mut problems = Problems::default();
        Config::default().validate(&mut problems);
        assert_eq!(problems.found(), []);
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let config = Config {
            nats_url: " , ".to_owned(),
            stream_replicas: 2,
            partitions: 0,
            writes_in_flight: 0,
            ..Config::default()
        };
        let mut problems = Problems::default();
        config.validate(&mut problems);
        let keys: Vec<&str> = problems
            .found()
            .iter()
            .map(|found| found.key.as_str())
            .collect();
        assert_eq!(
            keys,
            [
                "nats_url",
                "stream_replicas",
                "partitions",
                "writes_in_flight"
            ]
        );
    }
}
