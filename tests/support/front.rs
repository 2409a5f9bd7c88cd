//! twin-store and a gateway before it, as people and back-end programs meet them.

use std::path::PathBuf;

use serde_json::Value;
use testkit::oidc::AUDIENCE;
use testkit::{
    NatsServer, OidcProvider, Process, ProcessBuilder, TestCerts, free_port, workspace_binary,
};

use super::SOON;
use super::hub::{TOKEN, ready};

/// Settings of a service, by the ends of their names.
pub(crate) type Settings = Vec<(&'static str, String)>;

/// How the services know their callers.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) twin_store: Settings,
    /// None: there is no policy service.
    pub(crate) policy: Option<Settings>,
    pub(crate) gateway: Settings,
}

/// twin-store and a gateway before it, and maybe the policy service.
pub(crate) struct Front {
    certs: TestCerts,
    twin_store: Process,
    policy: Option<Process>,
    pub(crate) gateway: Process,
    listen: u16,
    _nats: NatsServer,
    folder: tempfile::TempDir,
}

impl Front {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(certs: TestCerts, setup: Setup) -> Front {
        let nats = NatsServer::start_durable().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = |name: &str| folder.path().join(name).display().to_string();
        let (port, admin) = (free_port(), free_port());
        let mut twin_store = ProcessBuilder::new("twin-store", workspace_binary("twinward"))
            .arg("twin-store")
            .env("TWINWARD_TWIN_STORE__LISTEN", format!("127.0.0.1:{port}"))
            .env(
                "TWINWARD_TWIN_STORE__ADMIN_LISTEN",
                format!("127.0.0.1:{admin}"),
            )
            .env("TWINWARD_TWIN_STORE__NATS_URL", nats.url())
            .env("TWINWARD_TWIN_STORE__PARTITIONS", "4")
            .env("TWINWARD_TWIN_STORE__DATA_DIR", data("twin-store"))
            .allow("authorisation is off");
        for (key, value) in setup.twin_store {
            twin_store = twin_store.env(&format!("TWINWARD_TWIN_STORE__{key}"), value);
        }
        let twin_store = twin_store.spawn();
        ready(admin, "twin-store").await;
        let twin_store_url = format!("http://127.0.0.1:{port}");
        let (policy_port, admin) = (free_port(), free_port());
        let policy = setup.policy.map(|settings| {
            let mut policy = ProcessBuilder::new("policy", workspace_binary("twinward"))
                .arg("policy")
                .env(
                    "TWINWARD_POLICY__LISTEN",
                    format!("127.0.0.1:{policy_port}"),
                )
                .env(
                    "TWINWARD_POLICY__ADMIN_LISTEN",
                    format!("127.0.0.1:{admin}"),
                )
                .env("TWINWARD_POLICY__NATS_URL", nats.url())
                .env("TWINWARD_POLICY__PARTITIONS", "4")
                .env("TWINWARD_POLICY__TWIN_STORE_URL", &twin_store_url)
                .env("TWINWARD_POLICY__TWIN_STORE_TOKEN", TOKEN)
                .env("TWINWARD_POLICY__DATA_DIR", data("policy"))
                .allow("authorisation is off");
            for (key, value) in settings {
                policy = policy.env(&format!("TWINWARD_POLICY__{key}"), value);
            }
            policy.spawn()
        });
        if policy.is_some() {
            ready(admin, "policy").await;
        }
        let (listen, admin) = (free_port(), free_port());
        let mut gateway = ProcessBuilder::new("gateway", workspace_binary("twinward"))
            .arg("gateway")
            .env("TWINWARD_GATEWAY__LISTEN", format!("127.0.0.1:{listen}"))
            .env(
                "TWINWARD_GATEWAY__ADMIN_LISTEN",
                format!("127.0.0.1:{admin}"),
            )
            .env("TWINWARD_GATEWAY__TWIN_STORE_URL", &twin_store_url)
            .env(
                "TWINWARD_GATEWAY__POLICY_URL",
                format!("http://127.0.0.1:{policy_port}"),
            )
            .env(
                "TWINWARD_GATEWAY__TLS_CERT_FILE",
                certs.server_certificate(),
            )
            .env("TWINWARD_GATEWAY__TLS_KEY_FILE", certs.server_key())
            .env(
                "TWINWARD_GATEWAY__ACCESS_POLICIES_FILE",
                data("access-policies.toml"),
            )
            .allow("bearer tokens are refused")
            .allow("requests are refused (429)");
        for (key, value) in setup.gateway {
            gateway = gateway.env(&format!("TWINWARD_GATEWAY__{key}"), value);
        }
        let gateway = gateway.spawn();
        ready(admin, "gateway").await;
        Front {
            certs,
            twin_store,
            policy,
            gateway,
            listen,
            _nats: nats,
            folder,
        }
    }

    /// What each of these requests is answered.
    pub(crate) async fn ask(&self, requests: Value) -> Value {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/rest/bearer.py");
        let mut run = ProcessBuilder::new("bearer", "python3")
            .arg(script)
            .arg(format!("localhost:{}", self.listen))
            .arg(self.certs.ca())
            .arg(requests.to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .allow("")
            .spawn();
        let status = run.wait_exit(SOON).await;
        let lines = run.lines();
        assert!(status.success(), "{}", lines.join("\n"));
        let last = lines.last().map(String::as_str).unwrap_or_default();
        serde_json::from_str(last).expect("what was answered")
    }

    /// SIGTERM for all, and a clean end of each.
    pub(crate) async fn stop(self) {
        self.gateway.stop(SOON).await;
        if let Some(policy) = self.policy {
            policy.stop(SOON).await;
        }
        self.twin_store.stop(SOON).await;
    }

    /// The first key of a shared access policy.
    pub(crate) fn key(&self, policy: &str) -> String {
        let file = self.folder.path().join("access-policies.toml");
        let text = std::fs::read_to_string(file).expect("the gateway has made its policies");
        let (_, of_policy) = text.split_once(&format!("\"{policy}\"")).expect("a policy");
        let (_, key) = of_policy.split_once("primary_key = \"").expect("a key");
        key.split('"').next().unwrap_or_default().to_owned()
    }
}

/// How a service knows the people of a provider, beside its own token.
pub(crate) fn oidc(provider: &OidcProvider, certs: &TestCerts) -> Settings {
    vec![
        ("TOKEN", TOKEN.to_owned()),
        ("AUTH__OIDC_ISSUER", provider.issuer().to_owned()),
        ("AUTH__OIDC_AUDIENCE", AUDIENCE.to_owned()),
        ("AUTH__OIDC_CA_FILE", certs.ca().display().to_string()),
        (
            "AUTH__OIDC_ROLES",
            "ops=operator,guests=reader,root=admin".to_owned(),
        ),
    ]
}

/// The gateway's own proof.
pub(crate) fn own_token() -> Settings {
    vec![("TWIN_STORE_TOKEN", TOKEN.to_owned())]
}
