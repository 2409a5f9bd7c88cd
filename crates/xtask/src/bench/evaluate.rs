//! `bench evaluate`: policies on all twins, on one core and through a running hub.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::render::Machine;
use crate::demo::guard;
use crate::hub::Hub;
use crate::programs::{self, Profile};
use crate::tools::{self, Tool};

/// Half of the twins of one policy are more than the mass-change guard lets change at once; here nothing
/// is changed.
const NO_GUARD: [(&str, &str); 2] = [
    ("TWINWARD_POLICY__MASS_CHANGE__TWINS_MAX", "0"),
    ("TWINWARD_POLICY__MASS_CHANGE__PERCENT_MAX", "100"),
];

/// Arguments of `bench evaluate`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct EvaluateArguments {
    /// Twins that are evaluated in memory
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    twins: u32,
    /// Twins of the hub that re-evaluates all; 0: none is started
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    hub_twins: u32,
    /// Policies in force
    #[arg(long, value_name = "N", default_value_t = 50)]
    policies: u32,
    /// Seconds that the evaluation in memory may take for each million of twins; above, the command fails
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    bound: f64,
    /// Prints one JSON object instead of text
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Builds with optimisation. First the evaluation alone, on one thread: twins of some 4.5 KB, as twin-store
sends them, are made in memory (which does not count), and each is looked at as a re-evaluation does it:
once as it is, and once with the policies' settings in place, as twin-store would have put them there.
Then `twinward up` is started on an embedded store that is filled with such twins, their settings in
place; the policies are applied, and all twins are re-evaluated twice by the service, over gRPC. That has
the cores of this machine, and nothing is to be written.

The conditions look at tags, reported properties and postures; each policy sets leaves of its own.";

/// Measures.
pub(super) fn run(arguments: &EvaluateArguments) -> Result<()> {
    let nats = tools::ensure(Tool::NatsServer)?;
    let built = programs::build(Profile::Release, &["twinward", "loadgen"])?;
    let bench = built.get("twinward-evaluatebench")?;
    let policies = arguments.policies.to_string();
    let measure = |twins: u32, which: &[&OsStr]| {
        let twins = twins.to_string();
        let common = ["--policies", policies.as_str(), "--twins", twins.as_str()];
        measure(&bench, which, &common)
    };
    eprintln!("in memory, {} twins", arguments.twins);
    let engine = measure(arguments.twins, &["engine".as_ref()])?;
    let service = if arguments.hub_twins == 0 {
        Value::Null
    } else {
        eprintln!("a hub with {} twins", arguments.hub_twins);
        let prepare = |directory: &Path| {
            let store = directory.join("twin-store");
            fs::create_dir_all(&store)?;
            let which = ["fill".as_ref(), "--data-dir".as_ref(), store.as_os_str()];
            measure(arguments.hub_twins, &which).map(|_| ())
        };
        let program = built.get("twinward")?;
        let hub = Hub::start_with(&program, &nats, "bench-evaluate-", &NO_GUARD, prepare)?;
        let file = hub.env_file().as_os_str().to_owned();
        let which = ["service".as_ref(), "--env-file".as_ref(), file.as_os_str()];
        let service = measure(arguments.hub_twins, &which)
            .with_context(|| format!("the hub said:\n{}", hub.log()))?;
        hub.stop()?;
        service
    };

    let command = format!(
        "cargo xtask bench evaluate --twins {} --hub-twins {} --policies {}",
        arguments.twins, arguments.hub_twins, arguments.policies
    );
    let machine = Machine::this();
    if arguments.json {
        println!(
            "{}",
            json!({ "command": command, "machine": machine.text(), "engine": engine, "service": service })
        );
    } else {
        print!(
            "    {command}\n\n{}\n\n{}",
            machine.text(),
            text(&engine, &service)
        );
    }
    within(&engine, arguments.bound)
}

/// Fails if a pass in memory took longer than so many seconds for each million of twins.
fn within(engine: &Value, bound: f64) -> Result<()> {
    for pass in ["first", "steady"] {
        let took = engine[pass]["microsecondsPerTwin"].as_f64();
        let took = took.with_context(|| format!("the {pass} pass told no time"))?;
        ensure!(
            took <= bound,
            "the {pass} pass took {took:.1} s for a million twins; {bound} s are allowed (--bound)"
        );
    }
    Ok(())
}

fn measure(program: &Path, which: &[&OsStr], common: &[&str]) -> Result<Value> {
    let output = guard::command(program)
        .args(which)
        .args(common)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start twinward-evaluatebench")?;
    ensure!(
        output.status.success(),
        "twinward-evaluatebench failed with {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("twinward-evaluatebench told no numbers")
}

fn text(engine: &Value, service: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let mut out = format!(
        "| {} policies | twins | seconds | for each twin | settled at a glance / decided / to write |\n\
         | --- | --- | --- | --- | --- |\n",
        engine["policies"]
    );
    for (name, pass) in [
        ("in memory, one thread, settings to be written", "first"),
        ("in memory, one thread, settings in place", "steady"),
    ] {
        let pass = &engine[pass];
        let _ = writeln!(
            out,
            "| {name} | {} | {:.1} | {:.1} µs | {} / {} / {} |",
            engine["twins"],
            number(&pass["seconds"]),
            number(&pass["microsecondsPerTwin"]),
            pass["settled"],
            pass["holds"],
            pass["writes"],
        );
    }
    for (index, run) in service["runs"].as_array().into_iter().flatten().enumerate() {
        let _ = writeln!(
            out,
            "| re-evaluated by a hub, run {} | {} | {:.1} | {:.1} µs | |",
            index + 1,
            run["evaluated"],
            number(&run["seconds"]),
            number(&run["microsecondsPerTwin"]),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_takes_too_long_fails_and_all_runs_are_shown() {
        let pass = |micros: f64| json!({"seconds": micros, "microsecondsPerTwin": micros, "settled": 9, "holds": 1, "writes": 0});
        let engine = |steady| json!({"policies": 50, "twins": 10, "first": pass(10.0), "steady": pass(steady)});
        assert!(within(&engine(59.9), 60.0).is_ok());
        let error = within(&engine(60.1), 60.0).unwrap_err().to_string();
        assert!(error.contains("steady"), "{error}");
        assert!(within(&json!({}), 60.0).is_err());

        let run = json!({"evaluated": 10, "seconds": 1.0, "microsecondsPerTwin": 100.0});
        let text = text(&engine(20.0), &json!({"runs": [run.clone(), run]}));
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.contains("run 2 | 10 | 1.0 | 100.0 µs"), "{text}");
    }
}
