//! What people and programs see of a policy. Programs get the keys of a policy file, and what the
//! service adds beside them.

mod applied;
mod list;

pub(super) use applied::{Applied, ChangeData, change_data, change_lines};
pub(super) use list::Policies;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use policy::policy_doc::ActionsSpec;
use policy::rollout::StrategySpec;
use policy::schedule::ScheduleSpec;
use serde::Serialize;
use serde_json::{Map, Value};
use wire::policy::v1 as api;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::leaves::leaves;
use crate::output::{Paper, View, table, time};

/// A policy whose settings have been read.
pub(super) struct PolicyView {
    policy: api::Policy,
    settings: Value,
}

impl PolicyView {
    /// Reads the settings of an answer.
    pub(super) fn read(policy: api::Policy) -> Result<Self, Failure> {
        let settings = match policy.settings_json.as_str() {
            "" => Value::Object(Map::new()),
            text => serde_json::from_str(text).map_err(|error| {
                Failure::new(
                    Kind::Internal,
                    format!("the answer for {} is damaged", policy.name),
                )
                .because(format!("settings_json: {error}"))
            })?,
        };
        Ok(Self { policy, settings })
    }

    fn document(&self) -> PolicyData<'_> {
        let policy = &self.policy;
        PolicyData {
            kind: policy::file::KIND,
            name: &policy.policy_id,
            description: &policy.description,
            labels: policy.labels.iter().map(both).collect(),
            scope: scope(policy.scope()),
            target: &policy.target,
            when: &policy.when,
            priority: policy.priority,
            settings: &self.settings,
            rollout: policy.rollout.as_ref().and_then(policy::resource::strategy),
            schedule: policy
                .schedule
                .as_ref()
                .and_then(policy::resource::schedule),
            actions: policy.actions.as_ref().and_then(policy::resource::actions),
            state: StateData {
                revision: policy.revision,
                etag: &policy.etag,
                schedule: policy.schedule_state.as_ref().map(|state| ScheduleData {
                    state: schedule_state(state),
                    reason: &state.reason,
                    next_time: time::precise(state.next_time),
                }),
                create_time: time::precise(policy.create_time),
                update_time: time::precise(policy.update_time),
                evaluation: policy.evaluation.as_ref().map(|evaluation| EvaluationData {
                    complete: evaluation.complete,
                    twins_evaluated: evaluation.twins_evaluated,
                    twins_changed: evaluation.twins_changed,
                    twins_failed: evaluation.twins_failed,
                }),
                twins: policy.status.as_ref().map(|status| TwinsData {
                    targeted: status.twins_targeted,
                    applied: status.twins_applied,
                    pending: status.twins_pending,
                    rejected: status.twins_rejected,
                    timed_out: status.twins_timed_out,
                    reverted: status.twins_reverted,
                    undecided: status.twins_undecided,
                    undecided_twins: &status.undecided_twins,
                    incomplete: status.twins_incomplete,
                    incomplete_twins: &status.incomplete_twins,
                    in_step_time: time::precise(status.in_step_time),
                }),
            },
        }
    }
}

/// A policy as its file has it, and its state beside it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyData<'a> {
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, &'a str>,
    scope: &'static str,
    target: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    when: &'a str,
    priority: i32,
    settings: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<StrategySpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<ScheduleSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actions: Option<ActionsSpec>,
    state: StateData<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateData<'a> {
    revision: u64,
    etag: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<ScheduleData<'a>>,
    create_time: Option<String>,
    update_time: Option<String>,
    evaluation: Option<EvaluationData>,
    twins: Option<TwinsData<'a>>,
}

/// Whether it may change twins now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScheduleData<'a> {
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    next_time: Option<String>,
}

fn schedule_state(state: &api::ScheduleState) -> &'static str {
    use api::schedule_state::State;
    match state.state() {
        State::Open => "open",
        State::Closed => "closed",
        State::Expired => "expired",
        State::Unspecified => "unknown",
    }
}

/// Whether it may change twins now, and until when; none: always.
fn hours(policy: &api::Policy) -> Option<String> {
    let state = policy.schedule_state.as_ref()?;
    let word = schedule_state(state);
    Some(match (&*state.reason, state.next_time) {
        ("", None) => word.to_owned(),
        ("", next) => format!("{word}, to change {}", time::short(next)),
        (reason, _) => format!("{word}: {reason}"),
    })
}

/// On how many twins it is in force.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TwinsData<'a> {
    targeted: u64,
    applied: u64,
    pending: u64,
    rejected: u64,
    timed_out: u64,
    reverted: u64,
    undecided: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    undecided_twins: &'a [String],
    incomplete: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    incomplete_twins: &'a [String],
    in_step_time: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EvaluationData {
    complete: bool,
    twins_evaluated: u64,
    twins_changed: u64,
    twins_failed: u64,
}

fn both<'a>((key, value): (&'a String, &'a String)) -> (&'a str, &'a str) {
    (key, value)
}

/// `key=value`, in the order of the keys.
fn labels(policy: &api::Policy) -> String {
    let labels: BTreeMap<_, _> = policy.labels.iter().collect();
    let labels = labels
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(", ")
}

fn scope(scope: api::Scope) -> &'static str {
    match scope {
        api::Scope::Devices => "devices",
        // The contract reads "unspecified" as modules.
        api::Scope::Modules | api::Scope::Unspecified => "modules",
    }
}

fn evaluation(policy: &api::Policy) -> String {
    match &policy.evaluation {
        None => "not started".to_owned(),
        Some(state) => {
            let progress = if state.complete {
                "complete"
            } else {
                "running"
            };
            let mut text = format!(
                "{progress}: {} twins evaluated, {} changed",
                state.twins_evaluated, state.twins_changed
            );
            if state.twins_failed > 0 {
                let _ = write!(text, ", {} failed", state.twins_failed);
            }
            text
        }
    }
}

/// The counts of a policy, if they are in step.
fn in_step(policy: &api::Policy) -> Option<&api::PolicyStatus> {
    let status = policy.status.as_ref();
    status.filter(|status| status.in_step_time.is_some())
}

fn twins(policy: &api::Policy) -> String {
    match in_step(policy) {
        None => "being counted".to_owned(),
        Some(status) => {
            let mut text = format!(
                "{} targeted: {} applied, {} pending, {} rejected",
                status.twins_targeted,
                status.twins_applied,
                status.twins_pending,
                status.twins_rejected
            );
            for (count, what) in [
                (status.twins_timed_out, "timed out"),
                (status.twins_reverted, "reverted"),
            ] {
                if count > 0 {
                    // Writing into a String cannot fail.
                    let _ = write!(text, ", {count} {what}");
                }
            }
            text
        }
    }
}

/// The twins on which it is not known whether the policy applies; none: there are none.
fn undecided(policy: &api::Policy) -> Option<String> {
    let status = policy.status.as_ref()?;
    let (count, names) = (status.twins_undecided, &status.undecided_twins);
    some_of(count, "keep what they have", names)
}

/// The twins that lack what the settings name; none: there are none.
fn incomplete(policy: &api::Policy) -> Option<String> {
    let status = policy.status.as_ref()?;
    let (count, names) = (status.twins_incomplete, &status.incomplete_twins);
    some_of(count, "lack what the settings name", names)
}

fn some_of(count: u64, what: &str, names: &[String]) -> Option<String> {
    let more = usize::try_from(count).ok()? > names.len();
    let more = if more { ", …" } else { "" };
    let names = names.join(", ");
    (count > 0).then(|| format!("{count} twins, which {what}: {names}{more}"))
}

fn target(target: &str) -> &str {
    if target.is_empty() { "nothing" } else { target }
}

fn condition(when: &str) -> &str {
    if when.is_empty() { "always" } else { when }
}

impl View for PolicyView {
    fn data(&self) -> impl Serialize {
        self.document()
    }

    fn text(&self, paper: &Paper) -> String {
        let policy = &self.policy;
        let mut text = table::pairs(
            paper,
            vec![
                ("policy", policy.policy_id.clone()),
                // A folded text of YAML keeps its last line break.
                ("about", policy.description.trim().to_owned()),
                ("labels", labels(policy)),
                ("scope", scope(policy.scope()).to_owned()),
                ("target", target(&policy.target).to_owned()),
                ("when", condition(&policy.when).to_owned()),
                ("priority", policy.priority.to_string()),
                ("revision", policy.revision.to_string()),
                ("etag", policy.etag.clone()),
                ("schedule", hours(policy).unwrap_or_default()),
                ("created", time::short(policy.create_time)),
                ("updated", time::short(policy.update_time)),
                ("evaluation", evaluation(policy)),
                ("twins", twins(policy)),
                ("undecided", undecided(policy).unwrap_or_default()),
                ("incomplete", incomplete(policy).unwrap_or_default()),
                (
                    "in step",
                    in_step(policy)
                        .map(|status| time::short(status.in_step_time))
                        .unwrap_or_default(),
                ),
            ],
        );
        text.push('\n');
        text.push_str(&paper.bold("Settings"));
        text.push('\n');
        let rows = leaves(&self.settings, &Value::Null)
            .into_iter()
            .map(|leaf| vec![format!("  {}", leaf.path), leaf.value])
            .collect();
        text.push_str(&table::rows(paper, rows));
        if let Some(actions) = &policy.actions {
            text.push('\n');
            text.push_str(&paper.bold("Actions"));
            text.push('\n');
            let rows = actions.calls.iter().map(|call| {
                let payload = match call.payload_json.as_str() {
                    "" => "null",
                    text => text,
                };
                vec![
                    format!("  {}", call.name),
                    call.method.clone(),
                    payload.to_owned(),
                ]
            });
            text.push_str(&table::rows(paper, rows.collect()));
        }
        text
    }
}

#[cfg(test)]
mod tests;
