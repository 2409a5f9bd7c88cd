//! Waiting before trying again: exponential, capped, with jitter, and never without end.
//!
//! It does not decide what is worth trying again; the caller says so.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::metrics;
use crate::shutdown::ShutdownToken;

/// How long to wait between attempts, and how many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The longest first delay. Each delay is drawn between half of its longest value and that
    /// value, so that many clients that failed together do not come back together.
    pub first: Duration,
    /// The longest delay there will be; the delays double up to it.
    pub cap: Duration,
    /// How many delays there may be; `None` for work that is only given up at shutdown.
    pub budget: Option<u32>,
}

impl Policy {
    /// For calls to a peer inside a request: three tries again within about a second.
    pub const CALL: Self = Self {
        first: Duration::from_millis(50),
        cap: Duration::from_millis(500),
        budget: Some(3),
    };

    /// For connections and consumers that must come back, however long the peer is away.
    pub const FOREVER: Self = Self {
        first: Duration::from_millis(100),
        cap: Duration::from_secs(10),
        budget: None,
    };
}

/// The delays of one series of attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: Policy,
    used: u32,
    ceiling: Duration,
    random: u64,
}

impl Backoff {
    /// A fresh series with jitter of its own.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self::seeded(policy, seed)
    }

    /// A fresh series whose jitter follows from the seed, for tests and simulation.
    #[must_use]
    pub fn seeded(policy: Policy, seed: u64) -> Self {
        // Small seeds must differ in their upper bits too, which become the first delay; and
        // xorshift would stay at zero forever.
        let random = seed
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .max(1);
        Self {
            policy,
            used: 0,
            ceiling: policy.first,
            random,
        }
    }

    /// How long to wait now; `None` once the budget is used up.
    pub fn next_delay(&mut self) -> Option<Duration> {
        if self.policy.budget.is_some_and(|budget| self.used >= budget) {
            return None;
        }
        self.used = self.used.saturating_add(1);
        let ceiling = self.ceiling.min(self.policy.cap);
        self.ceiling = ceiling.saturating_mul(2);
        let half = ceiling / 2;
        Some(half + half.mul_f64(self.next_fraction()))
    }

    /// How many delays have been handed out.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Xorshift64; a number from 0 to below 1 made of its upper 32 bits. Jitter needs no better.
    fn next_fraction(&mut self) -> f64 {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        let upper = u32::try_from(x >> 32).unwrap_or(u32::MAX);
        f64::from(upper) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Whether a failed attempt is worth another.
#[derive(Debug)]
pub enum Attempt<E> {
    /// It may succeed later.
    Again(E),
    /// It will not.
    GiveUp(E),
}

/// Why a series of attempts ended without success.
#[derive(Debug, thiserror::Error)]
pub enum RetryError<E> {
    /// The last attempt failed, and there was no other (worth making or within the budget).
    #[error("{operation} failed after {attempts} attempt(s)")]
    Failed {
        /// What was attempted.
        operation: &'static str,
        /// How often.
        attempts: u32,
        /// What the last attempt said.
        #[source]
        source: E,
    },
    /// The service stops.
    #[error("{operation} was given up because the service stops")]
    Stopped {
        /// What was attempted.
        operation: &'static str,
    },
}

/// Attempts `op` until it succeeds, is not worth trying again, the budget is used up or the token
/// is triggered. A retry is logged and counted under `operation`. A running attempt is dropped
/// when the token is triggered, so it must be safe to drop.
pub async fn retry<T, E, F>(
    operation: &'static str,
    policy: Policy,
    token: &ShutdownToken,
    mut op: impl FnMut() -> F,
) -> Result<T, RetryError<E>>
where
    F: Future<Output = Result<T, Attempt<E>>>,
    E: fmt::Display,
{
    let mut backoff = Backoff::new(policy);
    loop {
        let Some(outcome) = token.run_until(op()).await else {
            return Err(RetryError::Stopped { operation });
        };
        let attempts = backoff.used().saturating_add(1);
        let source = match outcome {
            Ok(value) => return Ok(value),
            Err(Attempt::GiveUp(source)) => {
                return Err(RetryError::Failed {
                    operation,
                    attempts,
                    source,
                });
            }
            Err(Attempt::Again(source)) => source,
        };
        let Some(delay) = backoff.next_delay() else {
            return Err(RetryError::Failed {
                operation,
                attempts,
                source,
            });
        };
        metrics::count_retry(operation);
        tracing::debug!(operation, attempts, error = %source, "attempt failed; trying again");
        if token.run_until(tokio::time::sleep(delay)).await.is_none() {
            return Err(RetryError::Stopped { operation });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        first: Duration::from_millis(100),
        cap: Duration::from_millis(350),
        budget: Some(4),
    };

    #[test]
    fn delays_double_up_to_the_cap_and_end_with_the_budget() {
        let mut backoff = Backoff::seeded(POLICY, 7);
        for ceiling in [100, 200, 350, 350] {
            let delay = backoff.next_delay().expect("within the budget");
            assert!(
                delay <= Duration::from_millis(ceiling),
                "{delay:?} of {ceiling}"
            );
            assert!(
                delay >= Duration::from_millis(ceiling / 2),
                "{delay:?} of {ceiling}"
            );
        }
        assert_eq!(backoff.next_delay(), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let mut one = Backoff::seeded(POLICY, 7);
        let mut two = Backoff::seeded(POLICY, 7);
        let mut other = Backoff::seeded(POLICY, 8);
        let first = one.next_delay();
        assert_eq!(first, two.next_delay());
        assert_ne!(first, other.next_delay());
    }

    #[tokio::test(start_paused = true)]
    async fn it_tries_again_until_it_succeeds() {
        let mut failures = 2;
        let result = retry("test", POLICY, &ShutdownToken::new(), || {
            let fails = failures > 0;
            failures -= 1;
            async move {
                if fails {
                    Err(Attempt::Again("away"))
                } else {
                    Ok(7)
                }
            }
        })
        .await;
        assert_eq!(result.expect("third attempt"), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_succeed_is_not_tried_again() {
        let result: Result<(), _> = retry("test", POLICY, &ShutdownToken::new(), || async {
            Err(Attempt::GiveUp("no"))
        })
        .await;
        assert!(matches!(
            result,
            Err(RetryError::Failed {
                attempts: 1,
                source: "no",
                ..
            })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopping_service_does_not_wait_for_the_next_attempt() {
        let token = ShutdownToken::new();
        let stop = token.clone();
        let result: Result<(), _> = retry("test", Policy::FOREVER, &token, || {
            stop.trigger();
            async { Err(Attempt::Again("away")) }
        })
        .await;
        assert!(matches!(result, Err(RetryError::Stopped { .. })));
    }
}
