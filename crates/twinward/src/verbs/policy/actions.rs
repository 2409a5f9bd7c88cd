//! `twinward policy actions`: what a policy has called, and what came of it.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use wire::policy::v1 as api;
use wire::policy::v1::action_call::Outcome;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::{Output, Paper, View, plural, table, time};

/// The most that a page may hold.
const PAGE_MAX: u32 = 1000;

/// Characters of an answer or an error in the table.
const TOLD_CHARS_MAX: usize = 60;

/// Arguments of `policy actions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward policy actions collect-on-alarm\n  \
    twinward policy actions collect-on-alarm --device cam-1\n  \
    twinward policy actions collect-on-alarm --outcome failed --limit 1000\n  \
    twinward policy actions collect-on-alarm -o json | jq '.calls[] | select(.status >= 400)'")]
pub(crate) struct ActionsArgs {
    /// Id of the policy; also of a deleted one
    #[arg(value_name = "POLICY")]
    policy: String,
    /// Only of this device and its modules
    #[arg(
        long,
        value_name = "DEVICE",
        default_value_t,
        hide_default_value = true
    )]
    device: String,
    /// Only with this outcome
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<Asked>,
    /// How many calls that have ended, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u32,
}

/// An outcome.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Asked {
    Due,
    Calling,
    Succeeded,
    Failed,
    Unanswered,
    Unknown,
    Expired,
}

impl Asked {
    fn wire(self) -> Outcome {
        match self {
            Asked::Due => Outcome::Due,
            Asked::Calling => Outcome::Calling,
            Asked::Succeeded => Outcome::Succeeded,
            Asked::Failed => Outcome::Failed,
            Asked::Unanswered => Outcome::Unanswered,
            Asked::Unknown => Outcome::Unknown,
            Asked::Expired => Outcome::Expired,
        }
    }
}

/// Shows the calls of a policy.
pub(super) async fn run(
    args: &ActionsArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connection.actions()?;
    let mut view = CallsView::default();
    let mut page_token = String::new();
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    loop {
        let request = api::ListActionCallsRequest {
            parent: format!("policies/{}", args.policy),
            device_id: args.device.clone(),
            outcome: args
                .outcome
                .map_or(Outcome::Unspecified, Asked::wire)
                .into(),
            page_size: i32::try_from(args.limit.clamp(1, PAGE_MAX)).unwrap_or(i32::MAX),
            page_token,
        };
        let what = format!("cannot list the calls of policy {}", args.policy);
        let page = client
            .list_action_calls(request)
            .await
            .map_err(|status| connection.refused(&what, status))?
            .into_inner();
        view.pending.extend(page.pending);
        view.pending_count = view.pending_count.max(page.pending_count);
        view.calls.extend(page.calls);
        view.calls.truncate(limit);
        page_token = page.next_page_token;
        if page_token.is_empty() || view.calls.len() >= limit {
            view.more = !page_token.is_empty();
            return output.show(&view);
        }
    }
}

/// Calls of a policy.
#[derive(Default)]
struct CallsView {
    pending: Vec<api::ActionCall>,
    pending_count: u64,
    calls: Vec<api::ActionCall>,
    /// There are older ones.
    more: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallsData<'a> {
    pending_count: u64,
    pending: Vec<CallData<'a>>,
    calls: Vec<CallData<'a>>,
    more: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallData<'a> {
    twin: &'a str,
    action: &'a str,
    revision: u64,
    cause: u64,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    begin_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
}

fn data(call: &api::ActionCall) -> CallData<'_> {
    let payload = match call.payload_json.as_str() {
        "" => None,
        // What is no JSON is shown as it came.
        text => Some(serde_json::from_str(text).unwrap_or_else(|_| text.into())),
    };
    CallData {
        twin: &call.twin,
        action: &call.action,
        revision: call.policy_revision,
        cause: call.cause,
        outcome: outcome(call),
        status: answered(call).then_some(call.status),
        payload,
        error: &call.error,
        due_time: time::precise(call.due_time),
        begin_time: time::precise(call.begin_time),
        end_time: time::precise(call.end_time),
    }
}

fn outcome(call: &api::ActionCall) -> &'static str {
    match call.outcome() {
        Outcome::Unspecified => "?",
        Outcome::Due => "due",
        Outcome::Calling => "calling",
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Unanswered => "unanswered",
        Outcome::Unknown => "unknown",
        Outcome::Expired => "expired",
    }
}

/// Whether the device said something.
fn answered(call: &api::ActionCall) -> bool {
    match call.outcome() {
        Outcome::Succeeded => true,
        Outcome::Failed => call.status != 0 || !call.payload_json.is_empty(),
        Outcome::Unspecified
        | Outcome::Due
        | Outcome::Calling
        | Outcome::Unanswered
        | Outcome::Unknown
        | Outcome::Expired => false,
    }
}

impl View for CallsView {
    fn data(&self) -> impl Serialize {
        CallsData {
            pending_count: self.pending_count,
            pending: self.pending.iter().map(data).collect(),
            calls: self.calls.iter().map(data).collect(),
            more: self.more,
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let all = self.pending.iter().chain(&self.calls);
        let rows = all.map(|call| {
            let at = call.end_time.or(call.begin_time).or(call.due_time);
            let told = if call.error.is_empty() {
                &call.payload_json
            } else {
                &call.error
            };
            let mut short: String = told.chars().take(TOLD_CHARS_MAX).collect();
            if short.len() < told.len() {
                short.push('…');
            }
            vec![
                call.twin.clone(),
                call.action.clone(),
                call.policy_revision.to_string(),
                outcome(call).to_owned(),
                if answered(call) {
                    call.status.to_string()
                } else {
                    String::new()
                },
                time::short(at),
                short,
            ]
        });
        let header = [
            "TWIN", "ACTION", "REVISION", "OUTCOME", "STATUS", "AT", "ANSWER",
        ];
        let mut text = table::table(paper, &header, rows.collect());
        let shown = u64::try_from(self.pending.len()).unwrap_or(u64::MAX);
        if self.pending_count > shown {
            let calls = plural(self.pending_count, "call is", "calls are");
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{calls} due or under way in all");
        }
        if self.more {
            text.push_str("there are older calls; --limit shows more\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    fn call(outcome: Outcome) -> api::ActionCall {
        api::ActionCall {
            policy: "policies/collects".to_owned(),
            policy_revision: 3,
            action: "collect".to_owned(),
            twin: "devices/cam-1/modules/m".to_owned(),
            cause: 2,
            outcome: outcome.into(),
            end_time: Some(prost_types::Timestamp::default()),
            ..api::ActionCall::default()
        }
    }

    #[test]
    fn calls_are_listed_with_what_came_of_them() {
        let view = CallsView {
            pending: vec![api::ActionCall {
                end_time: None,
                due_time: Some(prost_types::Timestamp::default()),
                ..call(Outcome::Due)
            }],
            pending_count: 2,
            calls: vec![
                api::ActionCall {
                    status: 200,
                    payload_json: format!("{{\"collectors\":[\"{}\"]}}", "x".repeat(80)),
                    ..call(Outcome::Succeeded)
                },
                api::ActionCall {
                    error: "it was due for as long as it may be, and was not called".to_owned(),
                    ..call(Outcome::Expired)
                },
            ],
            more: true,
        };
        insta::assert_snapshot!("actions", text(&view));
        insta::assert_snapshot!("actions_json", json(&view));
    }
}
