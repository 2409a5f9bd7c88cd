//! How replicas of a shared store find and outlive each other.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service_kit::config::{Problems, SpelledOut, Validate};
use service_kit::tls::ClientTls;
use service_kit::units::Duration;

/// This replica among the others; spelled out as `replica_url` and so on. Heeded if the store is
/// shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicaSettings {
    /// Where the other replicas reach this one's gRPC API, `http://host:port` or `https://host:port`.
    /// Empty (default): under the address where it listens, which must then be a certain one.
    pub url: String,
    /// PEM file of the authority that signed the other replicas' certificates. Unset (default): the
    /// system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate shown to the others, if they let nobody in without one. It needs
    /// no roles: a replica proves with the master key for whom it passes a call on. Unset (default):
    /// none.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of that certificate. Needed if and only if there is a certificate.
    pub key_file: Option<PathBuf>,
    /// How long a replica may be silent before the others take its partitions, 3s to 10min. It says
    /// every second that it lives. Shorter finds a dead one sooner; longer gets over an interruption
    /// of the database without partitions changing hands. Default 5s.
    pub lease: Duration,
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            lease: Duration::secs(5),
        }
    }
}

impl ReplicaSettings {
    /// How the service spells it out.
    pub const KEYS: SpelledOut = SpelledOut {
        prefix: "replica_",
        field: "replica",
    };

    /// Where the others reach us, listening at `local`.
    pub(crate) fn address(&self, local: SocketAddr, has_tls: bool) -> String {
        if !self.url.is_empty() {
            return self.url.clone();
        }
        let scheme = if has_tls { "https" } else { "http" };
        format!("{scheme}://{local}")
    }

    /// Whom to believe of the others.
    pub(crate) fn tls(&self) -> ClientTls {
        ClientTls {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            domain: None,
        }
    }
}

impl Validate for ReplicaSettings {
    fn validate(&self, problems: &mut Problems) {
        let url = self.url.parse::<http::Uri>();
        let url = url.is_ok_and(|url| {
            matches!(url.scheme_str(), Some("http" | "https")) && url.authority().is_some()
        });
        problems.require(
            self.url.is_empty() || url,
            "url",
            "must be http://host:port or https://host:port",
        );
        problems.require(
            self.cert_file.is_some() == self.key_file.is_some(),
            "key_file",
            "is needed together with cert_file",
        );
        problems.require(
            (3..=600).contains(&self.lease.get().as_secs()),
            "lease",
            "must be 3s to 10min",
        );
    }
}
