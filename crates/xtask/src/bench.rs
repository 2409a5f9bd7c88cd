//! `cargo xtask bench`: measurements on this machine.

use anyhow::{Result, bail};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    /// Events per second and event-to-applied latency with simulated agents.
    Loop,
}

/// Runs a benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    bail!("the benchmark {:?} is not built yet", arguments.which)
}
