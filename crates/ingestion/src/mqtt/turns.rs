//! Has a crowd's handshakes reckoned a few at a time.
//!
//! When a whole fleet comes back at once, each of its handshakes is ready to be reckoned, and takes
//! a good part of a millisecond. If all of them stood in the runtime's queue, whatever else is to be
//! done (a direct method, a change of configuration) would stand behind them. So they queue up here,
//! and only as many as have a turn are in the runtime's. A turn lasts while something is reckoned and
//! never while somebody is waited for, so that nobody can hold one by being slow.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// The turns that there are.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    turns: Arc<Semaphore>,
}

impl Turns {
    /// As many as leave half of the processor to everything else, and at least one.
    pub(super) fn of_half_the_cores() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new((cores / 2).max(1))
    }

    fn new(turns: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(turns)),
        }
    }

    /// Has each step of some work wait for a turn.
    pub(super) fn take_for<F: Future + Unpin>(&self, work: F) -> Paced<F> {
        Paced {
            turns: PollSemaphore::new(Arc::clone(&self.turns)),
            work,
        }
    }
}

/// Work that waits for its turns.
#[derive(Debug)]
pub(super) struct Paced<F> {
    turns: PollSemaphore,
    work: F,
}

impl<F: Future + Unpin> Future for Paced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Never closed; without turns there would be none to wait for.
        let _turn = ready!(self.turns.poll_acquire(context));
        Pin::new(&mut self.work).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;
    use futures::future::{BoxFuture, poll_fn};

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
    async fn everybody_gets_as_many_turns_as_it_needs() {
        let turns = Turns::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        let all = (0..20).map(|_| turns.take_for(steps(3, Arc::clone(&done))));
        futures::future::join_all(all).await;
        assert_eq!(done.load(Ordering::Relaxed), 60);
        assert_eq!(turns.turns.available_permits(), 1, "all are given back");
    }

    #[tokio::test]
    async fn nothing_is_reckoned_without_a_turn_and_no_turn_is_kept_while_waiting() {
        let turns = Turns::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        let held = turns.turns.clone().acquire_owned().await.unwrap();
        let mut first = std::pin::pin!(turns.take_for(steps(1, Arc::clone(&done))));
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(done.load(Ordering::Relaxed), 0);
        drop(held);
        first.await;
        // Somebody who never answers holds nothing.
        let silent = turns.take_for(futures::future::pending::<()>().boxed());
        assert!(silent.now_or_never().is_none());
        assert_eq!(turns.turns.available_permits(), 1);
    }
}
