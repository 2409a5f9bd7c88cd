//! What a run came to, for programs (JSON) and for people.

use std::fmt::Write as _;
use std::time::Duration;

use loadgen::latency::Summary;
use loadgen::probe::Measured;
use serde_json::{Value, json};

use crate::fleet::Counts;

/// Bytes of the hub's process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// All devices registered, a few were connected before.
    pub(crate) before: u64,
    /// All connected and idle.
    pub(crate) idle: u64,
    /// The same after the storm.
    pub(crate) after_storm: u64,
    /// All gone.
    pub(crate) at_end: u64,
}

/// A finished run.
pub(crate) struct Report<'a> {
    pub(crate) connections: u32,
    pub(crate) memory: Memory,
    /// The first time, at the rate that was asked for.
    pub(crate) connecting: Duration,
    /// From the cut until the last was back.
    pub(crate) reconnecting: Duration,
    /// From the first write until the last device was told.
    pub(crate) changing: Duration,
    pub(crate) counts: &'a Counts,
    pub(crate) calm: Measured,
    pub(crate) storm: Measured,
}

impl Report<'_> {
    /// Whether no session was lost and nobody starved.
    pub(crate) fn is_good(&self) -> bool {
        let all = u64::from(self.connections);
        self.counts.forgotten() == 0
            && self.counts.ended() == 0
            && self.counts.told() == all
            && self.storm.errors.is_empty()
            && self.calm.errors.is_empty()
            && self.storm.methods.is_some()
            && self.storm.changes.is_some()
    }

    fn each(&self, bytes: u64) -> f64 {
        let more = bytes.saturating_sub(self.memory.before);
        kib(more) / f64::from(self.connections)
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let Memory {
            before,
            idle,
            after_storm,
            at_end,
        } = self.memory;
        json!({
            "good": self.is_good(),
            "connections": self.connections,
            "memory": {
                "beforeMib": rounded(mib(before)),
                "idleMib": rounded(mib(idle)),
                "afterStormMib": rounded(mib(after_storm)),
                "atEndMib": rounded(mib(at_end)),
                "idleKibEach": rounded(self.each(idle)),
                "afterStormKibEach": rounded(self.each(after_storm)),
            },
            "connectingSeconds": rounded(self.connecting.as_secs_f64()),
            "reconnectingSeconds": rounded(self.reconnecting.as_secs_f64()),
            "changingSeconds": rounded(self.changing.as_secs_f64()),
            "sessionsLost": self.counts.forgotten(),
            "connectionsLost": self.counts.ended(),
            "toldOfTheChange": self.counts.told(),
            "failedAttempts": self.counts.failures(),
            "calm": measured(&self.calm),
            "storm": measured(&self.storm),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let value = self.json();
        let mut out = String::new();
        let all = self.connections;
        let memory = self.memory;
        let _ = writeln!(
            out,
            "{all} idle connections: {:.1} KiB each ({:.0} MiB before, {:.0} MiB with them; {:.1} KiB each after the storm, {:.0} MiB when all are gone)",
            self.each(memory.idle),
            mib(memory.before),
            mib(memory.idle),
            self.each(memory.after_storm),
            mib(memory.at_end),
        );
        let _ = writeln!(
            out,
            "storm: all back after {:.1} s; failed attempts on the way: {}",
            self.reconnecting.as_secs_f64(),
            value["failedAttempts"]
        );
        let _ = writeln!(
            out,
            "sessions lost: {}; told of a change afterwards without subscribing again: {} of {all}, within {:.1} s",
            self.counts.forgotten(),
            self.counts.told(),
            self.changing.as_secs_f64()
        );
        for (name, phase) in [("calm", &self.calm), ("storm", &self.storm)] {
            for (what, summary) in [("method", phase.methods), ("change", phase.changes)] {
                let _ = writeln!(out, "{name}, {what} to the probe: {}", line(summary));
            }
            for error in &phase.errors {
                let _ = writeln!(out, "{name}: {error}");
            }
        }
        out
    }
}

fn line(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "never answered".to_owned(),
        |it| {
            format!(
                "p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms, {} of them",
                millis(it.p50),
                millis(it.p99),
                millis(it.max),
                it.count
            )
        },
    )
}

fn measured(measured: &Measured) -> Value {
    let summary = |it: Option<Summary>| {
        it.map(|it| {
            json!({
                "count": it.count,
                "p50Ms": rounded(millis(it.p50)),
                "p99Ms": rounded(millis(it.p99)),
                "maxMs": rounded(millis(it.max)),
            })
        })
    };
    json!({
        "method": summary(measured.methods),
        "change": summary(measured.changes),
        "errors": measured.errors,
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "memory of one machine is far below 2^52 bytes"
)]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

/// For people.
pub(crate) fn mib(bytes: u64) -> f64 {
    kib(bytes) / 1024.0
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
