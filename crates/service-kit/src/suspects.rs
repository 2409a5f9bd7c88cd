//! Proofs from addresses that have failed too often: one that holds is let in all the same, because
//! a site, a load balancer or a whole fleet may be behind one address, with one that is broken or
//! hostile among them.
//!
//! What the failing ones may cost is bounded: so many are looked at at once, each that fails keeps
//! its place for a while, and so many wait. It knows no address and no proof.

use std::time::Duration;

use tokio::sync::Semaphore;

/// Proofs that are looked at at the same time.
const AT_ONCE: usize = 4;

/// How long one that failed keeps its place: a hundred failures a second in all.
const KEPT: Duration = Duration::from_millis(40);

/// Proofs that may wait: those behind them would wait for some five seconds, and shaking hands and
/// proving may take ten.
const WAITING_MAX: usize = 512;

/// The places.
#[derive(Debug)]
pub struct Suspects {
    waiting: Semaphore,
    looked_at: Semaphore,
}

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded;

impl Default for Suspects {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(WAITING_MAX),
            looked_at: Semaphore::new(AT_ONCE),
        }
    }
}

impl Suspects {
    /// Looks at a proof when its turn comes, and answers what came of it.
    ///
    /// # Errors
    /// Too many wait already.
    pub async fn look<T, E>(
        &self,
        proving: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Crowded> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Crowded)?;
        // It is never closed.
        let _place = self.looked_at.acquire().await.map_err(|_| Crowded)?;
        let outcome = proving.await;
        if outcome.is_err() {
            tokio::time::sleep(KEPT).await;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_take_their_time_and_what_holds_passes_between_them() {
        let suspects = Suspects::default();
        let begin = tokio::time::Instant::now();
        let failing =
            futures::future::join_all((0..8).map(|_| suspects.look(ready(Err::<(), _>("wrong")))));
        let (failed, held) = tokio::join!(failing, suspects.look(ready(Ok::<_, &str>(1))));
        assert!(failed.iter().all(|it| *it == Ok(Err("wrong"))));
        assert_eq!(held, Ok(Ok(1)));
        assert_eq!(begin.elapsed(), 2 * KEPT, "four at a time");
    }

    #[tokio::test]
    async fn so_many_wait_and_no_more() {
        let suspects = Suspects::default();
        let mut waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| Box::pin(suspects.look(pending::<Result<(), ()>>())))
            .collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        let more = suspects.look(ready(Ok::<_, ()>(()))).await;
        assert_eq!(more, Err(Crowded));
        waiting.pop();
        let again = suspects.look(ready(Ok::<_, ()>(())));
        assert!(again.now_or_never().is_none(), "it waits for its turn");
    }
}
