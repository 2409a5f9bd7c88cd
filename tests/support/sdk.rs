//! The suites of Azure's SDK for Python, run as what they are: programs of somebody else.

use std::path::PathBuf;
use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

use crate::rest::sdk_folder;

/// Runs a script of `sdk/python`, which must pass and have so many tests: one that is not found would
/// pass as well.
pub(crate) async fn python(script: &str, tests: usize, within: Duration) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/python");
    let mut sdk = ProcessBuilder::new(script, "python3")
        .arg("-W")
        .arg("ignore")
        .arg(folder.join(script))
        .env("PYTHONPATH", sdk_folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TWINWARD_BIN", workspace_binary("twinward"))
        .allow("")
        .spawn();
    let status = sdk.wait_exit(within).await;
    let lines = sdk.lines();
    assert!(status.success(), "{}", lines.join("\n"));
    let ran = format!("Ran {tests} tests");
    assert!(
        lines.iter().any(|line| line.starts_with(&ran)),
        "{}",
        lines.join("\n")
    );
}
