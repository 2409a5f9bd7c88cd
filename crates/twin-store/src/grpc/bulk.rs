//! `TwinBulkService`: updates of many twins, as operations that go on by themselves.

use std::time::Duration;

use serde_json::json;
use service_kit::auth::Permission;
use service_kit::trace;
use tonic::{Request, Response, Status};
use wire::InvalidField;
use wire::twin::v1 as proto;
use wire::twin::v1::twin_bulk_service_server::TwinBulkService;

use super::caller::Caller;
use super::filter::Filter;
use super::repeatable::Repeatable;
use super::{Api, refuse};
use crate::apply::{AuditEvent, Cause, Overlay};
use crate::error::{Error, ReadError};
use crate::operations::{
    JOBS_MAX, Job, Operation, RUNNING_MAX, State, Work, decide, job_of, name, of_job, source_text,
    survey,
};
use crate::store::{Loaded, OperationId, Selection};

mod convert;
mod foreseen;
mod pages;

use convert::{job, operation_id, to_wire_operation, update};

/// How long a wait lasts when the caller does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// How often a wait looks.
const WAIT_LOOK: Duration = Duration::from_millis(100);
/// How long a cancellation waits for the other replicas. One that has just died is succeeded sooner.
const CANCEL_WITHIN: Duration = Duration::from_secs(8);

impl Api {
    async fn begin_update(
        &self,
        caller: &Caller,
        request: proto::StartBulkUpdateRequest,
    ) -> Result<proto::Operation, Error> {
        let repeatable =
            Repeatable::read("StartBulkUpdate", caller, &request.request_id, &request)?
                .filter(|_| !request.validate_only);
        let asked = request
            .bulk_update
            .ok_or_else(|| InvalidField::new("bulk_update", "must be given"))?;
        let update = update(&asked, self.clock.now())?;
        if update.call.is_some() {
            caller.check(Permission::DevicesCommand, "call methods of devices")?;
        }
        let actor = caller.operator(&request.operator)?;
        let cause = caller.cause_as(actor, &request.request_id);
        // Before what is asked of it here, so that it is told as any query is.
        Filter::parse("bulk_update.condition", &update.condition)?;
        let condition = survey::condition(&update)
            .map_err(|problem| InvalidField::new("bulk_update.condition", problem))?;
        if request.validate_only {
            let now = self.clock.now();
            return Ok(proto::Operation {
                total: survey::count(&self.store, &update, &condition, now).await?,
                bulk_update: Some(asked),
                actor: cause.actor.to_string(),
                ..proto::Operation::default()
            });
        }
        let job = job(request.job.as_ref(), self.clock.now())?;
        let work = Work::Update(update);
        self.begin(
            (work, job),
            cause,
            repeatable,
            request.rate_per_second,
            "operation.start",
        )
        .await
    }

    async fn begin(
        &self,
        (work, job): (Work, Option<(String, Job)>),
        cause: Cause,
        repeatable: Option<Repeatable>,
        rate: u32,
        action: &'static str,
    ) -> Result<proto::Operation, Error> {
        let id = match &job {
            Some((id, _)) => of_job(id),
            None => OperationId(uuid::Uuid::now_v7().to_string()),
        };
        let job = job.map(|(_, job)| job);
        let selections = vec![Selection::Running, Selection::Operation(id.clone())];
        let begun = self
            .decide_once(repeatable, selections, move |overlay, now| {
                // Here, where no other can begin in between, and where a repetition is answered first.
                if let Some(job) = job_of(&id) {
                    if overlay.operation(&id)?.is_some() {
                        return Err(ReadError::JobExists(job.to_owned()).into());
                    }
                    if overlay.running_jobs() >= JOBS_MAX {
                        let allowed = JOBS_MAX;
                        return Err(ReadError::TooManyJobs { allowed }.into());
                    }
                } else if overlay.running_operations() >= RUNNING_MAX {
                    let allowed = RUNNING_MAX;
                    return Err(ReadError::TooManyOperations { allowed }.into());
                }
                let (actor, trace) = (cause.actor.clone(), cause.trace_parent.clone());
                let operation = Operation {
                    job,
                    ..Operation::begin(id, work, actor, trace, rate, now)
                };
                overlay.put_operation(operation.to_row());
                audit(overlay, &operation, action, cause.actor.to_string());
                Ok(to_wire_operation(&operation))
            })
            .await?;
        self.operations.notify_one();
        Ok(begun)
    }

    async fn undo(
        &self,
        caller: &Caller,
        request: proto::UndoOperationRequest,
    ) -> Result<proto::Operation, Error> {
        let id = operation_id("name", &request.name)?;
        let repeatable = Repeatable::read("UndoOperation", caller, &request.request_id, &request)?
            .filter(|_| !request.validate_only);
        let actor = caller.operator(&request.operator)?;
        let cause = caller.cause_as(actor, &request.request_id);
        let undone = self.operation(&id).await?;
        if undone.state == State::Running {
            return Err(ReadError::OperationRuns(undone.name()).into());
        }
        if undone.call().is_some() {
            let problem = format!(
                "{} called methods, which cannot be taken back",
                undone.name()
            );
            return Err(InvalidField::new("name", problem).into());
        }
        if request.validate_only {
            return self.foresee_undo(id, &request, &cause).await;
        }
        foreseen::no_place(&request)?;
        let work = Work::Undo { of: id };
        self.begin(
            (work, None),
            cause,
            repeatable,
            undone.rate,
            "operation.undo",
        )
        .await
    }

    async fn operation(&self, id: &OperationId) -> Result<Operation, Error> {
        let loaded = self
            .store
            .load(vec![Selection::Operation(id.clone())])
            .await?;
        let row = loaded.into_iter().find_map(|loaded| match loaded {
            Loaded::Operation(row) => Some(Ok(row)),
            Loaded::Damaged(_, damaged) => Some(Err(damaged)),
            Loaded::Whole(_) | Loaded::Token(..) | Loaded::Request(_) | Loaded::Provisioning(_) => {
                None
            }
        });
        let row = row.ok_or_else(|| ReadError::NoOperation(name(id)))??;
        Ok(Operation::from_row(&row)?)
    }

    async fn wait(&self, request: proto::WaitOperationRequest) -> Result<Operation, Error> {
        let id = operation_id("name", &request.name)?;
        let bad = || InvalidField::new("timeout", "must be at most 5 minutes, and not negative");
        let timeout = match request.timeout {
            None => WAIT_DEFAULT,
            Some(timeout) => Duration::try_from(timeout).map_err(|_| bad())?,
        };
        if timeout > WAIT_MAX {
            return Err(bad().into());
        }
        self.until_ended(&id, timeout).await
    }

    /// The operation when it has ended, or as it stands when the time is over.
    async fn until_ended(&self, id: &OperationId, within: Duration) -> Result<Operation, Error> {
        let until = tokio::time::Instant::now() + within;
        loop {
            let operation = self.operation(id).await?;
            let now = tokio::time::Instant::now();
            if operation.state != State::Running || now >= until {
                return Ok(operation);
            }
            let look = tokio::time::sleep_until(until.min(now + WAIT_LOOK));
            if self.shutdown.run_until(look).await.is_none() {
                return Err(Error::Stopping);
            }
        }
    }

    async fn cancel(
        &self,
        caller: &Caller,
        request: proto::CancelOperationRequest,
    ) -> Result<Operation, Error> {
        let id = operation_id("name", &request.name)?;
        let repeatable =
            Repeatable::read("CancelOperation", caller, &request.request_id, &request)?;
        let actor = caller.cause("").actor.to_string();
        let asked = id.clone();
        let selection = Selection::Operation(id.clone());
        // That it was cancelled is remembered; how it stands is read, since it may have ended meanwhile.
        self.decide_once::<()>(repeatable, selection, move |overlay, now| {
            let mut cancelled = false;
            let operation = decide::amend(overlay, &asked, |operation| {
                cancelled = operation.ending.is_none();
                operation.stop(State::Cancelled, now);
            })?;
            if cancelled {
                audit(overlay, &operation, "operation.cancel", actor);
            }
            Ok(())
        })
        .await?;
        // The other replicas settle what was handed over to them.
        self.until_ended(&id, CANCEL_WITHIN).await
    }
}

fn audit(overlay: &mut Overlay, operation: &Operation, action: &'static str, actor: String) {
    let detail = match &operation.work {
        Work::Update(update) => json!({
            "source": source_text(update.source),
            "condition": update.condition,
            "tags": update.tags.is_some(),
            "desired": update.desired.is_some(),
            "method": update.call.as_ref().map(|call| call.method.as_str()),
        }),
        Work::Undo { of } => json!({ "undoOf": name(of) }),
    };
    overlay.audit(AuditEvent {
        device: None,
        actor,
        action,
        resource: operation.name(),
        detail,
        trace_parent: trace::current_traceparent(),
    });
}

/// An operation as an answer.
fn answer(operation: Result<Operation, Error>) -> Result<Response<proto::Operation>, Status> {
    operation
        .map(|operation| Response::new(to_wire_operation(&operation)))
        .map_err(refuse)
}

#[tonic::async_trait]
impl TwinBulkService for Api {
    async fn start_bulk_update(
        &self,
        request: Request<proto::StartBulkUpdateRequest>,
    ) -> Result<Response<proto::Operation>, Status> {
        let caller = Caller::of(&request);
        self.begin_update(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn get_operation(
        &self,
        request: Request<proto::GetOperationRequest>,
    ) -> Result<Response<proto::Operation>, Status> {
        let id = operation_id("name", &request.get_ref().name).map_err(refuse)?;
        answer(self.operation(&id).await)
    }

    async fn list_operations(
        &self,
        request: Request<proto::ListOperationsRequest>,
    ) -> Result<Response<proto::ListOperationsResponse>, Status> {
        self.operations_page(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn wait_operation(
        &self,
        request: Request<proto::WaitOperationRequest>,
    ) -> Result<Response<proto::Operation>, Status> {
        answer(self.wait(request.into_inner()).await)
    }

    async fn cancel_operation(
        &self,
        request: Request<proto::CancelOperationRequest>,
    ) -> Result<Response<proto::Operation>, Status> {
        let caller = Caller::of(&request);
        answer(self.cancel(&caller, request.into_inner()).await)
    }

    async fn list_operation_results(
        &self,
        request: Request<proto::ListOperationResultsRequest>,
    ) -> Result<Response<proto::ListOperationResultsResponse>, Status> {
        self.results_page(request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }

    async fn undo_operation(
        &self,
        request: Request<proto::UndoOperationRequest>,
    ) -> Result<Response<proto::Operation>, Status> {
        let caller = Caller::of(&request);
        self.undo(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_call_may_take_as_long_as_it_can_be_asked_to_wait() {
        let within = Config::default().grpc().call_timeout.get();
        assert!(within > WAIT_MAX + Duration::from_secs(10));
        assert!(within > crate::grpc::query::QUERY_WITHIN * 2);
    }
}
