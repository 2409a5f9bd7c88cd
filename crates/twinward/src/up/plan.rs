//! What the services of `up` are told, so that they find each other: options, the data directory and
//! the bus, put together. Reads configuration; binds and starts nothing.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use service_kit::config::Loader;
use service_kit::secret::Secret;

use super::data_dir::DataDir;
use super::{Bus, UpArgs, devices};
use crate::args::Global;
use crate::failure::Failure;
use crate::service::{self, Addresses, Service};

/// Everything the services must be told to find each other.
pub(super) struct Plan {
    config: Option<PathBuf>,
    pub(super) data_dir: PathBuf,
    pub(super) data_dir_option: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) token: Secret,
    pub(super) nats_url: String,
    pub(super) nats_token: Option<Secret>,
    pub(super) nats_about: String,
    host: Option<String>,
    pub(super) drain_within: Duration,
    ingestion: Listen,
    mqtt: SocketAddr,
    https: SocketAddr,
    gateway_admin: Option<SocketAddr>,
    twin_store: Listen,
    policy: Listen,
}

/// Ingestion's configuration, and an authority of ours.
pub(super) type Ingestion = (ingestion::Config, Option<PathBuf>);

/// Where a service shall listen; none leaves it to its configuration.
#[derive(Clone, Copy)]
struct Listen {
    grpc: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Plan {
    /// Puts together what options, data directory and bus say.
    pub(super) fn new(
        args: &UpArgs,
        global: &Global,
        data_dir: &DataDir,
        bus: &Bus,
    ) -> Result<Self, Failure> {
        let any = args
            .any_port
            .then_some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listen = |grpc: Option<SocketAddr>, admin: Option<SocketAddr>| Listen {
            grpc: grpc.or(any),
            admin: admin.or(any),
        };
        Ok(Self {
            config: args.config.clone(),
            data_dir: data_dir.path().to_owned(),
            data_dir_option: global.data_dir.clone(),
            ca_file: global.ca_file.clone(),
            token: data_dir.secret("admin.token")?,
            nats_url: bus.url(),
            nats_token: bus.token().cloned(),
            nats_about: bus.describe(),
            host: args.host.clone(),
            drain_within: args.drain_within.get(),
            mqtt: devices::listen(args.mqtt_listen, args.any_port),
            https: devices::listen_https(args.gateway_listen, args.any_port),
            gateway_admin: args.gateway_admin_listen.or(any),
            ingestion: listen(args.ingestion_listen, args.ingestion_admin_listen),
            twin_store: listen(args.twin_store_listen, args.twin_store_admin_listen),
            policy: listen(args.policy_listen, args.policy_admin_listen),
        })
    }

    /// What every service is told: its own table of the file, and the bus.
    fn loader<S: Service>(&self) -> Loader {
        let mut loader = self.plain_loader::<S>().set("nats_url", &self.nats_url);
        if let Some(token) = &self.nats_token {
            loader = loader.set("nats_token", token.expose());
        }
        loader
    }

    /// The same for one that does not know the bus.
    fn plain_loader<S: Service>(&self) -> Loader {
        Loader::new(S::NAME)
            .file(self.config.as_ref())
            .section(S::NAME)
    }

    fn ca(&self) -> Option<String> {
        self.ca_file
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
    }

    pub(super) fn twin_store(&self) -> Result<twin_store::Config, Failure> {
        let mut loader = self
            .loader::<twin_store::App>()
            .set(
                "data_dir",
                self.data_dir.join("twin-store").to_string_lossy(),
            )
            .set("token", self.token.expose());
        loader = set(loader, "listen", self.twin_store.grpc);
        loader = set(loader, "admin_listen", self.twin_store.admin);
        load::<twin_store::App>(&loader)
    }

    /// Where the hub's shared access policies are, for both doors that they open.
    fn access_policies(&self) -> PathBuf {
        self.data_dir.join("gateway").join("access-policies.toml")
    }

    /// Also answers the authority that devices must believe, if it is ours.
    pub(super) fn ingestion(&self, twin_store: &Door) -> Result<Ingestion, Failure> {
        let mut loader = self
            .loader::<ingestion::App>()
            .set("twin_store_url", twin_store.url())
            .set("twin_store_token", self.token.expose())
            .set("token", self.token.expose())
            .set(
                "access_policies_file",
                self.access_policies().to_string_lossy(),
            );
        // When twin-store has a certificate, who must be believed is what the operator named.
        loader = set(loader, "twin_store_ca_file", self.ca());
        loader = set(loader, "listen", self.ingestion.grpc);
        loader = set(loader, "admin_listen", self.ingestion.admin);
        loader = set(loader, "public_host", self.host.as_ref());
        let config = load::<ingestion::App>(&loader)?;
        let listen = config.mqtt_listen.unwrap_or(self.mqtt);
        loader = loader.set("mqtt_listen", listen.to_string());
        if config.mqtt_cert_file.is_some() || config.tls.cert_file.is_some() {
            return Ok((load::<ingestion::App>(&loader)?, None));
        }
        let own =
            devices::certificates(&self.data_dir, &config.public_host, &[listen, self.https])?;
        let loader = loader
            .set("mqtt_cert_file", own.cert.to_string_lossy())
            .set("mqtt_key_file", own.key.to_string_lossy());
        Ok((load::<ingestion::App>(&loader)?, Some(own.ca)))
    }

    /// The gateway shows the certificate that devices see, unless it has one of its own.
    pub(super) fn gateway(
        &self,
        (twin_store, policy, ingestion): (&Door, &Door, &Door),
        shown: &ingestion::Config,
    ) -> Result<gateway::Config, Failure> {
        let policies = self.access_policies();
        let mut loader = self
            .plain_loader::<gateway::App>()
            .set("twin_store_url", twin_store.url())
            .set("twin_store_token", self.token.expose())
            .set("policy_url", policy.url())
            .set("policy_token", self.token.expose())
            .set("ingestion_url", ingestion.url())
            .set("ingestion_token", self.token.expose())
            .set("access_policies_file", policies.to_string_lossy())
            .set("public_host", shown.public_host.clone());
        loader = set(loader, "twin_store_ca_file", self.ca());
        loader = set(loader, "policy_ca_file", self.ca());
        loader = set(loader, "ingestion_ca_file", self.ca());
        loader = set(loader, "admin_listen", self.gateway_admin);
        let config = load::<gateway::App>(&loader)?;
        if config.listen == gateway::Config::default().listen {
            loader = loader.set("listen", self.https.to_string());
        }
        let pair = match (&shown.mqtt_cert_file, &shown.mqtt_key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            _ => shown
                .tls
                .cert_file
                .as_ref()
                .zip(shown.tls.key_file.as_ref()),
        };
        if let (None, Some((cert, key))) = (&config.tls.cert_file, pair) {
            loader = loader
                .set("tls_cert_file", cert.to_string_lossy())
                .set("tls_key_file", key.to_string_lossy());
        }
        load::<gateway::App>(&loader)
    }

    pub(super) fn policy(&self, twin_store: &Door) -> Result<policy::Config, Failure> {
        let mut loader = self
            .loader::<policy::App>()
            .set("data_dir", self.data_dir.join("policy").to_string_lossy())
            .set("twin_store_url", twin_store.url())
            .set("twin_store_token", self.token.expose())
            .set("token", self.token.expose());
        loader = set(loader, "twin_store_ca_file", self.ca());
        loader = set(loader, "listen", self.policy.grpc);
        loader = set(loader, "admin_listen", self.policy.admin);
        load::<policy::App>(&loader)
    }
}

fn set<T: ToString>(loader: Loader, key: &str, value: Option<T>) -> Loader {
    match value {
        Some(value) => loader.set(key, value.to_string()),
        None => loader,
    }
}

fn load<S: Service>(loader: &Loader) -> Result<S::Config, Failure> {
    loader
        .load()
        .map_err(|error| service::unusable(S::NAME, &error))
}

/// A service's listeners as others reach them.
pub(super) struct Door {
    pub(super) addresses: Addresses,
    pub(super) tls: bool,
}

impl Door {
    /// The address of its gRPC API.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.addresses.grpc))
    }

    /// The port of what it serves.
    pub(super) fn port(&self) -> u16 {
        self.addresses.grpc.port()
    }

    /// The address of its health and metrics.
    pub(super) fn metrics_url(&self) -> String {
        format!("http://{}", reachable(self.addresses.admin))
    }
}

/// A listener on all addresses is reached from here by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match (address.ip().is_unspecified(), address.is_ipv4()) {
        (true, true) => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        (true, false) => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
        (false, _) => address,
    }
}
