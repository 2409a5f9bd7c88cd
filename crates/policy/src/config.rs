//! What the policy service can be told. Read by `service_kit::config`; nothing here touches the
//! environment, a file or a socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bus::{BusConfig, NatsSettings, Replicas};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use service_kit::auth::AuthConfig;
use service_kit::client::ServiceAddress;
use service_kit::config::{Problems, SpelledOut, Validate};
use service_kit::secret::Secret;
use service_kit::server::{ConnectionLimits, GrpcConfig};
use service_kit::tls::ListenerTls;
use service_kit::units::{ByteSize, Duration};
use twin::PartitionCount;

use crate::guard::Limit;
use crate::rollout::Guard;

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
    /// The certificate it shows and those it wants to see: `tls_cert_file`, `tls_key_file`,
    /// `tls_client_ca_file`, `tls_client_auth`, `tls_reload_every`.
    pub tls: ListenerTls,
    /// Bearer token that callers of the gRPC API must send. Empty: none is asked for, which is
    /// allowed on loopback only.
    pub token: Secret,
    /// Who else may call, and which roles callers have.
    pub auth: AuthConfig,
    /// Serves other machines without TLS or token, because something else protects the way.
    /// Default false.
    pub allow_insecure: bool,
    /// How many may connect, and how soon they must prove themselves.
    pub connections: ConnectionLimits,
    /// twin-store: `twin_store_url`, `twin_store_ca_file`, `twin_store_cert_file`,
    /// `twin_store_key_file`, `twin_store_token`.
    pub twin_store: ServiceAddress,
    /// NATS: `nats_url`, `nats_token`, `nats_credentials_file`, `nats_ca_file`, `nats_cert_file`,
    /// `nats_key_file`.
    pub nats: NatsSettings,
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
    /// Twins that the counts of `PolicyStatus` may keep in memory, some 300 bytes each (reckoned, not
    /// measured); with more of them under policies there are no counts, and everything else goes on.
    /// Default 1000000.
    pub counted_twins_max: u32,
    /// A leaf of a twin that policies write again and again as it was before, more often than this
    /// within `guard_window`, is frozen: they leave it alone until it is thawed. 0: never. Default 10:
    /// people who try things do not come to it, and writers that undo each other do within a second.
    pub guard_returns_max: u16,
    /// See `guard_returns_max`. Default 10m.
    pub guard_window: Duration,
    /// How many twins a change may touch at once without anybody having said how it is to spread:
    /// `twins_max`, `percent_max`, `twins_free`.
    pub mass_change: Guard,
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
            tls: ListenerTls::default(),
            token: Secret::default(),
            auth: AuthConfig::default(),
            allow_insecure: false,
            connections: ConnectionLimits::default(),
            twin_store: ServiceAddress::default(),
            nats: NatsSettings::default(),
            stream_replicas: Replicas::ONE.get(),
            rejects_stream_bytes: ByteSize::mib(256),
            data_dir: PathBuf::from("data/policy"),
            partitions: PartitionCount::DEFAULT.get(),
            writes_in_flight: 16,
            counted_twins_max: 1_000_000,
            guard_returns_max: 10,
            guard_window: Duration::secs(10 * 60),
            mass_change: Guard::default(),
            drain_within: Duration::secs(10),
        }
    }
}

impl Validate for Config {
    const SPELLED_OUT: &'static [SpelledOut] = &[
        ListenerTls::KEYS,
        NatsSettings::KEYS,
        ServiceAddress::KEYS_OF_TWIN_STORE,
    ];

    fn validate(&self, problems: &mut Problems) {
        problems.spelled_out(ListenerTls::KEYS.prefix, &self.tls);
        problems.spelled_out(NatsSettings::KEYS.prefix, &self.nats);
        problems.spelled_out("", &self.grpc());
        problems.spelled_out(ServiceAddress::KEYS_OF_TWIN_STORE.prefix, &self.twin_store);
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
        problems.nested("mass_change", &self.mass_change);
        let bound = self.rejects_stream_bytes.get() > 0;
        problems.require(bound, "rejects_stream_bytes", "must be more than nothing");
        let window = !self.guard_window.is_zero();
        problems.require(window, "guard_window", "must be longer than nothing");
        let patient = !self.drain_within.is_zero();
        problems.require(patient, "drain_within", "must be longer than nothing");
    }
}

impl Config {
    /// How the gRPC API is served.
    pub(crate) fn grpc(&self) -> GrpcConfig {
        GrpcConfig {
            tls: self.tls.server(),
            connections: self.connections.clone(),
            token: (!self.token.is_empty()).then(|| self.token.clone()),
            auth: self.auth.clone(),
            allow_insecure: self.allow_insecure,
            ..GrpcConfig::on(self.listen)
        }
    }

    /// When a leaf goes back and forth too often.
    pub(crate) fn guard(&self) -> Limit {
        Limit {
            returns: self.guard_returns_max,
            window: SignedDuration::try_from(self.guard_window.get())
                .unwrap_or(SignedDuration::MAX),
        }
    }

    /// How to reach NATS.
    pub(crate) fn bus(&self) -> BusConfig {
        BusConfig {
            replicas: Replicas::new(self.stream_replicas).unwrap_or(Replicas::ONE),
            ..self.nats.bus("twinward-policy")
        }
    }
}

#[cfg(test)]
mod tests {
    use service_kit::auth::Role;

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
            nats: NatsSettings::at(" , "),
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

    #[test]
    fn every_setting_has_its_name_in_the_environment() {
        let settings = [
            ("TLS_CERT_FILE", "c.pem"),
            ("TLS_KEY_FILE", "c.key"),
            ("TLS_CLIENT_CA_FILE", "ca.pem"),
            ("TLS_CLIENT_AUTH", "optional"),
            ("NATS_URL", "tls://nats:4222"),
            ("NATS_TOKEN", "12345678"),
            ("NATS_CREDENTIALS_FILE", "n.creds"),
            ("NATS_CA_FILE", "n.pem"),
            ("CONNECTIONS__MAX", "100"),
            ("TOKEN", "0123456789abcdef"),
            ("AUTH__TOKEN_ROLES", "reader,operator"),
            (
                "AUTH__CERTIFICATES",
                "CN:policy=service,DNS:alice=admin+reader",
            ),
            ("AUTH__OIDC_ISSUER", "https://id.example"),
            ("AUTH__OIDC_AUDIENCE", "twinward"),
            ("AUTH__OIDC_ROLES", "ops=operator"),
            ("TWIN_STORE_URL", "https://store:8430"),
            ("TWIN_STORE_CA_FILE", "s.pem"),
            ("TWIN_STORE_CERT_FILE", "p.pem"),
            ("TWIN_STORE_KEY_FILE", "p.key"),
            ("TWIN_STORE_TOKEN", "0123456789abcdef"),
        ];
        let variables = settings.map(|(key, value)| (format!("TWINWARD_POLICY__{key}"), value));
        let config: Config = service_kit::config::Loader::new("policy")
            .environment(variables)
            .load()
            .expect("these are good settings");
        assert_eq!(config.tls.cert_file, Some("c.pem".into()));
        let tls = config.tls.server().expect("TLS");
        assert_eq!(tls.client_ca_file, Some("ca.pem".into()));
        let nats = config.nats.bus("x");
        assert_eq!(nats.servers, ["tls://nats:4222"]);
        assert!(matches!(nats.credentials, bus::Credentials::File(_)));
        assert_eq!(config.nats.token.expose(), "12345678");
        assert_eq!(config.connections.max, 100);
        let auth = config.grpc().auth;
        assert_eq!(auth.token_roles, [Role::Reader, Role::Operator]);
        assert_eq!(auth.certificates.len(), 2);
        assert_eq!(auth.oidc_issuer.as_deref(), Some("https://id.example"));
        assert_eq!(auth.oidc_audience, ["twinward"]);
        let store = config.twin_store.client();
        assert_eq!(store.url, "https://store:8430");
        assert_eq!(store.tls.cert_file, Some("p.pem".into()));
        assert!(store.token.is_some());
    }
}
