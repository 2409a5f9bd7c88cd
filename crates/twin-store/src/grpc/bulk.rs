//! `TwinBulkService`: updates of many twins, as operations that go on by themselves.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use service_kit::trace;
use tonic::{Request, Response, Status};
use twin::{Stamp, Twin, TwinPatch};
use wire::InvalidField;
use wire::names::identity_name;
use wire::time::to_wire;
use wire::twin::v1 as proto;
use wire::twin::v1::twin_bulk_service_server::TwinBulkService;

use super::caller::Caller;
use super::repeatable::Repeatable;
use super::token::{self, Kind};
use super::{Api, identity, object, page_size, refuse};
use crate::apply::{AuditEvent, Cause, Overlay};
use crate::error::{Error, ReadError};
use crate::operations::{
    Operation, Outcome, RUNNING_MAX, State, TwinResult, Update, Work, decide, name, runner,
    source_of, source_text,
};
use crate::store::{Loaded, OperationId, Selection, Source};

/// How long a wait lasts when the caller does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// How often a wait looks.
const WAIT_LOOK: Duration = Duration::from_millis(100);
/// Results looked at for one page of one outcome.
const SCAN_MAX: usize = 10_000;
/// Rows read at once.
const CHUNK: u32 = 500;

/// Where the next page of a list starts.
#[derive(Serialize, Deserialize)]
struct Place {
    list: String,
    after: String,
}

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
        let actor = caller.operator(&request.operator)?;
        let cause = caller.cause_as(actor, &request.request_id);
        let condition = runner::condition(&update)
            .map_err(|problem| InvalidField::new("bulk_update.condition", problem))?;
        if request.validate_only {
            let now = self.clock.now();
            return Ok(proto::Operation {
                total: runner::count(&self.store, &update, &condition, now).await?,
                bulk_update: Some(asked),
                actor: cause.actor.to_string(),
                ..proto::Operation::default()
            });
        }
        let work = Work::Update(update);
        self.begin(
            work,
            cause,
            repeatable,
            request.rate_per_second,
            "operation.start",
        )
        .await
    }

    async fn begin(
        &self,
        work: Work,
        cause: Cause,
        repeatable: Option<Repeatable>,
        rate: u32,
        action: &'static str,
    ) -> Result<proto::Operation, Error> {
        if runner::running(&self.store).await?.len() >= RUNNING_MAX {
            let allowed = RUNNING_MAX;
            return Err(ReadError::TooManyOperations { allowed }.into());
        }
        let id = OperationId(uuid::Uuid::now_v7().to_string());
        let selection = Selection::Operation(id.clone());
        let begun = self
            .decide_once(repeatable, selection, move |overlay: &mut Overlay, now| {
                let (actor, trace) = (cause.actor.clone(), cause.trace_parent.clone());
                let operation = Operation::begin(id, work, actor, trace, rate, now);
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
        let repeatable = Repeatable::read("UndoOperation", caller, &request.request_id, &request)?;
        let actor = caller.operator(&request.operator)?;
        let cause = caller.cause_as(actor, &request.request_id);
        let undone = self.operation(&id).await?;
        if undone.state == State::Running {
            return Err(ReadError::OperationRuns(undone.name()).into());
        }
        let work = Work::Undo { of: id };
        self.begin(work, cause, repeatable, undone.rate, "operation.undo")
            .await
    }

    async fn operation(&self, id: &OperationId) -> Result<Operation, Error> {
        let loaded = self
            .store
            .load(vec![Selection::Operation(id.clone())])
            .await?;
        let row = loaded.into_iter().find_map(|loaded| match loaded {
            Loaded::Operation(row) => Some(row),
            Loaded::Whole(_) | Loaded::Damaged(..) | Loaded::Token(..) | Loaded::Request(_) => None,
        });
        let row = row.ok_or_else(|| ReadError::NoOperation(name(id)))?;
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
        let until = tokio::time::Instant::now() + timeout;
        loop {
            let operation = self.operation(&id).await?;
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
        let actor = caller.cause("").actor.to_string();
        self.engine
            .decide(Selection::Operation(id.clone()), move |overlay, now| {
                let mut cancelled = false;
                let operation = decide::amend(overlay, &id, |operation| {
                    operation.end(State::Cancelled, now);
                    cancelled = true;
                })?;
                if cancelled {
                    audit(overlay, &operation, "operation.cancel", actor);
                }
                Ok(operation)
            })
            .await
    }

    async fn operations_page(
        &self,
        request: proto::ListOperationsRequest,
    ) -> Result<proto::ListOperationsResponse, Error> {
        let size = page_size(request.page_size)?;
        let after = place(&request.page_token, "ListOperations")?.map(OperationId);
        let rows = self.store.operations(after, size).await?;
        let is_full = rows.len() == usize::try_from(size).unwrap_or(usize::MAX);
        let next = rows.last().filter(|_| is_full);
        let mut operations = Vec::with_capacity(rows.len());
        for row in &rows {
            match Operation::from_row(row) {
                Ok(operation) => operations.push(to_wire_operation(&operation)),
                Err(damaged) => super::report_damaged(&[damaged]),
            }
        }
        Ok(proto::ListOperationsResponse {
            next_page_token: next
                .map(|row| page_token("ListOperations", row.id.0.clone()))
                .unwrap_or_default(),
            operations,
        })
    }

    async fn results_page(
        &self,
        request: proto::ListOperationResultsRequest,
    ) -> Result<proto::ListOperationResultsResponse, Error> {
        let id = operation_id("parent", &request.parent)?;
        let size = page_size(request.page_size)? as usize;
        let outcome = match proto::Outcome::try_from(request.outcome) {
            Ok(outcome) => outcome,
            Err(_) => {
                let problem = format!("{} is none that is known", request.outcome);
                return Err(InvalidField::new("outcome", problem).into());
            }
        };
        self.operation(&id).await?;
        let list = token::fingerprint([&id.0, outcome.as_str_name()]);
        let mut after = match place(&request.page_token, &list)? {
            Some(name) => Some(identity("page_token", &name)?),
            None => None,
        };
        let mut answer = proto::ListOperationResultsResponse::default();
        let mut looked_at = 0;
        loop {
            let rows = self
                .store
                .operation_results(id.clone(), after.clone(), CHUNK)
                .await?;
            let is_last = rows.len() < CHUNK as usize;
            looked_at += rows.len();
            for row in &rows {
                after = Some(row.key.clone());
                let result = match TwinResult::from_row(row) {
                    Ok(result) => to_wire_result(&result),
                    Err(damaged) => {
                        super::report_damaged(&[damaged]);
                        continue;
                    }
                };
                if outcome != proto::Outcome::Unspecified && result.outcome() != outcome {
                    continue;
                }
                answer.results.push(result);
                if answer.results.len() >= size {
                    answer.next_page_token = page_token(&list, identity_name(&row.key));
                    return Ok(answer);
                }
            }
            if is_last {
                return Ok(answer);
            }
            if let Some(after) = after.as_ref().filter(|_| looked_at >= SCAN_MAX) {
                answer.next_page_token = page_token(&list, identity_name(after));
                return Ok(answer);
            }
        }
    }
}

/// Reads what is to be written, and refuses what no twin could take.
fn update(asked: &proto::BulkUpdate, now: Timestamp) -> Result<Update, Error> {
    let source = match source_of(&asked.source) {
        Some(source @ (Source::Devices | Source::Modules)) => source,
        Some(Source::All) | None => {
            let problem = format!(
                "is {:?}; allowed are \"devices\" and \"devices.modules\"",
                asked.source
            );
            return Err(InvalidField::new("bulk_update.source", problem).into());
        }
    };
    let update = Update {
        source,
        condition: asked.condition.clone(),
        tags: object("bulk_update.tags_patch_json", &asked.tags_patch_json)?,
        desired: object("bulk_update.desired_patch_json", &asked.desired_patch_json)?,
    };
    if update.tags.is_none() && update.desired.is_none() {
        let problem = "both patches are empty; give tags_patch_json or desired_patch_json";
        return Err(InvalidField::new("bulk_update", problem).into());
    }
    let patch = TwinPatch {
        tags: update.tags.clone(),
        desired: update.desired.clone(),
    };
    let stamp = Stamp {
        at: now,
        by: twin::Writer::System,
    };
    Twin::new(now)
        .patch(&patch, &stamp, None)
        .map_err(|source| Error::Bulk { source })?;
    Ok(update)
}

fn audit(overlay: &mut Overlay, operation: &Operation, action: &'static str, actor: String) {
    let detail = match &operation.work {
        Work::Update(update) => json!({
            "source": source_text(update.source),
            "condition": update.condition,
            "tags": update.tags.is_some(),
            "desired": update.desired.is_some(),
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

fn operation_id(field: &str, name: &str) -> Result<OperationId, Error> {
    let id = name
        .strip_prefix("operations/")
        .and_then(|id| uuid::Uuid::parse_str(id).ok());
    let id = id.ok_or_else(|| {
        let problem = format!("{name:?} is not of the form \"operations/{{uuid}}\"");
        InvalidField::new(field, problem)
    })?;
    Ok(OperationId(id.to_string()))
}

fn to_wire_operation(operation: &Operation) -> proto::Operation {
    let state = match operation.state {
        State::Running => proto::OperationState::Running,
        State::Succeeded => proto::OperationState::Succeeded,
        State::Cancelled => proto::OperationState::Cancelled,
        State::Failed => proto::OperationState::Failed,
    };
    let text = |patch: &Option<twin::Map>| {
        let patch = patch.clone().map(serde_json::Value::Object);
        patch.map(|patch| patch.to_string()).unwrap_or_default()
    };
    let (bulk_update, undo_of) = match &operation.work {
        Work::Update(update) => {
            let update = proto::BulkUpdate {
                source: source_text(update.source).to_owned(),
                condition: update.condition.clone(),
                tags_patch_json: text(&update.tags),
                desired_patch_json: text(&update.desired),
            };
            (Some(update), String::new())
        }
        Work::Undo { of } => (None, name(of)),
    };
    let time = |at: Timestamp| Some(to_wire(at));
    proto::Operation {
        name: operation.name(),
        state: state.into(),
        bulk_update,
        undo_of,
        total: operation.total.unwrap_or(0),
        succeeded: operation.succeeded,
        failed: operation.failed,
        skipped: operation.skipped,
        create_time: time(operation.created_at),
        update_time: time(operation.updated_at),
        end_time: operation.ended_at.and_then(time),
        actor: operation.actor.to_string(),
        error: operation.error.clone(),
    }
}

fn to_wire_result(result: &TwinResult) -> proto::OperationResult {
    let outcome = match result.outcome {
        Outcome::Succeeded => proto::Outcome::Succeeded,
        Outcome::Failed => proto::Outcome::Failed,
        Outcome::Skipped => proto::Outcome::Skipped,
    };
    proto::OperationResult {
        twin: identity_name(&result.key),
        outcome: outcome.into(),
        reason: result.reason.clone(),
        revision: result.revision,
        time: Some(to_wire(result.at)),
    }
}

fn page_token(list: &str, after: String) -> String {
    let list = list.to_owned();
    token::seal(Kind::Page, &Place { list, after })
}

fn place(token: &str, list: &str) -> Result<Option<String>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let place: Option<Place> = token::open(Kind::Page, token);
    let place = place.filter(|place| place.list == list);
    let problem = "is not one that this service gave for this list";
    let place = place.ok_or_else(|| InvalidField::new("page_token", problem))?;
    Ok(Some(place.after))
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
