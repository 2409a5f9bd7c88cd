//! `twinward device create`: a device, its security module, and what their owner needs next.

use clap::Args;
use twin::{DeviceId, IdentityKey, ModuleId};
use uuid::Uuid;
use wire::registry::v1 as api;

use super::authentication::AuthenticationArgs;
use super::view::{Created, DeviceView};
use crate::connection::Connection;
use crate::credentials;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::identity_args::DeviceArg;
use crate::object::ObjectArg;
use crate::output::Output;

/// Arguments of `device create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward device create cam-1\n  \
    twinward device create cam-1 --tags '{\"site\": \"hall-3\"}'\n  \
    twinward device create cam-1 --auth self-signed --thumbprint \
    5fb5c2c1e2d1d7d0a1b2c3d4e5f60718293a4b5c\n  \
    (umask 077; twinward device create cam-1 -o json |\n      \
    jq -r .securityModule.connectionString > agent.key)")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    authentication: AuthenticationArgs,
    /// Create the device alone; a security module can be added later with `module create`
    #[arg(long)]
    no_security_module: bool,
    /// Register it as an IoT Edge device
    #[arg(long)]
    iot_edge: bool,
    /// JSON object with which its tags begin, or a file that holds it
    #[arg(long, value_name = "JSON|FILE", value_parser = ObjectArg::parse)]
    tags: Option<ObjectArg>,
    /// JSON object with which its desired section begins, or a file that holds it
    #[arg(long, value_name = "JSON|FILE", value_parser = ObjectArg::parse)]
    desired: Option<ObjectArg>,
    /// Create it disabled: it may not connect until `device enable`
    #[arg(long)]
    disabled: bool,
    /// Why it is disabled, at most 128 characters
    #[arg(long, value_name = "TEXT", requires = "disabled")]
    #[arg(default_value_t, hide_default_value = true)]
    reason: String,
    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,
    /// UUID of this request: repeating it within an hour answers the same and writes once
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
}

/// Does what was asked for.
pub(super) async fn run(
    args: CreateArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let id = args.device.device;
    let what = format!("cannot create device {id}");
    let status = if args.disabled {
        api::Status::Disabled
    } else {
        api::Status::Enabled
    };
    let request = api::CreateDeviceRequest {
        device_id: id.to_string(),
        status: status.into(),
        status_reason: args.reason,
        keys: None,
        create_security_module: !args.no_security_module,
        authentication_type: args.authentication.kind().into(),
        thumbprints: args.authentication.thumbprints()?,
        iot_edge: args.iot_edge,
        tags_json: ObjectArg::print(args.tags)?,
        desired_json: ObjectArg::print(args.desired)?,
        validate_only: args.dry_run,
        request_id: args.request_id.map(|id| id.to_string()).unwrap_or_default(),
        read_mask: None,
    };
    let device = connection
        .registry()?
        .create_device(request)
        .await
        .map_err(|status| {
            let failure = connection.refused(&what, status);
            if failure.kind() == Kind::Conflict {
                return failure.advise(format!("`twinward device get {id}` shows it"));
            }
            failure
        })?
        .into_inner();
    if args.dry_run {
        output.show(&DeviceView {
            device,
            connection_string: None,
        })?;
        output.note("nothing was written");
        return Ok(());
    }
    let module = if args.no_security_module {
        None
    } else {
        Some(security_module(&id, connection).await?)
    };
    let host = &connection.host();
    output.show(&Created {
        device_connection: credentials::device(host, &device)?,
        module_connection: match &module {
            Some(module) => credentials::module(host, module)?,
            None => None,
        },
        device,
        module,
        agent_url: connection.agent_url(),
    })
}

async fn security_module(id: &DeviceId, connection: &Connection) -> Result<api::Module, Failure> {
    let key = IdentityKey::new_module(id.clone(), ModuleId::security());
    let request = api::GetModuleRequest {
        name: wire::names::identity_name(&key),
        view: api::IdentityView::Full.into(),
        read_mask: None,
    };
    let answer = connection.registry()?.get_module(request).await;
    let module = answer.map_err(|status| {
        connection
            .refused(
                "the device was created, but cannot read its security module",
                status,
            )
            .advise(format!(
                "`twinward module get {id} {} --show-keys` shows it",
                ModuleId::SECURITY
            ))
    })?;
    Ok(module.into_inner())
}
