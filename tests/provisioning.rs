//! Device programs written for the Device Provisioning Service: the real Azure provisioning client for
//! Python, unmodified, registers devices with `twinward up`, which then connect.

use std::path::PathBuf;
use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

use crate::rest::sdk_folder;

/// The suite starts a hub of its own, and the client waits two seconds in each registration.
const WITHIN: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_provisioning_sdk_registers_devices_which_then_connect() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/python/test_provisioning.py");
    let mut sdk = ProcessBuilder::new("provisioning sdk", "python3")
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
        lines.iter().any(|line| line.starts_with("Ran 6 tests")),
        "{}",
        lines.join("\n")
    );
}
