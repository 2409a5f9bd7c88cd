//! Carries operations out: walks over twins a chunk at a time, and has the engine decide each
//! chunk together with the operation's progress. One runner in the hub does: that of the owner of
//! the first partition. It decides nothing itself.
//!
//! Before: `grpc/bulk.rs` wrote a row. After: the twins' changes go the way of all changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use service_kit::backoff::{Backoff, Policy};
use service_kit::clock::SharedClock;
use service_kit::error::{Classified as _, Kind, chain};
use service_kit::shutdown::ShutdownToken;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{error, info, warn};
use twin::IdentityKey;

use super::calls::Devices;
use super::decide::{self, Chunk};
use super::survey::{Count, running};
use super::{Operation, RUNNING_MAX, State};
use crate::engine::Engine;
use crate::error::Error;
use crate::store::{self, OperationId, Selection, Store};

/// How often it looks for operations that nobody told it of: ones begun on another replica, or
/// before this one took the first partition.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How often it looks whether what was handed over is settled.
const SETTLE_LOOK: Duration = Duration::from_millis(250);
/// While the store fails.
const RETRY: Policy = Policy {
    first: Duration::from_millis(100),
    cap: Duration::from_secs(5),
    budget: None,
};

/// Carries operations out.
pub struct Runner {
    pub(super) store: Arc<dyn Store>,
    pub(super) engine: Engine,
    pub(super) clock: SharedClock,
    pub(super) devices: Arc<dyn Devices>,
    begun: Arc<Notify>,
    pub(super) shutdown: ShutdownToken,
}

/// Why an operation does not go on here.
pub(super) enum Stop {
    /// It has ended, or is to be looked at again later.
    Later,
    /// It can never go on.
    Never(String),
}

impl Runner {
    /// Makes a runner; `begun` tells it of new operations.
    pub fn new(
        store: Arc<dyn Store>,
        engine: Engine,
        clock: SharedClock,
        devices: Arc<dyn Devices>,
        begun: Arc<Notify>,
        shutdown: ShutdownToken,
    ) -> Runner {
        Runner {
            store,
            engine,
            clock,
            devices,
            begun,
            shutdown,
        }
    }

    /// Works until the service stops. What is under way goes on after the next start.
    pub async fn run(self) {
        // Steps that are cut off here were either committed or not; the rows say which.
        let work = async { tokio::join!(self.walk_all(), self.serve()) };
        self.shutdown.run_until(work).await;
    }

    /// Walks whatever is to be walked, for ever.
    async fn walk_all(&self) {
        let mut under_way = BTreeSet::new();
        let mut walks = FuturesUnordered::new();
        loop {
            for operation in self.waiting(&under_way).await {
                under_way.insert(operation.id.clone());
                walks.push(self.walk(operation));
            }
            tokio::select! {
                () = self.begun.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
                Some(id) = walks.next() => {
                    under_way.remove(&id);
                }
            }
        }
    }

    /// Operations that go on and are not under way, the oldest first.
    async fn waiting(&self, under_way: &BTreeSet<OperationId>) -> Vec<Operation> {
        if !self.engine.owns_first() || under_way.len() >= RUNNING_MAX {
            return Vec::new();
        }
        let mut running = match running(&self.store).await {
            Ok(running) => running,
            Err(error) => {
                warn!(error = chain(&error), "operations cannot be read");
                return Vec::new();
            }
        };
        let now = self.clock.now();
        running.retain(|operation| !under_way.contains(&operation.id) && operation.due_at() <= now);
        running.truncate(RUNNING_MAX - under_way.len());
        running
    }

    /// Carries one operation out as far as it goes.
    async fn walk(&self, operation: Operation) -> OperationId {
        let id = operation.id.clone();
        let calls = self.call_all(operation.clone());
        let steps = self.steps(operation);
        let walked = tokio::select! {
            biased;
            walked = steps => walked,
            () = calls => Err(Stop::Later),
        };
        match walked {
            Ok(operation) => info!(
                operation = id.0,
                succeeded = operation.succeeded,
                failed = operation.failed,
                skipped = operation.skipped,
                state = ?operation.state,
                "an operation has ended"
            ),
            // Whoever asked would be told the same at once.
            Err(Stop::Later) => tokio::time::sleep(LOOK).await,
            Err(Stop::Never(why)) => {
                error!(operation = id.0, error = why, "an operation cannot go on");
                let now = self.clock.now();
                let ending = self.amend(&id, move |operation| {
                    operation.error = why;
                    operation.stop(State::Failed, now);
                });
                if let Err(error) = ending.await {
                    warn!(error = chain(&error), "an operation's end cannot be noted");
                }
            }
        }
        id
    }

    async fn steps(&self, mut operation: Operation) -> Result<Operation, Stop> {
        if operation.total.is_none() {
            let total = self.until_read(|| self.count(&operation)).await?;
            operation = self
                .amend(&operation.id, move |operation| {
                    operation.total = Some(total);
                })
                .await
                .map_err(|error| stop(&error))?;
        }
        let mut results = Count::default();
        let mut counted = Instant::now();
        while operation.state == State::Running {
            let started = self.clock.monotonic();
            operation = self.unless_late(operation).await?;
            let settles = !operation.goes_on();
            let is_due = counted.elapsed() >= LOOK;
            if settles || (is_due && operation.handed_over > 0) {
                operation = self.settle(operation, &mut results).await?;
                counted = Instant::now();
            }
            if !operation.goes_on() {
                if operation.state == State::Running {
                    tokio::time::sleep(SETTLE_LOOK).await;
                }
                continue;
            }
            let chunk = self.until_read(|| self.next(&operation)).await?;
            let size = chunk.step.len() + chunk.noted.len();
            operation = self
                .decide(&operation.id, chunk)
                .await
                .map_err(|error| stop(&error))?;
            let took = self.clock.monotonic().saturating_duration_since(started);
            let pause = share(operation.rate, size).saturating_sub(took);
            if operation.goes_on() {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(operation)
    }

    /// Lets a job fail whose time is over.
    async fn unless_late(&self, operation: Operation) -> Result<Operation, Stop> {
        let now = self.clock.now();
        let late = operation.fails_at().is_some_and(|at| at <= now);
        // A job that calls goes on when its walk is over, too.
        let calls = operation.call().is_some() && operation.ending.is_none();
        if !late || !(operation.goes_on() || calls) {
            return Ok(operation);
        }
        self.amend(&operation.id, move |operation| {
            "it did not end within its maximum execution time".clone_into(&mut operation.error);
            operation.stop(State::Failed, now);
        })
        .await
        .map_err(|error| stop(&error))
    }

    /// Counts what became of the twins, also of those that were handed over, and ends the operation
    /// if it waited for nothing else.
    async fn settle(&self, operation: Operation, results: &mut Count) -> Result<Operation, Stop> {
        let mut backoff = Backoff::new(RETRY);
        let tally = loop {
            match results.again(&self.store, &operation.id).await {
                Ok(tally) => break tally,
                Err(error) => {
                    read_failed(&error);
                    tokio::time::sleep(backoff.next_delay().unwrap_or(RETRY.cap)).await;
                }
            }
        };
        let now = self.clock.now();
        let Some(tally) = tally else {
            return Ok(operation);
        };
        self.amend(&operation.id, move |operation| {
            operation.settle(&tally, now);
        })
        .await
        .map_err(|error| stop(&error))
    }

    /// Reads until the store answers: an operation does not fail because a disk was busy.
    async fn until_read<T, F>(&self, read: impl Fn() -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Stop>>,
    {
        let mut backoff = Backoff::new(RETRY);
        loop {
            match read().await {
                Err(Stop::Later) => {
                    tokio::time::sleep(backoff.next_delay().unwrap_or(RETRY.cap)).await;
                }
                other => return other,
            }
        }
    }

    async fn decide(&self, id: &OperationId, chunk: Chunk) -> Result<Operation, Error> {
        let mut selections = vec![Selection::Operation(id.clone())];
        selections.extend(chunk.step.selections());
        let id = id.clone();
        self.engine
            .decide(selections, move |overlay, now| {
                decide::step(overlay, &id, &chunk, now)
            })
            .await
    }

    /// Whether a twin's partition is ours at this moment.
    pub(super) fn owns(&self, key: &IdentityKey) -> bool {
        let partition = self.engine.partition(key);
        self.engine.logs().contains_key(&partition)
    }

    async fn amend(
        &self,
        id: &OperationId,
        change: impl FnOnce(&mut Operation) + Send + 'static,
    ) -> Result<Operation, Error> {
        let selections = vec![Selection::Operation(id.clone())];
        let id = id.clone();
        self.engine
            .decide(selections, move |overlay, _| {
                decide::amend(overlay, &id, change)
            })
            .await
    }
}

/// How long so many twins are to take.
fn share(rate: u32, twins: usize) -> Duration {
    let twins = u32::try_from(twins).unwrap_or(u32::MAX);
    match rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs(1).saturating_mul(twins) / rate,
    }
}

pub(super) fn read_failed(error: &store::Error) -> Stop {
    warn!(error = chain(error), "an operation waits for the store");
    Stop::Later
}

/// What a refused decision means for the operation as a whole.
fn stop(error: &Error) -> Stop {
    match error.kind() {
        // Stopping, or the partition is another replica's now: its runner goes on.
        Kind::Unavailable => Stop::Later,
        _ => Stop::Never(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
