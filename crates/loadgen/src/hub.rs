//! Where the hub is: the file of shell variables that `twinward up` writes when it is ready.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use service_kit::client::{self, ClientConfig, Connection};
use service_kit::secret::Secret;

/// The doors of a running hub.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    /// Stands in tokens.
    pub(crate) host: String,
    pub(crate) agent_url: String,
    pub(crate) twin_store_url: String,
    pub(crate) policy_url: String,
    /// Without the token.
    pub(crate) nats_url: String,
    pub(crate) nats_token: Option<Secret>,
    admin_token: Secret,
}

impl Hub {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
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
        let (nats_url, nats_token) = split_token(&nats);
        Ok(Self {
            host: get("TWINWARD_HOST")?,
            agent_url: get("TWINWARD_AGENT_URL")?,
            twin_store_url: get("TWINWARD_TWIN_STORE_URL")?,
            policy_url: get("TWINWARD_POLICY_URL")?,
            nats_url,
            nats_token,
            admin_token: Secret::new(get("TWINWARD_ADMIN_TOKEN")?),
        })
    }

    /// A channel to a service, with the administrator's token.
    pub(crate) fn service(&self, url: &str) -> Result<Connection> {
        let config = ClientConfig {
            token: Some(self.admin_token.clone()),
            ..ClientConfig::to(url)
        };
        client::connect(&config).with_context(|| format!("cannot prepare a channel to {url}"))
    }

    /// A channel of one agent's own.
    pub(crate) fn agent_door(&self) -> Result<Connection> {
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
        export TWINWARD_NATS_URL='nats://secret@127.0.0.1:4'\n";

    #[test]
    fn the_doors_are_read_and_the_token_leaves_the_address() {
        let hub = Hub::from_variables(&variables(FILE)).unwrap();
        assert_eq!(hub.agent_url, "http://127.0.0.1:1");
        assert_eq!(hub.admin_token.expose(), "it's");
        assert_eq!(hub.nats_url, "nats://127.0.0.1:4");
        assert_eq!(hub.nats_token.unwrap().expose(), "secret");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Hub::from_variables(&variables("export TWINWARD_HOST='x'")).unwrap_err();
        assert!(error.to_string().contains("TWINWARD_NATS_URL"), "{error}");
    }
}
