//! Messages to devices: sends one, empties a queue, and shows how many wait (spec iot-hub-twins §7.1).
//!
//! IoT Hub's own SDKs send by AMQP, which is not offered. `POST /messages/deviceBound` is the REST form of the same
//! endpoint: the body is the message, headers say what goes with it.

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use twin::DeviceId;
use wire::device::v1::{CountMessagesRequest, PurgeMessagesRequest, SendMessageRequest};

use super::{Answer, Call, Json, devices};
use crate::error::ApiError;
use crate::hub::Session;

/// What headers with properties of the application begin with.
const PROPERTY: &str = "iothub-app-";

/// How long an answer waits for the numbers of messages; it goes without them otherwise.
const COUNT_WITHIN: Duration = Duration::from_secs(1);

/// The member of devices and twins that says how many messages wait.
const COUNT: &str = "cloudToDeviceMessageCount";

pub(super) async fn send(call: &Call<'_>, now: Timestamp) -> Result<Answer, ApiError> {
    let headers = Headers(call.headers);
    let to = headers.text("iothub-to")?;
    let id = receiver(&to)?;
    // Whoever asks for feedback would wait for it for ever.
    let ack = headers.text("iothub-ack")?;
    if !ack.is_empty() && !ack.eq_ignore_ascii_case("none") {
        return Err(ApiError::argument(format!(
            "iothub-ack is `{ack}`; only `none` is allowed, as feedback is not offered"
        )));
    }
    let request = SendMessageRequest {
        name: devices::name(&id),
        payload: call.body.to_vec(),
        message_id: headers.text("iothub-messageid")?,
        correlation_id: headers.text("iothub-correlationid")?,
        user_id: headers.text("iothub-userid")?,
        content_type: headers.text("iothub-contenttype")?,
        content_encoding: headers.text("iothub-contentencoding")?,
        properties: headers.properties()?,
        time_to_live: time_to_live(&headers.text("iothub-expiry")?, now)?,
        request_id: String::new(),
        operator: call.session.operator(),
    };
    let mut commands = call.session.commands();
    commands.send_message(call.session.request(request)).await?;
    Ok(Answer::no_content())
}

pub(super) async fn purge(call: &Call<'_>, id: &DeviceId) -> Result<Answer, ApiError> {
    let request = PurgeMessagesRequest {
        name: devices::name(id),
        operator: call.session.operator(),
    };
    let mut commands = call.session.commands();
    let purged = commands
        .purge_messages(call.session.request(request))
        .await?;
    Ok(Answer::ok(json!({
        "totalMessagesPurged": purged.into_inner().purged_count,
        "deviceId": id.to_string(),
        "moduleId": null,
    })))
}

/// Says of each device and each device's twin in an answer how many messages wait for it. What cannot
/// be counted in time is left out, since a wrong number is worse than none.
pub(super) async fn show_counts(session: &Session, answer: &mut Answer) {
    let Some(Json::Made(body)) = &mut answer.body else {
        return;
    };
    let shown: Vec<&mut Value> = match body {
        Value::Array(rows) => rows.iter_mut().filter(|row| shows_count(row)).collect(),
        one if shows_count(one) => vec![one],
        _ => return,
    };
    if shown.is_empty() {
        return;
    }
    let id = |row: &Value| row.get("deviceId").and_then(Value::as_str).map(name);
    let names = shown.iter().filter_map(|row| id(row)).collect();
    let counts = count(session, names).await;
    for (place, row) in shown.into_iter().enumerate() {
        let Some(row) = row.as_object_mut() else {
            continue;
        };
        match counts.as_ref().and_then(|counts| counts.get(place)) {
            Some(count) => row.insert(COUNT.to_owned(), (*count).into()),
            None => row.remove(COUNT),
        };
    }
}

async fn count(session: &Session, names: Vec<String>) -> Option<Vec<u32>> {
    let mut commands = session.commands();
    let request = session.request(CountMessagesRequest { names });
    let counting = tokio::time::timeout(COUNT_WITHIN, commands.count_messages(request));
    match counting.await {
        Ok(Ok(counted)) => Some(counted.into_inner().counts),
        Ok(Err(error)) => {
            tracing::debug!(%error, "messages of devices were not counted");
            None
        }
        Err(_elapsed) => {
            tracing::debug!("messages of devices were not counted in time");
            None
        }
    }
}

/// A device or its twin, as a whole; modules have no messages.
fn shows_count(row: &Value) -> bool {
    row.get(COUNT).is_some() && row.get("moduleId").is_none() && row.get("deviceId").is_some()
}

fn name(id: &str) -> String {
    format!("devices/{id}")
}

/// Whom `/devices/{id}/messages/deviceBound` names.
fn receiver(to: &str) -> Result<DeviceId, ApiError> {
    let want = "want /devices/{id}/messages/deviceBound";
    let segments: Vec<&str> = to.trim_matches('/').split('/').collect();
    let [devices, id, messages, bound] = segments[..] else {
        return Err(ApiError::argument(format!("iothub-to is `{to}`; {want}")));
    };
    let named = devices.eq_ignore_ascii_case("devices")
        && messages.eq_ignore_ascii_case("messages")
        && bound.eq_ignore_ascii_case("deviceBound");
    let id = iot_hub::percent::decode(id).filter(|_| named);
    let id = id.ok_or_else(|| ApiError::argument(format!("iothub-to is `{to}`; {want}")))?;
    DeviceId::parse(&id)
        .map_err(|error| ApiError::argument(format!("the device id `{id}` in iothub-to: {error}")))
}

/// How long a message waits that ends at an instant.
fn time_to_live(expiry: &str, now: Timestamp) -> Result<Option<prost_types::Duration>, ApiError> {
    if expiry.is_empty() {
        return Ok(None);
    }
    let at: Timestamp = expiry.parse().map_err(|_| {
        ApiError::argument(format!(
            "iothub-expiry is `{expiry}`; want an instant such as 2026-05-01T10:00:00Z"
        ))
    })?;
    // In whole seconds, as queues count; what is over is refused by twin-store with its limits.
    let seconds = at.duration_since(now).as_secs();
    Ok(Some(prost_types::Duration { seconds, nanos: 0 }))
}

/// The headers of a message.
struct Headers<'a>(&'a HeaderMap);

impl Headers<'_> {
    /// A header's text; empty if it is not there.
    fn text(&self, name: &str) -> Result<String, ApiError> {
        let Some(value) = self.0.get(name) else {
            return Ok(String::new());
        };
        readable(name, value.as_bytes())
    }

    /// Names come in lower case, as HTTP has them.
    fn properties(&self) -> Result<HashMap<String, String>, ApiError> {
        let mut properties = HashMap::new();
        for (header, value) in self.0 {
            let Some(name) = header.as_str().strip_prefix(PROPERTY) else {
                continue;
            };
            let value = readable(header.as_str(), value.as_bytes())?;
            if properties.insert(name.to_owned(), value).is_some() {
                let problem = format!("the header {header} is there twice");
                return Err(ApiError::argument(problem));
            }
        }
        Ok(properties)
    }
}

fn readable(name: &str, value: &[u8]) -> Result<String, ApiError> {
    let text = std::str::from_utf8(value);
    let text = text.map_err(|_| ApiError::argument(format!("the header {name} is no UTF-8")))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_named_by_its_path() {
        for to in [
            "/devices/cam-1/messages/deviceBound",
            "devices/cam-1/messages/devicebound/",
            "/Devices/cam%2D1/messages/DeviceBound",
        ] {
            assert_eq!(receiver(to).expect(to).as_str(), "cam-1");
        }
        for to in [
            "",
            "/devices/cam-1",
            "/devices/cam-1/messages/events",
            "/devices/a%20b/messages/deviceBound",
            "/devices/a%2/messages/deviceBound",
            "/devices/d/modules/m/messages/deviceBound",
        ] {
            let refused = receiver(to).expect_err(to);
            assert!(refused.to_string().contains("iothub-to"), "{refused}");
        }
    }

    #[test]
    fn an_end_is_an_instant() {
        let now: Timestamp = "2026-05-01T10:00:00Z".parse().expect("an instant");
        assert_eq!(time_to_live("", now).expect("none"), None);
        let hour = time_to_live("2026-05-01T13:00:00+02:00", now).expect("an hour");
        assert_eq!(hour.map(|it| it.seconds), Some(3600));
        let past = time_to_live("2020-05-01T00:00:00Z", now).expect("judged later");
        assert!(past.is_some_and(|it| it.seconds < 0));
        assert!(time_to_live("tomorrow", now).is_err());
    }

    #[test]
    fn properties_are_headers_of_a_prefix() {
        let mut map = HeaderMap::new();
        map.insert("iothub-app-Color", "red".parse().expect("a value"));
        map.insert("iothub-messageid", "1".parse().expect("a value"));
        let read = Headers(&map).properties().expect("good");
        assert_eq!(
            read,
            HashMap::from([("color".to_owned(), "red".to_owned())])
        );
        map.append("iothub-app-color", "blue".parse().expect("a value"));
        assert!(Headers(&map).properties().is_err());
    }
}
