//! The heartbeat: the agent lives, even when it has nothing to say.

use jiff::Timestamp;
use posture::EventPayload;

use super::{Collector, Health, Observation};

/// Says at each interval of its lane that the agent lives.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat;

impl Collector for Heartbeat {
    fn observe(&mut self, _now: Timestamp, _out: &mut Vec<Observation>) {}

    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        out.push(Observation::routine(now, EventPayload::Heartbeat));
    }

    fn flush(&mut self, _out: &mut Vec<Observation>) {}

    fn health(&self) -> Health {
        Health::running()
    }
}
