//! `twinward device update`: how a device proves itself, its status, its capabilities.

use clap::{ArgGroup, Args, ValueEnum};
use uuid::Uuid;
use wire::registry::v1 as api;

use super::authentication::AuthenticationArgs;
use super::name;
use super::view::DeviceView;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::DeviceArg;
use crate::output::Output;

/// Arguments of `device update`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("change").args(["auth", "thumbprints", "status", "iot_edge"])
        .required(true).multiple(true),
    after_help = "Sessions that the former proof opened end.\n\nExamples:\n  \
    twinward device update cam-1 --auth sas\n  \
    twinward device update cam-1 --thumbprint 5fb5c2c1e2d1d7d0a1b2c3d4e5f60718293a4b5c\n  \
    twinward device update cam-1 --status disabled --reason 'lost in hall 3' --dry-run"
)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    authentication: AuthenticationArgs,
    /// Whether it and its modules may connect
    #[arg(long, value_enum, value_name = "STATUS")]
    status: Option<StatusArg>,
    /// Why it has that status, at most 128 characters
    #[arg(long, value_name = "TEXT", requires = "status")]
    #[arg(default_value_t, hide_default_value = true)]
    reason: String,
    /// Whether it is an IoT Edge device
    #[arg(long, value_name = "BOOL")]
    iot_edge: Option<bool>,
    /// Only if the device still has this etag
    #[arg(long, value_name = "ETAG", default_value_t, hide_default_value = true)]
    etag: String,
    /// Only if this condition of the query language holds of the device's twin
    #[arg(
        long = "if",
        value_name = "CONDITION",
        default_value_t,
        hide_default_value = true
    )]
    only_if: String,
    /// Check everything and show the device as it would be; write nothing
    #[arg(long)]
    dry_run: bool,
    /// UUID of this request: repeating it within an hour answers the same and writes once
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
}

/// Whether a device may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusArg {
    /// It may connect
    Enabled,
    /// It may not; open sessions end
    Disabled,
}

/// Does what was asked for.
pub(super) async fn run(
    args: UpdateArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let id = args.device.device;
    let status = match args.status {
        Some(StatusArg::Enabled) => api::Status::Enabled,
        Some(StatusArg::Disabled) => api::Status::Disabled,
        None => api::Status::Unspecified,
    };
    let request = api::UpdateDeviceRequest {
        name: name(&id),
        status: status.into(),
        status_reason: args.reason,
        etag: args.etag,
        authentication_type: args.authentication.kind().into(),
        keys: None,
        thumbprints: args.authentication.thumbprints()?,
        iot_edge: args.iot_edge,
        validate_only: args.dry_run,
        request_id: args.request_id.map(|id| id.to_string()).unwrap_or_default(),
        only_if: args.only_if,
        read_mask: None,
        view: api::IdentityView::Basic.into(),
    };
    let device = connection
        .registry()?
        .update_device(request)
        .await
        .map_err(|status| connection.refused(&format!("cannot update device {id}"), status))?
        .into_inner();
    output.show(&DeviceView {
        device,
        connection_string: None,
    })?;
    if args.dry_run {
        output.note("nothing was written");
    }
    Ok(())
}
