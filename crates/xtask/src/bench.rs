//! `cargo xtask bench`: measurements on this machine, each beside what the machine could do bare.

mod connections;
mod evaluate;
mod query;
mod render;
mod rollout;

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::demo::guard;
use crate::hub::Hub;
use crate::programs::{self, Profile};
use crate::tools::{self, Tool};
use render::Machine;

/// The further runs: their names and their share of the rate at full speed.
const SHARES: [(&str, f64); 2] = [("half speed", 0.5), ("tenth speed", 0.1)];

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    /// Events per second and event-to-applied latency with simulated agents
    Loop(LoopArguments),
    /// How long queries over a million twins take, on both stores
    Query(query::QueryArguments),
    /// How long it takes to evaluate 50 policies on a million twins
    Evaluate(evaluate::EvaluateArguments),
    /// A rollout over 10,000 agents of which 5 % fail and 10 % are not there, and one that is taken back
    Rollout(rollout::RolloutArguments),
    /// Memory of 10,000 idle MQTT connections, and what happens when all of them are cut off at once
    Connections(connections::ConnectionsArguments),
}

/// Arguments of `bench loop`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct LoopArguments {
    /// Simulated agents
    #[arg(long, value_name = "N", default_value_t = 500)]
    agents: u32,
    /// Agents among them that measure the loop
    #[arg(long, value_name = "N", default_value_t = 50)]
    loop_agents: u32,
    /// How long each of the three runs sends
    #[arg(long, value_name = "S", default_value_t = 20)]
    seconds: u64,
    /// Events in a batch
    #[arg(long, value_name = "N", default_value_t = 20)]
    batch: u32,
    /// Prints one JSON object instead of text
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Builds with optimisation and starts `twinward up` in a directory below target/; its NATS server runs with
`sync_interval: always`, and twin-store commits durably. Three runs follow on the same hub:

  full speed  every agent sends as soon as its last batches are acknowledged; then the messages that
              ingestion made of it are published to bare JetStream on the same server, first to one
              stream, then to one per partition, with one message in flight per partition
  half speed  half the events a second of the first run: the loop's latency under heavy load
  tenth speed a tenth of them: its latency with room to spare

Everything shares this machine's cores: agents, services, server.";

/// Runs a benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.which {
        Which::Loop(arguments) => bench_loop(arguments),
        Which::Query(arguments) => query::run(arguments),
        Which::Evaluate(arguments) => evaluate::run(arguments),
        Which::Rollout(arguments) => rollout::run(arguments),
        Which::Connections(arguments) => connections::run(arguments),
    }
}

fn bench_loop(arguments: &LoopArguments) -> Result<()> {
    let nats = tools::ensure(Tool::NatsServer)?;
    let built = programs::build(Profile::Release, &["twinward", "loadgen"])?;
    let hub = Hub::start(&built.get("twinward")?, &nats, "bench-")?;
    let loadgen = Loadgen {
        program: built.get("twinward-loadgen")?,
        env_file: hub.env_file().to_owned(),
        arguments,
    };
    eprintln!(
        "full speed, {} s and twice {} s bare",
        arguments.seconds,
        bare_seconds(arguments)
    );
    let bare = bare_seconds(arguments).to_string();
    let full = loadgen.run(&["--rate", "0", "--bare-seconds", &bare])?;
    let rates: Vec<u64> = SHARES
        .iter()
        .map(|(_, share)| rate_of(&full, *share))
        .collect::<Result<_>>()?;
    let mut runs = vec![("full speed", full)];
    for ((name, _), rate) in SHARES.into_iter().zip(rates) {
        eprintln!("{name}, {rate} events/s, {} s", arguments.seconds);
        runs.push((name, loadgen.run(&["--rate", &rate.to_string()])?));
    }
    hub.stop()?;

    let machine = Machine::this();
    let command = format!(
        "cargo xtask bench loop --agents {} --loop-agents {} --seconds {} --batch {}",
        arguments.agents, arguments.loop_agents, arguments.seconds, arguments.batch
    );
    if arguments.json {
        println!("{}", render::json(&machine, &command, &runs));
    } else {
        print!("{}", render::text(&machine, &command, &runs));
    }
    for (name, run) in &runs {
        ensure!(
            run["good"] == true,
            "events or pushes were lost at {name}: {run}"
        );
    }
    Ok(())
}

/// Bare publishing is steady; it need not take as long.
fn bare_seconds(arguments: &LoopArguments) -> u64 {
    (arguments.seconds / 4).clamp(2, 10)
}

/// A share of what was acknowledged at full speed, in whole events a second.
fn rate_of(full: &Value, share: f64) -> Result<u64> {
    let rate = full["events"]["perSecond"].as_f64();
    let rate = rate.context("twinward-loadgen told no rate")? * share;
    // Through text, because there is no checked conversion from a float.
    let whole: u64 = format!("{rate:.0}")
        .parse()
        .context("the rate is no number")?;
    ensure!(whole > 0, "nothing was acknowledged at full speed");
    Ok(whole)
}

/// The load generator, for one hub.
struct Loadgen<'a> {
    program: PathBuf,
    env_file: PathBuf,
    arguments: &'a LoopArguments,
}

impl Loadgen<'_> {
    fn run(&self, more: &[&str]) -> Result<Value> {
        let numbers = [
            ("--agents", u64::from(self.arguments.agents)),
            ("--loop-agents", u64::from(self.arguments.loop_agents)),
            ("--seconds", self.arguments.seconds),
            ("--batch", u64::from(self.arguments.batch)),
        ];
        let output = guard::command(&self.program)
            .arg("--env-file")
            .arg(&self.env_file)
            .args(
                numbers
                    .iter()
                    .flat_map(|(name, it)| [(*name).to_owned(), it.to_string()]),
            )
            .args(more)
            .arg("--json")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start twinward-loadgen")?;
        // It ends with an error too when it measured losses; what it found is shown then.
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("twinward-loadgen failed with {}", output.status))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_share_of_the_rate_is_a_whole_number_of_events() {
        let full = json!({"events": {"perSecond": 1001.0}});
        assert_eq!(rate_of(&full, 0.5).unwrap(), 500);
        assert!(rate_of(&full, 0.0).is_err());
        assert!(rate_of(&json!({}), 0.5).is_err());
    }
}
