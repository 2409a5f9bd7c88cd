//! `twinward device invoke`, `twinward module invoke`: a direct method, and what the device answers.

use std::path::Path;

use clap::Args;
use iot_hub::{MethodName, MethodNameError};
use serde::Serialize;
use serde_json::Value;
use service_kit::units::Duration;
use twin::IdentityKey;
use wire::device::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;
use crate::identity_args::{DeviceArg, ModuleArg};
use crate::output::{Output, Paper, View};

/// Arguments of `device invoke`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward device invoke cam-1 reboot\n  \
    twinward device invoke cam-1 setLevel --payload '{\"level\": 3}' --response-timeout 60s\n  \
    twinward device invoke cam-1 getLog --payload @query.json -o json | jq .payload")]
pub(crate) struct InvokeDeviceArgs {
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    call: CallArgs,
}

/// Arguments of `module invoke`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    twinward module invoke cam-1 lens focus --payload 0.5 --connect-timeout 30s")]
pub(crate) struct InvokeModuleArgs {
    #[command(flatten)]
    module: ModuleArg,
    #[command(flatten)]
    call: CallArgs,
}

/// What is called.
#[derive(Debug, Args)]
struct CallArgs {
    /// Name of the method
    #[arg(value_name = "METHOD", value_parser = method)]
    method: MethodName,
    /// Any JSON for it, or @FILE that holds some, or @- for standard input
    #[arg(long, value_name = "JSON|@FILE", default_value = "null")]
    payload: String,
    /// How long the device may take, 5s to 5m
    #[arg(long, value_name = "TIME", default_value = "30s")]
    response_timeout: Duration,
    /// How long to wait for a device that is not connected, up to 5m
    #[arg(long, value_name = "TIME", default_value = "0s")]
    connect_timeout: Duration,
}

fn method(text: &str) -> Result<MethodName, MethodNameError> {
    MethodName::parse(text)
}

/// Calls a method of a device.
pub(super) async fn device(
    args: InvokeDeviceArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = IdentityKey::new_device(args.device.device);
    invoke(&key, args.call, connection, output).await
}

/// Calls a method of a module.
pub(crate) async fn module(
    args: InvokeModuleArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    invoke(&args.module.key(), args.call, connection, output).await
}

async fn invoke(
    key: &IdentityKey,
    call: CallArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let what = format!("cannot call {} of {key}", call.method);
    let request = api::InvokeMethodRequest {
        name: wire::names::identity_name(key),
        method_name: call.method.to_string(),
        payload_json: payload(&call.payload)?,
        response_timeout: Some(duration(call.response_timeout)),
        connect_timeout: Some(duration(call.connect_timeout)),
        operator: String::new(),
    };
    let refused = |status| connection.refused(&what, status);
    let answers = connection.commands()?.invoke_method(request).await;
    let answer = answers.map_err(refused)?.into_inner().message().await;
    let answer = answer.map_err(refused)?.ok_or_else(|| {
        Failure::new(Kind::Internal, &what).because("twin-store ended the call without an answer")
    })?;
    let payload = serde_json::from_str(&answer.payload_json).map_err(|error| {
        Failure::new(Kind::Internal, &what).because(format!("the answer is no JSON: {error}"))
    })?;
    output.show(&Answered {
        status: answer.status,
        payload,
    })
}

/// A duration as messages carry it; twin-store says what is allowed.
pub(super) fn duration(given: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(given.get()).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

/// The payload's text, which twin-store judges.
fn payload(argument: &str) -> Result<String, Failure> {
    match argument.strip_prefix('@') {
        Some(path) => files::read(Path::new(path)),
        None => Ok(argument.to_owned()),
    }
}

/// What a device answered.
#[derive(Debug, Serialize)]
struct Answered {
    status: i32,
    payload: Value,
}

impl View for Answered {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, paper: &Paper) -> String {
        let status = paper.bold(&format!("status {}", self.status));
        if self.payload.is_null() {
            return format!("{status}\n");
        }
        format!("{status}\n{:#}\n", self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden;

    #[test]
    fn a_payload_is_given_or_in_a_file() {
        assert_eq!(payload("{\"a\": 1}").unwrap(), "{\"a\": 1}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payload.json");
        std::fs::write(&path, "[1]").unwrap();
        let argument = format!("@{}", path.display());
        assert_eq!(payload(&argument).unwrap(), "[1]");
        let missing = payload("@/no/such/file").unwrap_err();
        assert!(missing.render().contains("/no/such/file"));
    }

    #[test]
    fn an_answer_is_shown_with_its_status_first() {
        let shown = |payload| {
            golden::text(&Answered {
                status: -1,
                payload,
            })
        };
        assert_eq!(shown(Value::Null), "status -1\n");
        let wanted = "status -1\n{\n  \"a\": 1\n}\n";
        assert_eq!(shown(serde_json::json!({"a": 1})), wanted);
    }
}
