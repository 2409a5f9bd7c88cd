//! The command line: what can be asked for, and the words that explain it.
//!
//! Each verb's own arguments are beside the verb; here is what all share.

#![allow(
    clippy::doc_markdown,
    reason = "comments on arguments are help texts, which show backticks as they are"
)]

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::output::Format;
use crate::verbs::{
    access_policy, audit, bulk, certs, completions, configuration, device, enrollment, guard,
    module, operation, policy, probe, provisioning, query, rollout, status, store, twin,
};
use crate::{exit, serve, up};

/// Security twins for devices: telemetry in, posture computed, configuration pushed back.
#[derive(Debug, Parser)]
#[command(
    name = "twinward",
    version,
    disable_help_subcommand = true,
    subcommand_help_heading = "Commands",
    max_term_width = 100,
    after_help = "Start here: `twinward up` in one terminal, then `twinward status` in another.\n\
                  `twinward --help` also explains how services are found, and the exit codes.",
    after_long_help = long_help(),
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// What every verb understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// How to print: table for people, json or yaml for programs
    #[arg(hide_possible_values = true)]
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// Directory of `twinward up` [env: TWINWARD_DATA_DIR] [default: $XDG_DATA_HOME/twinward, or
    /// ~/.local/share/twinward]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// File with addresses and token; `up` writes it, the other verbs read it [default:
    /// twinward.env in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// Address of twin-store [env: TWINWARD_TWIN_STORE_URL]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub(crate) twin_store_url: Option<String>,
    /// Address of policy [env: TWINWARD_POLICY_URL]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub(crate) policy_url: Option<String>,
    /// Bearer token: the admin token, or one of your identity provider. Others on this machine can
    /// see it here, so prefer the file or the variable [env: TWINWARD_ADMIN_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true)]
    pub(crate) token: Option<String>,
    /// File that holds the token, read anew by every command [env: TWINWARD_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    #[arg(hide_short_help = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file of the authority that signed the services' certificates [env: TWINWARD_CA_FILE]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// PEM file with a client certificate, for services that ask who you are (mTLS)
    /// [env: TWINWARD_CLIENT_CERT_FILE]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) client_cert_file: Option<PathBuf>,
    /// PEM file with the key of the client certificate [env: TWINWARD_CLIENT_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) client_key_file: Option<PathBuf>,
    /// How long to wait for an answer, for instance 500ms, 10s or 1m
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        default_value = "10s",
        hide_short_help = true
    )]
    pub(crate) timeout: service_kit::units::Duration,
}

/// The verbs, in the order a newcomer meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything on this machine: all services and a NATS server
    Up(up::UpArgs),
    /// Show whether everything is serving, and how much there is
    Status(status::StatusArgs),
    /// Create, show, change and remove devices; import and export them
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Create, show and remove modules of devices
    #[command(subcommand)]
    Module(module::ModuleCommand),
    /// Let agents fetch their credentials themselves
    #[command(subcommand)]
    Enrollment(enrollment::EnrollmentCommand),
    /// Let devices register themselves, as with the Device Provisioning Service
    #[command(subcommand)]
    Provisioning(provisioning::ProvisioningCommand),
    /// Show, change and follow twins, and what they were
    #[command(subcommand)]
    Twin(twin::TwinCommand),
    /// Search twins with IoT Hub's query language
    Query(query::QueryArgs),
    /// Follow changes of twins as they happen
    Watch(twin::watch::WatchArgs),
    /// Change many twins at once
    #[command(subcommand)]
    Bulk(bulk::BulkCommand),
    /// Follow, cancel and undo changes of many twins
    #[command(subcommand)]
    Operation(operation::OperationCommand),
    /// Say which twins get which settings; without a verb, run the service policy alone
    Policy(policy::PolicyArgs),
    /// Follow and direct revisions of policies that spread wave by wave
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Show and release what policies leave alone because it went back and forth
    #[command(subcommand)]
    Guard(guard::GuardCommand),
    /// List, show, apply and remove automatic configurations of IoT Hub
    #[command(subcommand)]
    Configuration(configuration::ConfigurationCommand),
    /// Show who changed what, and prove that the log is whole
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Look after the store of twin-store
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Show the shared access policies of back-end programs, and their connection strings
    #[command(subcommand)]
    AccessPolicy(access_policy::AccessPolicyCommand),
    /// Make certificates for a start
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Run the service ingestion alone: the door for agents
    #[command(after_help = serve::HELP)]
    Ingestion(serve::ServiceArgs),
    /// Run the service twin-store alone: identities and twins
    #[command(after_help = serve::HELP)]
    TwinStore(serve::ServiceArgs),
    /// Run the service gateway alone: IoT Hub's REST API for back-end programs
    #[command(after_help = serve::HELP)]
    Gateway(serve::ServiceArgs),
    /// Ask one service whether it is ready, for health checks
    Probe(probe::ProbeArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// The services that run alone have no use for what the verbs understand.
const SERVICES_WITHOUT_VERBS: [&str; 3] = ["ingestion", "twin-store", "gateway"];

impl Cli {
    /// Reads a command line. A service that runs alone refuses the options of the verbs: it would
    /// ignore them, and whoever gave `--data-dir` would look for the data in the wrong place.
    pub(crate) fn read(
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<Self, clap::Error> {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        if let Some((service, given)) = ignored_by_service(&command, &matches) {
            let key = given.replace('-', "_");
            return Err(command.error(
                ErrorKind::ArgumentConflict,
                format!(
                    "'--{given}' is not for a service that runs alone; for a key of its \
                     configuration use `--set {key}=…` (`twinward {service} --print-config` shows \
                     all keys)"
                ),
            ));
        }
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// The whole command line. Where the options of the verbs are refused they are not shown either,
/// except for `policy`, whose verbs inherit them.
pub(crate) fn command() -> clap::Command {
    let mut command = Cli::command();
    let hidden: Vec<Arg> = command
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .map(|arg| arg.clone().hide(true))
        .collect();
    for service in SERVICES_WITHOUT_VERBS {
        let hidden = hidden.clone();
        command = command.mut_subcommand(service, |command| command.args(hidden));
    }
    command
}

/// The service that is to run alone, and the first option it would ignore.
fn ignored_by_service<'a>(
    command: &'a clap::Command,
    matches: &'a ArgMatches,
) -> Option<(&'a str, &'a str)> {
    let (name, service) = matches.subcommand()?;
    let alone = SERVICES_WITHOUT_VERBS.contains(&name)
        || (name == "policy" && service.subcommand().is_none());
    let given = command.get_arguments().find(|arg| {
        arg.is_global_set()
            && service.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    });
    given
        .filter(|_| alone)
        .and_then(Arg::get_long)
        .map(|given| (name, given))
}

/// The text after the long help: how services are found, examples, exit codes.
fn long_help() -> String {
    format!("{FINDING}\n\n{EXAMPLES}\n\n{}", exit::HELP)
}

const FINDING: &str = "\
How services are found; the first that is there counts:
  1. an option: --twin-store-url, --policy-url, --token or --token-file, --ca-file,
     --client-cert-file and --client-key-file
  2. the file of --env-file
  3. a variable: TWINWARD_TWIN_STORE_URL, TWINWARD_POLICY_URL, TWINWARD_ADMIN_TOKEN or
     TWINWARD_TOKEN_FILE, TWINWARD_CA_FILE, TWINWARD_CLIENT_CERT_FILE and
     TWINWARD_CLIENT_KEY_FILE
  4. twinward.env in the data directory, which `twinward up` writes when everything is ready";

const EXAMPLES: &str = "\
Examples:
  twinward up                                  start everything on this machine
  twinward device create cam-1                 create a device, print connection strings
  twinward twin get cam-1 --security           show its security twin
  twinward policy apply -f open-port.yaml      create or change a policy
  twinward twin watch -o json | jq .twin.posture
                                               follow changes";

#[cfg(test)]
mod tests;
