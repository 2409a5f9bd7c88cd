//! What twin-store can be told. Read by `service_kit::config`; nothing here touches the
//! environment, a file or a socket. All problems are reported at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bus::NatsSettings;
use serde::{Deserialize, Serialize};
use service_kit::auth::AuthConfig;
use service_kit::config::{Problems, SpelledOut, Validate};
use service_kit::secret::Secret;
use service_kit::server::ConnectionLimits;
use service_kit::tls::ListenerTls;
use service_kit::units::{ByteSize, Duration};
use twin::PartitionCount;

use crate::apply::Limits;
use crate::engine::Keep;
use crate::secrets::MasterKeys;
use crate::store::postgres::PostgresSettings;

mod replica;

pub use replica::ReplicaSettings;

/// Devices that a hub has at most unless it is told otherwise, and modules (spec iot-hub-twins §2.6).
const IDENTITIES_MAX: u64 = 1_000_000;

/// What keeps the twins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A SQLite file in `data_dir`: one process, one machine.
    #[default]
    Sqlite,
    /// The PostgreSQL database of `postgres_url`, for several replicas.
    Postgres,
}

/// Settings of one instance of twin-store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the gRPC API listens, `address:port`; port 0 lets the system choose. Default
    /// `127.0.0.1:8430`: it holds every key, so the door to the network is opened by hand.
    pub listen: SocketAddr,
    /// Where health and metrics are served over plain HTTP. Default `127.0.0.1:8431`.
    pub admin_listen: SocketAddr,
    /// The certificate it shows and those it wants to see: `tls_cert_file`, `tls_key_file`,
    /// `tls_client_ca_file`, `tls_client_auth`, `tls_reload_every`.
    pub tls: ListenerTls,
    /// Bearer token that callers of the gRPC API must send. Empty: none is asked for, which only
    /// loopback accepts.
    pub token: Secret,
    /// Who else may call, and which roles callers have.
    pub auth: AuthConfig,
    /// Serves other machines without TLS or token, because something else protects the way.
    /// Default false.
    pub allow_insecure: bool,
    /// How many may connect, and how soon they must prove themselves.
    pub connections: ConnectionLimits,
    /// NATS: `nats_url`, `nats_token`, `nats_credentials_file`, `nats_ca_file`, `nats_cert_file`,
    /// `nats_key_file`.
    pub nats: NatsSettings,
    /// Copies of each stream: 1 on a single server, 3 or 5 in a cluster. Default 1.
    pub stream_replicas: u8,
    /// Bound of each partition's `TELEMETRY` stream on disk. Over it agents wait. Must be the same
    /// for every service of a hub. Default 1 GiB.
    pub telemetry_stream_bytes: ByteSize,
    /// Bound of each partition's `TWINS` stream on disk; the oldest changes go. Default 256 MiB.
    pub twins_stream_bytes: ByteSize,
    /// Bound of the `REJECTS` stream on disk; the oldest go. Must be the same for every service of
    /// a hub. Default 256 MiB.
    pub rejects_stream_bytes: ByteSize,
    /// Bound of the `DEVICE_MESSAGES` stream on disk, the queues of messages for devices. When it is half
    /// full, one device may have a 256th of it waiting, and at least 128 KiB; when it is full, no message is
    /// taken. `twinward_twin_store_device_messages_refused_total` counts both. Default 256 MiB.
    pub device_messages_stream_bytes: ByteSize,
    /// What keeps the twins: `sqlite`, a file in `data_dir`, or `postgres`, a database that several
    /// replicas share. Default `sqlite`.
    pub store: StoreKind,
    /// The database: `postgres_url`, `postgres_ca_file`, `postgres_cert_file`, `postgres_key_file`,
    /// `postgres_connections`. Needed if and only if `store` is `postgres`.
    pub postgres: PostgresSettings,
    /// This replica among others that share the database: `replica_url`, `replica_ca_file`,
    /// `replica_cert_file`, `replica_key_file`, `replica_lease`.
    pub replica: ReplicaSettings,
    /// Folder of `twins.db`; made when absent. Default `data/twin-store`.
    pub data_dir: PathBuf,
    /// File of the key that seals stored secrets; made at the first start, mode 0600. Keep a copy
    /// apart from the data: without it no device can connect. Unset: `master.key` in `data_dir`.
    pub master_key_file: Option<PathBuf>,
    /// The key that seals stored secrets itself, base64 of 32 bytes, for whoever gives secrets in
    /// the environment (`TWINWARD_TWIN_STORE__MASTER_KEY`). Empty: it is in `master_key_file`.
    pub master_key: Secret,
    /// Files of former master keys, mode 0600. They open what was sealed before the key was
    /// changed and seal nothing; they can go when `ResealSecrets` has come to its end. Default
    /// none.
    pub previous_master_key_files: Vec<PathBuf>,
    /// Makes the module `DefenderIotMicroAgent` with every new device, asked or not. Default
    /// false: devices without an agent need none.
    pub security_module_on_create: bool,
    /// Devices of the hub, all replicas together; one more is refused (IoT Hub's 413002). With
    /// replicas it may be exceeded by what others made within the last second. Default 1000000.
    pub devices_max: u64,
    /// Modules of all devices together, as `devices_max`. Default 1000000.
    pub modules_max: u64,
    /// Enrolments of single devices that register themselves; one more is refused
    /// (`TOO_MANY_ENROLLMENTS`). Of groups there are 100 at most. Default 1000000, as in Azure's service.
    pub enrollments_max: u64,
    /// How long a connected device may take to answer for its configuration, from the change or from when
    /// it connected; then `posture.configuration.state` is `timedOut` until it answers. Devices that
    /// are away have as long as they are. Default 15m, as for the waves of rollouts.
    pub answer_within: Duration,
    /// How long a device that does not run on what it had applied is left alone before its settings are
    /// pushed again; the second time takes six times as long, the third six times that, and then it is a
    /// recommendation (`posture.recommendations`). `0s`: they are never pushed again. Default 5m.
    pub drift_push_after: Duration,
    /// How long nothing may be heard of a running ingestion, while the bus works, until the sessions that
    /// it held count as ended: it was killed, or its machine was. Devices that come back before stay
    /// connected. At least 10s, because one that is cut off for a moment looks alike. Default 30s.
    pub sessions_lost_after: Duration,
    /// How long revisions of a twin are kept. Default 30d.
    pub history_age: Duration,
    /// How many revisions of a twin are kept, beside routine ones that are not put together yet (those of
    /// the last one to two hours, see the next two). A lower number than before holds for a twin from its
    /// next change on; until then its revisions go by their age. Default 1000.
    pub history_count: u32,
    /// Every revision is kept by itself for this long, and a twin is told as it was at any moment of it.
    /// `0s`: what `history_coalesce` puts together is put together at once. Default 1h.
    pub history_every: Duration,
    /// Revisions in which nothing but counters, times and lists of recent activity moved, and which are
    /// older than `history_every`, are kept as one when they lie in one span of this length: a chatty
    /// device would drown the rest. `0s` keeps each for as long as `history_age` and `history_count` let
    /// it. Default 1h.
    pub history_coalesce: Duration,
    /// Changes of each partition that stay readable for watchers who resume, after they were
    /// published. Whoever is further behind has to begin anew. Default 4096.
    pub watch_log_changes: u64,
    /// Partitions of the hub, 1 to 256, fixed when the store is made. Default 16.
    pub partitions: u16,
    /// How long a stop may take. Default 10s.
    pub drain_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Config {
            listen: local(8430),
            admin_listen: local(8431),
            tls: ListenerTls::default(),
            token: Secret::default(),
            auth: AuthConfig::default(),
            allow_insecure: false,
            connections: ConnectionLimits::default(),
            nats: NatsSettings::default(),
            stream_replicas: 1,
            telemetry_stream_bytes: ByteSize::mib(1024),
            twins_stream_bytes: ByteSize::mib(256),
            rejects_stream_bytes: ByteSize::mib(256),
            device_messages_stream_bytes: ByteSize::mib(256),
            store: StoreKind::default(),
            postgres: PostgresSettings::default(),
            replica: ReplicaSettings::default(),
            data_dir: PathBuf::from("data/twin-store"),
            master_key_file: None,
            master_key: Secret::default(),
            previous_master_key_files: Vec::new(),
            security_module_on_create: false,
            devices_max: IDENTITIES_MAX,
            modules_max: IDENTITIES_MAX,
            enrollments_max: IDENTITIES_MAX,
            answer_within: Duration::secs(15 * 60),
            drift_push_after: Duration::secs(5 * 60),
            sessions_lost_after: Duration::secs(30),
            history_age: Duration::secs(30 * 24 * 3600),
            history_count: 1000,
            history_every: Duration::secs(3600),
            history_coalesce: Duration::secs(3600),
            watch_log_changes: 4096,
            partitions: PartitionCount::DEFAULT.get(),
            drain_within: Duration::secs(10),
        }
    }
}

/// Twice as long as ingestion may not hear itself before it says again which sessions it has.
const SESSIONS_LOST_AFTER_MIN: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a call may take: longer than the longest wait that can be asked for, and than any query
/// goes on. A caller who hangs up, or whose deadline is over, ends its call at once.
const CALL_TIMEOUT: Duration = Duration::secs(330);

impl Config {
    /// How the gRPC server listens.
    pub(crate) fn grpc(&self) -> service_kit::server::GrpcConfig {
        service_kit::server::GrpcConfig {
            tls: self.tls.server(),
            connections: self.connections.clone(),
            token: Some(self.token.clone()).filter(|token| !token.is_empty()),
            auth: self.auth.clone(),
            allow_insecure: self.allow_insecure,
            // Whoever waits for an operation, or has a million twins looked through, sets a deadline.
            call_timeout: CALL_TIMEOUT,
            ..service_kit::server::GrpcConfig::on(self.listen)
        }
    }
}

impl Config {
    /// Where master keys come from.
    pub(crate) fn master_keys(&self) -> MasterKeys {
        let in_folder = || self.data_dir.join("master.key");
        MasterKeys {
            present: self.master_key.clone(),
            file: self.master_key_file.clone().unwrap_or_else(in_folder),
            former_files: self.previous_master_key_files.clone(),
        }
    }

    /// What the writer keeps of what it wrote, and how much it takes in.
    pub(crate) fn keep(&self) -> Keep {
        Keep {
            coalesce_within: if self.history_every.is_zero() {
                self.history_coalesce.get()
            } else {
                std::time::Duration::ZERO
            },
            log_changes: self.watch_log_changes,
            limits: Limits {
                devices_max: self.devices_max,
                modules_max: self.modules_max,
            },
        }
    }
}

impl Config {
    fn validate_store(&self, problems: &mut Problems) {
        match self.store {
            StoreKind::Sqlite => problems.require(
                self.postgres.url.is_empty(),
                "postgres_url",
                "is of use only with store = \"postgres\"",
            ),
            StoreKind::Postgres => {
                problems.spelled_out(PostgresSettings::KEYS.prefix, &self.postgres);
                problems.spelled_out(ReplicaSettings::KEYS.prefix, &self.replica);
                problems.require(
                    !self.replica.url.is_empty() || !self.listen.ip().is_unspecified(),
                    "replica_url",
                    "is needed, because this replica listens on every address",
                );
                problems.require(
                    !self.master_key.is_empty() || self.master_key_file.is_some(),
                    "master_key_file",
                    "or master_key is needed: replicas must have the same one",
                );
            }
        }
    }
}

impl Validate for Config {
    const SPELLED_OUT: &'static [SpelledOut] = &[
        ListenerTls::KEYS,
        NatsSettings::KEYS,
        PostgresSettings::KEYS,
        ReplicaSettings::KEYS,
    ];

    fn validate(&self, problems: &mut Problems) {
        problems.spelled_out(ListenerTls::KEYS.prefix, &self.tls);
        problems.spelled_out(NatsSettings::KEYS.prefix, &self.nats);
        problems.spelled_out("", &self.grpc());
        self.validate_store(problems);
        problems.require(
            PartitionCount::new(self.partitions).is_ok(),
            "partitions",
            "must be 1 to 256",
        );
        problems.require(
            bus::Replicas::new(self.stream_replicas).is_some(),
            "stream_replicas",
            "must be 1, 3 or 5",
        );
        for (key, size) in [
            ("telemetry_stream_bytes", self.telemetry_stream_bytes),
            ("twins_stream_bytes", self.twins_stream_bytes),
            ("rejects_stream_bytes", self.rejects_stream_bytes),
            (
                "device_messages_stream_bytes",
                self.device_messages_stream_bytes,
            ),
        ] {
            problems.require(size.get() >= 1024 * 1024, key, "must be at least 1 MiB");
        }
        problems.require(
            self.master_key.is_empty() || self.master_key_file.is_none(),
            "master_key",
            "cannot be given together with master_key_file",
        );
        problems.require(
            self.sessions_lost_after.get() >= SESSIONS_LOST_AFTER_MIN,
            "sessions_lost_after",
            "must be at least 10s: one that is cut off for a moment looks alike",
        );
        problems.require(
            !self.answer_within.is_zero(),
            "answer_within",
            "must be above zero: devices need some time to answer",
        );
        problems.require(
            !self.history_age.is_zero(),
            "history_age",
            "must be above zero",
        );
        for (key, most) in [
            ("devices_max", self.devices_max),
            ("modules_max", self.modules_max),
            ("enrollments_max", self.enrollments_max),
        ] {
            problems.require(most > 0, key, "must be at least 1");
        }
        problems.require(
            self.history_count > 0,
            "history_count",
            "must be at least 1",
        );
        problems.require(
            !self.drain_within.is_zero(),
            "drain_within",
            "must be above zero",
        );
    }
}

#[cfg(test)]
mod tests {
    use service_kit::auth::Role;

    use super::*;

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
        ];
        let variables = settings.map(|(key, value)| (format!("TWINWARD_TWIN_STORE__{key}"), value));
        let config: Config = service_kit::config::Loader::new("twin-store")
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
    }

    #[test]
    fn whoever_may_call_must_be_able_to_prove_it() {
        let problems = |settings: &[(&str, &str)]| {
            let variables = settings
                .iter()
                .map(|(key, value)| (format!("TWINWARD_TWIN_STORE__{key}"), *value));
            let loaded = service_kit::config::Loader::new("twin-store")
                .environment(variables)
                .load::<Config>();
            loaded.map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(problems(&[]), Ok(()), "on loopback");
        let open = ("LISTEN", "0.0.0.0:8430");
        let tls = [("TLS_CERT_FILE", "c.pem"), ("TLS_KEY_FILE", "c.key")];
        let error = problems(&[open, tls[0], tls[1]]).expect_err("to everybody");
        assert!(
            error.contains("token: refusing to serve 0.0.0.0:8430"),
            "{error}"
        );
        let by_certificate = [open, tls[0], tls[1], ("TLS_CLIENT_CA_FILE", "ca.pem")];
        assert_eq!(problems(&by_certificate), Ok(()));
        assert_eq!(problems(&[open, ("ALLOW_INSECURE", "true")]), Ok(()));
        for (settings, wanted) in [
            (("AUTH__CERTIFICATES", "CN:a=admin"), "tls_client_ca_file"),
            (("AUTH__CERTIFICATES", "a=admin"), "begins with CN:"),
            (
                ("AUTH__OIDC_ISSUER", "https://id.example"),
                "auth.oidc_audience",
            ),
            (("AUTH__OIDC_ISSUER", "http://id.example"), "must be https"),
            (("AUTH__OIDC_JWKS_FILE", "keys.json"), "needs oidc_issuer"),
            (("AUTH__TOKEN_ROLES", "root"), "unknown variant `root`"),
            (("AUTH__PASSWORD", "x"), "unknown field"),
            (("NATS_HOST", "x"), "expected one of `nats_url`"),
        ] {
            let error = problems(&[settings]).expect_err(settings.0);
            assert!(error.contains(wanted), "{settings:?}: {error}");
        }
    }
}
