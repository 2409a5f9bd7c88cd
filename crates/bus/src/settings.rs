//! What an operator says about NATS, the same in every service: `nats_url` and so on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service_kit::config::{Problems, SpelledOut, Validate};
use service_kit::secret::Secret;

use crate::config::{BusConfig, Credentials, Tls};

/// How and as whom to reach the NATS servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsSettings {
    /// NATS servers, `nats://host:port` or `tls://host:port`, separated by commas. Default
    /// `nats://127.0.0.1:4222`.
    pub url: String,
    /// Token that the NATS server asks for. Empty (default): none.
    pub token: Secret,
    /// NATS credentials file (`.creds`). Unset (default): none. Goes before the token.
    pub credentials_file: Option<PathBuf>,
    /// PEM file of the authority that signed the NATS server's certificate. Unset (default): the
    /// system's, if the address asks for TLS.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our own certificate, if the NATS server asks for one. Unset (default): none.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of our certificate. Needed if and only if there is a certificate.
    pub key_file: Option<PathBuf>,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self::at("nats://127.0.0.1:4222")
    }
}

impl NatsSettings {
    /// How services spell it out.
    pub const KEYS: SpelledOut = SpelledOut {
        prefix: "nats_",
        field: "nats",
    };

    /// The defaults for these servers.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: Secret::default(),
            credentials_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }

    /// What a connection of this name needs to know, on a single server and with the usual
    /// patience.
    #[must_use]
    pub fn bus(&self, name: impl Into<String>) -> BusConfig {
        let client = self.cert_file.clone().zip(self.key_file.clone());
        let tls = (self.ca_file.is_some() || client.is_some()).then(|| Tls {
            ca_file: self.ca_file.clone(),
            client,
        });
        BusConfig {
            servers: self.servers(),
            credentials: match &self.credentials_file {
                Some(path) => Credentials::File(path.clone()),
                None if self.token.is_empty() => Credentials::None,
                None => Credentials::Token(self.token.expose().to_owned()),
            },
            tls,
            ..BusConfig::local("", name)
        }
    }

    fn servers(&self) -> Vec<String> {
        let names = self.url.split(',').map(str::trim);
        names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

impl Validate for NatsSettings {
    fn validate(&self, problems: &mut Problems) {
        let named = !self.servers().is_empty();
        problems.require(named, "url", "must name a server, nats://host:port");
        problems.require(
            self.cert_file.is_some() == self.key_file.is_some(),
            "key_file",
            "is needed together with cert_file",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_separated_by_commas() {
        let settings = NatsSettings::at(" nats://a:1 ,, tls://b:2");
        assert_eq!(settings.bus("x").servers, ["nats://a:1", "tls://b:2"]);
        let mut problems = Problems::default();
        NatsSettings::at(" , ").validate(&mut problems);
        assert_eq!(problems.found()[0].key, "url");
    }

    #[test]
    fn a_credentials_file_goes_before_a_token() {
        let mut settings = NatsSettings::default();
        assert!(matches!(settings.bus("x").credentials, Credentials::None));
        settings.token = Secret::new("t");
        assert!(matches!(
            settings.bus("x").credentials,
            Credentials::Token(_)
        ));
        settings.credentials_file = Some("x.creds".into());
        assert!(matches!(
            settings.bus("x").credentials,
            Credentials::File(_)
        ));
    }

    #[test]
    fn tls_is_left_to_the_address_unless_files_are_named() {
        let mut settings = NatsSettings::default();
        assert!(settings.bus("x").tls.is_none());
        settings.cert_file = Some("c".into());
        settings.key_file = Some("k".into());
        let tls = settings.bus("x").tls.expect("TLS");
        assert_eq!(tls.client, Some(("c".into(), "k".into())));
        settings.key_file = None;
        let mut problems = Problems::default();
        settings.validate(&mut problems);
        assert_eq!(problems.found()[0].key, "key_file");
    }
}
