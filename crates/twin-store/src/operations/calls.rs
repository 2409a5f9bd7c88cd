//! Jobs that call a direct method of every device that matches.
//!
//! The walk leaves a pending result for each of them, as it does for twins of other replicas. Whoever
//! walks calls a few at a time: it notes that a call begins, calls, and notes what came of it. A call
//! that had begun when the service ended is never made again: nobody knows whether the device did
//! it, and so its result says.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use service_kit::error::chain;
use tracing::warn;
use twin::IdentityKey;

use super::decide::{self, Begun};
use super::runner::{LOOK, Runner};
use super::survey::{condition, present};
use super::{Answer, Call, Called, Operation, Outcome, State, TwinResult, Update};
use crate::error::Error;
use crate::lookup;
use crate::store::{OperationId, Selection};

/// Calls of one job that wait for their devices.
const AT_ONCE: usize = 16;

/// How often it is tried to note what came of a call.
const NOTED_TRIES: usize = 5;

/// Results read at once.
const ROWS: u32 = 200;

/// Who brings a call to a device and its answer back, as a port.
pub trait Devices: Send + Sync {
    /// Calls a method of a device once.
    fn call(&self, key: IdentityKey, call: Call) -> BoxFuture<'static, Result<Answer, Error>>;
}

/// Where a job's calls stand.
struct Calling<'a> {
    id: &'a OperationId,
    /// Whom it calls at the moment.
    under_way: BTreeSet<IdentityKey>,
    /// What is before it is final.
    place: Option<IdentityKey>,
}

impl Runner {
    /// Calls devices until the operation has ended, and then waits for ever: the end is told by
    /// whoever walks.
    pub(super) async fn call_all(&self, operation: Operation) {
        if operation.call().is_none() {
            return std::future::pending().await;
        }
        let mut calling = Calling {
            id: &operation.id,
            under_way: BTreeSet::new(),
            place: None,
        };
        let mut calls = FuturesUnordered::new();
        loop {
            match self.waiting_for_calls(&mut calling).await {
                Ok((waiting, stopped)) => {
                    for result in waiting {
                        if result.call == Some(Called::Begun) {
                            self.finish(&calling, &result.key, lost()).await;
                        } else if stopped {
                            self.finish(&calling, &result.key, left(STOPPED)).await;
                        } else {
                            calling.under_way.insert(result.key.clone());
                            calls.push(self.call_one(&operation, result.key));
                        }
                    }
                }
                Err(error) => {
                    warn!(
                        error = chain(&error),
                        operation = operation.id.0,
                        "a job's calls wait"
                    );
                }
            }
            tokio::select! {
                Some((key, ended)) = calls.next() => {
                    if let Some(ended) = ended {
                        self.finish(&calling, &key, ended).await;
                    }
                    calling.under_way.remove(&key);
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Devices that are to be called and are not, as many as may be at once, and whether the
    /// operation was stopped.
    async fn waiting_for_calls(
        &self,
        calling: &mut Calling<'_>,
    ) -> Result<(Vec<TwinResult>, bool), Error> {
        let room = AT_ONCE.saturating_sub(calling.under_way.len());
        let Some(operation) = present(&self.store, calling.id).await? else {
            return Ok((Vec::new(), true));
        };
        if room == 0 || operation.state != State::Running {
            return Ok((Vec::new(), true));
        }
        let (mut waiting, mut after) = (Vec::new(), calling.place.clone());
        let mut all_final = true;
        while waiting.len() < room {
            let page = self
                .store
                .operation_results(calling.id.clone(), after, ROWS)
                .await?;
            for row in &page.records {
                // One that cannot be read counts as failed.
                let Ok(result) = TwinResult::from_row(row) else {
                    continue;
                };
                let pending = result.outcome == Outcome::Pending;
                all_final &= !pending;
                if all_final {
                    calling.place = Some(result.key.clone());
                }
                if pending && waiting.len() < room && !calling.under_way.contains(&result.key) {
                    waiting.push(result);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok((waiting, operation.ending.is_some()))
    }

    /// What came of calling one device; none: the operation was stopped before, or is another's.
    async fn call_one(
        &self,
        operation: &Operation,
        key: IdentityKey,
    ) -> (IdentityKey, Option<Ended>) {
        let Some((update, call)) = operation.call() else {
            return (key, None);
        };
        let ended = match self.begin_call(operation, update, &key).await {
            Ok(Begun::Yes) => match self.devices.call(key.clone(), call.clone()).await {
                Ok(answer) => Some(answered(answer)),
                Err(error) => Some(failed(error.to_string())),
            },
            Ok(Begun::No) => None,
            Ok(Begun::Never(why)) => Some(left(why)),
            Err(error) => {
                let error = chain(&error);
                warn!(error, operation = operation.id.0, "a call of a job waits");
                tokio::time::sleep(LOOK).await;
                None
            }
        };
        (key, ended)
    }

    /// Notes that a device is being called, if it is still to be.
    async fn begin_call(
        &self,
        operation: &Operation,
        update: &Update,
        key: &IdentityKey,
    ) -> Result<Begun, Error> {
        let Some(record) = self.store.get(key.clone()).await? else {
            return Ok(Begun::Never("it was deleted meanwhile"));
        };
        // What could be read when it began can be read now.
        if let Ok(condition) = condition(update) {
            let twin = lookup::of_record(&record);
            if !condition.matches_at(&twin, operation.due_at()) {
                return Ok(Begun::Never("it no longer matches"));
            }
        }
        let (id, key) = (operation.id.clone(), key.clone());
        let selections = vec![Selection::Operation(id.clone())];
        self.engine
            .decide(selections, move |overlay, now| {
                decide::begin_call(overlay, &id, key, now)
            })
            .await
    }

    /// Notes what came of a call. If that fails, the result still says that it began.
    async fn finish(&self, calling: &Calling<'_>, key: &IdentityKey, ended: Ended) {
        for _ in 0..NOTED_TRIES {
            let (id, of, ended) = (calling.id.clone(), key.clone(), ended.clone());
            let selections = vec![Selection::Operation(id.clone())];
            let finished = self.engine.decide(selections, move |overlay, now| {
                let result = TwinResult {
                    outcome: ended.outcome,
                    reason: ended.reason,
                    call: ended.call,
                    ..TwinResult::pending(of, None, now)
                };
                overlay.put_result(result.to_row(&id));
                Ok(())
            });
            let Err(error) = finished.await else {
                return;
            };
            let operation = &calling.id.0;
            warn!(error = chain(&error), operation, %key, "the end of a call is not noted");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Why devices of a job that was stopped are not called.
const STOPPED: &str = "the operation was stopped before it came to this device";

/// What came of a device.
#[derive(Debug, Clone)]
struct Ended {
    outcome: Outcome,
    reason: String,
    call: Option<Called>,
}

fn answered(answer: Answer) -> Ended {
    let (call, reason) = Called::answered(answer);
    Ended {
        outcome: Outcome::Succeeded,
        reason,
        call: Some(call),
    }
}

fn failed(reason: String) -> Ended {
    Ended {
        outcome: Outcome::Failed,
        reason,
        call: None,
    }
}

fn left(reason: &str) -> Ended {
    Ended {
        outcome: Outcome::Skipped,
        reason: reason.to_owned(),
        call: None,
    }
}

fn lost() -> Ended {
    failed(
        "the service ended while it waited for the answer; whether the device carried the call out \
         is not known"
            .to_owned(),
    )
}
