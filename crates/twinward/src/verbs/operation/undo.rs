//! `twinward operation undo`: takes back what an operation wrote, or says what that would come to.

use clap::Args;
use uuid::Uuid;
use wire::twin::v1 as api;

use super::view::{Foreseen, OperationView};
use super::{OperationArg, follow, short};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;
use crate::output::progress::Progress;

/// Results that are looked at between two movements of the bar, when an undo is foreseen.
const FORESEEN_SIZE: i32 = 500;

/// Arguments of `operation undo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward operation undo 0193f2c1-7a40-7c3e-b1d2-5e8f90a1b2c3 --dry-run\n  \
    twinward operation undo 0193f2c1-7a40-7c3e-b1d2-5e8f90a1b2c3 --wait\n  \
    twinward operation results NEW --outcome skipped")]
pub(crate) struct UndoArgs {
    #[command(flatten)]
    operation: OperationArg,
    /// Wait until it has ended; exits with 1 unless every twin was written
    #[arg(long)]
    wait: bool,
    /// Say how many twins would be written and left alone; begin nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// UUID of this request: repeating it within an hour begins nothing new
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
    /// Who changes it, for the twins' metadata [default: your user name]
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

pub(super) async fn undo(
    args: UndoArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let what = format!("cannot undo operation {}", short(&args.operation.operation));
    let request = api::UndoOperationRequest {
        name: args.operation.operation,
        request_id: args.request_id.map(|id| id.to_string()).unwrap_or_default(),
        operator: args
            .operator
            .unwrap_or_else(|| connection.operator().to_owned()),
        validate_only: args.dry_run,
        ..api::UndoOperationRequest::default()
    };
    if args.dry_run {
        return foresee(request, connection, output).await;
    }
    let answer = connection.operations()?.undo_operation(request).await;
    let started = answer
        .map_err(|status| connection.refused(&what, status))?
        .into_inner();
    if args.wait {
        return follow(started.name, connection, output).await;
    }
    let id = short(&started.name).to_owned();
    output.show(&OperationView(started))?;
    output.note(&format!("`twinward operation wait {id}` follows it"));
    Ok(())
}

/// Adds up what an undo would come to, a part at a time: there may be a million twins.
async fn foresee(
    request: api::UndoOperationRequest,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let what = format!(
        "cannot foresee the undo of operation {}",
        short(&request.name)
    );
    let of = api::GetOperationRequest {
        name: request.name.clone(),
    };
    let of = connection.operations()?.get_operation(of).await;
    let total = of
        .map_err(|status| connection.refused(&what, status))?
        .into_inner()
        .succeeded;
    let mut progress = Progress::begin("looking at twins", Some(total), output.format());
    let mut sum = api::Operation::default();
    let mut page_token = String::new();
    loop {
        let request = api::UndoOperationRequest {
            page_size: FORESEEN_SIZE,
            page_token: std::mem::take(&mut page_token),
            ..request.clone()
        };
        let answer = connection.operations()?.undo_operation(request).await;
        let part = answer
            .map_err(|status| connection.refused(&what, status))?
            .into_inner();
        sum = api::Operation {
            total: sum.total + part.total,
            succeeded: sum.succeeded + part.succeeded,
            failed: sum.failed + part.failed,
            skipped: sum.skipped + part.skipped,
            ..part
        };
        progress.at(sum.total, Some(total), "");
        if sum.next_page_token.is_empty() {
            break;
        }
        page_token.clone_from(&sum.next_page_token);
    }
    drop(progress);
    output.show(&Foreseen(sum))
}
