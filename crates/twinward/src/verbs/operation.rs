//! `twinward operation`: what takes long, seen from outside: updates of many twins, rollouts, re-evaluations.

mod undo;
mod view;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use service_kit::backoff::{Backoff, Policy};
use wire::twin::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::progress::Progress;
use crate::output::{Format, Output, plural, table};

use undo::{UndoArgs, undo};
pub(crate) use view::{Matching, OperationView};
use view::{OperationsView, RESULT_COLUMNS, ResultView};

/// The most that a page may hold.
const PAGE_MAX: u64 = 1000;
/// Between two looks at an operation; the bar should move.
const LOOK: prost_types::Duration = prost_types::Duration {
    seconds: 1,
    nanos: 0,
};
/// An operation outlives a restart of the service, and so should a wait for it: about a minute.
const AGAIN: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(5),
    budget: Some(18),
};

/// What can be done with operations.
#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List operations, newest first; ended ones are kept for 30 days
    List(ListArgs),
    /// Show one operation
    #[command(
        after_help = "Example:\n  twinward operation get 0193f2c1-7a40-7c3e-b1d2-5e8f90a1b2c3"
    )]
    Get(OperationArg),
    /// Follow an operation until it has ended; exits with 1 unless every twin was written
    #[command(
        after_help = "Examples:\n  twinward operation wait 0193f2c1-7a40-7c3e-b1d2-5e8f90a1b2c3\n  \
        twinward operation wait rollout.unexpected-listener.3"
    )]
    Wait(OperationArg),
    /// Stop an operation between two twins; what was written stays, but of a rollout, which is taken back
    #[command(
        after_help = "Example:\n  twinward operation cancel 0193f2c1-7a40-7c3e-b1d2-5e8f90a1b2c3"
    )]
    Cancel(OperationArg),
    /// List what became of each twin
    Results(ResultsArgs),
    /// Take back what an ended operation wrote, where nobody has written the same paths since
    Undo(UndoArgs),
}

/// One operation.
#[derive(Debug, Args)]
pub(crate) struct OperationArg {
    /// Id of the operation, or its resource name
    #[arg(value_name = "OPERATION", value_parser = name)]
    operation: String,
}

/// Arguments of `operation list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward operation list\n  \
    twinward operation list --state running --state failed --by operator:alice\n  \
    twinward operation list --limit 0 -o json | jq '.[] | select(.failed > 0)'")]
pub(crate) struct ListArgs {
    /// At most so many operations; 0: all
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u64,
    /// Only operations in this state; may be given several times
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<StateArg>,
    /// Only operations that this one began, as it is shown in the list
    #[arg(
        long = "by",
        value_name = "ACTOR",
        default_value_t,
        hide_default_value = true
    )]
    actor: String,
    /// Rollouts and re-evaluations of policies, instead of updates
    #[arg(long)]
    policies: bool,
}

/// Asks the service that an operation is of: the policy service for what it begins names that say so.
macro_rules! ask {
    ($connection:expr, $method:ident, $request:expr) => {
        if is_of_policies(&$request.name) {
            $connection.policy_operations()?.$method($request).await
        } else {
            $connection.operations()?.$method($request).await
        }
    };
}

fn is_of_policies(name: &str) -> bool {
    let id = short(name);
    id.starts_with("rollout.") || id.starts_with("reevaluation.")
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateArg {
    /// It goes on
    Running,
    /// It came to all twins
    Succeeded,
    /// Somebody stopped it
    Cancelled,
    /// It could not go on
    Failed,
}

impl StateArg {
    fn to_wire(self) -> i32 {
        let state = match self {
            StateArg::Running => api::OperationState::Running,
            StateArg::Succeeded => api::OperationState::Succeeded,
            StateArg::Cancelled => api::OperationState::Cancelled,
            StateArg::Failed => api::OperationState::Failed,
        };
        state.into()
    }
}

/// Arguments of `operation results`.
#[derive(Debug, Args)]
#[command(
    after_help = "With -o json every result is a JSON object on a line of its own.\n\nExamples:\n  \
    twinward operation results 0193f2c1-7a40-7c3e-b1d2-5e8f90a1b2c3 --outcome failed\n  \
    twinward operation results 0193f2c1-7a40-7c3e-b1d2-5e8f90a1b2c3 --limit 0 -o json | jq -r .twin"
)]
pub(crate) struct ResultsArgs {
    #[command(flatten)]
    operation: OperationArg,
    /// Only twins of which this became
    #[arg(long, value_enum, value_name = "OUTCOME")]
    outcome: Option<OutcomeArg>,
    /// At most so many results; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

/// What became of a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutcomeArg {
    /// Written
    Succeeded,
    /// Could not be written
    Failed,
    /// Left alone
    Skipped,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: OperationCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        OperationCommand::List(args) => list(&args, connection, output).await,
        OperationCommand::Get(args) => {
            let request = api::GetOperationRequest {
                name: args.operation,
            };
            let what = format!("cannot get operation {}", short(&request.name));
            let answer = ask!(connection, get_operation, request);
            let operation = answer.map_err(|status| connection.refused(&what, status))?;
            output.show(&OperationView(operation.into_inner()))
        }
        OperationCommand::Wait(args) => follow(args.operation, connection, output).await,
        OperationCommand::Cancel(args) => {
            let request = api::CancelOperationRequest {
                name: args.operation,
                ..Default::default()
            };
            let what = format!("cannot cancel operation {}", short(&request.name));
            let answer = ask!(connection, cancel_operation, request);
            let operation = answer.map_err(|status| connection.refused(&what, status))?;
            output.show(&OperationView(operation.into_inner()))
        }
        OperationCommand::Results(args) => results(args, connection, output).await,
        OperationCommand::Undo(args) => undo(args, connection, output).await,
    }
}

async fn list(args: &ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut operations: Vec<api::Operation> = Vec::new();
    let mut page_token = String::new();
    loop {
        let have = u64::try_from(operations.len()).unwrap_or(u64::MAX);
        if args.limit != 0 && have >= args.limit {
            break;
        }
        let request = api::ListOperationsRequest {
            page_size: page_size(args.limit, have),
            page_token,
            jobs_only: false,
            states: args.states.iter().map(|state| state.to_wire()).collect(),
            actor: args.actor.clone(),
            ..Default::default()
        };
        let answer = if args.policies {
            connection
                .policy_operations()?
                .list_operations(request)
                .await
        } else {
            connection.operations()?.list_operations(request).await
        };
        let page = answer.map_err(|status| connection.refused("cannot list operations", status))?;
        let page = page.into_inner();
        operations.extend(page.operations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.show(&OperationsView(operations))?;
    if !page_token.is_empty() {
        output.note(&format!(
            "only the newest {} are shown; --limit 0 shows all",
            args.limit
        ));
    }
    Ok(())
}

async fn results(
    args: ResultsArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let outcome = args.outcome.map(|outcome| match outcome {
        OutcomeArg::Succeeded => api::Outcome::Succeeded,
        OutcomeArg::Failed => api::Outcome::Failed,
        OutcomeArg::Skipped => api::Outcome::Skipped,
    });
    let parent = args.operation.operation;
    let what = format!("cannot list the results of operation {}", short(&parent));
    let mut table = table::Pages::default();
    let mut page_token = String::new();
    let mut count = 0;
    loop {
        let request = api::ListOperationResultsRequest {
            parent: parent.clone(),
            page_size: page_size(args.limit, count),
            page_token,
            outcome: outcome.unwrap_or_default().into(),
        };
        let page = connection
            .operations()?
            .list_operation_results(request)
            .await
            .map_err(|status| connection.refused(&what, status))?
            .into_inner();
        count += u64::try_from(page.results.len()).unwrap_or(u64::MAX);
        match output.format() {
            Format::Table => {
                let rows = page.results.iter().map(view::result_row).collect();
                let text = table.next(output.paper(), &RESULT_COLUMNS, rows);
                crate::output::write(&text)?;
            }
            Format::Json | Format::Yaml => {
                for result in page.results {
                    output.show_next(&ResultView(result))?;
                }
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() || (args.limit != 0 && count >= args.limit) {
            break;
        }
    }
    if count == 0 {
        output.note("no results");
    }
    if !page_token.is_empty() {
        output.note(&format!(
            "only the first {} are shown; --limit 0 shows all",
            plural(count, "result", "results")
        ));
    }
    Ok(())
}

/// Shows how far an operation is until it has ended, then what came of it.
pub(crate) async fn follow(
    name: String,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let what = format!("cannot wait for operation {}", short(&name));
    let doing = if is_of_policies(&name) {
        "twins"
    } else {
        "updating twins"
    };
    let mut progress = Progress::begin(doing, None, output.format());
    let mut backoff = Backoff::new(AGAIN);
    let ended = loop {
        let request = api::WaitOperationRequest {
            name: name.clone(),
            timeout: Some(LOOK),
        };
        match ask!(connection, wait_operation, request) {
            Ok(answer) => {
                backoff = Backoff::new(AGAIN);
                let operation = answer.into_inner();
                let done = operation.succeeded + operation.failed + operation.skipped;
                // Of a re-evaluation it may be that nobody has counted the twins.
                let total = Some(operation.total).filter(|total| *total > 0);
                progress.at(done, total, &view::troubles(&operation));
                if operation.state() != api::OperationState::Running {
                    break operation;
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
    let verdict = view::verdict(&ended);
    output.show(&OperationView(ended))?;
    verdict.map_or(Ok(()), Err)
}

/// The id of an operation, as people type it.
pub(crate) fn short(name: &str) -> &str {
    name.strip_prefix("operations/").unwrap_or(name)
}

fn name(text: &str) -> Result<String, String> {
    match short(text) {
        "" => Err("is no id of an operation; `twinward operation list` shows them".to_owned()),
        id if id.contains('/') => Err("is no id of an operation, nor operations/ID".to_owned()),
        id => Ok(format!("operations/{id}")),
    }
}

fn page_size(limit: u64, have: u64) -> i32 {
    let left = if limit == 0 {
        PAGE_MAX
    } else {
        (limit - have).min(PAGE_MAX)
    };
    i32::try_from(left).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_named_by_its_id_or_its_resource_name() {
        assert_eq!(name("0193").unwrap(), "operations/0193");
        assert_eq!(name("operations/0193").unwrap(), "operations/0193");
        assert!(name("").is_err() && name("devices/x").is_err());
    }

    #[test]
    fn pages_add_up_to_the_limit() {
        assert_eq!(page_size(0, 5000), 1000);
        assert_eq!(page_size(1500, 1000), 500);
        assert_eq!(page_size(5000, 0), 1000);
    }
}
