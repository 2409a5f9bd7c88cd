//! `twinward enrollment`: secrets with which agents fetch their credentials themselves.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;
use service_kit::units::Duration;
use twin::DeviceId;
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::identity_args::device;
use crate::output::{Output, Paper, View, time};

/// What can be done with enrolments.
#[derive(Debug, Subcommand)]
pub(crate) enum EnrollmentCommand {
    /// Create a token and print it, once
    Create(CreateArgs),
}

/// Arguments of `enrollment create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward enrollment create --device cam-1\n  \
    twinward enrollment create --max-uses 500 --ttl 7d -o json | jq -r .token")]
pub(crate) struct CreateArgs {
    /// Only this device may use the token; without it, any device id
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    device: Option<DeviceId>,
    /// How long the token lives, for instance 30m, 12h or 7d; at most 30d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: Duration,
    /// How many devices may enrol with it, 1 to 1000000
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_uses: u32,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: EnrollmentCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let EnrollmentCommand::Create(args) = command;
    let ttl = prost_types::Duration::try_from(args.ttl.get()).map_err(|error| {
        Failure::new(
            crate::exit::Kind::Usage,
            format!("--ttl {} is too long", args.ttl),
        )
        .because(error)
    })?;
    let request = api::CreateEnrollmentTokenRequest {
        device_id: args
            .device
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        ttl: Some(ttl),
        max_uses: args.max_uses,
        ..Default::default()
    };
    let answer = connection
        .registry()?
        .create_enrollment_token(request)
        .await
        .map_err(|status| connection.refused("cannot create an enrolment token", status))?
        .into_inner();
    output.show(&Token {
        answer,
        device: args.device.map(|id| id.to_string()),
        max_uses: args.max_uses,
        agent_url: connection.agent_url(),
    })
}

/// A new token.
struct Token {
    answer: api::CreateEnrollmentTokenResponse,
    device: Option<String>,
    max_uses: u32,
    agent_url: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenData<'a> {
    token: &'a str,
    expire_time: Option<String>,
    device_id: Option<&'a str>,
    max_uses: u32,
}

impl View for Token {
    fn data(&self) -> impl Serialize {
        TokenData {
            token: &self.answer.token,
            expire_time: time::precise(self.answer.expire_time),
            device_id: self.device.as_deref(),
            max_uses: self.max_uses,
        }
    }

    fn text(&self, _paper: &Paper) -> String {
        let who = match (&self.device, self.max_uses) {
            (Some(device), _) => format!("device {device}"),
            (None, 1) => "one device".to_owned(),
            (None, many) => format!("up to {many} devices"),
        };
        let mut text = format!(
            "{}\n\nfor {who}, until {}; it cannot be shown again\n",
            self.answer.token,
            time::short(self.answer.expire_time)
        );
        if let Some(url) = &self.agent_url {
            let device = self.device.as_deref().unwrap_or("DEVICE");
            let _ = write!(
                text,
                "\nOn the device:\n  twinward-agent run --server {url} --device-id {device} \\\n    \
                 --enrollment-token TOKEN\n"
            );
        }
        text
    }
}
