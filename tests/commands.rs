//! What back ends ask of devices: the real Azure service SDK and the real device SDK for Python,
//! unmodified, with `twinward up` between them.

use std::path::PathBuf;
use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

use crate::rest::sdk_folder;

/// A device that does not answer is waited for.
const WITHIN: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn the_service_sdk_calls_methods_of_devices_with_the_device_sdk() {
    run("test_commands.py", 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_from_the_cloud_reach_devices_with_the_device_sdk() {
    run("test_messages.py", 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_messages_reach_devices_at_each_of_two_instances() {
    run("test_replicas.py", 2).await;
}

/// Runs a script of the SDK, which has so many tests.
async fn run(name: &str, tests: usize) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/python");
    let mut sdk = ProcessBuilder::new(name, "python3")
        .arg("-W")
        .arg("ignore")
        .arg(folder.join(name))
        .env("PYTHONPATH", sdk_folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TWINWARD_BIN", workspace_binary("twinward"))
        .allow("")
        .spawn();
    let status = sdk.wait_exit(WITHIN).await;
    let lines = sdk.lines();
    assert!(status.success(), "{}", lines.join("\n"));
    let ran = format!("Ran {tests} tests");
    assert!(
        lines.iter().any(|line| line.starts_with(&ran)),
        "{}",
        lines.join("\n")
    );
}
