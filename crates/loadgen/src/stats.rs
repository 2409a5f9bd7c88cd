//! What all agents of a run measure together. Written by every agent, read at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest duration told apart, in microseconds; longer ones count as this.
const LONGEST_MICROS: u64 = 120_000_000;
/// Significant digits: 0.1 %.
const DIGITS: u8 = 3;

/// Durations, without keeping each.
#[derive(Debug)]
pub(crate) struct Latencies(Mutex<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)
            .expect("the bounds and the digits are valid constants");
        Self(Mutex::new(histogram))
    }
}

impl Latencies {
    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(micros);
    }

    pub(crate) fn summary(&self) -> Option<Summary> {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        Some(Summary {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: Duration::from_micros(histogram.max()),
        })
    }
}

/// What is told of many durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) p50: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

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
    fn quantiles_are_those_of_the_durations() {
        let latencies = Latencies::default();
        assert_eq!(latencies.summary(), None);
        for millis in 1..=100 {
            latencies.record(Duration::from_millis(millis));
        }
        let summary = latencies.summary().unwrap();
        let near = |found: Duration, millis: u64| {
            found.abs_diff(Duration::from_millis(millis)) < Duration::from_micros(100)
        };
        assert_eq!(summary.count, 100);
        assert!(near(summary.p50, 50) && near(summary.p90, 90) && near(summary.p99, 99));
        assert!(near(summary.max, 100), "{summary:?}");
    }

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
