//! `twinward configuration`: automatic configurations of IoT Hub, in the JSON that its own tools read
//! and write.

mod view;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use tonic::Code;
use wire::policy::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;
use crate::output::Output;
use crate::verbs::device::Done;

use view::{ConfigurationView, ConfigurationsView, Document};

/// What can be done with configurations.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigurationCommand {
    /// List them in the order of their ids
    List,
    /// Show one; with -o json in IoT Hub's form, which `apply` reads
    #[command(after_help = "Example:\n  twinward configuration get firmware -o json")]
    Get(GetArgs),
    /// Create them or change them to what files say
    Apply(ApplyArgs),
    /// Remove them; what they set is taken out of every twin
    #[command(after_help = "Example:\n  twinward configuration delete firmware")]
    Delete(DeleteArgs),
}

/// Arguments of `configuration get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Id of the configuration
    #[arg(value_name = "CONFIGURATION")]
    configuration: String,
}

/// Arguments of `configuration apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "A file holds one configuration, or a list of them, as IoT Hub's tools print it:\n\n  \
    {\n    \
    \"id\": \"firmware\",\n    \
    \"content\": {\"deviceContent\": {\"properties.desired.firmware\": {\"version\": 3}}},\n    \
    \"targetCondition\": \"tags.site = 'hall-3'\",\n    \
    \"priority\": 10,\n    \
    \"metrics\": {\"queries\": {\"done\": \"SELECT deviceId FROM devices WHERE ...\"}}\n  \
    }\n\n\
    The content of one that is there cannot change; counted results in the file are passed over.\n\n\
    Example:\n  \
    az iot hub configuration list -n hub | twinward configuration apply -f -"
)]
pub(crate) struct ApplyArgs {
    /// File with configurations; - reads standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Arguments of `configuration delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Ids of the configurations
    #[arg(value_name = "CONFIGURATION", required = true)]
    configurations: Vec<String>,
    /// Only if it still has this etag
    #[arg(long, value_name = "ETAG", default_value_t, hide_default_value = true)]
    etag: String,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: ConfigurationCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connection.configurations()?;
    match command {
        ConfigurationCommand::List => {
            let answer = client.list_configurations(api::ListConfigurationsRequest {});
            let answer = answer.await;
            let refused = |status| connection.refused("cannot list configurations", status);
            let found = answer.map_err(refused)?.into_inner().configurations;
            output.show(&ConfigurationsView(found))
        }
        ConfigurationCommand::Get(args) => {
            let what = format!("cannot get configuration {}", args.configuration);
            let request = api::GetConfigurationRequest {
                name: name(&args.configuration),
            };
            let answer = client.get_configuration(request).await;
            let found = answer.map_err(|status| connection.refused(&what, status))?;
            output.show(&ConfigurationView(found.into_inner()))
        }
        ConfigurationCommand::Apply(args) => {
            // Everything is read before anything is applied.
            let mut documents = Vec::new();
            for path in &args.files {
                documents.extend(read(path)?);
            }
            for document in documents {
                apply(document, connection, output).await?;
            }
            Ok(())
        }
        ConfigurationCommand::Delete(args) => {
            for id in &args.configurations {
                let request = api::DeleteConfigurationRequest {
                    name: name(id),
                    etag: args.etag.clone(),
                    operator: String::new(),
                };
                let what = format!("cannot delete configuration {id}");
                let answer = client.delete_configuration(request).await;
                answer.map_err(|status| connection.refused(&what, status))?;
                output.show_next(&Done {
                    name: name(id),
                    done: "deleted",
                })?;
            }
            Ok(())
        }
    }
}

async fn apply(
    document: Document,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connection.configurations()?;
    let configuration = document.into_wire();
    let name = configuration.name.clone();
    let what = format!("cannot apply {name}");
    let update = api::UpdateConfigurationRequest {
        configuration: Some(configuration.clone()),
        ..api::UpdateConfigurationRequest::default()
    };
    let done = match client.update_configuration(update).await {
        Ok(_) => "updated",
        Err(status) if status.code() == Code::NotFound => {
            let create = api::CreateConfigurationRequest {
                configuration: Some(configuration),
                operator: String::new(),
            };
            let created = client.create_configuration(create).await;
            created.map_err(|status| connection.refused(&what, status))?;
            "created"
        }
        Err(status) => return Err(connection.refused(&what, status)),
    };
    output.show_next(&Done { name, done })
}

fn name(id: &str) -> String {
    format!("configurations/{id}")
}

fn read(path: &Path) -> Result<Vec<Document>, Failure> {
    let text = files::read(path)?;
    view::parse(&text).map_err(|error| {
        let what = format!("{} cannot be applied", path.display());
        Failure::new(Kind::Invalid, what)
            .because(error)
            .advise("`twinward configuration apply --help` shows a file")
    })
}
