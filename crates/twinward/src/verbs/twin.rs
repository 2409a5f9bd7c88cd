//! `twinward twin`: what a device should be, says it is, and what we concluded; what that was, and
//! who changed it.

mod changes;
mod diff;
mod get;
mod history;
mod patch;
mod replace;
mod revert;
mod view;
pub(crate) mod watch;
mod write;

use clap::Subcommand;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) use view::TwinView;

/// What can be done with twins.
#[derive(Debug, Subcommand)]
pub(crate) enum TwinCommand {
    /// Show one twin, now or as it was
    Get(get::GetArgs),
    /// List what happened to a twin: when, who, why and what
    History(history::HistoryArgs),
    /// Show what differs between two moments of a twin, and who changed it
    Diff(diff::DiffArgs),
    /// Merge changes into tags and desired; null takes a value out
    Patch(patch::PatchArgs),
    /// Make tags and desired hold exactly what a file says
    Replace(replace::ReplaceArgs),
    /// Write tags and desired as they were at a revision or time, as a new revision
    Revert(revert::RevertArgs),
    /// Follow changes as they happen
    Watch(watch::WatchArgs),
}

/// Does what was asked for.
pub(crate) async fn run(
    command: TwinCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        TwinCommand::Get(args) => get::run(&args, connection, output).await,
        TwinCommand::History(args) => history::run(&args, connection, output).await,
        TwinCommand::Diff(args) => diff::run(&args, connection, output).await,
        TwinCommand::Patch(args) => patch::run(args, connection, output).await,
        TwinCommand::Replace(args) => replace::run(args, connection, output).await,
        TwinCommand::Revert(args) => revert::run(args, connection, output).await,
        TwinCommand::Watch(args) => watch::run(args, connection, output).await,
    }
}
