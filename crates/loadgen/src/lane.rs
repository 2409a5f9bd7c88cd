//! One lane of a simulated agent: numbers its events, keeps what is not acknowledged, counts what
//! is. Pure; a real agent's spool does the same on disk.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;
use wire::agent::v1 as agent;
use wire::agent::v1::security_event::Payload;

/// A batch that was sent and is not acknowledged yet.
#[derive(Debug)]
struct Outstanding<I> {
    batch: agent::EventBatch,
    sent_at: I,
}

/// One lane. `I` is an instant of the caller's clock.
#[derive(Debug)]
pub(crate) struct LaneQueue<I> {
    lane: agent::Lane,
    epoch: String,
    last_sequence: u64,
    outstanding: VecDeque<Outstanding<I>>,
    acknowledged: BTreeMap<&'static str, u64>,
    rejected: u64,
}

/// What an acknowledgement ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Acked<I> {
    /// When each batch that is now done was sent.
    pub(crate) batches_sent_at: Vec<I>,
    /// Events that are durable now.
    pub(crate) events: u64,
    /// Events that were refused for good.
    pub(crate) rejected: u64,
}

impl<I: Copy> LaneQueue<I> {
    pub(crate) fn new(lane: agent::Lane) -> Self {
        Self {
            lane,
            epoch: Uuid::new_v4().to_string(),
            last_sequence: 0,
            outstanding: VecDeque::new(),
            acknowledged: BTreeMap::new(),
            rejected: 0,
        }
    }

    /// Numbers events, keeps them, and returns the batch to send.
    pub(crate) fn batch(
        &mut self,
        events: Vec<agent::SecurityEvent>,
        trace_parent: String,
        now: I,
    ) -> agent::EventBatch {
        let mut events = events;
        for event in &mut events {
            self.last_sequence += 1;
            event.sequence = self.last_sequence;
        }
        let batch = agent::EventBatch {
            lane: self.lane.into(),
            epoch: self.epoch.clone(),
            events,
            dropped_total: 0,
            settled_through: 0,
            trace_parent,
        };
        self.outstanding.push_back(Outstanding {
            batch: batch.clone(),
            sent_at: now,
        });
        batch
    }

    /// What must be sent again in a new session: everything that is not acknowledged, in order.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = agent::EventBatch> + '_ {
        self.outstanding.iter().map(|it| it.batch.clone())
    }

    /// Takes an acknowledgement. One of another lane or epoch says nothing here.
    pub(crate) fn acknowledge(&mut self, ack: &agent::EventsAck) -> Option<Acked<I>> {
        if ack.lane() != self.lane || ack.epoch != self.epoch {
            return None;
        }
        let mut acked = Acked {
            batches_sent_at: Vec::new(),
            events: 0,
            rejected: 0,
        };
        while let Some(first) = self.outstanding.front_mut() {
            let events = &mut first.batch.events;
            let through = events.partition_point(|event| event.sequence <= ack.through_sequence);
            for event in events.drain(..through) {
                if ack.rejected.iter().any(|it| it.sequence == event.sequence) {
                    self.rejected += 1;
                    acked.rejected += 1;
                } else {
                    *self.acknowledged.entry(kind(&event)).or_default() += 1;
                    acked.events += 1;
                }
            }
            if !events.is_empty() {
                break;
            }
            acked.batches_sent_at.push(first.sent_at);
            self.outstanding.pop_front();
        }
        Some(acked)
    }

    /// Batches that wait for their acknowledgement.
    pub(crate) fn waiting(&self) -> usize {
        self.outstanding.len()
    }

    /// Events that wait for their acknowledgement.
    pub(crate) fn waiting_events(&self) -> usize {
        self.outstanding
            .iter()
            .map(|it| it.batch.events.len())
            .sum()
    }

    /// Events that were acknowledged, by kind.
    pub(crate) fn acknowledged(&self) -> &BTreeMap<&'static str, u64> {
        &self.acknowledged
    }

    /// Events that were rejected for good.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected
    }
}

/// The name under which a posture counts such events.
fn kind(event: &agent::SecurityEvent) -> &'static str {
    match &event.payload {
        Some(Payload::SystemInformation(_)) => "systemInformation",
        Some(Payload::Process(_)) => "processActivity",
        Some(Payload::ListeningPorts(_)) => "listeningPorts",
        Some(Payload::Connection(_)) => "connectionActivity",
        Some(Payload::Login(_)) => "loginActivity",
        Some(Payload::LocalUsers(_)) => "localUsers",
        Some(Payload::Heartbeat(_)) => "heartbeat",
        Some(Payload::File(_)) => "fileActivity",
        Some(Payload::AgentStatus(_)) => "agentStatus",
        None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeats(count: usize) -> Vec<agent::SecurityEvent> {
        let event = agent::SecurityEvent {
            payload: Some(Payload::Heartbeat(agent::Heartbeat {})),
            ..Default::default()
        };
        vec![event; count]
    }

    fn ack(queue: &LaneQueue<u32>, through: u64, rejected: &[u64]) -> agent::EventsAck {
        let rejected = rejected.iter().map(|&sequence| agent::RejectedEvent {
            sequence,
            ..Default::default()
        });
        agent::EventsAck {
            lane: queue.lane.into(),
            epoch: queue.epoch.clone(),
            through_sequence: through,
            rejected: rejected.collect(),
        }
    }

    #[test]
    fn sequences_go_on_and_acknowledged_batches_are_forgotten() {
        let mut queue = LaneQueue::new(agent::Lane::Medium);
        let first = queue.batch(heartbeats(3), String::new(), 10);
        let second = queue.batch(heartbeats(2), String::new(), 20);
        assert_eq!(first.events[0].sequence, 1);
        assert_eq!(second.events[1].sequence, 5);

        let acked = queue.acknowledge(&ack(&queue, 3, &[2])).unwrap();
        assert_eq!(
            acked,
            Acked {
                batches_sent_at: vec![10],
                events: 2,
                rejected: 1
            }
        );
        assert_eq!((queue.waiting(), queue.waiting_events()), (1, 2));
        assert_eq!(queue.acknowledged()["heartbeat"], 2);
        assert_eq!(queue.rejected(), 1);
        let repeated = queue.acknowledge(&ack(&queue, 3, &[])).unwrap();
        assert_eq!(repeated.events, 0);
    }

    #[test]
    fn half_a_batch_may_be_acknowledged_and_only_the_rest_is_sent_again() {
        let mut queue = LaneQueue::new(agent::Lane::Low);
        queue.batch(heartbeats(4), String::new(), 1);
        let acked = queue.acknowledge(&ack(&queue, 3, &[])).unwrap();
        assert_eq!((acked.batches_sent_at.len(), acked.events), (0, 3));
        let again: Vec<_> = queue.unacknowledged().collect();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].events[0].sequence, 4);
    }

    #[test]
    fn acknowledgements_of_other_lanes_and_epochs_say_nothing() {
        let mut queue = LaneQueue::new(agent::Lane::Low);
        queue.batch(heartbeats(1), String::new(), 1);
        let mut other = ack(&queue, 1, &[]);
        other.epoch = Uuid::nil().to_string();
        assert_eq!(queue.acknowledge(&other), None);
        let other = agent::EventsAck {
            lane: agent::Lane::High.into(),
            ..ack(&queue, 1, &[])
        };
        assert_eq!(queue.acknowledge(&other), None);
        assert_eq!(queue.waiting(), 1);
    }
}
