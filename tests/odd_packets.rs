//! Odd packets and bytes to the devices' door of `twinward up`: it panics at none, does not grow, and
//! serves a well-behaved device beside them. `cargo xtask fuzz mqtt` sends more of them.

use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

use crate::support::SOON;
use crate::support::hub::Up;

/// How many, the same each time.
const INPUTS: &str = "20000";
const SEED: &str = "20261123";
/// Most of it are waits for what never comes.
const WITHIN: Duration = Duration::from_mins(8);

#[tokio::test(flavor = "multi_thread")]
async fn no_packet_hurts_a_hub() {
    let hub = Up::start().await;
    let mut run = ProcessBuilder::new("odd packets", workspace_binary("twinward-mqttfuzz"))
        .arg("--env-file")
        .arg(hub.env_file())
        .args(["--pid".to_owned(), hub.process.pid().to_string()])
        .args(["--count", INPUTS, "--seed", SEED, "--devices", "200"])
        .allow("")
        .spawn();
    let status = run.wait_exit(WITHIN).await;
    let lines = run.lines().join("\n");
    assert!(status.success(), "{lines}");
    assert!(
        lines.contains(" inputs on ") && lines.contains("the device beside it: "),
        "{lines}"
    );
    // A panic would be an error in its log, which this looks for.
    hub.process.stop(SOON).await;
}
