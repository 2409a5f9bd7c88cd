//! `twinward device rotate-keys`: a new symmetric key in the place of one of two.
//!
//! Two keys let a fleet move without a gap: make the secondary anew, move the devices to it, let
//! the keys change places, and make the new secondary (the old primary) anew.

use clap::{Args, ValueEnum};
use serde::Serialize;
use uuid::Uuid;
use wire::registry::v1 as api;

use super::secret_line;
use crate::connection::Connection;
use crate::credentials;
use crate::failure::Failure;
use crate::identity_args::IdentityArg;
use crate::output::{Output, Paper, View};

/// Arguments of `device rotate-keys`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without a gap: make the secondary key anew and move the device to it, then let \
    the keys change\nplaces, then make the secondary key (the former primary) anew.\n\nExamples:\n  \
    twinward device rotate-keys cam-1 --key secondary\n  \
    twinward device rotate-keys cam-1 --security --key swap\n  \
    twinward device rotate-keys cam-1/lens --key primary -o json | jq -r .connectionString"
)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    identity: IdentityArg,
    /// Which key to make anew; swap makes none, the two change places
    #[arg(long, value_enum, value_name = "KEY")]
    key: KeyArg,
    /// Only if the identity still has this etag
    #[arg(long, value_name = "ETAG", default_value_t, hide_default_value = true)]
    etag: String,
    /// UUID of this request: repeating it within an hour answers the same and writes once
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
}

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyArg {
    /// The first
    Primary,
    /// The second
    Secondary,
    /// Both change places
    Swap,
}

impl KeyArg {
    fn to_wire(self) -> api::KeyKind {
        match self {
            KeyArg::Primary => api::KeyKind::Primary,
            KeyArg::Secondary => api::KeyKind::Secondary,
            KeyArg::Swap => api::KeyKind::Swap,
        }
    }

    fn words(self) -> &'static str {
        match self {
            KeyArg::Primary => "made the primary key anew",
            KeyArg::Secondary => "made the secondary key anew",
            KeyArg::Swap => "let the two keys change places",
        }
    }
}

/// Does what was asked for.
pub(crate) async fn run(
    args: RotateArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let key = args.identity.key();
    let request = api::RotateKeysRequest {
        name: wire::names::identity_name(&key),
        kind: args.key.to_wire().into(),
        etag: args.etag,
        request_id: args.request_id.map(|id| id.to_string()).unwrap_or_default(),
        ..Default::default()
    };
    let answer = connection
        .registry()?
        .rotate_keys(request)
        .await
        .map_err(|status| connection.refused(&format!("cannot rotate the keys of {key}"), status))?
        .into_inner();
    let keys = answer.keys.unwrap_or_default();
    let host = connection.host();
    output.show(&Rotated {
        done: args.key.words(),
        primary: credentials::with_key(&host, &answer.name, &keys.primary)?,
        secondary: credentials::with_key(&host, &answer.name, &keys.secondary)?,
        name: answer.name,
        etag: answer.etag,
    })
}

/// Both keys after a rotation, each inside a connection string.
struct Rotated {
    name: String,
    etag: String,
    done: &'static str,
    primary: String,
    secondary: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RotatedData<'a> {
    name: &'a str,
    etag: &'a str,
    connection_string: &'a str,
    secondary_connection_string: &'a str,
}

impl View for Rotated {
    fn data(&self) -> impl Serialize {
        RotatedData {
            name: &self.name,
            etag: &self.etag,
            connection_string: &self.primary,
            secondary_connection_string: &self.secondary,
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let mut text = format!(
            "{}: {}; its etag is {}\n\n",
            self.name, self.done, self.etag
        );
        text.push_str(&secret_line("connection string", Some(&self.primary)));
        text.push_str(&secret_line(
            "connection string with the secondary key",
            Some(&self.secondary),
        ));
        text.push_str(&paper.dim("These hold keys: whoever has one can connect with it."));
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    #[test]
    fn both_connection_strings_are_shown() {
        let view = Rotated {
            name: "devices/cam-1".to_owned(),
            etag: "\"4\"".to_owned(),
            done: KeyArg::Secondary.words(),
            primary: "HostName=hub;DeviceId=cam-1;SharedAccessKey=S1".to_owned(),
            secondary: "HostName=hub;DeviceId=cam-1;SharedAccessKey=S2".to_owned(),
        };
        insta::assert_snapshot!("rotated", text(&view));
        insta::assert_snapshot!("rotated_json", json(&view));
    }
}
