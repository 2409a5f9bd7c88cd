//! `cargo xtask fuzz`: odd requests and packets against a real hub, as many as one has time for. The tests do the
//! same with few.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::demo::guard;
use crate::hub::Hub;
use crate::programs::Profile;
use crate::tools::{self, NATS_VARIABLE, Tool};
use crate::{programs, workspace};

/// Arguments of `fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The gateway's REST API: schemathesis over the description that it serves.
    Rest {
        /// Requests that the gateway has to answer.
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Where the generator starts; each round of requests takes the next.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// The devices' door: spoilt packets and bytes over real connections, before and after the CONNECT,
    /// and a well-behaved device beside them.
    Mqtt {
        /// Inputs.
        #[arg(long, default_value_t = 1_000_000)]
        count: u64,
        /// Where the generator starts.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match arguments.what {
        What::Rest { count, seed } => rest(count, seed),
        What::Mqtt { count, seed } => mqtt(count, seed),
    }
}

fn rest(count: u64, seed: u64) -> Result<()> {
    let nats = tools::ensure(Tool::NatsServer)?;
    let packages = tools::azure::schemathesis()?;
    let programs = programs::build(Profile::Release, &["twinward"])?;
    let script = workspace::root().join("tests/sdk/rest/fuzz.py");
    let status = Command::new("python3")
        .arg(script)
        .args([count.to_string(), seed.to_string()])
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TWINWARD_BIN", programs.get("twinward")?)
        .env(NATS_VARIABLE, nats)
        .status()
        .context("cannot start python3")?;
    ensure!(status.success(), "the run failed; its words are above");
    Ok(())
}

fn mqtt(count: u64, seed: u64) -> Result<()> {
    let nats = tools::ensure(Tool::NatsServer)?;
    let built = programs::build(Profile::Release, &["twinward", "loadgen"])?;
    let hub = Hub::start(&built.get("twinward")?, &nats, "fuzz-mqtt-")?;
    let status = guard::command(&built.get("twinward-mqttfuzz")?)
        .arg("--env-file")
        .arg(hub.env_file())
        .args(["--pid", &hub.pid().to_string()])
        .args(["--count", &count.to_string()])
        .args(["--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .status()
        .context("cannot start twinward-mqttfuzz")?;
    let log = hub.log();
    ensure!(!log.contains("panicked"), "the hub has panicked:\n{log}");
    ensure!(status.success(), "the run failed; its words are above");
    // It ends in good order, too.
    hub.stop()
}
