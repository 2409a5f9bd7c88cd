//! `twinward access-policy`: the shared access policies with which back-end programs sign in at the
//! gateway. It works on their file; no service has to run.

#![allow(
    clippy::doc_markdown,
    reason = "comments on arguments are help texts, which show backticks as they are"
)]

use std::fmt::Write as _;
use std::path::PathBuf;

use access_policies::{AccessPolicies, Right};
use clap::{Args, Subcommand};
use serde::Serialize;
use service_kit::error::chain;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Output, Paper, View};

/// What can be done about access policies.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessPolicyCommand {
    /// Show their rights and connection strings; make the file with fresh keys if there is none
    List(ListArgs),
}

/// Arguments of `access-policy list`.
#[derive(Debug, Args)]
#[command(
    after_help = "The file is for its owner alone. Every replica of the gateway and of ingestion \
                        needs the same one (key access_policies_file); a changed file is taken \
                        over within half a minute.\n\n\
                        Examples:\n  \
                        twinward access-policy list --host hub.example.net\n  \
                        twinward access-policy list --host hub.example.net --file \
                        access-policies.toml -o json"
)]
pub(crate) struct ListArgs {
    /// Name of the hub, as back ends reach the gateway
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    host: String,
    /// The file [default: gateway/access-policies.toml in the data directory of `twinward up`]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs a verb.
pub(crate) fn run(
    command: AccessPolicyCommand,
    data_dir: impl FnOnce() -> Result<PathBuf, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    let AccessPolicyCommand::List(args) = command;
    let file = match args.file {
        Some(file) => file,
        None => data_dir()?.join("gateway").join("access-policies.toml"),
    };
    let policies = AccessPolicies::open(&file).map_err(|error| {
        Failure::new(Kind::Failed, "cannot use the access policies").because(chain(&error))
    })?;
    let shown = policies.iter().map(|policy| Shown {
        name: policy.name().to_owned(),
        rights: policy.rights().to_vec(),
        connection_string: policy.connection_string(&args.host).to_string(),
    });
    output.show(&All {
        policies: shown.collect(),
    })
}

/// A policy as it is printed. It holds a key: it was asked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    name: String,
    rights: Vec<Right>,
    connection_string: String,
}

#[derive(Serialize)]
struct All {
    policies: Vec<Shown>,
}

impl View for All {
    fn data(&self) -> impl Serialize {
        self
    }

    // Not a table: a connection string is to be copied whole.
    fn text(&self, paper: &Paper) -> String {
        let mut text = String::new();
        for policy in &self.policies {
            let rights: Vec<_> = policy.rights.iter().map(|right| right.name()).collect();
            // Writing into a string cannot fail.
            let _ = writeln!(
                text,
                "{}  {}\n  {}",
                paper.bold(&policy.name),
                paper.dim(&rights.join(", ")),
                policy.connection_string
            );
        }
        text
    }
}
