//! A hub without a shared token: services know each other by certificates, people come with tokens
//! of an OIDC provider, and the loop closes all the same.

use service_kit::client::{ClientConfig, Connection, connect};
use service_kit::secret::Secret;
use service_kit::tls::ClientTls;
use testkit::oidc::AUDIENCE;
use testkit::{
    NatsServer, OidcProvider, Process, ProcessBuilder, SigningKey, TestCerts, free_port,
    workspace_binary,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use wire::registry::v1::{GetModuleRequest, IdentityView};
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::agent::{Agent, listening};
use crate::support::api::{Api, unexpected_listener};
use crate::support::hub::ready;

/// Its processes, their certificates, and who knows people.
struct GuardedHub {
    certs: TestCerts,
    key: std::sync::Arc<SigningKey>,
    provider: OidcProvider,
    twin_store: u16,
    policy: u16,
    ingestion: u16,
    processes: Vec<Process>,
    _nats: NatsServer,
    _folder: tempfile::TempDir,
}

impl GuardedHub {
    async fn start() -> GuardedHub {
        let certs = TestCerts::new();
        let key = SigningKey::p256("of-today");
        let provider = OidcProvider::start_secure(&[&key], &certs).await;
        let nats = NatsServer::start_durable().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |path: std::path::PathBuf| path.display().to_string();
        let data = |name: &str| path(folder.path().join(name));
        let (twin_store, policy, ingestion) = (free_port(), free_port(), free_port());

        let guarded = vec![
            ("TLS_CERT_FILE", path(certs.server_certificate())),
            ("TLS_KEY_FILE", path(certs.server_key())),
            ("TLS_CLIENT_CA_FILE", path(certs.ca())),
            ("TLS_CLIENT_AUTH", "optional".to_owned()),
            (
                "AUTH__CERTIFICATES",
                "DNS:ingestion=service,DNS:policy=service".to_owned(),
            ),
            ("AUTH__OIDC_ISSUER", provider.issuer().to_owned()),
            ("AUTH__OIDC_AUDIENCE", AUDIENCE.to_owned()),
            ("AUTH__OIDC_CA_FILE", path(certs.ca())),
            (
                "AUTH__OIDC_ROLES",
                "ops=operator,root=admin,guests=reader".to_owned(),
            ),
        ];
        let calls_twin_store = |name: &str| {
            let (cert, key) = certs.issue_client(name);
            vec![
                ("TWIN_STORE_URL", format!("https://localhost:{twin_store}")),
                ("TWIN_STORE_CA_FILE", path(certs.ca())),
                ("TWIN_STORE_CERT_FILE", path(cert)),
                ("TWIN_STORE_KEY_FILE", path(key)),
            ]
        };
        let parts = [
            (
                "twin-store",
                twin_store,
                [guarded.clone(), vec![("DATA_DIR", data("twin-store"))]].concat(),
            ),
            ("ingestion", ingestion, calls_twin_store("ingestion")),
            (
                "policy",
                policy,
                [
                    guarded,
                    calls_twin_store("policy"),
                    vec![("DATA_DIR", data("policy"))],
                ]
                .concat(),
            ),
        ];
        let mut processes = Vec::new();
        for (name, port, settings) in parts {
            let admin = free_port();
            processes.push(spawn(name, port, admin, &nats, settings));
            ready(admin, name).await;
        }
        GuardedHub {
            certs,
            key,
            provider,
            twin_store,
            policy,
            ingestion,
            processes,
            _nats: nats,
            _folder: folder,
        }
    }

    /// A token of the provider.
    fn token(&self, name: &str, groups: &[&str]) -> String {
        self.key.token(&self.provider.claims(name, groups))
    }

    /// The APIs as somebody with this token sees them, or somebody without.
    fn api(&self, token: Option<&str>) -> Api {
        let channel = |port: u16| -> Connection {
            let mut config = ClientConfig::to(format!("https://localhost:{port}"));
            config.tls = ClientTls::believing(self.certs.ca());
            config.token = token.map(Secret::new);
            connect(&config).expect("a usable configuration")
        };
        Api::over(&channel(self.twin_store), &channel(self.policy))
    }

    async fn stop(self) {
        for process in self.processes.into_iter().rev() {
            process.stop(SOON).await;
        }
    }
}

fn spawn(
    name: &str,
    port: u16,
    admin: u16,
    nats: &NatsServer,
    settings: Vec<(&str, String)>,
) -> Process {
    let prefix = format!("TWINWARD_{}", name.replace('-', "_").to_uppercase());
    let mut builder = ProcessBuilder::new(name, workspace_binary("twinward")).arg(name);
    let listeners = vec![
        ("LISTEN", format!("127.0.0.1:{port}")),
        ("ADMIN_LISTEN", format!("127.0.0.1:{admin}")),
        ("NATS_URL", nats.url()),
        ("PARTITIONS", "4".to_owned()),
    ];
    for (key, value) in listeners.into_iter().chain(settings) {
        builder = builder.env(&format!("{prefix}__{key}"), value);
    }
    builder.spawn()
}

fn missing(status: &Status) -> String {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("a reason");
    assert_eq!(info.reason, "PERMISSION_MISSING");
    info.metadata["permission"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_show_certificates_people_show_tokens_and_the_loop_closes() {
    let hub = GuardedHub::start().await;
    let root = hub.api(Some(&hub.token("root@hub", &["root"])));
    let alice = hub.api(Some(&hub.token("alice@hub", &["ops", "of-no-meaning"])));
    let guest = hub.api(Some(&hub.token("guest@hub", &["guests"])));

    // A device is made by who may read its keys, the policy by who runs the fleet.
    let device = root.device("cam-1").await;
    let patch = PatchTwinRequest {
        name: device.twin.clone(),
        tags_patch_json: r#"{"allowedPorts": [22]}"#.to_owned(),
        ..Default::default()
    };
    alice.patch(patch.clone()).await.expect("an operator may");
    alice.apply(unexpected_listener()).await.expect("and this");

    // ingestion proves the agent with twin-store, policy writes to it: both by their certificates.
    let url = format!("http://127.0.0.1:{}", hub.ingestion);
    let mut agent = Agent::new(url, device.clone());
    agent.observe(listening(&[22, 8888]));
    agent.deliver(1, async |_| {}).await;
    let twin = alice
        .twin_until(&device.twin, "the policy's setting", |twin| {
            twin.desired()["CollectorsCore_PriorityIntervals"] == "1,2,5"
        })
        .await;
    assert_eq!(twin.count("/eventCount"), 1);

    // Who may not is told what is missing, by the service and by the command line.
    guest.twin(&device.twin).await.expect("a reader reads");
    let refused = guest.patch(patch).await.expect_err("and does not write");
    assert_eq!(missing(&refused), "twins.write");
    assert!(
        refused.message().contains("guest@hub (roles: reader)"),
        "{refused:?}"
    );
    let refused = guest.apply(unexpected_listener()).await;
    assert_eq!(missing(&refused.expect_err("nor this")), "policies.write");
    let keys = GetModuleRequest {
        name: device.twin.clone(),
        view: IdentityView::Full.into(),
        ..Default::default()
    };
    let refused = alice.registry.clone().get_module(keys).await;
    assert_eq!(missing(&refused.expect_err("keys")), "registry.keys.read");
    let nobody = hub.api(None).twin(&device.twin).await;
    assert_eq!(nobody.expect_err("nobody").code(), Code::Unauthenticated);

    let mut cli = ProcessBuilder::new("cli", workspace_binary("twinward"))
        .args(["twin", "patch", "cam-1", "--security", "--tags", "{}"])
        .env(
            "TWINWARD_TWIN_STORE_URL",
            format!("https://localhost:{}", hub.twin_store),
        )
        .env("TWINWARD_CA_FILE", hub.certs.ca())
        .env("TWINWARD_ADMIN_TOKEN", hub.token("guest@hub", &["guests"]))
        .allow("")
        .spawn();
    let status = cli.wait_exit(SOON).await;
    let lines = cli.lines().join("\n");
    assert!(!status.success(), "{lines}");
    assert!(lines.contains("twins.write"), "{lines}");
    hub.stop().await;
}
