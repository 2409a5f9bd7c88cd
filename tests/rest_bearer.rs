//! People and programs with tokens of an OIDC provider at the REST door: their roles decide, and a
//! token that nobody judges opens nothing.

use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::oidc::AUDIENCE;
use testkit::{
    NatsServer, OidcProvider, Process, ProcessBuilder, SigningKey, TestCerts, free_port,
    workspace_binary,
};

use crate::support::SOON;
use crate::support::hub::{TOKEN, ready};

/// twin-store and a gateway before it.
struct Front {
    certs: TestCerts,
    twin_store: Process,
    gateway: Process,
    listen: u16,
    _nats: NatsServer,
    _folder: tempfile::TempDir,
}

impl Front {
    async fn start(certs: TestCerts, auth: Vec<(&str, String)>, token: Option<&str>) -> Front {
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
        for (key, value) in auth {
            twin_store = twin_store.env(&format!("TWINWARD_TWIN_STORE__{key}"), value);
        }
        let twin_store = twin_store.spawn();
        ready(admin, "twin-store").await;
        let (listen, admin) = (free_port(), free_port());
        let mut gateway = ProcessBuilder::new("gateway", workspace_binary("twinward"))
            .arg("gateway")
            .env("TWINWARD_GATEWAY__LISTEN", format!("127.0.0.1:{listen}"))
            .env(
                "TWINWARD_GATEWAY__ADMIN_LISTEN",
                format!("127.0.0.1:{admin}"),
            )
            .env(
                "TWINWARD_GATEWAY__TWIN_STORE_URL",
                format!("http://127.0.0.1:{port}"),
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
            .allow("bearer tokens are refused");
        if let Some(token) = token {
            gateway = gateway.env("TWINWARD_GATEWAY__TWIN_STORE_TOKEN", token);
        }
        let gateway = gateway.spawn();
        ready(admin, "gateway").await;
        Front {
            certs,
            twin_store,
            gateway,
            listen,
            _nats: nats,
            _folder: folder,
        }
    }

    /// What each of these requests is answered.
    async fn ask(&self, requests: Value) -> Value {
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

    async fn stop(self) {
        self.gateway.stop(SOON).await;
        self.twin_store.stop(SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_decide_what_a_bearer_token_opens() {
    let certs = TestCerts::new();
    let key = SigningKey::p256("of-today");
    let provider = OidcProvider::start_secure(&[&key], &certs).await;
    let auth = vec![
        ("TOKEN", TOKEN.to_owned()),
        ("AUTH__OIDC_ISSUER", provider.issuer().to_owned()),
        ("AUTH__OIDC_AUDIENCE", AUDIENCE.to_owned()),
        ("AUTH__OIDC_CA_FILE", certs.ca().display().to_string()),
        (
            "AUTH__OIDC_ROLES",
            "ops=operator,guests=reader,root=admin".to_owned(),
        ),
    ];
    let front = Front::start(certs, auth, Some(TOKEN)).await;
    let token = |name: &str, group: &str| key.token(&provider.claims(name, &[group]));
    let (root, operator) = (token("root", "root"), token("op", "ops"));
    let guest = token("guest", "guests");
    let put = |name: &str, token: &str| {
        json!({ "name": name, "method": "PUT", "path": "/devices/d", "token": token,
                "body": { "deviceId": "d", "status": "enabled" } })
    };
    let get = |name: &str, token: &str| json!({ "name": name, "method": "GET", "path": "/devices/d", "token": token });
    let disable = json!({
        "name": "disable", "method": "PUT", "path": "/devices/d", "token": operator, "ifMatch": "*",
        "body": { "deviceId": "d", "status": "disabled", "statusReason": "stolen" },
    });
    // A bulk item and an update that say nothing of the status leave it as it is.
    let bulk = json!({
        "name": "bulk", "method": "POST", "path": "/devices", "token": operator,
        "body": [{ "id": "d", "tags": { "site": "paris" } }],
    });
    let silent = json!({
        "name": "silent", "method": "PUT", "path": "/devices/d", "token": operator, "ifMatch": "*",
        "body": { "deviceId": "d" },
    });
    let made_up = json!({
        "name": "made up", "method": "POST", "path": "/devices", "token": "made-up",
        "body": [], "stall": 8 << 20,
    });
    let told = front
        .ask(json!([
            put("guest puts", &guest),
            put("root puts", &root),
            get("root gets", &root),
            get("guest gets", &guest),
            json!({ "name": "list", "method": "GET", "path": "/devices", "token": operator }),
            disable,
            bulk,
            silent,
            get("at last", &operator),
            made_up,
        ]))
        .await;
    let status = |name: &str| told[name][0].as_u64().unwrap_or_default();
    assert_eq!(status("guest puts"), 401, "{told}");
    assert_eq!(status("root puts"), 200, "{told}");
    let shown = |name: &str| told[name][1]["authentication"]["symmetricKey"]["primaryKey"].clone();
    assert!(shown("root gets").is_string(), "{told}");
    assert_eq!(status("guest gets"), 200, "{told}");
    assert!(shown("guest gets").is_null(), "{told}");
    assert_eq!(status("list"), 200, "{told}");
    assert_eq!(told["list"][1][0]["deviceId"], "d");
    assert_eq!(status("disable"), 200, "{told}");
    assert_eq!(told["disable"][1]["status"], "disabled", "{told}");
    assert_eq!(status("bulk"), 200, "{told}");
    assert_eq!(status("silent"), 200, "{told}");
    assert_eq!(told["at last"][1]["status"], "disabled", "{told}");
    assert_eq!(told["at last"][1]["statusReason"], "stolen", "{told}");
    assert_eq!(
        told["at last"][1]["etag"], told["silent"][1]["etag"],
        "{told}"
    );
    // It is refused by its head: eight megabytes of body were promised, and one byte came.
    assert_eq!(status("made up"), 401, "{told}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_judges_opens_nothing() {
    let front = Front::start(TestCerts::new(), Vec::new(), None).await;
    let told = front
        .ask(json!([
            { "name": "put", "method": "PUT", "path": "/devices/hacked", "token": "anything",
              "body": { "deviceId": "hacked" } },
            { "name": "list", "method": "GET", "path": "/devices", "token": "anything" },
        ]))
        .await;
    for name in ["put", "list"] {
        assert_eq!(told[name][0], 401, "{told}");
        let text = told[name][1].to_string();
        assert!(text.contains("authorisation is off"), "{told}");
    }
    let told = front.gateway.lines().join("\n");
    assert!(told.contains("bearer tokens are refused"), "{told}");
    front.stop().await;
}
