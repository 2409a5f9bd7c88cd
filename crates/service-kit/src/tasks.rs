//! The supervisor: the only place that spawns. Every task has a name and says what its failure
//! means; nothing fails unnoticed. It never decides what a task does when it is told to stop; it
//! waits, with one deadline, and says for whom.

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::backoff::{Backoff, Policy};
use crate::error::chain;
use crate::metrics;
use crate::shutdown::ShutdownToken;

/// How often a drain says whom it is waiting for.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long tasks that were cut off may take to unwind before the drain gives up on them too.
const ABORT_GRACE: Duration = Duration::from_millis(100);

/// Any error a task can end with.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// What the failure of a task (an error or a panic) means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The service cannot do its work without it: stop everything, and say why.
    StopService,
    /// The service can go on: log it.
    Log,
}

/// What a task may end with: nothing, or a result.
pub trait Outcome: Send + 'static {
    /// The same as a result.
    fn into_result(self) -> Result<(), BoxError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError> + Send + 'static> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// The task whose failure stopped the service.
#[derive(Debug, Clone, thiserror::Error)]
#[error("task `{task}` failed: {cause}")]
pub struct TaskFailure {
    task: Arc<str>,
    cause: String,
}

impl TaskFailure {
    /// The name of the task.
    pub fn task(&self) -> &str {
        &self.task
    }
}

/// The tasks that did not end before the deadline of a drain. They have been cut off where they
/// waited; threads cannot be cut off and are left behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("did not end before the deadline: {}", .tasks.join(", "))]
pub struct Unfinished {
    tasks: Vec<String>,
}

impl Unfinished {
    pub(crate) fn new(tasks: Vec<String>) -> Self {
        Self { tasks }
    }

    /// The names of the tasks.
    pub fn tasks(&self) -> &[String] {
        &self.tasks
    }
}

/// The supervisor of a service's tasks. Clones share the same tasks.
#[derive(Clone, Default)]
pub struct Tasks {
    shutdown: ShutdownToken,
    tracker: TaskTracker,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, (Arc<str>, Option<AbortHandle>)>,
    failure: Option<TaskFailure>,
    /// True once a drain's deadline has passed; whatever starts later is cut off at once.
    cut_off: bool,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

impl Tasks {
    /// A supervisor whose tasks stop when the token is triggered.
    #[must_use]
    pub fn new(shutdown: ShutdownToken) -> Self {
        Self {
            shutdown,
            ..Self::default()
        }
    }

    /// The token that tells this supervisor's tasks to stop.
    pub fn shutdown_token(&self) -> ShutdownToken {
        self.shutdown.clone()
    }

    /// Runs a future as a task. It should watch [`Tasks::shutdown_token`], or end when its channel
    /// closes; whoever does neither is cut off at the drain's deadline.
    pub fn spawn<F>(&self, name: impl Into<Arc<str>>, on_failure: OnFailure, future: F)
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        let name = name.into();
        let tasks = self.clone();
        let task_name = Arc::clone(&name);
        self.track(&name, async move {
            if let Err(cause) = run_once(future).await {
                tasks.failed(&task_name, on_failure, &cause);
            }
        });
    }

    /// Runs what `make` makes, again and again with back-off as long as it fails, until it ends
    /// well, the shutdown token is triggered, or the policy's budget is used up; the latter means
    /// `when_exhausted`. A run that outlasts the longest delay starts the count anew.
    pub fn spawn_restarting<M, F>(
        &self,
        name: impl Into<Arc<str>>,
        policy: Policy,
        when_exhausted: OnFailure,
        mut make: M,
    ) where
        M: FnMut() -> F + Send + 'static,
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        let name = name.into();
        let tasks = self.clone();
        let task_name = Arc::clone(&name);
        self.track(&name, async move {
            let mut backoff = Backoff::new(policy);
            loop {
                let started = tokio::time::Instant::now();
                let Err(cause) = run_once(make()).await else {
                    return;
                };
                if tasks.shutdown.is_triggered() {
                    tasks.failed(&task_name, OnFailure::Log, &cause);
                    return;
                }
                if started.elapsed() > policy.cap {
                    backoff = Backoff::new(policy);
                }
                let Some(delay) = backoff.next_delay() else {
                    tasks.failed(&task_name, when_exhausted, &cause);
                    return;
                };
                metrics::count_task_failure(&task_name);
                tracing::warn!(
                    task = &*task_name,
                    error = cause,
                    delay_ms = delay.as_millis(),
                    "task failed and starts again"
                );
                if tasks
                    .shutdown
                    .run_until(tokio::time::sleep(delay))
                    .await
                    .is_none()
                {
                    return;
                }
            }
        });
    }

    /// Runs blocking work on a thread of its own, for as long as it likes. It must watch the token
    /// it is given, or end when its channel closes: a thread cannot be cut off.
    pub fn spawn_thread<F, O>(
        &self,
        name: impl Into<Arc<str>>,
        on_failure: OnFailure,
        work: F,
    ) -> std::io::Result<()>
    where
        F: FnOnce(ShutdownToken) -> O + Send + 'static,
        O: Outcome,
    {
        let name = name.into();
        let (done, ended) = tokio::sync::oneshot::channel();
        let token = self.shutdown.clone();
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || {
                let _entered = span.entered();
                let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| work(token)));
                // The receiver is gone only if the runtime is; then nobody is left to be told.
                let _ = done.send(flatten(outcome));
            })?;
        let tasks = self.clone();
        let task_name = Arc::clone(&name);
        self.track(&name, async move {
            let outcome = ended
                .await
                .unwrap_or_else(|_| Err("the thread vanished".to_owned()));
            if let Err(cause) = outcome {
                tasks.failed(&task_name, on_failure, &cause);
            }
            // The thread has sent its outcome as its last act, so this does not block.
            let _ = thread.join();
        });
        Ok(())
    }

    /// The failure that stopped the service, if one did.
    pub fn failure(&self) -> Option<TaskFailure> {
        self.lock().failure.clone()
    }

    /// The names of the tasks that have not ended, in the order they were started.
    pub fn running(&self) -> Vec<String> {
        self.lock()
            .running
            .values()
            .map(|(name, _)| name.to_string())
            .collect()
    }

    /// Tells all tasks to stop and waits for them, saying every second for whom. Those that have
    /// not ended at the deadline are cut off and named in the error.
    pub async fn drain(&self, deadline: Duration) -> Result<(), Unfinished> {
        self.shutdown.trigger();
        self.tracker.close();
        let until = tokio::time::Instant::now() + deadline;
        loop {
            let report_at = (tokio::time::Instant::now() + REPORT_EVERY).min(until);
            if tokio::time::timeout_at(report_at, self.tracker.wait())
                .await
                .is_ok()
            {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                break;
            }
            tracing::info!(
                tasks = self.running().join(", "),
                "waiting for tasks to end"
            );
        }
        let unfinished = self.cut_off();
        tracing::warn!(
            tasks = unfinished.join(", "),
            "tasks did not end before the deadline"
        );
        // Cutting off takes effect at the task's next await; give the runtime the chance to drop
        // what the tasks own (files, sockets) before the caller closes stores and the process.
        let _ = tokio::time::timeout(ABORT_GRACE, self.tracker.wait()).await;
        Err(Unfinished::new(unfinished))
    }

    fn track(&self, name: &Arc<str>, work: impl Future<Output = ()> + Send + 'static) {
        let id = {
            let mut state = self.lock();
            state.next += 1;
            let id = state.next;
            state.running.insert(id, (Arc::clone(name), None));
            id
        };
        let entry = Entry {
            tasks: self.clone(),
            id,
        };
        let span = tracing::debug_span!(parent: None, "task", name = &**name);
        let handle = self.tracker.spawn(
            async move {
                let _entry = entry;
                work.await;
            }
            .instrument(span),
        );
        // Not under the lock above: a runtime on its way out drops the task within `spawn`, which
        // removes its entry, and then nothing is left to do here.
        let mut state = self.lock();
        let cut_off = state.cut_off;
        if let Some((_, abort)) = state.running.get_mut(&id) {
            *abort = Some(handle.abort_handle());
            if cut_off {
                handle.abort();
            }
        }
    }

    fn failed(&self, task: &Arc<str>, on_failure: OnFailure, cause: &str) {
        metrics::count_task_failure(task);
        match on_failure {
            OnFailure::Log => {
                tracing::error!(task = &**task, error = cause, "task failed");
            }
            OnFailure::StopService => {
                tracing::error!(
                    task = &**task,
                    error = cause,
                    "task failed; the service stops"
                );
                let failure = TaskFailure {
                    task: Arc::clone(task),
                    cause: cause.to_owned(),
                };
                // The first failure is the cause; later ones are usually its consequences.
                self.lock().failure.get_or_insert(failure);
                self.shutdown.trigger();
            }
        }
    }

    fn cut_off(&self) -> Vec<String> {
        let mut state = self.lock();
        state.cut_off = true;
        for (_, abort) in state.running.values() {
            if let Some(abort) = abort {
                abort.abort();
            }
        }
        state
            .running
            .values()
            .map(|(name, _)| name.to_string())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a task from the list of those running when it ends, however it ends.
struct Entry {
    tasks: Tasks,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tasks.lock().running.remove(&self.id);
    }
}

/// Runs a task's future; an error or a panic comes back as text.
async fn run_once<F>(future: F) -> Result<(), String>
where
    F: Future,
    F::Output: Outcome,
{
    flatten(AssertUnwindSafe(future).catch_unwind().await)
}

fn flatten<O: Outcome>(outcome: Result<O, Box<dyn Any + Send>>) -> Result<(), String> {
    match outcome {
        Ok(outcome) => outcome.into_result().map_err(|error| chain(&*error)),
        Err(panic) => Err(format!("panicked: {}", panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests;
