//! `twinward module`: identities below a device, each with its own credentials and twin.

mod update;
mod view;

use clap::{Args, Subcommand};
use twin::IdentityKey;
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::credentials;
use crate::failure::Failure;
use crate::identity_args::{DeviceArg, ModuleArg};
use crate::output::Output;
use crate::verbs::device::authentication::AuthenticationArgs;
use crate::verbs::device::{self, Done};

use view::{Created, ModuleView, Modules};

/// What can be done with modules.
#[derive(Debug, Subcommand)]
pub(crate) enum ModuleCommand {
    /// Create a module and print its connection string
    Create(CreateArgs),
    /// List the modules of a device
    List(ListArgs),
    /// Show one module
    Get(GetArgs),
    /// Change how a module proves itself, or who manages it
    Update(update::UpdateArgs),
    /// Call a direct method of a module that is connected, and print its answer
    Invoke(device::InvokeModuleArgs),
    /// Remove a module with its twin
    Delete(DeleteArgs),
}

/// Arguments of `module create`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  twinward module create cam-1 DefenderIotMicroAgent\n  \
    twinward module create cam-1 lens --auth ca --managed-by optics"
)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    module: ModuleArg,
    #[command(flatten)]
    authentication: AuthenticationArgs,
    /// Who manages the module, in its own words
    #[arg(long, value_name = "TEXT", default_value_t, hide_default_value = true)]
    managed_by: String,
}

/// Arguments of `module list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  twinward module list cam-1\n  \
    twinward module list cam-1 --filter \"connectionState = 'Connected'\"")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Only modules for whose twin this condition holds (IoT Hub's query language, what follows WHERE)
    #[arg(
        long,
        value_name = "CONDITION",
        default_value_t,
        hide_default_value = true
    )]
    filter: String,
}

/// Arguments of `module get`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  twinward module get cam-1 DefenderIotMicroAgent\n  \
    twinward module get cam-1 DefenderIotMicroAgent --show-keys"
)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// Also print the connection string, which holds the module's key
    #[arg(long)]
    show_keys: bool,
}

/// Arguments of `module delete`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward module delete cam-1 lens")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// Only if the module still has this etag
    #[arg(long, value_name = "ETAG", default_value_t)]
    etag: String,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: ModuleCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut registry = connection.registry()?;
    match command {
        ModuleCommand::Create(args) => {
            let request = api::CreateModuleRequest {
                parent: device::name(&args.module.device),
                module_id: args.module.module.to_string(),
                keys: None,
                authentication_type: args.authentication.kind().into(),
                thumbprints: args.authentication.thumbprints()?,
                managed_by: args.managed_by,
                ..Default::default()
            };
            let what = format!("cannot create module {}", args.module.key());
            let module = registry
                .create_module(request)
                .await
                .map_err(|status| connection.refused(&what, status))?
                .into_inner();
            let connection_string = credentials::module(&connection.host(), &module)?;
            output.show(&Created(ModuleView {
                module,
                connection_string,
            }))
        }
        ModuleCommand::List(args) => {
            let id = &args.device.device;
            let request = api::ListModulesRequest {
                parent: device::name(id),
                filter: args.filter,
                ..Default::default()
            };
            let what = format!("cannot list the modules of device {id}");
            let answer = registry
                .list_modules(request)
                .await
                .map_err(|status| connection.refused(&what, status))?
                .into_inner();
            for name in &answer.damaged {
                output.note(&format!(
                    "what is stored of {name} is damaged; it was left out"
                ));
            }
            output.show(&Modules {
                device: id.to_string(),
                modules: answer.modules,
            })
        }
        ModuleCommand::Get(args) => {
            let key = args.module.key();
            let view = if args.show_keys {
                api::IdentityView::Full
            } else {
                api::IdentityView::Basic
            };
            let request = api::GetModuleRequest {
                name: name(&key),
                view: view.into(),
                read_mask: None,
            };
            let module = registry
                .get_module(request)
                .await
                .map_err(|status| connection.refused(&format!("cannot get module {key}"), status))?
                .into_inner();
            let connection_string = credentials::module(&connection.host(), &module)?;
            output.show(&ModuleView {
                module,
                connection_string,
            })
        }
        ModuleCommand::Update(args) => update::run(args, connection, output).await,
        ModuleCommand::Invoke(args) => device::invoke_module(args, connection, output).await,
        ModuleCommand::Delete(args) => {
            let key = args.module.key();
            let request = api::DeleteModuleRequest {
                name: name(&key),
                etag: args.etag,
                ..Default::default()
            };
            let what = format!("cannot delete module {key}");
            registry
                .delete_module(request)
                .await
                .map_err(|status| connection.refused(&what, status))?;
            output.show(&Done {
                name: name(&key),
                done: "deleted",
            })
        }
    }
}

fn name(key: &IdentityKey) -> String {
    wire::names::identity_name(key)
}
