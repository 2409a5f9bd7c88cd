//! Device programs written for IoT Hub: the real Azure device SDK for Python, unmodified, against
//! `twinward up`, over MQTT on port 8883 and WebSocket on port 443 of loopback addresses of their own.

use std::path::PathBuf;
use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

use crate::rest::sdk_folder;

/// The suite starts and restarts hubs of its own.
const WITHIN: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_device_sdk_connects_reports_and_follows_its_twin() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/python/test_device.py");
    let mut sdk = ProcessBuilder::new("device sdk", "python3")
        .arg("-W")
        .arg("ignore")
        .arg(script)
        .env("PYTHONPATH", sdk_folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TWINWARD_BIN", workspace_binary("twinward"))
        .allow("")
        .spawn();
    let status = sdk.wait_exit(WITHIN).await;
    let lines = sdk.lines();
    assert!(status.success(), "{}", lines.join("\n"));
    assert!(
        lines.iter().any(|line| line.starts_with("Ran 10 tests")),
        "{}",
        lines.join("\n")
    );
}
