//! What all agents of a run measure together. Written by every agent, read at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use loadgen::latency::Latencies;

use crate::hops::Hops;

/// Counts and durations of a run.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) sent_events: AtomicU64,
    pub(crate) acked_events: AtomicU64,
    pub(crate) rejected_events: AtomicU64,
    pub(crate) acked_batches: AtomicU64,
    /// Sessions that were welcomed.
    pub(crate) sessions_opened: AtomicU64,
    /// Sessions among them that ended before the run did.
    pub(crate) sessions_lost: AtomicU64,
    /// Turns of the loop that a lost session spoilt; they are not measured.
    pub(crate) loops_interrupted: AtomicU64,
    /// Turns of the loop without a push within the deadline.
    pub(crate) loops_timed_out: AtomicU64,
    /// From giving a batch to the stream to reading its acknowledgement.
    pub(crate) ack_latency: Latencies,
    /// From giving the event to the stream to reading the configuration it caused.
    pub(crate) loop_latency: Latencies,
    /// The same by hops, as the twins tell it.
    pub(crate) hops: Hops,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Stats {
    /// Counts something that went wrong, by a short name.
    pub(crate) fn error(&self, reason: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(reason.to_owned()).or_default() += 1;
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Counts up.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Reads a counter.
pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_reason() {
        let stats = Stats::default();
        for reason in ["b", "a", "b"] {
            stats.error(reason);
        }
        let errors: Vec<_> = stats.errors().into_iter().collect();
        assert_eq!(errors, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    }
}
