//! How a service is told to stop, and the order in which it does.
//!
//! One [`ShutdownToken`] per process (or per service under test). SIGTERM and SIGINT trigger it; a
//! second signal ends the process at once, because somebody who asks twice does not want to wait.
//! What each task does when it is told to stop is the task's own affair; the right order (stop
//! taking work, finish what is held, flush the outbox) comes from channels: whoever takes work in
//! listens to the token, whoever works it off ends when its channel is closed.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::exit;
use crate::health::Health;
use crate::tasks::{TaskFailure, Tasks, Unfinished};

/// Tells everything that holds a clone of it to stop. Triggering is final.
#[derive(Debug, Clone, Default)]
pub struct ShutdownToken(CancellationToken);

impl ShutdownToken {
    /// A token that nobody has triggered yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells everybody to stop.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// True once somebody has triggered it.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until somebody triggers it. Safe to drop at any time.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }

    /// The same, for places that must own the future.
    pub fn triggered_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.clone().cancelled_owned()
    }

    /// A token that is triggered with this one, and can be triggered on its own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Works until done or told to stop; `None` means told to stop. The future is dropped where it
    /// waits, so it must be one that may be.
    pub async fn run_until<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }
}

/// Lets SIGTERM and SIGINT trigger the token, and a second one end the process at once with exit
/// code 143 or 130. To be called once per process, inside the runtime.
pub fn on_signals(token: &ShutdownToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = token.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "this listener must outlive the supervisor's drain to hear the second signal, \
                  and it cannot fail"
    )]
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            let (name, code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", exit::SIGTERM),
                _ = interrupt.recv() => ("SIGINT", exit::SIGINT),
            };
            if asked {
                tracing::warn!(signal = name, "second signal: leaving at once");
                std::process::exit(i32::from(code));
            }
            asked = true;
            tracing::info!(signal = name, "stopping; a second signal leaves at once");
            token.trigger();
        }
    });
    Ok(())
}

/// Why a service did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A task whose failure stops the service failed.
    #[error(transparent)]
    Task(#[from] TaskFailure),
    /// Not everything ended before the deadline.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
}

/// Runs a service that has been built and started: waits until it is told to stop or a task fails,
/// then reports itself not ready, lets the tasks finish, and calls `close` (stores, then the bus),
/// all within one deadline.
pub async fn run_until_shutdown<C, F>(
    tasks: &Tasks,
    health: &Health,
    deadline: Duration,
    close: C,
) -> Result<(), RunError>
where
    C: FnOnce() -> F,
    F: Future<Output = ()>,
{
    tasks.shutdown_token().triggered().await;
    let until = Instant::now() + deadline;
    health.stopping();
    let drained = tasks.drain(deadline).await;
    let closed = tokio::time::timeout_at(until, close()).await;
    if let Some(failure) = tasks.failure() {
        return Err(failure.into());
    }
    drained?;
    closed.map_err(|_| Unfinished::new(vec!["closing of stores and connections".into()]))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::io;

    use super::*;
    use crate::tasks::OnFailure;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_service_reports_itself_not_ready_then_drains_then_closes() {
        let tasks = Tasks::default();
        let health = Health::new();
        health.component("store").serving();
        let (report, mut steps) = tokio::sync::mpsc::channel(4);
        tasks.spawn("worker", OnFailure::StopService, {
            let (report, health, token) = (report.clone(), health.clone(), tasks.shutdown_token());
            async move {
                token.triggered().await;
                tokio::task::yield_now().await;
                let step = if health.is_ready() {
                    "still ready"
                } else {
                    "drained"
                };
                report.send(step).await
            }
        });
        tasks.shutdown_token().trigger();
        let close = || async move { report.send("closed").await.expect("the test listens") };
        run_until_shutdown(&tasks, &health, DEADLINE, close)
            .await
            .expect("a clean end");
        assert_eq!(steps.recv().await, Some("drained"));
        assert_eq!(steps.recv().await, Some("closed"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_failure_that_stopped_the_service_is_its_result() {
        let tasks = Tasks::default();
        tasks.spawn(
            "writer",
            OnFailure::StopService,
            ready(Err(io::Error::other("disk full"))),
        );
        let ended = run_until_shutdown(&tasks, &Health::new(), DEADLINE, || ready(())).await;
        assert_eq!(
            ended.expect_err("a failure").to_string(),
            "task `writer` failed: disk full"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn draining_and_closing_share_one_deadline() {
        let tasks = Tasks::default();
        tasks.shutdown_token().trigger();
        let before = Instant::now();
        let ended = run_until_shutdown(&tasks, &Health::new(), DEADLINE, pending::<()>).await;
        let text = ended.expect_err("the store does not close").to_string();
        assert!(text.contains("closing of stores"), "{text}");
        assert_eq!(before.elapsed(), DEADLINE);
    }
}
