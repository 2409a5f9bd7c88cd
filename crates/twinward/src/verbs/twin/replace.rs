//! `twinward twin replace`: makes tags and desired hold exactly what a file says.

use std::path::PathBuf;

use clap::Args;
use wire::twin::v1 as api;

use super::patch::{print, read};
use super::view::TwinView;
use super::write::{ConditionArgs, WriteArgs, show_proposed};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::Output;

/// Arguments of `twin replace`.
#[derive(Debug, Args)]
#[command(
    after_help = "A file holds `tags` and `desired` (or `properties.desired`), in JSON or YAML. \
    What is in neither\nis gone afterwards; a section that the file does not name stays as it is.\
    \n\nExamples:\n  \
    twinward twin replace cam-1 --file cam-1.yaml --dry-run\n  \
    echo '{\"tags\": {}}' | twinward twin replace cam-1 --file -"
)]
pub(crate) struct ReplaceArgs {
    #[command(flatten)]
    identity: IdentityArg,
    /// File with tags and desired; - reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Does what was asked for.
pub(super) async fn run(
    args: ReplaceArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.identity.key();
    let (tags, desired) = read(&args.file)?;
    let request = api::ReplaceTwinRequest {
        name: wire::names::identity_name(&key),
        tags_json: print(tags),
        desired_json: print(desired),
        operator: args.write.operator(connection),
        expected_desired_version: args.condition.if_version,
        only_if: args.condition.only_if,
        validate_only: args.write.dry_run,
        request_id: args.write.request_id(),
        etag: args.write.etag,
        read_mask: None,
    };
    let what = format!("cannot replace the twin of {key}");
    let twin = connection
        .twins()?
        .replace_twin(request)
        .await
        .map_err(|status| connection.refused(&what, status))?
        .into_inner();
    let twin = TwinView::read(twin)?;
    if args.write.dry_run {
        return show_proposed(&key, &twin, connection, output).await;
    }
    output.show(&twin)
}
