//! `cargo xtask bench`: measurements on this machine, each beside what the machine could do bare.

mod connections;
mod evaluate;
mod query;
mod render;
mod rollout;

use std::fmt::Write as _;
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
    /// Events a second of all agents: one run at this rate alone, without those above it
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Milliseconds that 99 of 100 loops may take in that run; above, the command fails
    #[arg(long, value_name = "MS", requires = "rate")]
    bound: Option<f64>,
    /// Prints one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The loop's agents open and close a port again and again, which the policy service would stop after ten times.
const NO_GUARD: [(&str, &str); 1] = [("TWINWARD_POLICY__GUARD_RETURNS_MAX", "0")];

const HELP: &str = "\
Builds with optimisation and starts `twinward up` in a directory below target/; its NATS server runs with
`sync_interval: always`, and twin-store commits durably. Three runs follow on the same hub:

  full speed  every agent sends as soon as its last batches are acknowledged; then the messages that
              ingestion made of it are published to bare JetStream on the same server, first to one
              stream, then to one per partition, with one message in flight per partition
  half speed  half the events a second of the first run: the loop's latency under heavy load
  tenth speed a tenth of them: its latency with room to spare

With --rate there is one run alone: what a full speed leaves to be folded is not in its way. The oscillation
guard is off, because the load is what it is for.

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
    let program = built.get("twinward")?;
    let hub = Hub::start_with(&program, &nats, "bench-", &NO_GUARD, |_| Ok(()))?;
    let loadgen = Loadgen {
        program: built.get("twinward-loadgen")?,
        env_file: hub.env_file().to_owned(),
        arguments,
    };
    let runs = match arguments.rate {
        Some(rate) => vec![("this rate", loadgen.at(rate.into())?)],
        None => at_shares(&loadgen)?,
    };
    hub.stop()?;

    let machine = Machine::this();
    let mut command = format!(
        "cargo xtask bench loop --agents {} --loop-agents {} --seconds {} --batch {}",
        arguments.agents, arguments.loop_agents, arguments.seconds, arguments.batch
    );
    if let Some(rate) = arguments.rate {
        let _ = write!(command, " --rate {rate}");
    }
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
        within(run, arguments.bound)?;
    }
    Ok(())
}

/// At full speed, then at shares of it.
fn at_shares(loadgen: &Loadgen<'_>) -> Result<Vec<render::Run>> {
    let bare = bare_seconds(loadgen.arguments);
    eprintln!(
        "full speed, {} s and twice {bare} s bare",
        loadgen.arguments.seconds
    );
    let full = loadgen.run(&["--rate", "0", "--bare-seconds", &bare.to_string()])?;
    let rates: Vec<u64> = SHARES
        .iter()
        .map(|(_, share)| rate_of(&full, *share))
        .collect::<Result<_>>()?;
    let mut runs = vec![("full speed", full)];
    for ((name, _), rate) in SHARES.into_iter().zip(rates) {
        eprint!("{name}: ");
        runs.push((name, loadgen.at(rate)?));
    }
    Ok(runs)
}

/// Fails if more than one loop in a hundred took longer than so many milliseconds, or none was measured.
fn within(run: &Value, bound: Option<f64>) -> Result<()> {
    let Some(bound) = bound else { return Ok(()) };
    let p99 = run["loop"]["latencyMs"]["p99"].as_f64();
    let p99 = p99.context("no loop was measured")?;
    ensure!(
        p99 <= bound,
        "99 of 100 loops took up to {p99:.0} ms; {bound} ms are allowed (--bound)"
    );
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
    fn at(&self, rate: u64) -> Result<Value> {
        eprintln!("{rate} events/s, {} s", self.arguments.seconds);
        self.run(&["--rate", &rate.to_string()])
    }

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

    #[test]
    fn a_bound_holds_for_what_was_measured() {
        let run = json!({"loop": {"latencyMs": {"p99": 400.5}}});
        assert!(within(&run, Some(401.0)).is_ok());
        assert!(within(&run, Some(400.0)).is_err());
        assert!(within(&json!({"loop": {"latencyMs": null}}), Some(400.0)).is_err());
        assert!(within(&json!({}), None).is_ok());
    }
}
