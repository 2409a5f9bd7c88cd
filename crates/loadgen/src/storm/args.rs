//! What the program is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Many idle devices on a running hub, and a reconnect storm
#[derive(Debug, Parser)]
#[command(name = "twinward-storm", after_help = HELP)]
pub(crate) struct Arguments {
    /// File that `twinward up --env-file` has written
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: PathBuf,
    /// The process whose memory is looked at: the hub's
    #[arg(long, value_name = "PID")]
    pub(crate) pid: u32,
    /// Devices, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) connections: u32,
    /// Devices that connect per second at first
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connect_rate: u32,
    /// Addresses of this machine that they come from (127.1.0.1 and on), as from so many sites
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=250))]
    pub(crate) addresses: u8,
    /// Keep-alive of the devices in seconds; they send a ping after three quarters of it
    #[arg(long, value_name = "SECONDS", default_value_t = 240, value_parser = clap::value_parser!(u16).range(4..=1700))]
    pub(crate) keep_alive: u16,
    /// How long to wait before memory is looked at
    #[arg(long, value_name = "SECONDS", default_value = "45", value_parser = seconds)]
    pub(crate) settle: Duration,
    /// How long the probe is measured without a storm
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) calm: Duration,
    /// How long each phase may take
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub(crate) within: Duration,
    /// The devices are called {prefix}-00000 and so on
    #[arg(long, value_name = "TEXT", default_value = "storm")]
    pub(crate) prefix: String,
    /// Prints one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

const HELP: &str = "\
It ends with 0 when every device came back with its session, was told of a change without subscribing
again, and no probe failed; else with 1.";

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
