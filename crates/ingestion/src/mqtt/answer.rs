//! What twin-store said, in the words of IoT Hub's devices: status in the topic, body in JSON.

use std::num::NonZeroU16;

use bytes::Bytes;
use iot_hub::ErrorBody;
use iot_hub::message::SystemProperties;
use iot_hub::mqtt::ServiceTopic;
use jiff::Timestamp;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::Packet;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use twin::{DeviceId, ErrorCode};
use wire::bus::v1::DeviceBoundMessage;
use wire::twin::v1::{DesiredChange, DesiredSection};

use crate::methods::MethodCall;

/// Under which twin-store gives IoT Hub's number for a refusal.
const IOT_HUB_CODE: &str = "iot_hub_code";

/// Both sections, to the request of this id.
pub(super) fn twin(rid: &str, sections: &DesiredSection) -> Packet {
    let desired = with_version(&sections.document_json, sections.version);
    let reported = with_version(&sections.reported_json, sections.reported_version);
    let body = format!("{{\"desired\":{desired},\"reported\":{reported}}}");
    response(200, rid, None, body)
}

/// The reported section was patched, and has this version now.
pub(super) fn patched(rid: &str, version: u64) -> Packet {
    response(204, rid, Some(version), String::new())
}

/// Twin-store refused.
pub(super) fn refused(rid: &str, error: &RemoteError, tracking_id: &str, now: Timestamp) -> Packet {
    let number = error.fact(IOT_HUB_CODE).and_then(|text| text.parse().ok());
    let number = number.unwrap_or_else(|| number_of(error.kind()));
    failure(rid, number, &error.to_string(), tracking_id, now)
}

/// Whether twin-store refused with a number of IoT Hub's.
pub(super) fn has_iot_hubs_number(error: &RemoteError) -> bool {
    error.fact(IOT_HUB_CODE).is_some()
}

/// The request itself is wrong.
pub(super) fn invalid(rid: &str, message: &str, tracking_id: &str, now: Timestamp) -> Packet {
    let number = ErrorCode::ARGUMENT_INVALID.number();
    failure(rid, number, message, tracking_id, now)
}

/// A version of the desired section, for a device that has subscribed.
pub(super) fn notification(change: &DesiredChange) -> Packet {
    let version = change.version;
    let topic = ServiceTopic::DesiredChanged { version }.to_string();
    publish(topic, with_version(&change.patch_json, version))
}

/// A direct method that is called.
pub(super) fn method(call: &MethodCall) -> Packet {
    let topic = ServiceTopic::Method {
        name: &call.name,
        rid: &call.rid,
    };
    publish(topic.to_string(), call.payload.clone())
}

/// A message from the cloud, with the id by which it is acknowledged and whether it went out before.
pub(super) fn message(
    device: &DeviceId,
    message: DeviceBoundMessage,
    acknowledged: Option<(NonZeroU16, bool)>,
) -> Packet {
    // Only messages with an end are delivered; one that no calendar has is not told.
    let expiry = wire::time::required("expire_time", message.expire_time);
    let expiry = expiry.map(|at| format!("{at:.3}")).unwrap_or_default();
    let system = SystemProperties {
        message_id: &message.message_id,
        correlation_id: &message.correlation_id,
        user_id: &message.user_id,
        content_type: &message.content_type,
        content_encoding: &message.content_encoding,
        expiry: &expiry,
    };
    let properties = message.properties.iter();
    let properties = properties.map(|it| (&*it.name, &*it.value));
    let properties = iot_hub::message::bag(device.as_str(), system, properties);
    let topic = ServiceTopic::DeviceBound {
        device: device.as_str(),
        properties: &properties,
    };
    Packet::Publish(Box::new(Publish {
        dup: acknowledged.is_some_and(|(_, again)| again),
        retain: false,
        qos: if acknowledged.is_some() {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        },
        topic: topic.to_string().into(),
        packet_id: acknowledged.map(|(id, _)| id),
        payload: message.payload.into(),
        properties: None,
    }))
}

fn failure(rid: &str, number: u32, message: &str, tracking_id: &str, now: Timestamp) -> Packet {
    let body = ErrorBody {
        error_code: number,
        tracking_id,
        message,
        at: now,
    };
    let status = u16::try_from(number / 1000).unwrap_or(500);
    response(status, rid, None, body.to_json())
}

fn response(status: u16, rid: &str, version: Option<u64>, body: String) -> Packet {
    let topic = ServiceTopic::TwinResponse {
        status,
        rid,
        version,
    };
    publish(topic.to_string(), body)
}

/// Everything about twins goes out at `QoS` 0, whatever was granted: it is asked for again.
fn publish(topic: String, body: impl Into<Bytes>) -> Packet {
    Packet::Publish(Box::new(Publish {
        dup: false,
        retain: false,
        qos: QoS::AtMostOnce,
        topic: topic.into(),
        packet_id: None,
        payload: body.into(),
        properties: None,
    }))
}

/// A JSON object with `$version` as its last member. Twin-store answers objects only, printed.
fn with_version(object: &str, version: u64) -> String {
    let members = object
        .trim()
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or_default();
    let comma = if members.trim().is_empty() { "" } else { "," };
    format!("{{{members}{comma}\"$version\":{version}}}")
}

/// For an answer that came without a number: a connection that broke, an older twin-store.
fn number_of(kind: Kind) -> u32 {
    match kind {
        Kind::InvalidArgument | Kind::OutOfRange => 400_004,
        Kind::Unauthenticated => 401_002,
        Kind::PermissionDenied => 401_003,
        Kind::NotFound => 404_001,
        Kind::AlreadyExists => 409_001,
        Kind::FailedPrecondition | Kind::Aborted => 412_001,
        Kind::ResourceExhausted => 429_001,
        Kind::Unavailable => 503_001,
        Kind::DeadlineExceeded => 504_101,
        Kind::Unimplemented | Kind::Internal | Kind::DataLoss => 500_001,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(packet: Packet) -> (String, String) {
        match packet {
            Packet::Publish(publish) => (
                publish.topic.to_string(),
                String::from_utf8(publish.payload.to_vec()).unwrap(),
            ),
            other => panic!("not a publish: {other:?}"),
        }
    }

    #[test]
    fn a_twin_carries_its_versions_inside_the_sections() {
        let sections = DesiredSection {
            document_json: "{\"a\":1}".to_owned(),
            version: 7,
            reported_json: "{}".to_owned(),
            reported_version: 3,
            ..DesiredSection::default()
        };
        let (topic, body) = parts(twin("r", &sections));
        assert_eq!(topic, "$iothub/twin/res/200/?$rid=r");
        assert_eq!(
            body,
            r#"{"desired":{"a":1,"$version":7},"reported":{"$version":3}}"#
        );
    }

    #[test]
    fn a_notification_is_the_change_with_its_version() {
        let (topic, body) = parts(notification(&DesiredChange {
            version: 8,
            patch_json: "{\"a\":null}".to_owned(),
        }));
        assert_eq!(topic, "$iothub/twin/PATCH/properties/desired/?$version=8");
        assert_eq!(body, r#"{"a":null,"$version":8}"#);
    }

    #[test]
    fn a_refusal_has_a_status_and_a_number_though_none_came() {
        let status = tonic::Status::unavailable("away");
        let now = Timestamp::UNIX_EPOCH;
        let (topic, body) = parts(refused("r", &RemoteError::from(status), "t", now));
        assert_eq!(topic, "$iothub/twin/res/503/?$rid=r");
        assert!(body.contains("503001") && body.contains("away"), "{body}");
        let (topic, body) = parts(invalid("r", "no JSON", "t", now));
        assert_eq!(topic, "$iothub/twin/res/400/?$rid=r");
        assert!(body.contains("400004"), "{body}");
    }
}
