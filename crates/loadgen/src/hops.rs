//! Where the time of a loop goes: the timeline that the hub keeps of each change, read from the twin
//! of a loop agent after its turn. The agents and the hub share a clock here, so hops may be compared.

use std::time::Duration;

use loadgen::latency::Latencies;
use posture::Timeline;
use serde_json::Value;
use service_kit::client::Connection;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use twin::IdentityKey;
use wire::twin::v1::GetTwinRequest;
use wire::twin::v1::twin_service_client::TwinServiceClient;

/// Turns that wait to be read; more are not read, which makes a sample of them.
const WAITING_MAX: usize = 4096;

/// The hops, each from the one before: name, and what has happened after it.
pub(crate) const HOPS: [&str; 7] = [
    "event → received",
    "received → posture",
    "posture → decided",
    "decided → desired",
    "desired → pushed",
    "pushed → applied",
    "applied → acknowledged",
];

/// How long each hop took, over all turns that were read.
#[derive(Debug, Default)]
pub(crate) struct Hops {
    took: [Latencies; HOPS.len()],
    /// Turns whose whole timeline was there.
    pub(crate) read: std::sync::atomic::AtomicU64,
    /// Turns that were over, but not acknowledged when they were looked at.
    pub(crate) early: std::sync::atomic::AtomicU64,
}

impl Hops {
    /// Each hop's name and durations, in order.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, &Latencies)> {
        HOPS.into_iter().zip(&self.took)
    }

    /// Adds a turn, if all of it has been.
    pub(crate) fn add(&self, timeline: &Timeline) -> bool {
        let Some(times) = whole(timeline) else {
            return false;
        };
        for (latencies, pair) in self.took.iter().zip(times.windows(2)) {
            let [before, after] = pair else { continue };
            let took = after.duration_since(*before);
            // A clock that is put back in between measures nothing.
            latencies.record(Duration::try_from(took).unwrap_or_default());
        }
        true
    }
}

fn whole(timeline: &Timeline) -> Option<[jiff::Timestamp; HOPS.len() + 1]> {
    Some([
        timeline.observed_at?,
        timeline.received_at?,
        timeline.folded_at?,
        timeline.decided_at?,
        timeline.committed_at?,
        timeline.pushed_at?,
        timeline.applied_at?,
        timeline.acknowledged_at?,
    ])
}

/// A turn that is over.
#[derive(Debug)]
pub(crate) struct Over {
    pub(crate) identity: IdentityKey,
    /// The version of the configuration that ended it.
    pub(crate) version: u64,
    /// When the twin holds the answer, and not yet the next turn.
    pub(crate) look_at: Instant,
}

/// Where agents tell of their turns, and what reads them.
pub(crate) fn channel() -> (mpsc::Sender<Over>, mpsc::Receiver<Over>) {
    mpsc::channel(WAITING_MAX)
}

/// Reads the timelines of turns until nobody tells of any.
pub(crate) async fn read(
    mut twins: TwinServiceClient<Connection>,
    mut over: mpsc::Receiver<Over>,
    stats: std::sync::Arc<crate::stats::Stats>,
) {
    while let Some(turn) = over.recv().await {
        sleep_until(turn.look_at).await;
        let request = GetTwinRequest {
            name: wire::names::identity_name(&turn.identity),
            read_mask: Some(prost_types::FieldMask {
                paths: vec!["posture_json".to_owned()],
            }),
        };
        match twins.get_twin(request).await {
            Ok(answer) => {
                let timeline = timeline(&answer.get_ref().posture_json, turn.version);
                let counter = if timeline.is_some_and(|it| stats.hops.add(&it)) {
                    &stats.hops.read
                } else {
                    &stats.hops.early
                };
                crate::stats::add(counter, 1);
            }
            Err(refusal) => stats.error(&format!("timeline: {:?}", refusal.code())),
        }
    }
}

/// The timeline of this version, if it is the newest.
fn timeline(posture: &str, version: u64) -> Option<Timeline> {
    let mut posture: Value = serde_json::from_str(posture).ok()?;
    let configuration = posture.get_mut("configuration")?;
    if configuration.get("desiredVersion")?.as_u64()? != version {
        return None;
    }
    serde_json::from_value(configuration.get_mut("timeline")?.take()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_timeline_of_the_version_asked_for_is_split_into_its_hops() {
        let at = |millis: u32| format!("2026-01-01T00:00:00.{millis:03}Z");
        let posture = serde_json::json!({ "configuration": {
            "desiredVersion": 7,
            "timeline": {
                "observedAt": at(0), "receivedAt": at(1), "foldedAt": at(3), "decidedAt": at(6),
                "committedAt": at(10), "pushedAt": at(15), "appliedAt": at(21), "acknowledgedAt": at(28),
            },
        }});
        let text = posture.to_string();
        assert_eq!(timeline(&text, 8), None, "another turn's");
        let hops = Hops::default();
        assert!(hops.add(&timeline(&text, 7).unwrap()));
        let took: Vec<_> = hops
            .named()
            .map(|(_, latencies)| latencies.summary().unwrap().max.as_millis())
            .collect();
        assert_eq!(took, [1, 2, 3, 4, 5, 6, 7]);
        let unanswered = Timeline {
            acknowledged_at: None,
            ..timeline(&text, 7).unwrap()
        };
        assert!(!hops.add(&unanswered));
    }
}
