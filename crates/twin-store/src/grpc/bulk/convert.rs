//! Operations as messages: what is asked read, what is kept printed.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use twin::{DeviceId, Stamp, Twin, TwinPatch};
use wire::InvalidField;
use wire::names::identity_name;
use wire::time::{optional, to_wire};
use wire::twin::v1 as proto;

use crate::error::Error;
use crate::grpc::token::{self, Kind};
use crate::grpc::{commands, object};
use crate::operations::{
    Called, Job, Operation, Outcome, State, TwinResult, Update, Work, job_of, name, source_of,
    source_text,
};
use crate::store::{OperationId, Source};

/// How far ahead a job may be planned.
const START_AHEAD_MAX: SignedDuration = SignedDuration::from_hours(366 * 24);
/// Longest time of a job: as long as ended ones are kept.
const JOB_SECONDS_MAX: u32 = 30 * 24 * 60 * 60;

/// Where the next page of a list starts.
#[derive(Serialize, Deserialize)]
struct Place {
    list: String,
    after: String,
}

/// Reads what is to be written, and refuses what no twin could take.
pub(super) fn update(asked: &proto::BulkUpdate, now: Timestamp) -> Result<Update, Error> {
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
        call: asked.method.as_ref().map(commands::read_call).transpose()?,
    };
    if update.call.is_some() {
        if update.tags.is_some() || update.desired.is_some() {
            let problem = "has a method and a patch; one of them is allowed";
            return Err(InvalidField::new("bulk_update", problem).into());
        }
        return Ok(update);
    }
    if update.tags.is_none() && update.desired.is_none() {
        let problem = "is empty; give tags_patch_json, desired_patch_json or method";
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

pub(super) fn operation_id(field: &str, name: &str) -> Result<OperationId, Error> {
    let id = name.strip_prefix("operations/").and_then(|id| {
        let id = OperationId(id.to_owned());
        if let Some(job) = job_of(&id) {
            return DeviceId::parse(job).is_ok().then_some(id);
        }
        let id = uuid::Uuid::parse_str(&id.0).ok()?;
        Some(OperationId(id.to_string()))
    });
    let id = id.ok_or_else(|| {
        let problem = format!(
            "{name:?} is not of the form \"operations/{{uuid}}\" or \"operations/job.{{job}}\""
        );
        InvalidField::new(field, problem)
    })?;
    Ok(id)
}

/// Reads what makes an operation a job, with its id.
pub(super) fn job(
    asked: Option<&proto::Job>,
    now: Timestamp,
) -> Result<Option<(String, Job)>, Error> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    if DeviceId::parse(&asked.job_id).is_err() {
        let problem = format!(
            "is {:?}; allowed are 1 to 128 ASCII letters, digits and `-:.+%_#*?!(),=@;$'`",
            asked.job_id
        );
        return Err(InvalidField::new("job.job_id", problem).into());
    }
    let start_at = optional("job.start_time", asked.start_time)?.unwrap_or(now);
    let latest = now.checked_add(START_AHEAD_MAX);
    if latest.is_ok_and(|latest| start_at > latest) {
        let problem = format!("is {start_at}; allowed is at most a year ahead");
        return Err(InvalidField::new("job.start_time", problem).into());
    }
    let seconds_max = match &asked.max_execution_time {
        None => None,
        Some(time) => {
            let seconds = u32::try_from(time.seconds).ok();
            let seconds = seconds.filter(|seconds| (1..=JOB_SECONDS_MAX).contains(seconds));
            let problem = || format!("is {} s; allowed are 1 s to 30 days", time.seconds);
            Some(seconds.ok_or_else(|| InvalidField::new("job.max_execution_time", problem()))?)
        }
    };
    let job = Job {
        start_at,
        seconds_max,
    };
    Ok(Some((asked.job_id.clone(), job)))
}

pub(super) fn state(state: State) -> proto::OperationState {
    match state {
        State::Running => proto::OperationState::Running,
        State::Succeeded => proto::OperationState::Succeeded,
        State::Cancelled => proto::OperationState::Cancelled,
        State::Failed => proto::OperationState::Failed,
    }
}

pub(super) fn to_wire_operation(operation: &Operation) -> proto::Operation {
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
                method: update.call.as_ref().map(commands::print_call),
            };
            (Some(update), String::new())
        }
        Work::Undo { of } => (None, name(of)),
    };
    let time = |at: Timestamp| Some(to_wire(at));
    proto::Operation {
        name: operation.name(),
        state: state(operation.state).into(),
        bulk_update,
        undo_of,
        total: operation.total.unwrap_or(0),
        succeeded: operation.succeeded,
        failed: operation.failed.saturating_add(operation.lost),
        skipped: operation.skipped,
        create_time: time(operation.created_at),
        update_time: time(operation.updated_at),
        end_time: operation.ended_at.and_then(time),
        actor: operation.actor.to_string(),
        error: operation.error.clone(),
        job: operation.job.zip(job_of(&operation.id)).map(|(job, id)| {
            let limit = job.seconds_max.map(|seconds| prost_types::Duration {
                seconds: i64::from(seconds),
                nanos: 0,
            });
            proto::Job {
                job_id: id.to_owned(),
                start_time: Some(to_wire(job.start_at)),
                max_execution_time: limit,
            }
        }),
        next_page_token: String::new(),
        begun: operation.total.is_some(),
        target: String::new(),
        stage: String::new(),
    }
}

pub(super) fn to_wire_result(result: &TwinResult) -> proto::OperationResult {
    let outcome = match result.outcome {
        Outcome::Succeeded => proto::Outcome::Succeeded,
        Outcome::Failed => proto::Outcome::Failed,
        Outcome::Skipped => proto::Outcome::Skipped,
        Outcome::Pending => proto::Outcome::Unspecified,
    };
    proto::OperationResult {
        twin: identity_name(&result.key),
        outcome: outcome.into(),
        reason: result.reason.clone(),
        revision: result.revision,
        time: Some(to_wire(result.at)),
        method: match &result.call {
            Some(Called::Answered(answer)) => Some(proto::MethodAnswer {
                status: answer.status,
                payload_json: answer.payload.clone(),
            }),
            Some(Called::Begun) | None => None,
        },
    }
}

pub(super) fn page_token(list: &str, after: String) -> String {
    let list = list.to_owned();
    token::seal(Kind::Page, &Place { list, after })
}

pub(super) fn place(token: &str, list: &str) -> Result<Option<String>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let place: Option<Place> = token::open(Kind::Page, token);
    let place = place.filter(|place| place.list == list);
    let problem = "is not one that this service gave for this list";
    let place = place.ok_or_else(|| InvalidField::new("page_token", problem))?;
    Ok(Some(place.after))
}
