//! `cargo xtask demo`: sets everything up and shows the loop, event to applied push.

use anyhow::{Result, bail};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Does one full loop, prints the hops with their latencies, and ends.
    #[arg(long)]
    once: bool,
    /// Prints the result of `--once` as JSON, for programs.
    #[arg(long, requires = "once")]
    json: bool,
}

/// Runs the demo.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    bail!(
        "the demo is not built yet (asked for once={}, json={})",
        arguments.once,
        arguments.json
    )
}
