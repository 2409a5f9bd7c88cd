//! What a device sends as a security message: events for its posture, as they go to `TELEMETRY`.
//!
//! `iot_hub::security` says what the message comes to; this holds its events against the limits of
//! this service. The device is not told what was rejected, for IoT Hub has no words for it: the
//! message is acknowledged, the posture counts it and `REJECTS` keeps a sample.

use iot_hub::mqtt::PropertyBag;
use iot_hub::security::{self, Converted, Rejected};
use posture::MessageKey;
use prost::Message as _;
use wire::bus::v1 as bus_wire;

use crate::text::shorten;

/// Most bytes of the message that explains a rejection, as for agents.
const PROBLEM_BYTES_MAX: usize = 256;

/// The code of an event over the size of events.
const EVENT_TOO_LARGE: &str = "EVENT_TOO_LARGE";

/// A security message, judged.
pub(crate) struct Judged {
    /// What tells it from others of the device.
    pub(crate) key: MessageKey,
    /// For the fold.
    pub(crate) message: bus_wire::SecurityMessage,
    /// For a person to look at.
    pub(crate) rejections: Vec<Rejection>,
}

/// A part of a message that is not taken in.
pub(crate) struct Rejection {
    /// The stable code.
    pub(crate) code: &'static str,
    /// What, where, and what is allowed.
    pub(crate) problem: String,
    /// The part: the JSON of it, or our form of an event that is too large.
    pub(crate) original: Vec<u8>,
}

/// Judges a message. `event_bytes_max`: the most bytes of one event, as for agents.
pub(crate) fn judge(properties: &PropertyBag, body: &[u8], event_bytes_max: usize) -> Judged {
    let key = security::key(properties, body);
    let Converted { events, rejected } = security::convert(properties, body);
    let mut rejections: Vec<_> = rejected.into_iter().map(Rejection::from).collect();
    let mut taken = Vec::with_capacity(events.len());
    for event in events {
        let event = wire::events::event_to_wire(&event);
        let bytes = event.encoded_len();
        if bytes > event_bytes_max {
            rejections.push(Rejection {
                code: EVENT_TOO_LARGE,
                problem: format!(
                    "event {} has {bytes} bytes; at most {event_bytes_max} are allowed",
                    event.sequence
                ),
                original: event.encode_to_vec(),
            });
        } else {
            taken.push(event);
        }
    }
    let message = bus_wire::SecurityMessage {
        key: key.get(),
        events: taken,
        rejected: u64::try_from(rejections.len()).unwrap_or(u64::MAX),
    };
    Judged {
        key,
        message,
        rejections,
    }
}

impl From<Rejected> for Rejection {
    fn from(rejected: Rejected) -> Self {
        Self {
            code: rejected.reason.as_str(),
            problem: shorten(rejected.problem, PROBLEM_BYTES_MAX),
            original: rejected.original,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_over_the_size_of_events_are_rejected_by_themselves() {
        let login =
            |user: &str| format!(r#"{{"Operation":"x","Result":"Fail","UserName":"{user}"}}"#);
        let (short, long) = (login("ann"), login(&"a".repeat(100)));
        let body = format!(
            r#"{{"AgentVersion":"1","AgentId":"x","MessageSchemaVersion":"1.0","Events":[{{
            "TimestampUTC":"2024-05-01T10:00:00Z","Name":"Login","Payload":[{short},{long},3]}}]}}"#
        );
        let judged = judge(&PropertyBag::default(), body.as_bytes(), 64);
        assert_eq!(
            (judged.message.events.len(), judged.message.rejected),
            (1, 2)
        );
        let codes: Vec<_> = judged.rejections.iter().map(|it| it.code).collect();
        assert_eq!(codes, ["INVALID_FIELD", EVENT_TOO_LARGE]);
        assert_eq!(judged.message.key, judged.key.get());
    }
}
