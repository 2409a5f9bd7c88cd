//! Security messages written for IoT Hub: the real Azure device SDK for Python sends each documented
//! kind, marked by the SDK itself, and the posture of the security module follows.

use std::path::PathBuf;
use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

use crate::rest::sdk_folder;

/// The suite starts a hub of its own.
const WITHIN: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn security_messages_of_the_device_sdk_move_the_posture() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/python/test_security.py");
    let mut sdk = ProcessBuilder::new("security sdk", "python3")
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
        lines.iter().any(|line| line.starts_with("Ran 3 tests")),
        "{}",
        lines.join("\n")
    );
}
