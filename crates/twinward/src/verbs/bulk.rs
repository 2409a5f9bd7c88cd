//! `twinward bulk`: one change to many twins, as a long-running operation.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use uuid::Uuid;
use wire::twin::v1 as api;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::object::ObjectArg;
use crate::output::Output;
use crate::verbs::operation::{self, Matching, OperationView};

/// What can be done with many twins.
#[derive(Debug, Subcommand)]
pub(crate) enum BulkCommand {
    /// Merge changes into tags and desired of every twin that matches
    Update(UpdateArgs),
}

/// Arguments of `bulk update`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("patch").args(["desired", "tags"]).required(true).multiple(true),
    after_help = "The operation runs in the service: it goes on when this command ends, survives \
    restarts, and writes\neach twin at most once. `twinward operation` shows, waits for, cancels \
    and undoes it.\n\nExamples:\n  \
    twinward bulk update --where \"tags.site = 'hall-3'\" --tags '{\"site\": \"hall-4\"}' --dry-run\n  \
    twinward bulk update --where \"tags.site = 'hall-3'\" --desired patch.yaml --wait\n  \
    twinward bulk update --from modules --where '*' --desired '{\"processFrequency\": null}' \
    --rate 50"
)]
pub(crate) struct UpdateArgs {
    /// Which twins (IoT Hub's query language, what follows WHERE); * means all of them
    #[arg(long = "where", value_name = "CONDITION")]
    condition: String,
    /// Whether it is about the twins of devices or of modules
    #[arg(long, value_enum, value_name = "COLLECTION", default_value_t)]
    from: Collection,
    /// JSON object to merge into desired, or a file that holds it
    #[arg(long, value_name = "JSON|FILE", value_parser = ObjectArg::parse)]
    desired: Option<ObjectArg>,
    /// JSON object to merge into tags, or a file that holds it
    #[arg(long, value_name = "JSON|FILE", value_parser = ObjectArg::parse)]
    tags: Option<ObjectArg>,
    /// Check everything and say how many twins match; write nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Twins written per second at most; 0: as fast as the store takes them
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    rate: u32,
    /// Wait until it has ended; exits with 1 unless every twin was written
    #[arg(long)]
    wait: bool,
    /// UUID of this request: repeating it within an hour begins nothing new
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
    /// Who changes it, for the twins' metadata [default: your user name]
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

/// Whose twins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Collection {
    /// Devices.
    #[default]
    Devices,
    /// Modules.
    Modules,
}

impl Collection {
    /// As the query language calls it.
    fn source(self) -> &'static str {
        match self {
            Collection::Devices => "devices",
            Collection::Modules => "devices.modules",
        }
    }
}

/// Does what was asked for.
pub(crate) async fn run(
    command: BulkCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let BulkCommand::Update(args) = command;
    let operator = args
        .operator
        .unwrap_or_else(|| connection.operator().to_owned());
    let request = api::StartBulkUpdateRequest {
        bulk_update: Some(api::BulkUpdate {
            source: args.from.source().to_owned(),
            condition: args.condition,
            tags_patch_json: ObjectArg::print(args.tags)?,
            desired_patch_json: ObjectArg::print(args.desired)?,
            method: None,
        }),
        validate_only: args.dry_run,
        request_id: args.request_id.map(|id| id.to_string()).unwrap_or_default(),
        operator,
        rate_per_second: args.rate,
        job: None,
    };
    let started = connection
        .operations()?
        .start_bulk_update(request)
        .await
        .map_err(|status| connection.refused("cannot update twins", status))?
        .into_inner();
    if args.dry_run {
        return output.show(&Matching(started));
    }
    if args.wait {
        return operation::follow(started.name, connection, output).await;
    }
    let id = operation::short(&started.name).to_owned();
    output.show(&OperationView(started))?;
    output.note(&format!("`twinward operation wait {id}` follows it"));
    Ok(())
}
