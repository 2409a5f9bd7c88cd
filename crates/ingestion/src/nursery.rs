//! Runs the sessions: one supervised task that owns all of them, so that "every session has ended"
//! is a moment that the rest of the shutdown can wait for, and tens of thousands of sessions are
//! one line in the supervisor's list.

use futures::future::BoxFuture;
use service_kit::shutdown::ShutdownToken;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Sessions that may wait to be started; starting one takes microseconds.
const QUEUE_MAX: usize = 64;

/// Starts sessions. Clones share the nursery.
#[derive(Clone)]
pub(crate) struct Nursery {
    queue: mpsc::Sender<BoxFuture<'static, ()>>,
}

/// The service stops; no session begins any more.
#[derive(Debug)]
pub(crate) struct Closed;

/// The other end of a [`Nursery`].
pub(crate) type Beginnings = mpsc::Receiver<BoxFuture<'static, ()>>;

impl Nursery {
    /// A nursery, and its other end for [`run`].
    pub(crate) fn new() -> (Self, Beginnings) {
        let (queue, beginnings) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, beginnings)
    }

    /// Starts a session.
    pub(crate) async fn begin(&self, session: BoxFuture<'static, ()>) -> Result<(), Closed> {
        self.queue.send(session).await.map_err(|_| Closed)
    }
}

/// Runs sessions until told to stop and every one has ended; then cancels `ended`. The sessions
/// watch the shutdown themselves.
pub(crate) async fn run(
    mut beginnings: Beginnings,
    shutdown: ShutdownToken,
    ended: CancellationToken,
) {
    let mut sessions = JoinSet::new();
    let mut open = true;
    while open || !sessions.is_empty() {
        tokio::select! {
            Some(outcome) = sessions.join_next() => {
                if let Err(error) = outcome && error.is_panic() {
                    tracing::error!(%error, "session failed");
                }
            }
            () = shutdown.triggered(), if !beginnings.is_closed() => beginnings.close(),
            begun = beginnings.recv(), if open => match begun {
                Some(session) => {
                    sessions.spawn(session);
                }
                None => open = false,
            },
        }
    }
    ended.cancel();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_every_session_and_none_begins_after_it() {
        let (nursery, beginnings) = Nursery::new();
        let (shutdown, ended) = (ShutdownToken::new(), CancellationToken::new());
        let release = Arc::new(Notify::new());
        let held = Arc::clone(&release);
        assert!(
            nursery
                .begin(async move { held.notified().await }.boxed())
                .await
                .is_ok()
        );

        let running = run(beginnings, shutdown.clone(), ended.clone());
        let mut running = std::pin::pin!(running);
        shutdown.trigger();
        let waited = tokio::time::timeout(Duration::from_millis(50), running.as_mut()).await;
        assert!(
            waited.is_err() && !ended.is_cancelled(),
            "a session is open"
        );
        assert!(nursery.begin(async {}.boxed()).await.is_err());
        release.notify_one();
        running.await;
        assert!(ended.is_cancelled());
    }
}
