//! What the gateway can be told. Read by `service_kit::config`; nothing here touches the
//! environment, a file or a socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service_kit::client::ServiceAddress;
use service_kit::config::{Problems, SpelledOut, Validate};
use service_kit::server::ConnectionLimits;
use service_kit::server::balancers::Balancers;
use service_kit::server::web::WebConfig;
use service_kit::tls::ListenerTls;
use service_kit::units::Duration;

use crate::rates::Rates;

/// Configuration of the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the REST API listens, `address:port`; port 0 lets the system choose. Default
    /// `127.0.0.1:8450`; IoT Hub's SDKs expect 443.
    pub listen: SocketAddr,
    /// The hub's name in connection strings, which devices that register themselves are told.
    /// Default `localhost`.
    pub public_host: String,
    /// Where health and metrics are served over plain HTTP. Default `127.0.0.1:8451`.
    pub admin_listen: SocketAddr,
    /// The certificate it shows: `tls_cert_file`, `tls_key_file`, `tls_reload_every`. The SDKs speak
    /// HTTPS only.
    pub tls: ListenerTls,
    /// Serves other machines without TLS, because something else protects the way. Default false.
    pub allow_insecure: bool,
    /// How many may connect, and how soon they must prove themselves.
    pub connections: ConnectionLimits,
    /// Load balancers that pass connections on with the PROXY protocol, version 2: addresses and
    /// networks, separated by commas (`10.0.0.5,10.1.0.0/16`). Their connections must begin with its
    /// header, and limits and logs are about the address that it names. Without it all that come
    /// through a balancer which hides them are one address, and share its limits. Default: none.
    pub proxy_protocol_from: Balancers,
    /// twin-store: `twin_store_url`, `twin_store_ca_file`, `twin_store_cert_file`,
    /// `twin_store_key_file`, `twin_store_token`.
    pub twin_store: ServiceAddress,
    /// The policy service, which keeps configurations: `policy_url`, `policy_ca_file`,
    /// `policy_cert_file`, `policy_key_file`, `policy_token`.
    pub policy: ServiceAddress,
    /// ingestion, for devices that come by MQTT over WebSocket (`/$iothub/websocket`):
    /// `ingestion_url`, `ingestion_ca_file`, `ingestion_cert_file`, `ingestion_key_file`,
    /// `ingestion_token`, which is ingestion's `token`. Without a URL (default) they are answered
    /// 404.
    pub ingestion: ServiceAddress,
    /// The shared access policies with their keys (TOML); made with fresh keys when absent. Every
    /// replica needs the same. A changed file is taken over by itself (`tls_reload_every`). Default
    /// `data/gateway/access-policies.toml`.
    pub access_policies_file: PathBuf,
    /// How often each caller may call.
    pub rates: Rates,
    /// How long a stop may take before what is left is dropped. Default 10s.
    pub drain_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Config {
            listen: local(8450),
            public_host: "localhost".to_owned(),
            admin_listen: local(8451),
            tls: ListenerTls::default(),
            allow_insecure: false,
            connections: ConnectionLimits::default(),
            proxy_protocol_from: Balancers::default(),
            twin_store: ServiceAddress::default(),
            policy: ServiceAddress::at(ServiceAddress::POLICY_URL),
            ingestion: ServiceAddress::at(""),
            access_policies_file: PathBuf::from("data/gateway/access-policies.toml"),
            rates: Rates::default(),
            drain_within: Duration::secs(10),
        }
    }
}

impl Validate for Config {
    const SPELLED_OUT: &'static [SpelledOut] = &[
        ListenerTls::KEYS,
        ServiceAddress::KEYS_OF_TWIN_STORE,
        ServiceAddress::KEYS_OF_POLICY,
        ServiceAddress::KEYS_OF_INGESTION,
    ];

    fn validate(&self, problems: &mut Problems) {
        problems.spelled_out(ListenerTls::KEYS.prefix, &self.tls);
        problems.spelled_out("", &self.web());
        problems.spelled_out(ServiceAddress::KEYS_OF_TWIN_STORE.prefix, &self.twin_store);
        problems.spelled_out(ServiceAddress::KEYS_OF_POLICY.prefix, &self.policy);
        if let Some(ingestion) = self.ingestion() {
            problems.spelled_out(ServiceAddress::KEYS_OF_INGESTION.prefix, ingestion);
        }
        let none = self.tls.client_ca_file.is_none();
        let why = "is not used here: callers prove themselves by SAS or bearer tokens";
        problems.require(none, "tls_client_ca_file", why);
        let host = !self.public_host.is_empty() && !self.public_host.contains(['/', ':', ';']);
        let why = "must be a host name without scheme and port";
        problems.require(host, "public_host", why);
        problems.nested("rates", &self.rates);
        let patient = !self.drain_within.is_zero();
        problems.require(patient, "drain_within", "must be longer than nothing");
    }
}

impl Config {
    /// Where devices are carried to, if they are.
    pub(crate) fn ingestion(&self) -> Option<&ServiceAddress> {
        Some(&self.ingestion).filter(|ingestion| !ingestion.url.is_empty())
    }

    /// How the REST API is served.
    pub(crate) fn web(&self) -> WebConfig {
        WebConfig {
            listen: self.listen,
            tls: self.tls.server(),
            // Devices may prove themselves by it; ingestion judges it, or twin-store.
            ask_for_certificates: true,
            allow_insecure: self.allow_insecure,
            connections: self.connections.clone(),
            balancers: self.proxy_protocol_from.clone(),
            ..WebConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_keeps_its_own_address_when_only_its_token_is_set() {
        let variables = [
            ("TWINWARD_GATEWAY__POLICY_TOKEN", "0123456789abcdef"),
            ("TWINWARD_GATEWAY__TWIN_STORE_CA_FILE", "s.pem"),
        ];
        let config: Config = service_kit::config::Loader::new("gateway")
            .environment(variables)
            .load()
            .expect("these are good settings");
        assert_eq!(config.policy.url, ServiceAddress::POLICY_URL);
        assert!(config.policy.client().token.is_some());
        assert_eq!(config.twin_store.url, "http://127.0.0.1:8430");
        assert!(config.twin_store.client().token.is_none());
    }
}
