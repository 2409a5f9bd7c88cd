//! `bench rollout`: a rollout over many simulated agents, and one that is taken back.

use std::fmt::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::render::Machine;
use crate::demo::guard;
use crate::hub::Hub;
use crate::programs::{self, Profile};
use crate::tools::{self, Tool};

/// Arguments of `bench rollout`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct RolloutArguments {
    /// Simulated agents, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    agents: u32,
    /// How long a wave waits for agents that do not answer; 0: there are none
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    silence: u32,
    /// Prints one JSON object instead of text
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Builds with optimisation and starts `twinward up` in a directory below target/. Of the agents one in twenty
fails (half of these reject what they are told, the others never answer), and one in ten is cut off. A
rollout in four waves (2 %, 10 %, 50 %, the rest) may fail on 20 % of those reached and must complete; those
that were cut off come back and must get the setting. Then the same with a gate of 3 % must be taken back,
from exactly the twins of the waves that began. It ends with an error if anyone was told anything else, or
if the policy's counts are not exactly what they must be.

The hub and the agents need so many open files each (`ulimit -Hn`). Everything shares this machine's cores.";

/// Measures.
pub(super) fn run(arguments: &RolloutArguments) -> Result<()> {
    let nats = tools::ensure(Tool::NatsServer)?;
    let built = programs::build(Profile::Release, &["twinward", "loadgen"])?;
    let hub = Hub::start(&built.get("twinward")?, &nats, "bench-rollout-")?;
    let output = guard::command(&built.get("twinward-rolloutbench")?)
        .arg("--env-file")
        .arg(hub.env_file())
        .arg("--agents")
        .arg(arguments.agents.to_string())
        .arg("--silence")
        .arg(arguments.silence.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start twinward-rolloutbench")?;
    ensure!(
        output.status.success(),
        "the story did not hold; the hub said:\n{}",
        hub.log()
    );
    hub.stop()?;
    let run: Value =
        serde_json::from_slice(&output.stdout).context("twinward-rolloutbench told no numbers")?;
    let command = format!(
        "cargo xtask bench rollout --agents {} --silence {}",
        arguments.agents, arguments.silence
    );
    let machine = Machine::this();
    if arguments.json {
        println!(
            "{}",
            json!({ "command": command, "machine": machine.text(), "run": run })
        );
    } else {
        print!("    {command}\n\n{}\n\n{}", machine.text(), text(&run));
    }
    Ok(())
}

fn text(run: &Value) -> String {
    let seconds = |value: &Value| format!("{:.1} s", value.as_f64().unwrap_or_default());
    let mut out = String::from("| | |\n| --- | --- |\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "| {name} | {value} |");
    };
    line(
        &format!("{} agents connected within", run["agents"]),
        seconds(&run["connectedSeconds"]),
    );
    for (name, key) in [("gate of 20 %", "good"), ("gate of 3 %", "bad")] {
        let rollout = &run[key];
        line(
            &format!("{name}: its twins counted, waves planned"),
            seconds(&rollout["plannedSeconds"]),
        );
        let waves = rollout["waves"].as_array().into_iter().flatten();
        for (index, wave) in waves.enumerate() {
            line(
                &format!("{name}: wave {} of {} twins", index + 1, wave["twins"]),
                format!(
                    "{} ({} applied, {} rejected, {} silent, {} not there, as last seen)",
                    seconds(&wave["seconds"]),
                    wave["applied"],
                    wave["rejected"],
                    wave["pending"],
                    wave["offline"]
                ),
            );
        }
        let end = rollout["phase"].as_str().unwrap_or_default();
        line(
            &format!("{name}: {end} after"),
            seconds(&rollout["seconds"]),
        );
    }
    line(
        "counts of the policy exact, after the first",
        seconds(&run["settledSeconds"]),
    );
    line(
        "those that were cut off are back and have it, after",
        seconds(&run["backSeconds"]),
    );
    line(
        &format!("taken back from all {} that had it, after", run["changed"]),
        seconds(&run["takenBackSeconds"]),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wave_of_both_rollouts_is_shown() {
        let wave = json!({"twins": 10, "seconds": 1.25, "applied": 8, "rejected": 1, "pending": 0, "offline": 1});
        let rollout = |phase: &str, waves: Vec<Value>| json!({"phase": phase, "plannedSeconds": 0.1, "seconds": 3.0, "waves": waves});
        let run = json!({
            "agents": 40, "connectedSeconds": 2.0, "settledSeconds": 0.0, "backSeconds": 1.0,
            "takenBackSeconds": 0.5, "changed": 10,
            "good": rollout("PHASE_COMPLETED", vec![wave.clone(), wave.clone()]),
            "bad": rollout("PHASE_ROLLED_BACK", vec![wave]),
        });
        let text = text(&run);
        assert_eq!(text.matches("wave ").count(), 3, "{text}");
        assert!(
            text.contains("wave 2 of 10 twins | 1.2 s (8 applied"),
            "{text}"
        );
        assert!(text.contains("PHASE_ROLLED_BACK after | 3.0 s"), "{text}");
    }
}
