//! The hops of the loop, from an event on this machine to the answer in the twin, and how long each
//! took. Pure.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::twin;

/// One hop of the loop, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hop {
    /// The agent sees the fact.
    Event,
    /// Ingestion has the event.
    Received,
    /// Twin-store has folded it into the posture.
    Posture,
    /// Policy has decided.
    Policy,
    /// Twin-store has written the desired section.
    Desired,
    /// Ingestion has given it to the agent's stream.
    Push,
    /// The agent runs on it.
    Applied,
    /// The agent's answer is in the twin.
    Acknowledged,
}

impl Hop {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 8] = [
        Self::Event,
        Self::Received,
        Self::Posture,
        Self::Policy,
        Self::Desired,
        Self::Push,
        Self::Applied,
        Self::Acknowledged,
    ];

    /// Its name, for people and programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Received => "received",
            Self::Posture => "posture",
            Self::Policy => "policy",
            Self::Desired => "desired",
            Self::Push => "push",
            Self::Applied => "applied",
            Self::Acknowledged => "acknowledged",
        }
    }

    /// What has happened after it.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Event => "the agent saw the change",
            Self::Received => "ingestion has the event",
            Self::Posture => "twin-store folded it into the posture",
            Self::Policy => "policy chose the configuration",
            Self::Desired => "twin-store wrote it into the twin",
            Self::Push => "ingestion gave it to the agent's stream",
            Self::Applied => "the agent runs on it",
            Self::Acknowledged => "the agent's answer is in the twin",
        }
    }

    /// Its key in `posture.configuration.timeline`.
    fn key(self) -> &'static str {
        match self {
            Self::Event => "observedAt",
            Self::Received => "receivedAt",
            Self::Posture => "foldedAt",
            Self::Policy => "decidedAt",
            Self::Desired => "committedAt",
            Self::Push => "pushedAt",
            Self::Applied => "appliedAt",
            Self::Acknowledged => "acknowledgedAt",
        }
    }
}

/// When each hop was, as far as it has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timeline([Option<Timestamp>; 8]);

/// A hop that has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) hop: Hop,
    pub(crate) at: Timestamp,
    /// Since the hop before; `None` for the first.
    pub(crate) took: Option<SignedDuration>,
    /// Since the first.
    pub(crate) since_start: SignedDuration,
}

impl Timeline {
    /// Reads `posture.configuration.timeline`.
    pub(crate) fn read(timeline: &Value) -> Self {
        Self(Hop::ALL.map(|hop| twin::time(&timeline[hop.key()])))
    }

    /// When a hop was.
    pub(crate) fn at(&self, hop: Hop) -> Option<Timestamp> {
        self.0[hop as usize]
    }

    /// The hops that have been, with their durations. Signed, because the agent's clock is
    /// another one than the services' when it runs on another machine.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        let mut passed: Vec<Passed> = Vec::new();
        for (hop, at) in Hop::ALL.into_iter().zip(self.0) {
            let Some(at) = at else { continue };
            let start = passed.first().map_or(at, |first| first.at);
            passed.push(Passed {
                hop,
                at,
                took: passed.last().map(|last| at.duration_since(last.at)),
                since_start: at.duration_since(start),
            });
        }
        passed
    }

    /// From the event to the applied push.
    pub(crate) fn event_to_applied(&self) -> Option<SignedDuration> {
        Some(self.at(Hop::Applied)?.duration_since(self.at(Hop::Event)?))
    }
}

/// Milliseconds with the microseconds behind the point.
pub(crate) fn millis(duration: SignedDuration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::twin::tests::applied;
    use super::*;

    #[test]
    fn every_hop_of_a_full_timeline_has_its_latency() {
        let timeline = Timeline::read(&applied()["posture"]["configuration"]["timeline"]);
        let passed = timeline.passed();
        let took: Vec<_> = passed.iter().map(|it| it.took.map(millis)).collect();
        let expected = [1.5, 2.5, 1.0, 1.0, 1.0, 2.0, 3.0].map(Some);
        assert_eq!((took[0], &took[1..]), (None, &expected[..]));
        assert_eq!(passed[7].since_start, SignedDuration::from_millis(12));
        assert_eq!(timeline.event_to_applied().map(millis), Some(9.0));
    }

    #[test]
    fn a_timeline_that_has_not_come_far_tells_what_it_has() {
        let timeline = Timeline::read(&json!({
            "decidedAt": "2026-01-01T00:00:01Z",
            "committedAt": "2026-01-01T00:00:00.999Z",
        }));
        let passed = timeline.passed();
        assert_eq!(passed.len(), 2);
        assert_eq!((passed[0].hop, passed[0].took), (Hop::Policy, None));
        assert_eq!(passed[1].took.map(millis), Some(-1.0), "clocks may differ");
        assert_eq!(timeline.event_to_applied(), None);
        assert_eq!(Timeline::read(&Value::Null), Timeline::default());
    }
}
