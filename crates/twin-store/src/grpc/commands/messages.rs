//! Messages to devices: a queue for each, in a stream of the bus.
//!
//! What is sent is durable when it is answered, and from there on ingestion's: it delivers and
//! removes. A queue belongs to one generation of its device, so that a device that is created again
//! gets nothing that was meant for the old one; what is left behind is removed when the old one is
//! ([`drop_old`]), and ends by itself at the latest.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::{Bus, EnsureError, Headers, Outgoing, PublishError, Sequence};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use iot_hub::message::{
    MESSAGE_BYTES_MAX, PROPERTIES_BYTES_MAX, QUEUE_MAX, TIME_TO_LIVE_DEFAULT, TIME_TO_LIVE_MAX,
    TIME_TO_LIVE_MIN, check_id, check_property_name,
};
use jiff::Timestamp;
use prost::Message as _;
use serde_json::json;
use service_kit::error::Classified as _;
use service_kit::trace;
use twin::IdentityKey;
use uuid::Uuid;
use wire::InvalidField;
use wire::bus::v1 as bus_wire;
use wire::device::v1 as proto;
use wire::subjects::{self, DEVICE_MESSAGES_STREAM};

use super::super::caller::Caller;
use super::super::{Api, device};
use super::timeout;
use crate::apply::AuditEvent;
use crate::error::{CommandError, Error};
use crate::store::{Selection, Store};

/// Devices that one call may count the messages of: a page of the registry.
const COUNTED_MAX: usize = 1000;
/// Of them at the same time.
const COUNTED_AT_ONCE: usize = 16;

/// A message that was checked.
#[derive(Debug)]
struct Sending {
    key: IdentityKey,
    message: bus_wire::DeviceBoundMessage,
    time_to_live: Duration,
    request_id: Option<Uuid>,
}

impl Api {
    pub(super) async fn send(
        &self,
        caller: &Caller,
        request: proto::SendMessageRequest,
    ) -> Result<proto::SendMessageResponse, Error> {
        let actor = caller.operator(&request.operator)?;
        let request_id = request.request_id.clone();
        let mut sending = read(request)?;
        let key = sending.key.clone();
        let bytes = sending.message.encoded_len();
        let room = self.has_room(&key, bytes, |queue| sending.id_in(queue));
        let room = room.await;
        room.inspect_err(|error| self.metrics.message_refused(error.reason()))?;
        let detail = json!({ "message": sending.message.message_id });
        let cause = caller.cause_as(actor, &request_id);
        let generation = self
            .engine
            .decide(Selection::One(key.clone()), move |overlay, _| {
                let generation = overlay.get(&key)?.identity.generation_id.clone();
                overlay.audit(AuditEvent::on(&key, "message.send", detail, &cause));
                Ok(generation)
            })
            .await?;
        let expires_at = sending.stamp(self.clock.now());
        let message_id = sending.message.message_id.clone();
        let published = self.bus.publish(sending.outgoing(&generation)).await;
        let published = published.map_err(|error| {
            let error = not_sent(&sending.key, error);
            self.metrics.message_refused(error.reason());
            error
        })?;
        let hint = Outgoing::new(subjects::message_subject(&sending.key), Vec::new());
        if let Err(error) = self.bus.send_hint(hint).await {
            // The session looks by itself now and then.
            tracing::debug!(%error, "a session was not told of a message");
        }
        Ok(proto::SendMessageResponse {
            message_id,
            sequence_number: published.sequence.get(),
            expire_time: Some(wire::time::to_wire(expires_at)),
        })
    }

    pub(super) async fn queued(
        &self,
        request: proto::ListMessagesRequest,
    ) -> Result<proto::ListMessagesResponse, Error> {
        let key = IdentityKey::new_device(device("name", &request.name)?);
        let queue = self.queue(&key).await?;
        let now = self.clock.now();
        let (mut messages, mut position) = (Vec::new(), Sequence::ZERO);
        while let Some(queued) = self
            .bus
            .next_queued(DEVICE_MESSAGES_STREAM, &queue, position)
            .await
            .map_err(CommandError::Queue)?
        {
            position = queued.sequence;
            let Ok(message) = bus_wire::DeviceBoundMessage::decode(queued.payload) else {
                tracing::warn!(sequence = %position, "a message for a device cannot be read");
                continue;
            };
            if has_ended(&message, now) {
                continue;
            }
            messages.push(proto::QueuedMessage {
                sequence_number: position.get(),
                message_id: message.message_id,
                correlation_id: message.correlation_id,
                enqueued_time: message.enqueued_time,
                expire_time: message.expire_time,
                payload_bytes: u32::try_from(message.payload.len()).unwrap_or(u32::MAX),
            });
            if messages.len() >= usize::from(QUEUE_MAX) {
                break;
            }
        }
        Ok(proto::ListMessagesResponse { messages })
    }

    pub(super) async fn counts(
        &self,
        request: proto::CountMessagesRequest,
    ) -> Result<proto::CountMessagesResponse, Error> {
        if request.names.len() > COUNTED_MAX {
            let problem = format!(
                "has {} names; at most {COUNTED_MAX} are allowed",
                request.names.len()
            );
            return Err(InvalidField::new("names", problem).into());
        }
        let mut keys = Vec::with_capacity(request.names.len());
        for name in &request.names {
            keys.push(IdentityKey::new_device(device("names", name)?));
        }
        // Whoever shows a device waits for this, and does without.
        if !self.bus.is_up() {
            return Err(CommandError::QueuesAway.into());
        }
        let status = self.bus.stream_status(DEVICE_MESSAGES_STREAM).await;
        if status.map_err(CommandError::Queue)?.messages == 0 {
            let counts = vec![0; keys.len()];
            return Ok(proto::CountMessagesResponse { counts });
        }
        let counts = stream::iter(keys)
            .map(|key| async move { self.length(&key).await })
            .buffered(COUNTED_AT_ONCE)
            .try_collect()
            .await?;
        Ok(proto::CountMessagesResponse { counts })
    }

    pub(super) async fn purge(
        &self,
        caller: &Caller,
        request: proto::PurgeMessagesRequest,
    ) -> Result<proto::PurgeMessagesResponse, Error> {
        let actor = caller.operator(&request.operator)?;
        let key = IdentityKey::new_device(device("name", &request.name)?);
        let cause = caller.cause_as(actor, "");
        let subject = self
            .engine
            .decide(Selection::One(key.clone()), move |overlay, _| {
                let generation = &overlay.get(&key)?.identity.generation_id;
                let subject = subjects::device_messages_subject(&key, generation);
                overlay.audit(AuditEvent::on(&key, "message.purge", json!({}), &cause));
                Ok(subject)
            })
            .await?;
        let purged = self.bus.purge_queue(DEVICE_MESSAGES_STREAM, &subject).await;
        Ok(proto::PurgeMessagesResponse {
            purged_count: number(purged.map_err(CommandError::Queue)?),
        })
    }

    async fn length(&self, key: &IdentityKey) -> Result<u32, Error> {
        let queue = match self.queue(key).await {
            Err(Error::NotFound(_)) => return Ok(0),
            queue => queue?,
        };
        let lengths = self.bus.queue_lengths(DEVICE_MESSAGES_STREAM, &queue).await;
        let lengths = lengths.map_err(CommandError::Queue)?;
        Ok(lengths.first().map_or(0, |(_, length)| number(*length)))
    }

    /// The subject of a device's queue.
    pub(super) async fn queue(&self, key: &IdentityKey) -> Result<String, Error> {
        let record = self.store.get(key.clone()).await?;
        let record = record.ok_or_else(|| Error::NotFound(key.clone()))?;
        let generation = &record.identity.generation_id;
        Ok(subjects::device_messages_subject(key, generation))
    }
}

/// Removes the queues of generations of a device that are no more. A queue that is found here is of
/// a generation that was there before the device is read, so one that is not the device's is old.
pub(crate) async fn drop_old(
    bus: &Bus,
    store: &dyn Store,
    key: &IdentityKey,
) -> Result<(), DropError> {
    let all = subjects::device_messages_subjects(key);
    let found = bus.queue_lengths(DEVICE_MESSAGES_STREAM, &all).await?;
    if found.is_empty() {
        return Ok(());
    }
    let present = store.get(key.clone()).await?;
    let present = present.map(|record| {
        let generation = &record.identity.generation_id;
        subjects::device_messages_subject(key, generation)
    });
    for (subject, _) in found {
        if present.as_ref() != Some(&subject) {
            bus.purge_queue(DEVICE_MESSAGES_STREAM, &subject).await?;
        }
    }
    Ok(())
}

/// Why old queues were not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DropError {
    /// The bus failed.
    #[error("the queues of a device that is gone were not removed")]
    Queue(#[from] EnsureError),
    /// The store failed.
    #[error("it could not be read whether a device is gone")]
    Store(#[from] crate::store::Error),
}

impl Sending {
    /// Says from when to when it is; returns when it ends.
    fn stamp(&mut self, now: Timestamp) -> Timestamp {
        let ends = now.checked_add(self.time_to_live).unwrap_or(Timestamp::MAX);
        self.message.enqueued_time = Some(wire::time::to_wire(now));
        self.message.expire_time = Some(wire::time::to_wire(ends));
        ends
    }

    /// By what the bus knows a repetition of it in a queue.
    fn id_in(&self, queue: &str) -> Option<String> {
        self.request_id.map(|id| format!("{queue}/{id}"))
    }

    fn outgoing(&self, generation: &str) -> Outgoing {
        let subject = subjects::device_messages_subject(&self.key, generation);
        let id = self.id_in(&subject);
        let mut outgoing =
            Outgoing::new(subject, self.message.encode_to_vec()).expires_after(self.time_to_live);
        if let Some(id) = id {
            outgoing = outgoing.header(Headers::MESSAGE_ID, id);
        }
        if let Some(parent) = trace::current_traceparent() {
            outgoing = outgoing.header(Headers::TRACEPARENT, parent);
        }
        outgoing
    }
}

fn read(request: proto::SendMessageRequest) -> Result<Sending, Error> {
    let key = IdentityKey::new_device(device("name", &request.name)?);
    let request_id = match &*request.request_id {
        "" => None,
        text => Some(Uuid::parse_str(text).map_err(|_| {
            let problem = "must be a UUID, for instance 6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11";
            InvalidField::new("request_id", problem)
        })?),
    };
    let id = |field: &str, text: &str| match check_id(text) {
        Ok(()) => Ok(()),
        Err(problem) => Err(InvalidField::new(field, problem)),
    };
    let message_id = match (request.message_id, request_id) {
        // A repetition has the same.
        (none, Some(request_id)) if none.is_empty() => request_id.to_string(),
        (none, None) if none.is_empty() => Uuid::new_v4().to_string(),
        (given, _) => given,
    };
    id("message_id", &message_id)?;
    if !request.correlation_id.is_empty() {
        id("correlation_id", &request.correlation_id)?;
    }
    for (field, text) in [
        ("user_id", &request.user_id),
        ("content_type", &request.content_type),
        ("content_encoding", &request.content_encoding),
    ] {
        if text.contains(char::is_control) {
            return Err(
                InvalidField::new(field, "has control characters; none are allowed").into(),
            );
        }
    }
    let time_to_live = timeout(
        "time_to_live",
        request.time_to_live,
        TIME_TO_LIVE_DEFAULT,
        TIME_TO_LIVE_MIN..=TIME_TO_LIVE_MAX,
    )?;
    // In an order that a test, and a person, can rely on.
    let properties: BTreeMap<String, String> = request.properties.into_iter().collect();
    for name in properties.keys() {
        check_property_name(name).map_err(|problem| InvalidField::new("properties", problem))?;
    }
    let message = bus_wire::DeviceBoundMessage {
        message_id,
        correlation_id: request.correlation_id,
        user_id: request.user_id,
        content_type: request.content_type,
        content_encoding: request.content_encoding,
        properties: properties
            .into_iter()
            .map(|(name, value)| bus_wire::DeviceBoundProperty { name, value })
            .collect(),
        payload: request.payload,
        enqueued_time: None,
        expire_time: None,
    };
    check_size(&message)?;
    Ok(Sending {
        key,
        message,
        time_to_live,
        request_id,
    })
}

fn check_size(message: &bus_wire::DeviceBoundMessage) -> Result<(), Error> {
    let system = [
        &message.message_id,
        &message.correlation_id,
        &message.user_id,
        &message.content_type,
        &message.content_encoding,
    ];
    let system: usize = system.iter().map(|text| text.len()).sum();
    let of = |property: &bus_wire::DeviceBoundProperty| property.name.len() + property.value.len();
    let properties = system + message.properties.iter().map(of).sum::<usize>();
    if properties > PROPERTIES_BYTES_MAX {
        let problem = format!(
            "have {properties} bytes together with what the message says of itself; at most \
             {PROPERTIES_BYTES_MAX} are allowed"
        );
        return Err(InvalidField::new("properties", problem).into());
    }
    let bytes = properties + message.payload.len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(CommandError::MessageTooLarge { bytes }.into());
    }
    Ok(())
}

/// A message without an end is none of ours, and is taken as one that has ended.
fn has_ended(message: &bus_wire::DeviceBoundMessage, now: Timestamp) -> bool {
    match wire::time::required("expire_time", message.expire_time) {
        Ok(ends) => ends <= now,
        Err(_) => true,
    }
}

fn not_sent(key: &IdentityKey, error: PublishError) -> CommandError {
    match error {
        PublishError::QueueFull { .. } => CommandError::QueueFull(key.clone()),
        PublishError::Full { .. }
        | PublishError::NoStream { .. }
        | PublishError::TimedOut { .. }
        | PublishError::TooLarge { .. }
        | PublishError::Refused { .. } => CommandError::NotSent(error),
    }
}

/// As messages carry it.
fn number(count: impl TryInto<u32>) -> u32 {
    count.try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> proto::SendMessageRequest {
        proto::SendMessageRequest {
            name: "devices/d".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_repetition_has_the_id_of_the_first() {
        let id = "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11";
        let repeated = || {
            let mut request = request();
            request.request_id = id.to_owned();
            read(request).expect("it is good")
        };
        assert_eq!(repeated().message.message_id, id);
        let header = |sending: &Sending, generation| {
            let outgoing = sending.outgoing(generation);
            outgoing.headers.get(Headers::MESSAGE_ID).map(str::to_owned)
        };
        assert_eq!(header(&repeated(), "1"), header(&repeated(), "1"));
        assert_ne!(header(&repeated(), "1"), header(&repeated(), "2"));
        let other = read(request()).expect("it is good");
        assert_eq!(header(&other, "1"), None, "the bus makes one up");
        assert_ne!(other.message.message_id, id);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_its_field() {
        type Change = fn(&mut proto::SendMessageRequest);
        let property = |name: &str, bytes: usize| [(name.to_owned(), "x".repeat(bytes))].into();
        let changes: [(&str, Change); 10] = [
            ("name", |it| it.name = "devices/d/modules/m".to_owned()),
            ("message_id", |it| it.message_id = "a b".to_owned()),
            ("correlation_id", |it| it.correlation_id = "a/b".to_owned()),
            ("user_id", |it| it.user_id = "a\nb".to_owned()),
            ("content_type", |it| it.content_type = "\0".to_owned()),
            ("request_id", |it| it.request_id = "7".to_owned()),
            ("time_to_live", |it| {
                it.time_to_live = Some(prost_types::Duration::default());
            }),
            ("time_to_live", |it| {
                let seconds = 48 * 3600 + 1;
                it.time_to_live = Some(prost_types::Duration { seconds, nanos: 0 });
            }),
            ("properties", |it| {
                it.properties = [("$.mid".to_owned(), String::new())].into();
            }),
            ("properties", |it| {
                it.properties = [(String::new(), String::new())].into();
            }),
        ];
        for (field, change) in changes {
            let mut wrong = request();
            change(&mut wrong);
            match read(wrong) {
                Err(Error::Field(problem)) => assert_eq!(problem.field, field),
                other => panic!("{field} is not refused: {other:?}"),
            }
        }
        let mut long = request();
        long.properties = property("a", PROPERTIES_BYTES_MAX);
        assert!(matches!(read(long), Err(Error::Field(_))));
    }

    #[test]
    fn a_message_has_64_kib_with_its_properties() {
        let sized = |payload: usize| {
            let mut request = request();
            request.message_id = "1".to_owned();
            request.properties = [("a".to_owned(), "b".to_owned())].into();
            request.payload = vec![0; payload];
            read(request)
        };
        assert!(sized(MESSAGE_BYTES_MAX - 3).is_ok());
        assert!(matches!(
            sized(MESSAGE_BYTES_MAX - 2),
            Err(Error::Command(CommandError::MessageTooLarge { .. }))
        ));
    }

    #[test]
    fn a_message_ends_when_its_time_has_come() {
        let mut sending = read(request()).expect("it is good");
        let now = Timestamp::from_second(1000).expect("an instant");
        let ends = sending.stamp(now);
        assert_eq!(ends, Timestamp::from_second(4600).expect("an instant"));
        assert!(!has_ended(&sending.message, now));
        assert!(has_ended(&sending.message, ends));
    }
}
