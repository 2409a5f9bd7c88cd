//! `twinward twin revert`: writes tags and desired as they were, as a new revision.

use clap::Args;
use wire::twin::v1 as api;

use super::get::explain;
use super::view::TwinView;
use super::write::{ConditionArgs, WriteArgs, show_proposed};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::Output;
use crate::when::Moment;

/// Arguments of `twin revert`.
#[derive(Debug, Args)]
#[command(
    after_help = "What the device reports, the posture and the status stay as they are. History \
    is not rewritten:\nthe revert is a revision of its own, and can be reverted.\n\nExamples:\n  \
    twinward twin revert cam-1 1017 --dry-run\n  \
    twinward twin revert cam-1 '2h ago'\n  \
    twinward twin revert cam-1 1017 --if \"tags.site = 'hall-3'\""
)]
pub(crate) struct RevertArgs {
    #[command(flatten)]
    identity: IdentityArg,
    /// To which revision, or to which time: `2h ago`, `2026-11-23` or RFC 3339
    #[arg(value_name = "REVISION|TIME", value_parser = Moment::parse)]
    moment: Moment,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Does what was asked for.
pub(super) async fn run(
    args: RevertArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.identity.key();
    let request = api::RevertTwinRequest {
        name: wire::names::identity_name(&key),
        moment: Some(args.moment.to_wire(output.now())?),
        operator: args.write.operator(connection),
        validate_only: args.write.dry_run,
        request_id: args.write.request_id(),
        etag: args.write.etag,
        expected_desired_version: args.condition.if_version,
        only_if: args.condition.only_if,
        read_mask: None,
    };
    let what = format!("cannot revert the twin of {key}");
    let twin = connection
        .histories()?
        .revert_twin(request)
        .await
        .map_err(|status| explain(connection.refused(&what, status), &key))?
        .into_inner();
    let twin = TwinView::read(twin)?;
    if args.write.dry_run {
        return show_proposed(&key, &twin, connection, output).await;
    }
    output.show(&twin)
}
