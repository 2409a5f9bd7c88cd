//! How fast one connection is read.
//!
//! Pure: the time is an argument. Who sends faster is not refused anything: it is read later, TCP
//! holds it up, and whoever else is connected does not notice.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;

/// How much may come at once after a pause.
const BURST: Duration = Duration::from_secs(1);

/// Paces one connection.
#[derive(Debug)]
pub(super) struct Pace {
    /// What a packet takes, whatever its size.
    share: Duration,
    /// What it may have, in bytes, each second.
    bytes_per_second: f64,
    /// When what was read will have taken its time.
    even_at: Instant,
}

impl Pace {
    /// As a device is paced.
    pub(super) fn of_device(limits: &Limits, now: Instant) -> Self {
        // Nobody sends 4 GiB a second.
        let bytes = u32::try_from(limits.device_bytes_per_second.get()).unwrap_or(u32::MAX);
        Self::new(limits.device_packets_per_second, bytes, now)
    }

    /// At most so many packets and so many bytes per second, at least one.
    pub(super) fn new(per_second: u32, bytes_per_second: u32, now: Instant) -> Self {
        Self {
            share: Duration::from_secs(1) / per_second.max(1),
            bytes_per_second: f64::from(bytes_per_second.max(1)),
            even_at: now,
        }
    }

    /// A packet of so many bytes was read: it takes its share of packets or of bytes, whichever is
    /// more. Answers when the next one may be, if it may not be now.
    pub(super) fn on_packet(&mut self, bytes: u32, now: Instant) -> Option<Instant> {
        let of_bytes = Duration::from_secs_f64(f64::from(bytes) / self.bytes_per_second);
        self.even_at = self.even_at.max(now) + self.share.max(of_bytes);
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
        let mut pace = Pace::new(10, 1000, start);
        for _ in 0..10 {
            assert_eq!(pace.on_packet(100, start), None);
        }
        let wanted = start + Duration::from_millis(100);
        assert_eq!(pace.on_packet(100, start), Some(wanted));
        assert_eq!(
            pace.on_packet(0, wanted),
            Some(wanted + Duration::from_millis(100))
        );
        let later = start + Duration::from_mins(1);
        for _ in 0..10 {
            assert_eq!(
                pace.on_packet(1, later),
                None,
                "no more is saved than a burst"
            );
        }
        assert!(pace.on_packet(1, later).is_some());
    }
    #[test]
    fn large_packets_take_as_long_as_their_bytes() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, 1000, start);
        assert_eq!(pace.on_packet(1000, start), None, "a second's worth");
        let wait = Duration::from_millis(2500);
        assert_eq!(pace.on_packet(2500, start), Some(start + wait));
        let mut slowest = Pace::new(0, 0, start);
        assert!(slowest.on_packet(u32::MAX, start).is_some());
    }
}
