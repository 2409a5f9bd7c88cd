//! `bench connections`: many idle devices by MQTT, and a reconnect storm.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::render::Machine;
use crate::demo::guard;
use crate::hub::Hub;
use crate::programs::{self, Profile};
use crate::tools::{self, Tool};

/// Arguments of `bench connections`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct ConnectionsArguments {
    /// Devices, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: u32,
    /// How long to wait before memory is looked at
    #[arg(long, value_name = "SECONDS", default_value_t = 45)]
    settle: u32,
    /// Prints one JSON object instead of text
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Builds with optimisation and starts `twinward up` in a directory below target/. Registered devices connect
by MQTT over TLS with tokens of their keys, subscribe as SDKs do with clean session 0, and are idle; what
the hub's process has grown by is told for each of them. Then all are cut off at once and come back as
fast as they can, with full TLS handshakes, while a back end calls a direct method of a device that was
not cut off and changes its configuration, again and again. In the end each device is told of a change
without having subscribed again.

The hub and the devices need so many open files each (`ulimit -Hn`); the soft limit is raised by both.
Everything shares this machine's cores.";

/// Measures.
pub(super) fn run(arguments: &ConnectionsArguments) -> Result<()> {
    let nats = tools::ensure(Tool::NatsServer)?;
    let built = programs::build(Profile::Release, &["twinward", "loadgen"])?;
    let hub = Hub::start(&built.get("twinward")?, &nats, "bench-connections-")?;
    let output = guard::command(&built.get("twinward-storm")?)
        .arg("--env-file")
        .arg(hub.env_file())
        .arg("--pid")
        .arg(hub.pid().to_string())
        .arg("--connections")
        .arg(arguments.connections.to_string())
        .arg("--settle")
        .arg(arguments.settle.to_string())
        .args(arguments.json.then_some("--json"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start twinward-storm")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let command = format!(
        "cargo xtask bench connections --connections {} --settle {}",
        arguments.connections, arguments.settle
    );
    let machine = Machine::this();
    if arguments.json {
        let run: Value = serde_json::from_str(&text).context("twinward-storm told no numbers")?;
        println!(
            "{}",
            json!({ "command": command, "machine": machine.text(), "run": run })
        );
    } else {
        print!("    {command}\n\n{}\n\n{text}", machine.text());
    }
    // It ends with an error too when it measured losses; what it found is shown then.
    ensure!(
        output.status.success(),
        "sessions were lost or something starved; the hub said:\n{}",
        hub.log()
    );
    hub.stop()
}
