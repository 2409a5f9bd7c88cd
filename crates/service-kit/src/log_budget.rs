//! What of the doings of strangers and devices are log lines: of each reason so many a minute, so that
//! nobody who keeps coming back fills the log, or hides other reasons in it.
//!
//! It writes none itself. Whoever asks it counts all of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one reason in a minute: enough to see who it is.
const LINES_MAX: u64 = 60;

/// The time that [`LINES_MAX`] are for.
const PERIOD: Duration = Duration::from_mins(1);

/// Counts the lines of each reason. Reasons are codes of ours, so there are few.
#[derive(Debug, Default)]
pub struct LogBudget {
    told: Mutex<HashMap<&'static str, Told>>,
}

#[derive(Debug)]
struct Told {
    since: Instant,
    ends: u64,
}

impl LogBudget {
    /// Whether something is to be told, and how many of its reason were not told in the minute before.
    pub fn tells(&self, reason: &'static str, now: Instant) -> Option<u64> {
        // Numbers are changed in one step each.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.entry(reason).or_insert(Told {
            since: now,
            ends: 0,
        });
        let mut untold = 0;
        if now.saturating_duration_since(told.since) >= PERIOD {
            untold = told.ends.saturating_sub(LINES_MAX);
            (told.since, told.ends) = (now, 0);
        }
        told.ends += 1;
        (told.ends <= LINES_MAX).then_some(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_so_many_lines_a_minute_and_says_later_how_many_more_there_were() {
        let (log, start) = (LogBudget::default(), Instant::now());
        for _ in 0..LINES_MAX {
            assert_eq!(log.tells("QOS_2", start), Some(0));
        }
        for _ in 0..40 {
            assert_eq!(log.tells("QOS_2", start), None);
        }
        assert_eq!(
            log.tells("TOPIC_UNKNOWN", start),
            Some(0),
            "others have theirs"
        );
        let later = start + PERIOD;
        assert_eq!(log.tells("QOS_2", later), Some(40));
        assert_eq!(log.tells("QOS_2", later), Some(0));
    }
}
