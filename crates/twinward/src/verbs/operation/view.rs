//! What people and programs see of operations.

use serde::Serialize;
use serde_json::Value;
use wire::twin::v1 as api;

use super::short;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Paper, View, plural, table, time};

/// Columns of results.
pub(super) const RESULT_COLUMNS: [&str; 5] = ["TWIN", "OUTCOME", "REVISION", "TIME", "REASON"];

/// One operation.
pub(crate) struct OperationView(pub(crate) api::Operation);

/// An operation as programs see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OperationData<'a> {
    name: &'a str,
    state: &'static str,
    source: &'a str,
    condition: &'a str,
    tags_patch: Option<Value>,
    desired_patch: Option<Value>,
    #[serde(skip_serializing_if = "str::is_empty")]
    undo_of: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    target: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    stage: &'a str,
    total: u64,
    succeeded: u64,
    failed: u64,
    skipped: u64,
    actor: &'a str,
    create_time: Option<String>,
    update_time: Option<String>,
    end_time: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

fn data(operation: &api::Operation) -> OperationData<'_> {
    let update = operation.bulk_update.as_ref();
    let patch = |text: &str| serde_json::from_str(text).ok();
    OperationData {
        name: &operation.name,
        state: state(operation.state()),
        source: update.map_or("", |update| &update.source),
        condition: update.map_or("", |update| &update.condition),
        tags_patch: update.and_then(|update| patch(&update.tags_patch_json)),
        desired_patch: update.and_then(|update| patch(&update.desired_patch_json)),
        undo_of: &operation.undo_of,
        target: &operation.target,
        stage: &operation.stage,
        total: operation.total,
        succeeded: operation.succeeded,
        failed: operation.failed,
        skipped: operation.skipped,
        actor: &operation.actor,
        create_time: time::precise(operation.create_time),
        update_time: time::precise(operation.update_time),
        end_time: time::precise(operation.end_time),
        error: &operation.error,
    }
}

fn state(state: api::OperationState) -> &'static str {
    match state {
        api::OperationState::Unspecified => "unknown",
        api::OperationState::Running => "running",
        api::OperationState::Succeeded => "succeeded",
        api::OperationState::Cancelled => "cancelled",
        api::OperationState::Failed => "failed",
    }
}

fn outcome(outcome: api::Outcome) -> &'static str {
    match outcome {
        api::Outcome::Unspecified => "unknown",
        api::Outcome::Succeeded => "succeeded",
        api::Outcome::Failed => "failed",
        api::Outcome::Skipped => "skipped",
    }
}

/// What it does, in a few words.
fn what(operation: &api::Operation) -> String {
    if !operation.undo_of.is_empty() {
        return format!("undo {}", short(&operation.undo_of));
    }
    let Some(update) = &operation.bulk_update else {
        return operation.target.clone();
    };
    match update.condition.as_str() {
        "*" => format!("all {}", update.source),
        condition => format!("{} where {condition}", update.source),
    }
}

/// What did not go as it should, in a few words; empty when nothing did.
pub(super) fn troubles(operation: &api::Operation) -> String {
    let mut words = Vec::new();
    if operation.failed > 0 {
        words.push(format!("{} failed", operation.failed));
    }
    if operation.skipped > 0 {
        words.push(format!("{} skipped", operation.skipped));
    }
    words.join(", ")
}

/// Why an ended operation does not count as done; none when it does.
pub(super) fn verdict(operation: &api::Operation) -> Option<Failure> {
    let id = short(&operation.name);
    match operation.state() {
        api::OperationState::Succeeded if operation.failed == 0 => None,
        api::OperationState::Succeeded => {
            let failed = plural(operation.failed, "twin", "twins");
            let failure = Failure::new(Kind::Failed, format!("{failed} could not be written"));
            if !operation.target.is_empty() {
                return Some(failure);
            }
            Some(failure.advise(format!(
                "`twinward operation results {id} --outcome failed` says why"
            )))
        }
        api::OperationState::Cancelled => Some(Failure::new(
            Kind::Failed,
            format!("operation {id} was cancelled"),
        )),
        api::OperationState::Failed => {
            let failure = Failure::new(Kind::Failed, format!("operation {id} failed"));
            Some(failure.because(&operation.error))
        }
        api::OperationState::Unspecified | api::OperationState::Running => Some(Failure::new(
            Kind::Internal,
            format!("operation {id} ended in a state that this program does not know"),
        )),
    }
}

impl View for OperationView {
    fn data(&self) -> impl Serialize {
        data(&self.0)
    }

    fn text(&self, paper: &Paper) -> String {
        let operation = &self.0;
        let update = operation.bulk_update.clone().unwrap_or_default();
        let counts = format!(
            "{} of {} written{}",
            operation.succeeded,
            operation.total,
            match troubles(operation).as_str() {
                "" => String::new(),
                words => format!(", {words}"),
            }
        );
        let at = |at: Option<prost_types::Timestamp>| match time::short(at) {
            text if text.is_empty() => text,
            text => format!("{text}, {} ago", time::age(paper.now, at)),
        };
        table::pairs(
            paper,
            vec![
                ("operation", short(&operation.name).to_owned()),
                ("state", state(operation.state()).to_owned()),
                ("stage", operation.stage.clone()),
                ("error", operation.error.clone()),
                ("what", what(operation)),
                ("tags", update.tags_patch_json),
                ("desired", update.desired_patch_json),
                ("twins", counts),
                ("by", operation.actor.clone()),
                ("begun", at(operation.create_time)),
                ("ended", at(operation.end_time)),
            ],
        )
    }
}

/// Several operations.
pub(super) struct OperationsView(pub(super) Vec<api::Operation>);

impl View for OperationsView {
    fn data(&self) -> impl Serialize {
        self.0.iter().map(data).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no operations; `twinward bulk update` begins one\n".to_owned();
        }
        let rows = self.0.iter().map(|operation| {
            vec![
                short(&operation.name).to_owned(),
                state(operation.state()).to_owned(),
                format!("{}/{}", operation.succeeded, operation.total),
                troubles(operation),
                time::age(paper.now, operation.create_time),
                what(operation),
                operation.actor.clone(),
            ]
        });
        table::table(
            paper,
            &["OPERATION", "STATE", "WRITTEN", "NOT", "AGE", "WHAT", "BY"],
            rows.collect(),
        )
    }
}

/// How many twins an update would be about.
pub(crate) struct Matching(pub(crate) api::Operation);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MatchingData {
    dry_run: bool,
    total: u64,
}

impl View for Matching {
    fn data(&self) -> impl Serialize {
        MatchingData {
            dry_run: true,
            total: self.0.total,
        }
    }

    fn text(&self, _paper: &Paper) -> String {
        format!(
            "{}; nothing was written\n",
            plural(self.0.total, "twin matches", "twins match")
        )
    }
}

/// What an undo would come to.
pub(super) struct Foreseen(pub(super) api::Operation);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForeseenData<'a> {
    dry_run: bool,
    undo_of: &'a str,
    total: u64,
    succeeded: u64,
    failed: u64,
    skipped: u64,
}

impl View for Foreseen {
    fn data(&self) -> impl Serialize {
        ForeseenData {
            dry_run: true,
            undo_of: &self.0.undo_of,
            total: self.0.total,
            succeeded: self.0.succeeded,
            failed: self.0.failed,
            skipped: self.0.skipped,
        }
    }

    fn text(&self, _paper: &Paper) -> String {
        let written = plural(self.0.succeeded, "twin", "twins");
        let troubles = match troubles(&self.0).as_str() {
            "" => String::new(),
            words => format!(", {words}"),
        };
        format!("{written} would be written{troubles}; nothing was begun\n")
    }
}

/// What became of one twin.
pub(super) struct ResultView(pub(super) api::OperationResult);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultData<'a> {
    twin: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    time: Option<String>,
}

impl View for ResultView {
    fn data(&self) -> impl Serialize {
        ResultData {
            twin: &self.0.twin,
            outcome: outcome(self.0.outcome()),
            reason: &self.0.reason,
            revision: Some(self.0.revision).filter(|revision| *revision != 0),
            time: time::precise(self.0.time),
        }
    }

    fn text(&self, paper: &Paper) -> String {
        table::rows(paper, vec![result_row(&self.0)])
    }
}

/// The cells of a result.
pub(super) fn result_row(result: &api::OperationResult) -> Vec<String> {
    let revision = match result.revision {
        0 => String::new(),
        revision => revision.to_string(),
    };
    vec![
        result
            .twin
            .replace("devices/", "")
            .replace("/modules/", "/"),
        outcome(result.outcome()).to_owned(),
        revision,
        time::short(result.time),
        result.reason.clone(),
    ]
}

#[cfg(test)]
mod tests;
