//! `cargo xtask fuzz`: odd requests against a real hub, as many as one has time for. The tests do the
//! same with few.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

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
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match arguments.what {
        What::Rest { count, seed } => rest(count, seed),
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
