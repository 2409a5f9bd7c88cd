//! `twinward device`: who may connect.

pub(crate) mod authentication;
mod batch;
mod create;
mod ensure;
mod export;
mod import;
mod invoke;
mod line;
mod messages;
mod rotate;
mod update;
mod view;

use clap::{Args, Subcommand};
use twin::{DeviceId, IdentityKey};
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::credentials;
use crate::failure::Failure;
use crate::identity_args::{DeviceArg, device};
use crate::output::Output;

use view::{DeviceView, Devices};

pub(crate) use invoke::{InvokeModuleArgs, module as invoke_module};
pub(crate) use rotate::{RotateArgs, run as rotate};
pub(crate) use view::{Done, secret_line};

/// The most devices a page may hold.
const PAGE_MAX: usize = 1000;

/// What can be done with devices.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Create a device with its security module, and print their connection strings
    Create(create::CreateArgs),
    /// List devices in the order of their ids
    List(ListArgs),
    /// Show one device
    Get(GetArgs),
    /// Change how a device proves itself, its status or its capabilities
    Update(update::UpdateArgs),
    /// Remove devices with their modules and twins
    Delete(DeleteArgs),
    /// Let a device connect
    #[command(after_help = "Example:\n  twinward device enable cam-1")]
    Enable(StatusArgs),
    /// Keep a device and its modules out, and end their sessions
    #[command(after_help = "Example:\n  twinward device disable cam-1 --reason 'lost in hall 3'")]
    Disable(StatusArgs),
    /// Call a direct method of a device that is connected, and print its answer
    Invoke(invoke::InvokeDeviceArgs),
    /// Put a message into the queue of a device, which gets it when it is connected
    Send(messages::SendArgs),
    /// List the messages that wait for a device, or remove them
    Messages(messages::MessagesArgs),
    /// Make a new key for a device or module, or let its two keys change places
    RotateKeys(RotateArgs),
    /// Create or update devices and modules from a file, one JSON object a line
    Import(import::ImportArgs),
    /// Write devices and modules into a file, one JSON object a line
    Export(export::ExportArgs),
    /// Create the security module on every device that lacks it; repeating it is harmless
    EnsureSecurityModules(ensure::EnsureArgs),
}

/// Arguments of `device list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward device list\n  \
    twinward device list --filter \"status = 'disabled'\"\n  \
    twinward device list --limit 0 -o json | jq -r '.[].deviceId'")]
pub(crate) struct ListArgs {
    /// At most so many devices; 0: all
    #[arg(long, value_name = "N", default_value_t = PAGE_MAX)]
    limit: usize,
    /// Only devices for whose twin this condition holds (IoT Hub's query language, what follows
    /// WHERE)
    #[arg(
        long,
        value_name = "CONDITION",
        default_value_t,
        hide_default_value = true
    )]
    filter: String,
}

/// Arguments of `device get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward device get cam-1\n  \
    twinward device get cam-1 --show-keys -o json | jq -r .connectionString")]
pub(crate) struct GetArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Also print the connection string, which holds the device's key
    #[arg(long)]
    show_keys: bool,
}

/// Arguments of `device delete`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward device delete cam-1 cam-2")]
pub(crate) struct DeleteArgs {
    /// Ids of the devices
    #[arg(value_name = "DEVICE", required = true, value_parser = device)]
    devices: Vec<DeviceId>,
    /// Only if the device still has this etag
    #[arg(long, value_name = "ETAG", default_value_t)]
    etag: String,
}

/// Arguments of `device enable` and `device disable`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Why, at most 128 characters
    #[arg(long, value_name = "TEXT", default_value_t)]
    reason: String,
    /// Only if the device still has this etag
    #[arg(long, value_name = "ETAG", default_value_t)]
    etag: String,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: DeviceCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        DeviceCommand::Create(args) => create::run(args, connection, output).await,
        DeviceCommand::List(args) => list(&args, connection, output).await,
        DeviceCommand::Get(args) => get(&args, connection, output).await,
        DeviceCommand::Update(args) => update::run(args, connection, output).await,
        DeviceCommand::Delete(args) => delete(args, connection, output).await,
        DeviceCommand::Enable(args) => {
            set_status(args, api::Status::Enabled, connection, output).await
        }
        DeviceCommand::Disable(args) => {
            set_status(args, api::Status::Disabled, connection, output).await
        }
        DeviceCommand::Invoke(args) => invoke::device(args, connection, output).await,
        DeviceCommand::Send(args) => messages::send(args, connection, output).await,
        DeviceCommand::Messages(args) => messages::messages(args, connection, output).await,
        DeviceCommand::RotateKeys(args) => rotate(args, connection, output).await,
        DeviceCommand::Import(args) => import::run(args, connection, output).await,
        DeviceCommand::Export(args) => export::run(args, connection, output).await,
        DeviceCommand::EnsureSecurityModules(args) => ensure::run(&args, connection, output).await,
    }
}

async fn list(args: &ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut registry = connection.registry()?;
    let mut devices = Vec::new();
    let mut page_token = String::new();
    loop {
        let left = if args.limit == 0 {
            PAGE_MAX
        } else {
            args.limit - devices.len()
        };
        let page_size = i32::try_from(left.min(PAGE_MAX)).unwrap_or(i32::MAX);
        let page = registry
            .list_devices(api::ListDevicesRequest {
                page_size,
                page_token,
                filter: args.filter.clone(),
                ..Default::default()
            })
            .await
            .map_err(|status| connection.refused("cannot list devices", status))?
            .into_inner();
        for name in &page.damaged {
            output.note(&format!(
                "what is stored of {name} is damaged; it was left out"
            ));
        }
        devices.extend(page.devices);
        page_token = page.next_page_token;
        if page_token.is_empty() || (args.limit != 0 && devices.len() >= args.limit) {
            break;
        }
    }
    output.show(&Devices(devices))?;
    if !page_token.is_empty() {
        output.note(&format!(
            "only the first {} are shown; --limit 0 shows all",
            args.limit
        ));
    }
    Ok(())
}

async fn get(args: &GetArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let id = &args.device.device;
    let view = if args.show_keys {
        api::IdentityView::Full
    } else {
        api::IdentityView::Basic
    };
    let device = connection
        .registry()?
        .get_device(api::GetDeviceRequest {
            name: name(id),
            view: view.into(),
            read_mask: None,
        })
        .await
        .map_err(|status| connection.refused(&format!("cannot get device {id}"), status))?
        .into_inner();
    let connection_string = credentials::device(&connection.host(), &device)?;
    output.show(&DeviceView {
        device,
        connection_string,
    })
}

async fn delete(args: DeleteArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut registry = connection.registry()?;
    for id in &args.devices {
        let request = api::DeleteDeviceRequest {
            name: name(id),
            etag: args.etag.clone(),
            ..Default::default()
        };
        registry
            .delete_device(request)
            .await
            .map_err(|status| connection.refused(&format!("cannot delete device {id}"), status))?;
        output.show_next(&Done {
            name: name(id),
            done: "deleted",
        })?;
    }
    Ok(())
}

async fn set_status(
    args: StatusArgs,
    status: api::Status,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let id = args.device.device;
    let request = api::UpdateDeviceRequest {
        name: name(&id),
        status: status.into(),
        status_reason: args.reason,
        etag: args.etag,
        ..Default::default()
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
    })
}

/// The resource name of a device.
pub(crate) fn name(id: &DeviceId) -> String {
    wire::names::identity_name(&IdentityKey::new_device(id.clone()))
}
