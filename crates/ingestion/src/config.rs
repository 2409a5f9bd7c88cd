//! What ingestion can be told. Read by `service_kit::config`; nothing here touches the environment,
//! a file or a socket. All problems are reported at once.

use std::net::SocketAddr;
use std::path::PathBuf;

use bus::NatsSettings;
use serde::{Deserialize, Serialize};
use service_kit::client::ServiceAddress;
use service_kit::config::{Problems, SpelledOut, Validate};
use service_kit::secret::Secret;
use service_kit::server::ConnectionLimits;
use service_kit::server::balancers::Balancers;
use service_kit::tls::{ListenerTls, ServerTls};
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
    /// The certificate it shows and those it wants to see: `tls_cert_file`, `tls_key_file`,
    /// `tls_client_ca_file`, `tls_client_auth`, `tls_reload_every`.
    pub tls: ListenerTls,
    /// Where devices connect by MQTT 3.1.1 as to IoT Hub, always over TLS, `address:port`. SDKs know
    /// port 8883 only. Unset (default): they cannot.
    pub mqtt_listen: Option<SocketAddr>,
    /// PEM file with the certificate chain that devices see. It must carry the name or the address
    /// in their connection strings. Unset (default): `tls_cert_file`.
    pub mqtt_cert_file: Option<PathBuf>,
    /// PEM file with the key of `mqtt_cert_file`. Needed if and only if that is set.
    pub mqtt_key_file: Option<PathBuf>,
    /// Token by which the gateway shows that it may bring devices, which come to it by MQTT over
    /// WebSocket; at least 16 characters. Empty (default): nobody may.
    pub token: Secret,
    /// PEM file with the authorities whose certificates prove devices and modules that are registered
    /// with the authentication `certificateAuthority`; at most 25. A changed file is taken over by itself
    /// (`tls_reload_every`), and who was let in by an authority that is gone is sent away. Whoever has a key of
    /// theirs can be any such device, so they should sign nothing else. Unset (default): none, and
    /// such devices are refused.
    pub device_ca_file: Option<PathBuf>,
    /// The hub's shared access policies with their keys (TOML), the same file as the gateway's, which makes
    /// it; here it is only read, and of it the policies with the right `DeviceConnect`. Their tokens then
    /// open both doors for the identities that their resource covers, however those prove themselves else,
    /// by certificates above all. While the file is absent such tokens are refused. A changed file is taken
    /// over by itself (`tls_reload_every`), and who was let in by a key or a policy that is gone is sent
    /// away. Unset (default): such tokens are refused.
    pub access_policies_file: Option<PathBuf>,
    /// Serves other machines even without TLS, because something else protects the way. Default
    /// false.
    pub allow_insecure: bool,
    /// How many may connect, and how soon they must prove themselves. Default 16384 unproven ones,
    /// of one address as well: a whole fleet may come back at the same time, through one balancer, and
    /// proves itself as fast as twin-store answers. Devices by MQTT have a limit of their own for that,
    /// `limits.address_unproven_max`.
    pub connections: ConnectionLimits,
    /// Load balancers that pass devices on to `mqtt_listen` with the PROXY protocol, version 2:
    /// addresses and networks, separated by commas (`10.0.0.5,10.1.0.0/16`). Their connections must
    /// begin with its header, and limits and logs are about the address that it names. Without it all
    /// devices behind a balancer that hides them are one address, and share its limits. Default: none.
    pub mqtt_proxy_protocol_from: Balancers,
    /// The hub's host name: it stands in connection strings and in the resource of every SAS
    /// token, so changing it invalidates both. Without scheme and port. Default `localhost`.
    pub public_host: String,
    /// NATS: `nats_url`, `nats_token`, `nats_credentials_file`, `nats_ca_file`, `nats_cert_file`,
    /// `nats_key_file`.
    pub nats: NatsSettings,
    /// Copies of each stream: 1 on a single server, 3 or 5 in a cluster. Default 1.
    pub stream_replicas: u8,
    /// Bound of each partition's `TELEMETRY` stream on disk. Over it batches wait. Must be the
    /// same for every service of a hub. Default 1 GiB.
    pub telemetry_stream_bytes: ByteSize,
    /// Bound of the `REJECTS` stream on disk; the oldest go. Default 256 MiB.
    pub rejects_stream_bytes: ByteSize,
    /// Bound of the `APPLICATION` stream on disk, which keeps what devices send by MQTT for a day;
    /// the oldest go. Default 1 GiB.
    pub application_stream_bytes: ByteSize,
    /// Bound of the `MQTT_SESSIONS` stream on disk; those of the devices go that subscribed longest
    /// ago. Default 64 MiB: some 200,000 devices.
    pub mqtt_sessions_stream_bytes: ByteSize,
    /// twin-store: `twin_store_url`, `twin_store_ca_file`, `twin_store_cert_file`,
    /// `twin_store_key_file`, `twin_store_token`.
    pub twin_store: ServiceAddress,
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
    /// Sessions of this instance. Over it new ones are refused with `RESOURCE_EXHAUSTED`.
    /// Default 50000: about 2 GB with TLS.
    pub sessions_max: u32,
    /// Failed authentications per minute and peer address before further failures must wait, and are
    /// looked at a few at a time with those of other such addresses; what is proven is let in.
    /// Default 60: a site behind one address may hold a few agents with wrong keys.
    pub auth_failures_per_minute: u32,
    /// Failed authentications per minute of one identity from one address before further failures
    /// there must wait, and count for the address no more; what is proven is let in. Default 10: fewer
    /// than of an address, so that a device with a wrong key costs the others behind it nothing.
    pub identity_failures_per_minute: u32,
    /// Sessions by MQTT that one identity may begin per minute before it must wait. Default 60: each
    /// ends the one before, and two devices with one key do nothing else.
    pub identity_connects_per_minute: u32,
    /// Connections to the MQTT listener per minute and address that are not let in before further ones
    /// are closed at once; those that get their CONNACK do not count. Default 12000: each costs the half
    /// of a millisecond, and a large site may come back at the same time.
    pub address_connects_per_minute: u32,
    /// Connections to the MQTT listener that one address may have without a CONNACK. Default 2048:
    /// an eighth of all, so that one address leaves room for others.
    pub address_unproven_max: u32,
    /// Packets per second of one MQTT connection that are read; who sends more is read later.
    /// Default 1000: as fast as messages of one device become durable.
    pub device_packets_per_second: u32,
    /// Bytes per second of one MQTT connection that are read, with a second's worth at once; who
    /// sends more is read later. Default 1 MiB: far more than devices send, and 17 minutes until one
    /// alone has filled `APPLICATION`.
    pub device_bytes_per_second: ByteSize,
    /// Failed enrolments per minute and peer address before the peer must wait. Default 30.
    pub enroll_failures_per_minute: u32,
    /// Rejected events per minute and session that are kept in `REJECTS`; the rest is counted
    /// only. Default 60: enough to see what is wrong, too little to fill a disk with.
    pub rejects_per_minute: u32,
    /// Bytes in a partition's stream above which that partition's agents are not read any more,
    /// until it is down to half. Default 64 MiB: what twin-store has folded and not yet trimmed
    /// counts too, and may reach that (127 messages of 512 KiB).
    pub backlog_bytes_max: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8420)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8421)),
            tls: ListenerTls::default(),
            mqtt_listen: None,
            mqtt_cert_file: None,
            mqtt_key_file: None,
            device_ca_file: None,
            access_policies_file: None,
            token: Secret::default(),
            allow_insecure: false,
            connections: ConnectionLimits {
                unproven_max: 16_384,
                address_unproven_max: 16_384,
                ..ConnectionLimits::default()
            },
            mqtt_proxy_protocol_from: Balancers::default(),
            public_host: "localhost".to_owned(),
            nats: NatsSettings::default(),
            stream_replicas: 1,
            telemetry_stream_bytes: ByteSize::mib(1024),
            rejects_stream_bytes: ByteSize::mib(256),
            application_stream_bytes: ByteSize::mib(1024),
            mqtt_sessions_stream_bytes: ByteSize::mib(64),
            twin_store: ServiceAddress::default(),
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
            identity_failures_per_minute: 10,
            identity_connects_per_minute: 60,
            address_connects_per_minute: 12_000,
            address_unproven_max: 2048,
            device_packets_per_second: 1000,
            device_bytes_per_second: ByteSize::mib(1),
            enroll_failures_per_minute: 30,
            rejects_per_minute: 60,
            backlog_bytes_max: ByteSize::mib(64),
        }
    }
}

/// Shortest token: as everywhere in a hub.
const TOKEN_CHARACTERS_MIN: usize = 16;

/// Largest batch that may be configured: what a packed bus message holds, less the frame of its
/// entry and the rejected sequences that travel with it.
const BATCH_BYTES_CEILING: ByteSize = ByteSize::kib(384);

/// Most events that may be configured for a batch: an acknowledgement that names all of them as
/// rejected must stay below the message limit of gRPC clients.
const BATCH_EVENTS_CEILING: u32 = 5000;

impl Config {
    /// The certificate that devices see, if they are to be served.
    pub(crate) fn mqtt_tls(&self) -> Option<ServerTls> {
        let own = self
            .mqtt_cert_file
            .as_ref()
            .zip(self.mqtt_key_file.as_ref());
        let common = || self.tls.cert_file.as_ref().zip(self.tls.key_file.as_ref());
        let (cert, key) = own.or_else(common)?;
        Some(ServerTls {
            reload_every: self.tls.reload_every,
            ..ServerTls::new(cert, key)
        })
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
        problems.spelled_out(ServiceAddress::KEYS_OF_TWIN_STORE.prefix, &self.twin_store);
        problems.nested("connections", &self.connections);
        let host = !self.public_host.is_empty() && !self.public_host.contains(['/', ':', ';']);
        problems.require(
            host,
            "public_host",
            "must be a host name without scheme and port",
        );
        problems.require(
            self.mqtt_cert_file.is_some() == self.mqtt_key_file.is_some(),
            "mqtt_key_file",
            "is needed together with mqtt_cert_file",
        );
        problems.require(
            self.mqtt_listen.is_none() || self.mqtt_tls().is_some(),
            "mqtt_listen",
            "needs a certificate: set mqtt_cert_file and mqtt_key_file",
        );
        problems.require(
            self.token.is_empty() || self.token.expose().len() >= TOKEN_CHARACTERS_MIN,
            "token",
            "must have at least 16 characters",
        );
        let replicas = bus::Replicas::new(self.stream_replicas).is_some();
        problems.require(replicas, "stream_replicas", "must be 1, 3 or 5");
        if let Err(error) = PartitionCount::new(self.partitions) {
            problems.add("partitions", error.to_string());
        }
        problems.require(!self.instance.is_empty(), "instance", "must not be empty");
        let drain = !self.drain_within.is_zero();
        problems.require(drain, "drain_within", "must be longer than nothing");
        problems.nested("limits", &self.limits);
    }
}

impl Validate for Limits {
    fn validate(&self, problems: &mut Problems) {
        let batch = self.batch_bytes_max.get() > 0 && self.batch_bytes_max <= BATCH_BYTES_CEILING;
        problems.require(
            batch,
            "batch_bytes_max",
            format!("must be from 1B to {BATCH_BYTES_CEILING}, to fit a packed bus message"),
        );
        let event = self.event_bytes_max.get() > 0 && self.event_bytes_max <= self.batch_bytes_max;
        problems.require(
            event,
            "event_bytes_max",
            "must be from 1B to batch_bytes_max",
        );
        problems.require(
            (1..=BATCH_EVENTS_CEILING).contains(&self.batch_events_max),
            "batch_events_max",
            format!("must be from 1 to {BATCH_EVENTS_CEILING}"),
        );
        for (key, value) in [
            ("session_batches_max", u64::from(self.session_batches_max)),
            ("sessions_max", u64::from(self.sessions_max)),
            (
                "auth_failures_per_minute",
                u64::from(self.auth_failures_per_minute),
            ),
            (
                "enroll_failures_per_minute",
                u64::from(self.enroll_failures_per_minute),
            ),
            (
                "identity_failures_per_minute",
                u64::from(self.identity_failures_per_minute),
            ),
            (
                "identity_connects_per_minute",
                u64::from(self.identity_connects_per_minute),
            ),
            (
                "address_connects_per_minute",
                u64::from(self.address_connects_per_minute),
            ),
            ("address_unproven_max", u64::from(self.address_unproven_max)),
            (
                "device_packets_per_second",
                u64::from(self.device_packets_per_second),
            ),
            (
                "device_bytes_per_second",
                self.device_bytes_per_second.get(),
            ),
            ("waiting_bytes_max", self.waiting_bytes_max.get()),
            ("backlog_bytes_max", self.backlog_bytes_max.get()),
        ] {
            problems.require(value > 0, key, "must be at least 1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(config: &Config) -> Vec<String> {
        let mut problems = Problems::default();
        config.validate(&mut problems);
        problems.found().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_are_usable() {
        assert_eq!(problems(&Config::default()), [""; 0]);
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let config = Config {
            tls: ListenerTls {
                cert_file: Some("cert.pem".into()),
                ..ListenerTls::default()
            },
            public_host: "https://hub".to_owned(),
            nats: NatsSettings::at(" , "),
            stream_replicas: 2,
            partitions: 0,
            limits: Limits {
                batch_bytes_max: ByteSize::mib(1),
                ..Limits::default()
            },
            ..Config::default()
        };
        let found = problems(&config).join("\n");
        for key in [
            "tls_key_file",
            "public_host",
            "nats_url",
            "stream_replicas",
            "partitions",
            "384KiB",
        ] {
            assert!(found.contains(key), "{key} is missing in\n{found}");
        }
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
            ("TWIN_STORE_URL", "https://store:8430"),
            ("TWIN_STORE_CA_FILE", "s.pem"),
            ("TWIN_STORE_CERT_FILE", "p.pem"),
            ("TWIN_STORE_KEY_FILE", "p.key"),
            ("TWIN_STORE_TOKEN", "0123456789abcdef"),
        ];
        let variables = settings.map(|(key, value)| (format!("TWINWARD_INGESTION__{key}"), value));
        let config: Config = service_kit::config::Loader::new("ingestion")
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
        let store = config.twin_store.client();
        assert_eq!(store.url, "https://store:8430");
        assert_eq!(store.tls.cert_file, Some("p.pem".into()));
        assert!(store.token.is_some());
    }
}
