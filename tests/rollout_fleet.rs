//! A rollout over hundreds of simulated agents of which one in twenty fails and one in ten is not there,
//! and one that is taken back. `cargo xtask bench rollout` tells the same story of 10,000.

use std::time::Duration;

use testkit::{ProcessBuilder, workspace_binary};

use crate::support::SOON;
use crate::support::hub::Up;

const AGENTS: &str = "400";
/// It takes half a minute where nothing else is done.
const WITHIN: Duration = Duration::from_mins(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_ends_as_its_gates_say_and_is_taken_back_from_exactly_those_that_had_it() {
    let mut hub = Up::start().await;
    let mut run = ProcessBuilder::new("rollout", workspace_binary("twinward-rolloutbench"))
        .arg("--env-file")
        .arg(hub.env_file())
        // Whoever fails rejects: how long silence lasts says nothing where others share the cores.
        .args(["--agents", AGENTS, "--silence", "0"])
        .allow("")
        .spawn();
    let status = run.wait_exit(WITHIN).await;
    let lines = run.lines().join("\n");
    assert!(status.success(), "{lines}");
    assert!(lines.contains("\"takenBackSeconds\""), "{lines}");
    // That it was taken back is a warning, as it should be.
    hub.process
        .allow("a rollout was ended or stopped by itself");
    hub.process.stop(SOON).await;
}
