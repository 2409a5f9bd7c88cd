//! The one source of time. Everything else takes a [`SharedClock`] or a `jiff::Timestamp`.
//!
//! Timers (sleep, timeout, interval) are tokio's and can be paused in tests; this module is for
//! reading the time, and never waits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Reads the time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The wall clock. It may step, also backwards: never subtract two readings to learn how long
    /// something took.
    fn now(&self) -> Timestamp;

    /// A clock that never steps, for measuring how long something took.
    fn monotonic(&self) -> Instant;
}

/// A clock as it is handed down.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The operating system's clock, ready to be handed down.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A clock for tests: it stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    /// The wall clock, and how far the monotonic clock has moved since `start`. They move apart
    /// when a test steps the wall clock.
    reading: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            reading: Mutex::new((now, Duration::ZERO)),
        })
    }

    /// Lets time pass on both clocks. The wall clock stops at its last representable instant.
    pub fn advance(&self, by: Duration) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.0 = reading.0.saturating_add(by).unwrap_or(Timestamp::MAX);
        reading.1 += by;
    }

    /// Steps the wall clock, as an administrator or NTP would; the monotonic clock does not move.
    pub fn step_to(&self, now: Timestamp) {
        self.reading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.reading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn monotonic(&self) -> Instant {
        self.start
            + self
                .reading
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_leaves_the_monotonic_clock_alone() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let before = clock.monotonic();
        clock.advance(Duration::from_secs(5));
        clock.step_to(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
        assert_eq!(clock.monotonic() - before, Duration::from_secs(5));
    }
}
