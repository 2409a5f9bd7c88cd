//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Simulated agents against a running hub: how much it takes in, and how soon it answers.
#[derive(Debug, Clone, Parser)]
#[command(name = "twinward-loadgen", version, max_term_width = 100, after_help = HELP)]
pub(crate) struct Arguments {
    /// The file that `twinward up` wrote: addresses and token
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: PathBuf,
    /// Simulated agents, each with a device, a connection and a session of its own
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) agents: u32,
    /// How long to send, once all agents are connected
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Events a second of all agents together; 0: as many as are acknowledged
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rate: u32,
    /// Events in a batch
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) batch: u32,
    /// Batches of one agent that may wait for their acknowledgement
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4))]
    pub(crate) window: u32,
    /// Agents that also measure the loop: they open and close a port, and wait for the push
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) loop_agents: u32,
    /// Pause of such an agent between a push and its next change
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) loop_pause: Duration,
    /// Sessions opened a second
    #[arg(long, value_name = "N", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connect_rate: u32,
    /// How long to wait at the end for what is not acknowledged yet
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) drain: Duration,
    /// Device ids are this and a number; devices that exist already are used again
    #[arg(long, value_name = "TEXT", default_value = "load")]
    pub(crate) prefix: String,
    /// Afterwards publishes the same messages to bare JetStream for so long; 0: does not
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) bare_seconds: u64,
    /// Also tells for each device how many events of each kind were acknowledged
    #[arg(long)]
    pub(crate) per_device: bool,
    /// Prints one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

const HELP: &str = "\
The loop is measured by this program's clock alone: from giving the event to the agent's stream to
reading the new configuration from it. A loop agent's port is outside its tags.allowedPorts, and the
policy `loadgen-unexpected-listener`, which this program applies, looks at that.

It ends with 0 when everything that was sent is acknowledged and no loop was lost, else with 1.

Example:
  twinward up --any-port --env-file hub.env &
  twinward-loadgen --env-file hub.env --agents 500 --seconds 20";

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

    #[test]
    fn fractions_of_seconds_are_read() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(seconds("-1").is_err());
        assert!(seconds("soon").is_err());
    }
}
