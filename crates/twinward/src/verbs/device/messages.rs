//! `twinward device send`, `twinward device messages`: what waits for a device, and putting more there.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use service_kit::units::Duration;
use wire::device::v1 as api;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::files;
use crate::identity_args::DeviceArg;
use crate::output::{Output, Paper, View, table, time};

/// Arguments of `device send`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward device send cam-1 'firmware 2.1 is out'\n  \
    twinward device send cam-1 '{\"level\": 3}' --content-type application/json --expires-after 10m\n  \
    twinward device send cam-1 @note.txt --property kind=note --property urgent=yes\n\n\
    The device gets it by MQTT when it is connected and has subscribed to\n\
    devices/DEVICE/messages/devicebound/#; 50 messages may wait.")]
pub(crate) struct SendArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Any text, or @FILE that holds some, or @- for standard input
    #[arg(
        value_name = "TEXT|@FILE",
        default_value = "",
        hide_default_value = true
    )]
    payload: String,
    /// A property of the application; may be repeated
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// Id of the message; one is made up if there is none
    #[arg(long, value_name = "ID", default_value_t, hide_default_value = true)]
    message_id: String,
    /// What the message belongs to
    #[arg(long, value_name = "ID", default_value_t, hide_default_value = true)]
    correlation_id: String,
    /// What the text is, for instance application/json
    #[arg(long, value_name = "TYPE", default_value_t, hide_default_value = true)]
    content_type: String,
    /// How long it may wait, 1s to 48h
    #[arg(long, value_name = "TIME", default_value = "1h")]
    expires_after: Duration,
}

/// Arguments of `device messages`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward device messages cam-1\n  \
    twinward device messages cam-1 --purge")]
pub(crate) struct MessagesArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Remove all of them
    #[arg(long)]
    purge: bool,
}

fn property(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = pair.ok_or("want NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Puts a message into a device's queue.
pub(super) async fn send(
    args: SendArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let device = &args.device.device;
    let payload = match args.payload.strip_prefix('@') {
        Some(path) => files::read(Path::new(path))?,
        None => args.payload,
    };
    let request = api::SendMessageRequest {
        name: format!("devices/{device}"),
        payload: payload.into_bytes(),
        message_id: args.message_id,
        correlation_id: args.correlation_id,
        content_type: args.content_type,
        properties: args.properties.into_iter().collect(),
        time_to_live: Some(super::invoke::duration(args.expires_after)),
        ..api::SendMessageRequest::default()
    };
    let what = format!("cannot send a message to {device}");
    let sent = connection.commands()?.send_message(request).await;
    let sent = sent.map_err(|status| connection.refused(&what, status))?;
    output.show(&Sent(sent.into_inner()))
}

/// Shows what waits for a device, or removes it.
pub(super) async fn messages(
    args: MessagesArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let device = &args.device.device;
    let name = format!("devices/{device}");
    let mut commands = connection.commands()?;
    if args.purge {
        let what = format!("cannot remove the messages for {device}");
        let operator = String::new();
        let purged = commands
            .purge_messages(api::PurgeMessagesRequest { name, operator })
            .await
            .map_err(|status| connection.refused(&what, status))?;
        let purged_count = purged.into_inner().purged_count;
        return output.show(&Purged { purged_count });
    }
    let what = format!("cannot list the messages for {device}");
    let listed = commands
        .list_messages(api::ListMessagesRequest { name })
        .await
        .map_err(|status| connection.refused(&what, status))?;
    output.show(&Waiting(listed.into_inner().messages))
}

/// A message that was sent.
struct Sent(api::SendMessageResponse);

impl View for Sent {
    fn data(&self) -> impl Serialize {
        serde_json::json!({
            "messageId": self.0.message_id,
            "sequenceNumber": self.0.sequence_number,
            "expireTime": time::precise(self.0.expire_time),
        })
    }

    fn text(&self, _paper: &Paper) -> String {
        let until = time::short(self.0.expire_time);
        format!("sent {}, waits until {until}\n", self.0.message_id)
    }
}

/// How many messages were removed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Purged {
    purged_count: u32,
}

impl View for Purged {
    fn data(&self) -> impl Serialize {
        self
    }

    fn text(&self, _paper: &Paper) -> String {
        format!("removed {}\n", self.purged_count)
    }
}

/// What waits for a device.
struct Waiting(Vec<api::QueuedMessage>);

impl View for Waiting {
    fn data(&self) -> impl Serialize {
        let one = |message: &api::QueuedMessage| {
            serde_json::json!({
                "sequenceNumber": message.sequence_number,
                "messageId": message.message_id,
                "correlationId": message.correlation_id,
                "enqueuedTime": time::precise(message.enqueued_time),
                "expireTime": time::precise(message.expire_time),
                "payloadBytes": message.payload_bytes,
            })
        };
        self.0.iter().map(one).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no messages wait\n".to_owned();
        }
        let rows = self.0.iter().map(|message| {
            vec![
                message.sequence_number.to_string(),
                message.message_id.clone(),
                time::age(paper.now, message.enqueued_time),
                time::short(message.expire_time),
                message.payload_bytes.to_string(),
            ]
        });
        let header = ["NUMBER", "MESSAGE", "AGE", "WAITS UNTIL", "BYTES"];
        table::table(paper, &header, rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden;

    #[test]
    fn a_property_has_a_name_and_may_have_an_empty_value() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(property("a=b=c"), pair("a", "b=c"));
        assert_eq!(property("a="), pair("a", ""));
        assert!(property("a").is_err() && property("=b").is_err());
    }

    #[test]
    fn what_waits_is_a_table() {
        assert_eq!(golden::text(&Waiting(Vec::new())), "no messages wait\n");
        let message = api::QueuedMessage {
            sequence_number: 7,
            message_id: "m-1".to_owned(),
            payload_bytes: 12,
            expire_time: Some(prost_types::Timestamp {
                seconds: 0,
                nanos: 0,
            }),
            ..api::QueuedMessage::default()
        };
        assert_eq!(
            golden::text(&Waiting(vec![message])),
            "NUMBER  MESSAGE  AGE  WAITS UNTIL           BYTES\n\
             7       m-1           1970-01-01T00:00:00Z  12\n"
        );
        assert_eq!(golden::text(&Purged { purged_count: 3 }), "removed 3\n");
    }
}
