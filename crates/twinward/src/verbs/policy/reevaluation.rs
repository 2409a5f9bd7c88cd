//! `twinward policy reevaluate` and `reevaluation`: all twins looked at again, as a job.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use service_kit::backoff::{Backoff, Policy};
use uuid::Uuid;
use wire::policy::v1 as api;
use wire::policy::v1::reevaluation::State;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::{Output, Paper, View, plural, table, time};

/// The most that a page may hold.
const PAGE_MAX: i32 = 1000;
/// Between two looks; the bar should move.
const LOOK: prost_types::Duration = prost_types::Duration {
    seconds: 0,
    nanos: 500_000_000,
};
/// A re-evaluation outlives a restart of the service, and so should a wait for it: about a minute.
const AGAIN: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(5),
    budget: Some(18),
};

/// Arguments of `policy reevaluate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Policies are evaluated by themselves: on each twin that changes, and on all that a policy \
    may concern when the policy does. This looks at all twins whatever changed, for who wants to be sure. \
    It goes on after a restart of the service, and changes of twins go first. What holds already is not \
    written.\n\nExamples:\n  \
    twinward policy reevaluate --wait\n  \
    twinward policy reevaluate --policy unexpected-listener\n  \
    twinward policy reevaluation cancel 12"
)]
pub(crate) struct ReevaluateArgs {
    /// Only twins that this policy targets, or in which policies have set something
    #[arg(
        long,
        value_name = "POLICY",
        default_value_t,
        hide_default_value = true
    )]
    policy: String,
    /// Follow it until it has ended; exits with 1 unless it came to all twins and all could be written
    #[arg(long)]
    wait: bool,
}

/// What can be done with re-evaluations.
#[derive(Debug, Subcommand)]
pub(crate) enum ReevaluationCommand {
    /// List re-evaluations, the newest first; ended ones are kept for 30 days
    List,
    /// Show one
    Get(ReevaluationArg),
    /// Follow one until it has ended; exits with 1 unless it came to all twins and all could be written
    Wait(ReevaluationArg),
    /// End one between two twins; what was written stays
    #[command(after_help = "Example:\n  twinward policy reevaluation cancel 12")]
    Cancel(ReevaluationArg),
}

/// One re-evaluation.
#[derive(Debug, Args)]
pub(crate) struct ReevaluationArg {
    /// Its number, as `policy reevaluation list` shows it
    #[arg(value_name = "NUMBER")]
    number: u64,
}

impl ReevaluationArg {
    fn name(&self) -> String {
        format!("reevaluations/{}", self.number)
    }
}

/// Begins one.
pub(super) async fn begin(
    args: ReevaluateArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let request = api::StartReevaluationRequest {
        policy: match args.policy.as_str() {
            "" => String::new(),
            id => format!("policies/{id}"),
        },
        request_id: Uuid::now_v7().to_string(),
    };
    let answer = connection
        .reevaluations()?
        .start_reevaluation(request)
        .await;
    let begun =
        answer.map_err(|status| connection.refused("cannot begin a re-evaluation", status))?;
    let begun = begun.into_inner();
    if args.wait {
        return follow(begun.name, connection, output).await;
    }
    output.show(&Shown(begun))
}

/// Does what was asked for.
pub(super) async fn run(
    command: ReevaluationCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        ReevaluationCommand::List => list(connection, output).await,
        ReevaluationCommand::Get(arg) => {
            let name = arg.name();
            let what = format!("cannot get {name}");
            let request = api::GetReevaluationRequest { name };
            let answer = connection.reevaluations()?.get_reevaluation(request).await;
            let found = answer.map_err(|status| connection.refused(&what, status))?;
            output.show(&Shown(found.into_inner()))
        }
        ReevaluationCommand::Wait(arg) => follow(arg.name(), connection, output).await,
        ReevaluationCommand::Cancel(arg) => {
            let name = arg.name();
            let what = format!("cannot cancel {name}");
            let request = api::CancelReevaluationRequest { name };
            let mut client = connection.reevaluations()?;
            let answer = client.cancel_reevaluation(request).await;
            let found = answer.map_err(|status| connection.refused(&what, status))?;
            output.show(&Shown(found.into_inner()))
        }
    }
}

async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut client = connection.reevaluations()?;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = api::ListReevaluationsRequest {
            page_size: PAGE_MAX,
            page_token,
        };
        let page = client
            .list_reevaluations(request)
            .await
            .map_err(|status| connection.refused("cannot list re-evaluations", status))?
            .into_inner();
        found.extend(page.reevaluations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return output.show(&Several(found));
        }
    }
}

/// Shows how far one is until it has ended, then what came of it.
async fn follow(name: String, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let what = format!("cannot wait for {name}");
    let mut progress = Progress::begin("evaluating twins", None, output.format());
    let mut backoff = Backoff::new(AGAIN);
    let ended = loop {
        let request = api::WaitReevaluationRequest {
            name: name.clone(),
            timeout: Some(LOOK),
        };
        match connection.reevaluations()?.wait_reevaluation(request).await {
            Ok(answer) => {
                backoff = Backoff::new(AGAIN);
                let one = answer.into_inner();
                // Twins may have been added since they were counted.
                let total = one.twins_total.map(|total| total.max(one.twins_evaluated));
                progress.at(one.twins_evaluated, total, &troubles(&one));
                if !matches!(one.state(), State::Waiting | State::Running) {
                    break one;
                }
            }
            Err(status) => {
                let failure = connection.refused(&what, status);
                let delay = match failure.kind() {
                    Kind::Unavailable => backoff.next_delay(),
                    _ => None,
                };
                let Some(delay) = delay else {
                    return Err(failure);
                };
                tokio::time::sleep(delay).await;
            }
        }
    };
    drop(progress);
    let verdict = verdict(&ended);
    output.show(&Shown(ended))?;
    verdict.map_or(Ok(()), Err)
}

/// Why one that has ended does not count as done; none when it does.
fn verdict(one: &api::Reevaluation) -> Option<Failure> {
    let name = &one.name;
    match one.state() {
        State::Succeeded if one.twins_failed == 0 => None,
        State::Succeeded => {
            let twins = plural(one.twins_failed, "twin", "twins");
            let failure = Failure::new(Kind::Failed, format!("{twins} could not be written"));
            Some(failure.advise("the log of the policy service says which, and why"))
        }
        State::Cancelled => Some(Failure::new(Kind::Failed, format!("{name} was cancelled"))),
        State::Failed => {
            let failure = Failure::new(Kind::Failed, format!("{name} failed"));
            Some(failure.because(&one.error))
        }
        State::Unspecified | State::Waiting | State::Running => Some(Failure::new(
            Kind::Internal,
            format!("{name} ended in a state that this program does not know"),
        )),
    }
}

/// What did not go as it should, in a few words; empty when nothing did.
fn troubles(one: &api::Reevaluation) -> String {
    match one.twins_failed {
        0 => String::new(),
        failed => format!("{failed} failed"),
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Waiting => "waiting",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Cancelled => "cancelled",
        State::Failed => "failed",
    }
}

/// A re-evaluation as programs see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    name: &'a str,
    state: &'static str,
    policy: &'a str,
    twins_total: Option<u64>,
    twins_evaluated: u64,
    twins_changed: u64,
    twins_failed: u64,
    actor: &'a str,
    create_time: Option<String>,
    update_time: Option<String>,
    end_time: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

fn data(one: &api::Reevaluation) -> Data<'_> {
    Data {
        name: &one.name,
        state: state(one.state()),
        policy: &one.policy,
        twins_total: one.twins_total,
        twins_evaluated: one.twins_evaluated,
        twins_changed: one.twins_changed,
        twins_failed: one.twins_failed,
        actor: &one.actor,
        create_time: time::precise(one.create_time),
        update_time: time::precise(one.update_time),
        end_time: time::precise(one.end_time),
        error: &one.error,
    }
}

fn of_what(one: &api::Reevaluation) -> String {
    match one.policy.as_str() {
        "" => "all twins".to_owned(),
        name => format!("twins of {}", name.trim_start_matches("policies/")),
    }
}

fn looked_at(one: &api::Reevaluation) -> String {
    match one.twins_total {
        Some(total) => format!("{}/{total}", one.twins_evaluated),
        None => one.twins_evaluated.to_string(),
    }
}

fn number(one: &api::Reevaluation) -> String {
    one.name.trim_start_matches("reevaluations/").to_owned()
}

/// One.
struct Shown(api::Reevaluation);

impl View for Shown {
    fn data(&self) -> impl Serialize {
        data(&self.0)
    }

    fn text(&self, paper: &Paper) -> String {
        let one = &self.0;
        let at = |at: Option<prost_types::Timestamp>| match time::short(at) {
            text if text.is_empty() => text,
            text => format!("{text}, {} ago", time::age(paper.now, at)),
        };
        table::pairs(
            paper,
            vec![
                ("re-evaluation", number(one)),
                ("state", state(one.state()).to_owned()),
                ("error", one.error.clone()),
                ("of", of_what(one)),
                ("looked at", looked_at(one)),
                ("written", one.twins_changed.to_string()),
                ("failed", one.twins_failed.to_string()),
                ("by", one.actor.clone()),
                ("asked for", at(one.create_time)),
                ("ended", at(one.end_time)),
            ],
        )
    }
}

/// Several.
struct Several(Vec<api::Reevaluation>);

impl View for Several {
    fn data(&self) -> impl Serialize {
        self.0.iter().map(data).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no re-evaluations; `twinward policy reevaluate` begins one\n".to_owned();
        }
        let rows = self.0.iter().map(|one| {
            vec![
                number(one),
                state(one.state()).to_owned(),
                of_what(one),
                looked_at(one),
                one.twins_changed.to_string(),
                one.twins_failed.to_string(),
                time::age(paper.now, one.create_time),
                one.actor.clone(),
            ]
        });
        let header = [
            "NUMBER",
            "STATE",
            "OF",
            "LOOKED AT",
            "WRITTEN",
            "FAILED",
            "AGE",
            "BY",
        ];
        table::table(paper, &header, rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    fn one(number: u64, state: State, policy: &str) -> api::Reevaluation {
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        let has_ended = !matches!(state, State::Waiting | State::Running);
        api::Reevaluation {
            name: format!("reevaluations/{number}"),
            state: state.into(),
            policy: policy.to_owned(),
            twins_total: policy.is_empty().then_some(1200),
            twins_evaluated: 700,
            twins_changed: 3,
            twins_failed: u64::from(state == State::Succeeded),
            create_time: Some(at(0)),
            update_time: Some(at(20)),
            end_time: has_ended.then(|| at(60)),
            actor: "operator:alice".to_owned(),
            error: String::new(),
        }
    }

    #[test]
    fn a_re_evaluation_says_what_it_looks_at_and_how_far_it_is() {
        let running = one(12, State::Running, "");
        let ended = one(11, State::Succeeded, "policies/lamps");
        let both = Several(vec![running.clone(), ended.clone()]);
        insta::assert_snapshot!("reevaluations", text(&both));
        insta::assert_snapshot!("reevaluations_json", json(&both));
        insta::assert_snapshot!("reevaluation_running", text(&Shown(running)));
        insta::assert_snapshot!("reevaluation_ended", text(&Shown(ended)));
    }

    #[test]
    fn only_one_that_came_to_all_twins_and_wrote_them_is_done() {
        let mut done = one(1, State::Succeeded, "");
        assert!(verdict(&done).is_some(), "a twin failed");
        done.twins_failed = 0;
        assert!(verdict(&done).is_none());
        for state in [State::Cancelled, State::Failed] {
            assert!(verdict(&one(1, state, "")).is_some(), "{state:?}");
        }
    }
}
