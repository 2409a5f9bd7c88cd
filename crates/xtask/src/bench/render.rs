//! What the benchmark found, for people and programs. Pure but for a look at the machine.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

/// Width of the first column.
const NAME_WIDTH: usize = 30;

/// What the numbers were measured on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    cores: usize,
    memory_mib: u64,
    processor: String,
    kernel: String,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_mib(&read("/proc/meminfo")),
            processor: processor(&read("/proc/cpuinfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }

    pub(super) fn text(&self) -> String {
        let Self {
            cores,
            memory_mib,
            processor,
            kernel,
        } = self;
        format!("{cores} cores ({processor}), {memory_mib} MiB, Linux {kernel}")
    }
}

fn memory_mib(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn processor(cpuinfo: &str) -> String {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut names = lines.filter(|(key, _)| key.trim() == "model name");
    names.next().map_or_else(
        || "processor unknown".to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// A run by its name; the first is the one at full speed.
pub(super) type Run = (&'static str, Value);

/// For programs.
pub(super) fn json(machine: &Machine, command: &str, runs: &[Run]) -> Value {
    let ratios = ratios(runs).map(|(_, streams, ratio)| {
        let ratio = (ratio * 1000.0).round() / 1000.0;
        json!({ "streams": streams, "ratio": ratio })
    });
    let named = runs.iter().map(|(name, run)| {
        let mut run = run.clone();
        run["name"] = json!(name);
        run
    });
    json!({
        "command": command,
        "machine": {
            "cores": machine.cores,
            "memoryMiB": machine.memory_mib,
            "processor": machine.processor,
            "kernel": machine.kernel,
        },
        "runs": named.collect::<Vec<_>>(),
        "ofBare": ratios.collect::<Vec<_>>(),
    })
}

/// For people.
pub(super) fn text(machine: &Machine, command: &str, runs: &[Run]) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<NAME_WIDTH$}{value}");
    };
    line("command", command.to_owned());
    line("machine", machine.text());
    for (name, run) in runs {
        line(&format!("{name}, acknowledged"), rate(events(run)));
        line(
            &format!("{name}, send to ack"),
            latency(&run["ackLatencyMs"]),
        );
        line(
            &format!("{name}, event to applied"),
            latency(&run["loop"]["latencyMs"]),
        );
        for hop in run["loop"]["hops"].as_array().into_iter().flatten() {
            let name = hop["hop"].as_str().unwrap_or_default();
            line(&format!("  {name}"), latency(&hop["latencyMs"]));
        }
    }
    for (bare, streams, ratio) in ratios(runs) {
        let size = bare["eventsPerMessage"].as_f64().unwrap_or_default();
        line(
            &format!("bare JetStream, {streams} stream(s)"),
            format!(
                "{}, {size:.1} events a message; {}",
                rate(bare["eventsPerSecond"].as_f64()),
                latency(&bare["latencyMs"])
            ),
        );
        line("  full speed of it", format!("{:.0} %", 100.0 * ratio));
    }
    out
}

/// Each bare measurement with its number of streams and our share of it.
fn ratios(runs: &[Run]) -> impl Iterator<Item = (&Value, u64, f64)> {
    let full = runs.first().map(|(_, run)| run);
    let bare = full.and_then(|run| run["bare"].as_array());
    bare.into_iter().flatten().filter_map(move |bare| {
        let ratio = events(full?)? / bare["eventsPerSecond"].as_f64()?;
        Some((bare, bare["streams"].as_u64().unwrap_or_default(), ratio))
    })
}

fn events(run: &Value) -> Option<f64> {
    run["events"]["perSecond"].as_f64()
}

fn rate(events: Option<f64>) -> String {
    events.map_or_else(
        || "not measured".to_owned(),
        |events| format!("{events:.0} events/s"),
    )
}

fn latency(summary: &Value) -> String {
    let at = |name: &str| summary[name].as_f64();
    match (at("p50"), at("p99"), at("max"), summary["count"].as_u64()) {
        (Some(p50), Some(p99), Some(max), Some(count)) => {
            format!("p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms ({count})")
        }
        _ => "not measured".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            cores: 2,
            memory_mib: memory_mib("MemTotal:       16384000 kB\nMemFree: 1 kB\n"),
            processor: processor("processor : 0\nmodel name\t: A Fine One\n"),
            kernel: "6.18".to_owned(),
        }
    }

    fn run(rate: f64) -> Value {
        json!({
            "events": {"perSecond": rate},
            "ackLatencyMs": {"count": 10, "p50": 1.0, "p99": 2.0, "max": 3.0},
            "loop": {"latencyMs": null, "hops": [
                {"hop": "event → received", "latencyMs": {"count": 8, "p50": 0.5, "p99": 0.75, "max": 0.8}},
            ]},
            "bare": [{
                "streams": 1, "eventsPerSecond": 100_000.0, "eventsPerMessage": 40.0,
                "latencyMs": {"count": 9, "p50": 3.0, "p99": 4.0, "max": 5.0},
            }],
        })
    }

    #[test]
    fn people_get_rates_latencies_and_the_share_of_bare() {
        let runs = [("full speed", run(25_000.0)), ("half speed", run(12_500.0))];
        let text = text(&machine(), "the command", &runs);
        for words in [
            "the command",
            "2 cores (A Fine One), 16000 MiB, Linux 6.18",
            "25000 events/s",
            "12500 events/s",
            "p50 1.0 ms, p99 2.0 ms, max 3.0 ms (10)",
            "not measured",
            "  event → received            p50 0.5 ms, p99 0.8 ms, max 0.8 ms (8)",
            "25 %",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }

    #[test]
    fn programs_get_the_runs_whole() {
        let runs = [("full speed", run(25_000.0)), ("half speed", run(1.0))];
        let value = json(&machine(), "c", &runs);
        assert_eq!(value["ofBare"][0]["ratio"], 0.25);
        assert_eq!(value["machine"]["cores"], 2);
        assert_eq!(value["runs"][1]["events"]["perSecond"], 1.0);
        assert_eq!(value["runs"][1]["name"], "half speed");
    }
}
