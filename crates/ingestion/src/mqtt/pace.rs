//! How fast one connection is read.
//!
//! Pure: the time is an argument. Who sends faster is not refused anything: it is read later, TCP
//! holds it up, and whoever else is connected does not notice.

use std::time::Duration;

use tokio::time::Instant;

/// How much may come at once after a pause.
const BURST: Duration = Duration::from_secs(1);

/// Paces one connection.
#[derive(Debug)]
pub(super) struct Pace {
    /// What a packet takes.
    share: Duration,
    /// When what was read will have taken its time.
    even_at: Instant,
}

impl Pace {
    /// At most so many packets per second, at least one.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            share: Duration::from_secs(1) / per_second.max(1),
            even_at: now,
        }
    }

    /// A packet was read. Answers when the next one may be, if it may not be now.
    pub(super) fn on_packet(&mut self, now: Instant) -> Option<Instant> {
        self.even_at = self.even_at.max(now) + self.share;
        let ahead = self.even_at.saturating_duration_since(now);
        // One more than fills the burst is ahead by a share.
        let wait = ahead.checked_sub(BURST)?;
        (!wait.is_zero()).then(|| now + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_read_at_once_and_what_follows_at_the_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(10, start);
        for _ in 0..10 {
            assert_eq!(pace.on_packet(start), None);
        }
        let wanted = start + Duration::from_millis(100);
        assert_eq!(pace.on_packet(start), Some(wanted));
        assert_eq!(
            pace.on_packet(wanted),
            Some(wanted + Duration::from_millis(100))
        );
        let later = start + Duration::from_mins(1);
        for _ in 0..10 {
            assert_eq!(pace.on_packet(later), None, "no more is saved than a burst");
        }
        assert!(pace.on_packet(later).is_some());
    }
}
