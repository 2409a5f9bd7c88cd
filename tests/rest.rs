//! Back-end programs written for IoT Hub: the real Azure service SDK for Python, unmodified, against
//! the gateway, over HTTPS, with a shared access policy.

use std::path::{Path, PathBuf};

use testkit::{ProcessBuilder, TestCerts, free_port, workspace_binary};

use crate::support::SOON;
use crate::support::hub::{Hub, Part, TOKEN, Up, ready};

/// Where `cargo xtask test` has put the SDKs.
const SDK: &str = "TWINWARD_AZURE_SDK";

#[tokio::test(flavor = "multi_thread")]
async fn the_service_sdk_manages_devices_twins_and_queries() {
    let hub = Hub::start().await;
    let certs = TestCerts::new();
    let policies = hub.folder().join("access-policies.toml");
    let (listen, admin) = (free_port(), free_port());
    let gateway = ProcessBuilder::new("gateway", workspace_binary("twinward"))
        .arg("gateway")
        .env("TWINWARD_GATEWAY__LISTEN", format!("127.0.0.1:{listen}"))
        .env(
            "TWINWARD_GATEWAY__ADMIN_LISTEN",
            format!("127.0.0.1:{admin}"),
        )
        .env("TWINWARD_GATEWAY__TWIN_STORE_URL", hub.url(Part::TwinStore))
        .env("TWINWARD_GATEWAY__TWIN_STORE_TOKEN", TOKEN)
        .env("TWINWARD_GATEWAY__POLICY_URL", hub.url(Part::Policy))
        .env("TWINWARD_GATEWAY__POLICY_TOKEN", TOKEN)
        .env(
            "TWINWARD_GATEWAY__TLS_CERT_FILE",
            certs.server_certificate(),
        )
        .env("TWINWARD_GATEWAY__TLS_KEY_FILE", certs.server_key())
        .env("TWINWARD_GATEWAY__ACCESS_POLICIES_FILE", &policies)
        .spawn();
    ready(admin, "gateway").await;

    let key = owner_key(&policies);
    let connection = format!(
        "HostName=127.0.0.1:{listen};SharedAccessKeyName=iothubowner;SharedAccessKey={key}"
    );
    run_sdk(&connection, &certs.ca()).await;
    gateway.stop(SOON).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn up_tells_back_end_programs_all_they_need() {
    let up = Up::start().await;
    let connection = up.variable("TWINWARD_SERVICE_CONNECTION_STRING");
    run_sdk(connection, Path::new(up.variable("TWINWARD_CA_FILE"))).await;
    up.stop().await;
}

/// Runs the script with the SDK to its end.
async fn run_sdk(connection: &str, ca: &Path) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/python/service.py");
    let mut sdk = ProcessBuilder::new("service sdk", "python3")
        .args(["-W", "ignore"])
        .arg(script)
        .env("PYTHONPATH", sdk_folder())
        .env("REQUESTS_CA_BUNDLE", ca)
        .env("TWINWARD_SERVICE_CONNECTION_STRING", connection)
        .allow("")
        .spawn();
    let status = sdk.wait_exit(SOON).await;
    let lines = sdk.lines();
    assert!(status.success(), "{}", lines.join("\n"));
    assert_eq!(lines.last().map(String::as_str), Some("ok all"));
}

fn owner_key(policies: &Path) -> String {
    let text = std::fs::read_to_string(policies).expect("the gateway has made its policies");
    let (_, owner) = text.split_once("\"iothubowner\"").expect("an owner");
    let (_, key) = owner.split_once("primary_key = \"").expect("a key");
    key.split('"').next().unwrap_or_default().to_owned()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test finds its tools by the environment"
)]
pub(crate) fn sdk_folder() -> PathBuf {
    let Some(folder) = std::env::var_os(SDK) else {
        panic!("{SDK} is not set: `cargo xtask test` fetches the SDKs and sets it");
    };
    PathBuf::from(folder)
}
