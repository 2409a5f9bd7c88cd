//! Many durations, of which a few numbers are told.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest duration told apart, in microseconds; longer ones count as this.
const LONGEST_MICROS: u64 = 120_000_000;
/// Significant digits: 0.1 %.
const DIGITS: u8 = 3;

/// Durations, without keeping each.
#[derive(Debug)]
pub struct Latencies(Mutex<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)
            .expect("the bounds and the digits are valid constants");
        Self(Mutex::new(histogram))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(micros);
    }

    /// What there is to tell of them; none if there were none.
    pub fn summary(&self) -> Option<Summary> {
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
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Half took no longer.
    pub p50: Duration,
    /// Nine of ten took no longer.
    pub p90: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
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
}
