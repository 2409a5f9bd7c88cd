//! `twinward twin`: what a device should be, says it is, and what we concluded.

mod patch;
mod view;
mod watch;

use clap::{Args, Subcommand};
use wire::twin::v1 as api;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::Output;

use patch::PatchArgs;
use view::TwinView;
use watch::WatchArgs;

/// What can be done with twins.
#[derive(Debug, Subcommand)]
pub(crate) enum TwinCommand {
    /// Show one twin
    Get(GetArgs),
    /// Merge changes into tags and desired; null takes a value out
    Patch(PatchArgs),
    /// Follow changes as they happen
    Watch(WatchArgs),
}

/// Arguments of `twin get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward twin get cam-1\n  \
    twinward twin get cam-1 --security\n  \
    twinward twin get cam-1/DefenderIotMicroAgent -o json | jq .properties.desired")]
pub(crate) struct GetArgs {
    #[command(flatten)]
    identity: IdentityArg,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: TwinCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        TwinCommand::Get(args) => get(&args, connection, output).await,
        TwinCommand::Patch(args) => patch::run(args, connection, output).await,
        TwinCommand::Watch(args) => watch::run(args, connection, output).await,
    }
}

async fn get(args: &GetArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let key = args.identity.key();
    let twin = connection
        .twins()?
        .get_twin(api::GetTwinRequest {
            name: wire::names::identity_name(&key),
            ..Default::default()
        })
        .await
        .map_err(|status| connection.refused(&format!("cannot get the twin of {key}"), status))?
        .into_inner();
    output.show(&TwinView::read(twin)?)
}
