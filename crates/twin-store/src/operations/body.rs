//! How operations and results are stored: JSON with fields that may be added to, never reused.

use std::time::Duration;

use iot_hub::MethodName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use twin::{IdentityKey, Map, Writer};

use super::take_back::{SectionUndo, Undo};
use super::{Answer, Call, Called, Job, Operation, Outcome, State, TwinResult, Update, Work};
use crate::record::Damaged;
use crate::store::{OperationId, OperationResultRow, OperationRow, Source};

#[derive(Serialize, Deserialize)]
struct OperationBody {
    work: WorkBody,
    state: String,
    total: Option<u64>,
    succeeded: u64,
    failed: u64,
    skipped: u64,
    created_at: String,
    updated_at: String,
    ended_at: Option<String>,
    actor: String,
    trace_parent: Option<String>,
    rate: u32,
    after: Option<String>,
    #[serde(default)]
    handed_over: u64,
    #[serde(default)]
    walked: bool,
    #[serde(default)]
    ending: Option<String>,
    #[serde(default)]
    lost: u64,
    error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<JobBody>,
}

#[derive(Serialize, Deserialize)]
struct JobBody {
    start_at: String,
    seconds_max: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WorkBody {
    Update {
        source: String,
        condition: String,
        tags: Option<Map>,
        desired: Option<Map>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<CallBody>,
    },
    Undo {
        of: String,
    },
}

#[derive(Serialize, Deserialize)]
struct CallBody {
    method: String,
    payload: String,
    response_within_ms: u64,
    connect_within_ms: u64,
}

/// An answer of a device; without a status, it was called and nothing is known.
#[derive(Serialize, Deserialize)]
struct CalledBody {
    status: Option<i32>,
    #[serde(default)]
    payload: String,
}

#[derive(Serialize, Deserialize)]
struct ResultBody {
    outcome: String,
    reason: String,
    revision: u64,
    at: String,
    undo: Option<UndoBody>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call: Option<CalledBody>,
}

#[derive(Serialize, Deserialize)]
struct UndoBody {
    generation: String,
    tags: Option<SectionBody>,
    desired: Option<SectionBody>,
}

#[derive(Serialize, Deserialize)]
struct SectionBody {
    version: u64,
    back: Map,
    wrote: Map,
}

pub(super) fn print_operation(operation: &Operation) -> String {
    let work = match &operation.work {
        Work::Update(update) => WorkBody::Update {
            source: source_text(update.source).to_owned(),
            condition: update.condition.clone(),
            tags: update.tags.clone(),
            desired: update.desired.clone(),
            call: update.call.as_ref().map(print_call),
        },
        Work::Undo { of } => WorkBody::Undo { of: of.0.clone() },
    };
    let body = OperationBody {
        work,
        state: state_text(operation.state).to_owned(),
        total: operation.total,
        succeeded: operation.succeeded,
        failed: operation.failed,
        skipped: operation.skipped,
        created_at: operation.created_at.to_string(),
        updated_at: operation.updated_at.to_string(),
        ended_at: operation.ended_at.map(|at| at.to_string()),
        actor: operation.actor.to_string(),
        trace_parent: operation.trace_parent.clone(),
        rate: operation.rate,
        after: operation.after.as_ref().map(ToString::to_string),
        handed_over: operation.handed_over,
        walked: operation.walked,
        ending: operation.ending.map(|state| state_text(state).to_owned()),
        lost: operation.lost,
        error: operation.error.clone(),
        job: operation.job.map(|job| JobBody {
            start_at: job.start_at.to_string(),
            seconds_max: job.seconds_max,
        }),
    };
    // Texts, numbers and JSON objects: nothing that JSON cannot say.
    serde_json::to_string(&body).unwrap_or_default()
}

pub(super) fn read_operation(row: &OperationRow) -> Result<Operation, Damaged> {
    let damaged = |problem: String| Damaged {
        key: super::name(&row.id),
        part: "operation",
        problem,
    };
    let body: OperationBody =
        serde_json::from_str(&row.body).map_err(|error| damaged(error.to_string()))?;
    let at = |text: &str| {
        let at: Result<Timestamp, _> = text.parse();
        at.map_err(|error| damaged(error.to_string()))
    };
    let work = match body.work {
        WorkBody::Update {
            source,
            condition,
            tags,
            desired,
            call,
        } => Work::Update(Update {
            source: source_of(&source)
                .ok_or_else(|| damaged(format!("the source {source:?} is not known")))?,
            condition,
            tags,
            desired,
            call: call.map(read_call).transpose().map_err(damaged)?,
        }),
        WorkBody::Undo { of } => Work::Undo {
            of: OperationId(of),
        },
    };
    let state = |text: &str| {
        state_of(text).ok_or_else(|| damaged(format!("the state {text:?} is not known")))
    };
    Ok(Operation {
        id: row.id.clone(),
        work,
        state: state(&body.state)?,
        total: body.total,
        succeeded: body.succeeded,
        failed: body.failed,
        skipped: body.skipped,
        created_at: at(&body.created_at)?,
        updated_at: at(&body.updated_at)?,
        ended_at: body.ended_at.as_deref().map(at).transpose()?,
        actor: Writer::parse(&body.actor).map_err(|error| damaged(error.to_string()))?,
        trace_parent: body.trace_parent,
        rate: body.rate,
        after: body
            .after
            .map(|text| IdentityKey::parse_path(&text))
            .transpose()
            .map_err(|error| damaged(error.to_string()))?,
        handed_over: body.handed_over,
        walked: body.walked,
        ending: body.ending.as_deref().map(state).transpose()?,
        lost: body.lost,
        error: body.error,
        job: match body.job {
            Some(job) => Some(Job {
                start_at: at(&job.start_at)?,
                seconds_max: job.seconds_max,
            }),
            None => None,
        },
    })
}

fn state_text(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Cancelled => "cancelled",
        State::Failed => "failed",
    }
}

fn state_of(text: &str) -> Option<State> {
    match text {
        "running" => Some(State::Running),
        "succeeded" => Some(State::Succeeded),
        "cancelled" => Some(State::Cancelled),
        "failed" => Some(State::Failed),
        _ => None,
    }
}

fn print_call(call: &Call) -> CallBody {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    CallBody {
        method: call.method.to_string(),
        payload: call.payload.clone(),
        response_within_ms: millis(call.response_within),
        connect_within_ms: millis(call.connect_within),
    }
}

fn read_call(body: CallBody) -> Result<Call, String> {
    let method = MethodName::parse(&body.method);
    Ok(Call {
        method: method.map_err(|error| format!("{:?} {error}", body.method))?,
        payload: body.payload,
        response_within: Duration::from_millis(body.response_within_ms),
        connect_within: Duration::from_millis(body.connect_within_ms),
    })
}

pub(super) fn print_result(result: &TwinResult) -> String {
    let outcome = match result.outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Skipped => "skipped",
        Outcome::Pending => "pending",
    };
    let section = |undo: &SectionUndo| SectionBody {
        version: undo.version,
        back: undo.back.clone(),
        wrote: undo.wrote.clone(),
    };
    let body = ResultBody {
        outcome: outcome.to_owned(),
        reason: result.reason.clone(),
        revision: result.revision,
        at: result.at.to_string(),
        undo: result.undo.as_ref().map(|undo| UndoBody {
            generation: undo.generation.clone(),
            tags: undo.tags.as_ref().map(section),
            desired: undo.desired.as_ref().map(section),
        }),
        call: result.call.as_ref().map(|call| match call {
            Called::Begun => CalledBody {
                status: None,
                payload: String::new(),
            },
            Called::Answered(answer) => CalledBody {
                status: Some(answer.status),
                payload: answer.payload.clone(),
            },
        }),
    };
    serde_json::to_string(&body).unwrap_or_default()
}

pub(super) fn read_result(row: &OperationResultRow) -> Result<TwinResult, Damaged> {
    let damaged = |problem: String| Damaged {
        key: row.key.to_string(),
        part: "result of an operation",
        problem: format!("{}: {problem}", super::name(&row.operation)),
    };
    let body: ResultBody =
        serde_json::from_str(&row.body).map_err(|error| damaged(error.to_string()))?;
    let section = |body: SectionBody| SectionUndo {
        version: body.version,
        back: body.back,
        wrote: body.wrote,
    };
    Ok(TwinResult {
        key: row.key.clone(),
        outcome: match body.outcome.as_str() {
            "succeeded" => Outcome::Succeeded,
            "failed" => Outcome::Failed,
            "skipped" => Outcome::Skipped,
            "pending" => Outcome::Pending,
            other => return Err(damaged(format!("the outcome {other:?} is not known"))),
        },
        reason: body.reason,
        revision: body.revision,
        at: body
            .at
            .parse()
            .map_err(|error: jiff::Error| damaged(error.to_string()))?,
        undo: body.undo.map(|undo| Undo {
            generation: undo.generation,
            tags: undo.tags.map(section),
            desired: undo.desired.map(section),
        }),
        call: body.call.map(|call| match call.status {
            Some(status) => Called::Answered(Answer {
                status,
                payload: call.payload,
            }),
            None => Called::Begun,
        }),
    })
}

/// A source as contracts and rows name it.
pub(crate) fn source_text(source: Source) -> &'static str {
    match source {
        Source::All => "all",
        Source::Devices => "devices",
        Source::Modules => "devices.modules",
    }
}

/// Reads what [`source_text`] wrote.
pub(crate) fn source_of(text: &str) -> Option<Source> {
    match text {
        "all" => Some(Source::All),
        "devices" => Some(Source::Devices),
        "devices.modules" => Some(Source::Modules),
        _ => None,
    }
}
