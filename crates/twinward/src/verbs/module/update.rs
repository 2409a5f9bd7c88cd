//! `twinward module update`: how a module proves itself, and who manages it.

use clap::{ArgGroup, Args};
use uuid::Uuid;
use wire::registry::v1 as api;

use super::name;
use super::view::ModuleView;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::ModuleArg;
use crate::output::Output;
use crate::verbs::device::authentication::AuthenticationArgs;

/// Arguments of `module update`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("change").args(["auth", "thumbprints", "managed_by"])
        .required(true).multiple(true),
    after_help = "Sessions that the former proof opened end. Whether a module may connect is its \
    device's to say:\n'twinward device disable'.\n\nExamples:\n  \
    twinward module update cam-1 lens --managed-by optics\n  \
    twinward module update cam-1 lens --auth ca --if \"tags.site = 'hall-3'\" --dry-run"
)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    module: ModuleArg,
    #[command(flatten)]
    authentication: AuthenticationArgs,
    /// Who manages the module, in its own words; an empty text takes it out
    #[arg(long, value_name = "TEXT")]
    managed_by: Option<String>,
    /// Only if the module still has this etag
    #[arg(long, value_name = "ETAG", default_value_t, hide_default_value = true)]
    etag: String,
    /// Only if this condition of the query language holds of the module's twin
    #[arg(
        long = "if",
        value_name = "CONDITION",
        default_value_t,
        hide_default_value = true
    )]
    only_if: String,
    /// Check everything and show the module as it would be; write nothing
    #[arg(long)]
    dry_run: bool,
    /// UUID of this request: repeating it within an hour answers the same and writes once
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
}

/// Does what was asked for.
pub(super) async fn run(
    args: UpdateArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.module.key();
    let request = api::UpdateModuleRequest {
        name: name(&key),
        authentication_type: args.authentication.kind().into(),
        keys: None,
        thumbprints: args.authentication.thumbprints()?,
        managed_by: args.managed_by,
        etag: args.etag,
        validate_only: args.dry_run,
        request_id: args.request_id.map(|id| id.to_string()).unwrap_or_default(),
        only_if: args.only_if,
        read_mask: None,
        view: api::IdentityView::Basic.into(),
    };
    let module = connection
        .registry()?
        .update_module(request)
        .await
        .map_err(|status| connection.refused(&format!("cannot update module {key}"), status))?
        .into_inner();
    output.show(&ModuleView {
        module,
        connection_string: None,
    })?;
    if args.dry_run {
        output.note("nothing was written");
    }
    Ok(())
}
