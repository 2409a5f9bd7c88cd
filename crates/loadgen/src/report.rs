//! What a run came to, for programs (JSON) and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use loadgen::latency::Summary;
use serde_json::{Value, json};

use crate::agent::Finished;
use crate::args::Arguments;
use crate::bare::Bare;
use crate::stats::{Stats, get};

/// Reasons of errors that are shown.
const REASONS_SHOWN: usize = 10;

/// A finished run.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) arguments: &'a Arguments,
    pub(crate) stats: &'a Stats,
    /// From the first event until sending stopped.
    pub(crate) sending: Duration,
    /// Events acknowledged in that time.
    pub(crate) acked_while_sending: u64,
    pub(crate) finished: &'a [Finished],
    pub(crate) bare: &'a [Bare],
}

impl Report<'_> {
    /// Whether nothing was lost on the way.
    pub(crate) fn is_good(&self) -> bool {
        self.unacknowledged() == 0
            && get(&self.stats.loops_timed_out) == 0
            && self.finished.len() == self.arguments.agents as usize
    }

    fn unacknowledged(&self) -> usize {
        let lanes = self.finished.iter().flat_map(|it| &it.lanes);
        lanes.map(crate::lane::LaneQueue::waiting_events).sum()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of one run are far below 2^52"
    )]
    fn events_per_second(&self) -> f64 {
        self.acked_while_sending as f64 / self.sending.as_secs_f64()
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let stats = self.stats;
        let mut value = json!({
            "agents": self.arguments.agents,
            "batch": self.arguments.batch,
            "window": self.arguments.window,
            "rate": self.arguments.rate,
            "seconds": rounded(self.sending.as_secs_f64()),
            "events": {
                "sent": get(&stats.sent_events),
                "acknowledged": get(&stats.acked_events),
                "rejected": get(&stats.rejected_events),
                "unacknowledged": self.unacknowledged(),
                "perSecond": rounded(self.events_per_second()),
            },
            "ackLatencyMs": summary_json(stats.ack_latency.summary()),
            "loop": {
                "agents": self.arguments.loop_agents.min(self.arguments.agents),
                "timedOut": get(&stats.loops_timed_out),
                "interrupted": get(&stats.loops_interrupted),
                "latencyMs": summary_json(stats.loop_latency.summary()),
                "hops": self.hops_json(),
                "hopsRead": get(&stats.hops.read),
                "hopsNotYetAcknowledged": get(&stats.hops.early),
            },
            "sessions": {
                "opened": get(&stats.sessions_opened),
                "lost": get(&stats.sessions_lost),
            },
            "errors": stats.errors(),
            "bare": self.bare.iter().map(bare_json).collect::<Vec<_>>(),
            "good": self.is_good(),
        });
        if self.arguments.per_device {
            value["devices"] = self.finished.iter().map(device_json).collect();
        }
        value
    }

    /// In the order of the loop.
    fn hops_json(&self) -> Vec<Value> {
        let hops = self.stats.hops.named();
        hops.map(|(name, took)| json!({ "hop": name, "latencyMs": summary_json(took.summary()) }))
            .collect()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let stats = self.stats;
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<26}{value}");
        };
        let per = match self.arguments.rate {
            0 => "as fast as acknowledged".to_owned(),
            rate => format!("{rate} events/s asked for"),
        };
        let (agents, batch) = (self.arguments.agents, self.arguments.batch);
        line("agents", format!("{agents}, batches of {batch}, {per}"));
        line(
            "events acknowledged",
            format!("{:.0}/s", self.events_per_second()),
        );
        line(
            "send to acknowledgement",
            summary_text(stats.ack_latency.summary()),
        );
        line(
            "event to applied push",
            summary_text(stats.loop_latency.summary()),
        );
        for (hop, took) in stats.hops.named() {
            line(&format!("  {hop}"), summary_text(took.summary()));
        }
        line(
            "events",
            format!(
                "{} sent, {} acknowledged, {} rejected, {} left",
                get(&stats.sent_events),
                get(&stats.acked_events),
                get(&stats.rejected_events),
                self.unacknowledged()
            ),
        );
        line(
            "loops not measured",
            format!(
                "{} timed out, {} interrupted",
                get(&stats.loops_timed_out),
                get(&stats.loops_interrupted)
            ),
        );
        line(
            "sessions",
            format!(
                "{} opened, {} lost",
                get(&stats.sessions_opened),
                get(&stats.sessions_lost)
            ),
        );
        for bare in self.bare {
            line(
                &format!("bare, {} stream(s)", bare.streams),
                format!(
                    "{:.0} events/s in {:.0} messages/s of {:.1} events, {:.0} bytes; {}",
                    bare.events_per_second,
                    bare.messages_per_second,
                    bare.events_per_message,
                    bare.bytes_per_message,
                    summary_text(bare.latency)
                ),
            );
        }
        for (reason, count) in stats.errors().iter().take(REASONS_SHOWN) {
            line("error", format!("{count} times {reason}"));
        }
        if self.arguments.per_device {
            for finished in self.finished {
                let (name, counts) = device_counts(finished);
                let counts = counts.iter().map(|(kind, count)| format!("{kind} {count}"));
                line(&name, counts.collect::<Vec<_>>().join(", "));
            }
        }
        out
    }
}

fn device_counts(finished: &Finished) -> (String, BTreeMap<&'static str, u64>) {
    let mut counts = BTreeMap::new();
    for lane in &finished.lanes {
        for (kind, count) in lane.acknowledged() {
            *counts.entry(*kind).or_default() += count;
        }
    }
    (finished.member.identity.device.to_string(), counts)
}

fn device_json(finished: &Finished) -> Value {
    let (device, acknowledged) = device_counts(finished);
    let total = |count: fn(&crate::lane::LaneQueue<_>) -> u64| -> u64 {
        finished.lanes.iter().map(count).sum()
    };
    json!({
        "device": device,
        "module": finished.member.identity.module.as_ref().map(ToString::to_string),
        "acknowledged": acknowledged,
        "rejected": total(crate::lane::LaneQueue::rejected),
        "unacknowledged": total(|lane| lane.waiting_events() as u64),
    })
}

fn bare_json(bare: &Bare) -> Value {
    json!({
        "streams": bare.streams,
        "eventsPerSecond": rounded(bare.events_per_second),
        "messagesPerSecond": rounded(bare.messages_per_second),
        "eventsPerMessage": rounded(bare.events_per_message),
        "bytesPerMessage": rounded(bare.bytes_per_message),
        "latencyMs": summary_json(bare.latency),
    })
}

fn summary_json(summary: Option<Summary>) -> Value {
    let Some(summary) = summary else {
        return Value::Null;
    };
    let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "count": summary.count,
        "p50": ms(summary.p50),
        "p90": ms(summary.p90),
        "p99": ms(summary.p99),
        "max": ms(summary.max),
    })
}

fn summary_text(summary: Option<Summary>) -> String {
    let Some(summary) = summary else {
        return "not measured".to_owned();
    };
    let ms = |duration: Duration| format!("{:.1}", duration.as_secs_f64() * 1e3);
    let Summary {
        count,
        p50,
        p90,
        p99,
        max,
    } = summary;
    format!(
        "p50 {} ms, p90 {} ms, p99 {} ms, max {} ms ({count})",
        ms(p50),
        ms(p90),
        ms(p99),
        ms(max)
    )
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::stats::add;

    #[test]
    fn programs_and_people_get_the_same_figures() {
        let arguments = Arguments::parse_from(["loadgen", "--env-file=x", "--agents=1"]);
        let stats = Stats::default();
        add(&stats.sent_events, 500);
        stats.loop_latency.record(Duration::from_millis(12));
        stats.error("session: gone");
        let report = Report {
            arguments: &arguments,
            stats: &stats,
            sending: Duration::from_secs(2),
            acked_while_sending: 500,
            finished: &[],
            bare: &[],
        };
        let value = report.json();
        assert_eq!(value["events"]["perSecond"], 250.0);
        assert_eq!(value["loop"]["latencyMs"]["count"], 1);
        assert_eq!(value["ackLatencyMs"], Value::Null);
        assert_eq!(value["good"], false, "an agent is missing");
        let text = report.text();
        for words in [
            "250/s",
            "p50 12.0 ms",
            "not measured",
            "1 times session: gone",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }
}
