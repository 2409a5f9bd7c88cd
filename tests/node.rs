//! Programs written for IoT Hub in JavaScript: the real Azure SDKs for Node, unmodified, against
//! `twinward up`. Back ends come over HTTPS with a shared access policy, devices by MQTT, also over
//! WebSocket.

use std::path::PathBuf;
use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

use crate::support::SOON;
use crate::support::hub::Up;

/// Where `cargo xtask test` has put the SDKs' `node_modules`.
const SDK: &str = "TWINWARD_AZURE_SDK_NODE";
/// The program that `cargo xtask test` has found or fetched.
const NODE: &str = "TWINWARD_NODE";

/// The suite of devices starts a hub of its own, twice, and every device comes in two ways.
const DEVICES_WITHIN: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_device_sdk_for_node_does_all_that_devices_do() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/node/device.js");
    let mut sdk = ProcessBuilder::new("device sdk for node", node())
        .arg(script)
        .env("NODE_PATH", modules())
        .env("TWINWARD_BIN", workspace_binary("twinward"))
        .allow("")
        .spawn();
    let status = sdk.wait_exit(DEVICES_WITHIN).await;
    let lines = sdk.lines();
    assert!(status.success(), "{}", lines.join("\n"));
    assert_eq!(lines.last().map(String::as_str), Some("ok all"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_sdk_for_node_manages_the_hub() {
    let up = Up::start().await;
    let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/node");
    let mut sdk = ProcessBuilder::new("service sdk for node", node())
        .arg("--require")
        .arg(scripts.join("redirect.js"))
        .arg(scripts.join("service.js"))
        .env("NODE_PATH", modules())
        .env("NODE_EXTRA_CA_CERTS", up.variable("TWINWARD_CA_FILE"))
        .env("TWINWARD_HTTPS_PORT", up.variable("TWINWARD_HTTPS_PORT"))
        .env(
            "TWINWARD_SERVICE_CONNECTION_STRING",
            up.variable("TWINWARD_SERVICE_CONNECTION_STRING"),
        )
        .allow("")
        .spawn();
    let status = sdk.wait_exit(SOON).await;
    let lines = sdk.lines();
    assert!(status.success(), "{}", lines.join("\n"));
    assert_eq!(lines.last().map(String::as_str), Some("ok all"));
    up.stop().await;
}

/// The program `node`.
pub(crate) fn node() -> PathBuf {
    named(NODE)
}

/// The folder of the SDKs' packages.
pub(crate) fn modules() -> PathBuf {
    named(SDK).join("node_modules")
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test finds its tools by the environment"
)]
fn named(variable: &str) -> PathBuf {
    let Some(path) = std::env::var_os(variable) else {
        panic!("{variable} is not set: `cargo xtask test` fetches what it names and sets it");
    };
    PathBuf::from(path)
}
