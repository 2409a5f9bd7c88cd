//! Where the hub is: the file of shell variables that `twinward up` writes when it is ready.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use service_kit::client::{self, ClientConfig, Connection};
use service_kit::secret::Secret;

/// The doors of a running hub.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Stands in tokens.
    pub host: String,
    /// The agents' door.
    pub agent_url: String,
    /// Where twin-store serves.
    pub twin_store_url: String,
    /// Where the policy service serves.
    pub policy_url: String,
    /// Where devices connect by MQTT over TLS, on this machine; none if they cannot.
    pub mqtts_port: Option<u16>,
    /// The authority that devices have to believe; none if it is a public one.
    pub ca_file: Option<PathBuf>,
    /// Without the token.
    pub nats_url: String,
    /// What stood before the address.
    pub nats_token: Option<Secret>,
    admin_token: Secret,
}

impl Hub {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read {}: is the hub up?", path.display()))?;
        Self::from_variables(&variables(&text))
            .with_context(|| format!("{} is not what `twinward up` writes", path.display()))
    }

    fn from_variables(variables: &BTreeMap<String, String>) -> Result<Self> {
        let get = |name: &str| {
            variables
                .get(name)
                .cloned()
                .with_context(|| format!("{name} is missing"))
        };
        let nats = get("TWINWARD_NATS_URL")?;
        let port = variables.get("TWINWARD_MQTTS_PORT");
        let port = port.map(|port| port.parse().context("TWINWARD_MQTTS_PORT"));
        let (nats_url, nats_token) = split_token(&nats);
        Ok(Self {
            host: get("TWINWARD_HOST")?,
            agent_url: get("TWINWARD_AGENT_URL")?,
            twin_store_url: get("TWINWARD_TWIN_STORE_URL")?,
            policy_url: get("TWINWARD_POLICY_URL")?,
            mqtts_port: port.transpose()?,
            ca_file: variables.get("TWINWARD_CA_FILE").map(PathBuf::from),
            nats_url,
            nats_token,
            admin_token: Secret::new(get("TWINWARD_ADMIN_TOKEN")?),
        })
    }

    /// A channel to a service, with the administrator's token.
    pub fn service(&self, url: &str) -> Result<Connection> {
        let config = ClientConfig {
            token: Some(self.admin_token.clone()),
            ..ClientConfig::to(url)
        };
        client::connect(&config).with_context(|| format!("cannot prepare a channel to {url}"))
    }

    /// A channel of one agent's own.
    pub fn agent_door(&self) -> Result<Connection> {
        client::connect(&ClientConfig::to(&self.agent_url))
            .with_context(|| format!("cannot prepare a channel to {}", self.agent_url))
    }
}

/// Reads lines of the form `export NAME='value'`; the values that are written have no line breaks.
fn variables(text: &str) -> BTreeMap<String, String> {
    let assignments = text.lines().filter_map(|line| {
        let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
        let value = value.strip_prefix('\'')?.strip_suffix('\'')?;
        // A quote ends the quoting, is escaped, and begins it again.
        Some((name.to_owned(), value.replace(r"'\''", "'")))
    });
    assignments.collect()
}

/// Takes `token@` out of an address.
fn split_token(url: &str) -> (String, Option<Secret>) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    match rest.rsplit_once('@') {
        Some((token, host)) => (format!("{scheme}://{host}"), Some(Secret::new(token))),
        None => (format!("{scheme}://{rest}"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# Written by `twinward up`.\n\
        export TWINWARD_HOST='localhost'\n\
        export TWINWARD_AGENT_URL='http://127.0.0.1:1'\n\
        export TWINWARD_TWIN_STORE_URL='http://127.0.0.1:2'\n\
        export TWINWARD_POLICY_URL='http://127.0.0.1:3'\n\
        export TWINWARD_ADMIN_TOKEN='it'\\''s'\n\
        export TWINWARD_MQTTS_PORT='5'\n\
        export TWINWARD_NATS_URL='nats://secret@127.0.0.1:4'\n";

    #[test]
    fn the_doors_are_read_and_the_token_leaves_the_address() {
        let hub = Hub::from_variables(&variables(FILE)).unwrap();
        assert_eq!(hub.agent_url, "http://127.0.0.1:1");
        assert_eq!(hub.admin_token.expose(), "it's");
        assert_eq!((hub.mqtts_port, hub.ca_file.clone()), (Some(5), None));
        assert_eq!(hub.nats_url, "nats://127.0.0.1:4");
        assert_eq!(hub.nats_token.unwrap().expose(), "secret");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Hub::from_variables(&variables("export TWINWARD_HOST='x'")).unwrap_err();
        assert!(error.to_string().contains("TWINWARD_NATS_URL"), "{error}");
    }
}
