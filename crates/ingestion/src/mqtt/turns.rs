//! Has a crowd's handshakes reckoned a few at a time.
//!
//! When a whole fleet comes back at once, each of its handshakes is ready to be reckoned, and takes
//! a good part of a millisecond. If all of them stood in the runtime's queue, whatever else is to be
//! done (a direct method, a change of configuration) would stand behind them. So they queue up here,
//! and only as many as have a turn are in the runtime's. A turn lasts while the costly first step is
//! reckoned and never while somebody is waited for, so that nobody can hold one by being slow; what
//! follows it is cheap and not made to wait, so that who has begun also ends.

use std::sync::Arc;
use std::task::Poll;

use futures::future::poll_fn;
use tokio::sync::Semaphore;

/// The turns that there are. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    /// As many as leave half of the processor to everything else, and at least one.
    pub(super) fn of_half_the_cores() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new((cores / 2).max(1))
    }

    fn new(turns: usize) -> Self {
        Self(Arc::new(Semaphore::new(turns)))
    }

    /// Has the first step of some work reckoned when it is its turn. First come, first served.
    pub(super) async fn first_step<F: Future + Unpin>(&self, work: &mut F) -> Poll<F::Output> {
        // Never closed; without turns there would be none to wait for.
        let _turn = self.0.acquire().await;
        poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *work).poll(context))).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;
    use futures::future::BoxFuture;

    use super::*;

    /// Work of several steps, each of which says itself when it can go on.
    fn steps(count: usize, done: Arc<AtomicUsize>) -> BoxFuture<'static, ()> {
        let mut left = count;
        poll_fn(move |context| {
            done.fetch_add(1, Ordering::Relaxed);
            left -= 1;
            if left == 0 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .boxed()
    }

    #[tokio::test]
    async fn everybody_gets_a_turn_and_ends_without_another_one() {
        let turns = Turns::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        let all = (0..20).map(|_| {
            let (turns, mut work) = (turns.clone(), steps(3, Arc::clone(&done)));
            async move {
                assert!(turns.first_step(&mut work).await.is_pending());
                work.await;
            }
        });
        futures::future::join_all(all).await;
        assert_eq!(done.load(Ordering::Relaxed), 60);
        assert_eq!(turns.0.available_permits(), 1, "all are given back");
    }

    #[tokio::test]
    async fn nothing_is_reckoned_without_a_turn_and_no_turn_is_kept_while_waiting() {
        let turns = Turns::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        let held = turns.0.clone().acquire_owned().await.unwrap();
        let mut work = steps(1, Arc::clone(&done));
        let mut first = std::pin::pin!(turns.first_step(&mut work));
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(done.load(Ordering::Relaxed), 0);
        drop(held);
        assert!(first.await.is_ready());
        // Somebody who never answers holds nothing.
        let mut silent = futures::future::pending::<()>().boxed();
        assert!(turns.first_step(&mut silent).await.is_pending());
        assert_eq!(turns.0.available_permits(), 1);
    }
}
