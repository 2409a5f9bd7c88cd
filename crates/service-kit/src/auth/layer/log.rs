//! Which refused calls are lines of the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::refusal::Refusal;

/// Refusals that are logged within [`LOG_WINDOW`]; whoever guesses tokens must not fill the disk.
const LOG_MAX: u32 = 20;
/// See [`LOG_MAX`].
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// Which refusals are logged. A crowd that is refused hides nobody else.
#[derive(Debug, Default)]
pub(super) struct Log {
    budgets: Mutex<Budgets>,
}

#[derive(Debug, Default)]
struct Budgets {
    crowds: LogBudget,
    others: LogBudget,
}

impl Log {
    /// Whether a refusal is to be logged, and how many of its kind were not since the last one.
    pub(super) fn tells(&self, refusal: &Refusal) -> Option<u64> {
        // Numbers are changed in one step each.
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = if matches!(refusal, Refusal::TooManyCalls) {
            &mut budgets.crowds
        } else {
            &mut budgets.others
        };
        budget.take(Instant::now())
    }
}

/// How much may still be logged.
#[derive(Debug, Default)]
struct LogBudget {
    window: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl LogBudget {
    /// Takes a line of the budget, and answers how many were not logged since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let fresh = self
            .window
            .is_none_or(|began| now.duration_since(began) >= LOG_WINDOW);
        if fresh {
            self.window = Some(now);
            self.logged = 0;
        }
        if self.logged >= LOG_MAX {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_logged_in_part_and_the_rest_is_counted() {
        let mut budget = LogBudget::default();
        let start = Instant::now();
        let logged = (0..100).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(logged, 20);
        assert_eq!(budget.take(start + LOG_WINDOW), Some(80));
        assert_eq!(budget.take(start + LOG_WINDOW), Some(0));
    }
}
