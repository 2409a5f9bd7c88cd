//! What `up` says when everything is ready: to people on standard output, to programs in a file.

use std::net::SocketAddr;
use std::path::PathBuf;

use access_policies::AccessPolicy;
use service_kit::secret::Secret;

use super::devices::{HTTPS, MQTTS};
use super::plan::Door;
use crate::env_file::{self, variable};

/// Where everything is.
pub(super) struct Summary {
    pub(super) host: String,
    /// Where devices connect by MQTT, and what is to be said of it.
    pub(super) mqtt: Option<SocketAddr>,
    pub(super) ingestion: Door,
    pub(super) twin_store: Door,
    pub(super) policy: Door,
    pub(super) gateway: Door,
    /// The access policy for back-end programs, unless its file has none of that name.
    pub(super) owner: Option<AccessPolicy>,
    pub(super) nats_url: String,
    pub(super) nats_token: Option<Secret>,
    pub(super) nats_about: String,
    pub(super) admin_token: Secret,
    pub(super) data_dir: PathBuf,
    /// None when the other verbs find the data directory by themselves.
    pub(super) data_dir_option: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
}

impl Summary {
    /// The variables of the env file.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let nats_url = match (&self.nats_token, self.nats_url.split_once("://")) {
            (Some(token), Some((scheme, host))) => format!("{scheme}://{}@{host}", token.expose()),
            (Some(_), None) | (None, _) => self.nats_url.clone(),
        };
        let mut variables = vec![
            (variable::HOST, self.host.clone()),
            (variable::AGENT_URL, self.ingestion.url()),
            (variable::TWIN_STORE_URL, self.twin_store.url()),
            (variable::POLICY_URL, self.policy.url()),
            (variable::ADMIN_TOKEN, self.admin_token.expose().to_owned()),
            (variable::NATS_URL, nats_url),
            (
                variable::INGESTION_METRICS_URL,
                self.ingestion.metrics_url(),
            ),
            (
                variable::TWIN_STORE_METRICS_URL,
                self.twin_store.metrics_url(),
            ),
            (variable::POLICY_METRICS_URL, self.policy.metrics_url()),
            (variable::DATA_DIR, self.data_dir.display().to_string()),
        ];
        variables.push((variable::GATEWAY_METRICS_URL, self.gateway.metrics_url()));
        let https = self.gateway.port();
        variables.push((variable::HTTPS_PORT, https.to_string()));
        if let Some(owner) = &self.owner {
            let text = owner.connection_string(&self.https_host());
            variables.push((variable::SERVICE_CONNECTION_STRING, text.to_string()));
        }
        if let Some(mqtt) = self.mqtt {
            variables.push((variable::MQTTS_PORT, mqtt.port().to_string()));
        }
        if let Some(path) = &self.ca_file {
            variables.push((variable::CA_FILE, path.display().to_string()));
        }
        variables
    }

    /// The host as back-end programs name it. A port stands in it only if it must: the Python SDK
    /// reads one, the Node SDK does not.
    fn https_host(&self) -> String {
        match self.gateway.port() {
            HTTPS => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// What people read.
    pub(super) fn text(&self) -> String {
        let env_file = env_file::path_in(&self.data_dir);
        let twinward = match &self.data_dir_option {
            Some(path) => format!("twinward --data-dir {}", path.display()),
            None => "twinward".to_owned(),
        };
        let mqtt = match self.mqtt {
            Some(address) if address.port() == MQTTS => address.to_string(),
            Some(address) => format!("{address} (SDKs know port {MQTTS} only)"),
            None => "not at all: ingestion has no certificate for it".to_owned(),
        };
        format!(
            "\n\
             Twinward is up.\n\
             \n\
             \x20 agents connect to   {}\n\
             \x20 devices (MQTT)      {mqtt}\n\
             \x20 back ends (REST)    {}\n\
             \x20 twin-store          {}\n\
             \x20 policy              {}\n\
             \x20 metrics, health     {}, {}, {}, {}\n\
             \x20 NATS                {} ({})\n\
             \x20 data                {}\n\
             \x20 addresses, token    {}\n\
             \n\
             Next, in another terminal:\n\
             \n\
             \x20 {twinward} status\n\
             \x20 {twinward} device create my-first-device\n\
             \x20 {twinward} twin watch\n\
             \n\
             Ctrl-C stops everything.\n\n",
            self.ingestion.url(),
            self.gateway.url(),
            self.twin_store.url(),
            self.policy.url(),
            self.ingestion.metrics_url(),
            self.twin_store.metrics_url(),
            self.policy.metrics_url(),
            self.gateway.metrics_url(),
            self.nats_url,
            self.nats_about,
            self.data_dir.display(),
            env_file.display(),
        )
    }
}
