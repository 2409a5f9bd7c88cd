//! Security messages: what the security agents of IoT Hub send, as events of ours.
//!
//! A message is marked by its interface id ([`is_marked`]); its body is JSON of schema 1.0, an
//! envelope with events, each with a list of payloads, or a FlatBuffer of the micro agents' schema
//! 2 (`micro`). It is read leniently where agents are known
//! to break the published schema (numbers for texts, times without a zone, more members than
//! there should be), and strictly where a guess would put something wrong into a posture. Whatever
//! is no event of ours is rejected by itself, with its reason; a snapshot is taken whole or not at
//! all, because half of one would say that the rest is gone.
//!
//! Pure. Nothing in a body makes it panic or keep more than a few times the body's size.

use posture::{MessageKey, SecurityEvent};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::mqtt::PropertyBag;

mod flat;
mod item;
mod micro;
mod payload;
mod time;

use item::{Item, quoted};

/// What marks a security message.
pub const INTERFACE_ID: &str = "urn:azureiot:Security:SecurityAgent:1";

/// The property that holds it.
const INTERFACE_PROPERTY: &str = "$.ifid";
/// The property of a message's id.
const MESSAGE_ID: &str = "$.mid";
/// How micro agents mark the form of the body: `X.Y-E-S-T`, E being the encoding.
const TYPE_INDICATOR: &str = "mti";
/// The one version of the message schema.
const SCHEMA: &str = "1.0";

/// Events, and payloads of events, that one message may have. The largest message, 256 KiB, has
/// room for about a thousand real ones.
pub const EVENTS_MAX: usize = 4096;

/// Whether a message is for us and not for applications.
pub fn is_marked(properties: &PropertyBag) -> bool {
    let id = properties.get(INTERFACE_PROPERTY);
    id.is_some_and(|id| id.eq_ignore_ascii_case(INTERFACE_ID))
}

/// What tells a message from others of its device: both its id, if it has one, and its body. Ids
/// alone would not do, since devices make them up and some use one for all.
pub fn key(properties: &PropertyBag, body: &[u8]) -> MessageKey {
    let id = properties.get(MESSAGE_ID).unwrap_or_default();
    let mut all = Vec::with_capacity(id.len() + 8 + body.len());
    all.extend_from_slice(&(id.len() as u64).to_be_bytes());
    all.extend_from_slice(id.as_bytes());
    all.extend_from_slice(body);
    MessageKey::new(xxh3_64(&all))
}

/// What a message comes to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Converted {
    /// Valid events, numbered from 1 in the order in which they stand in the message.
    pub events: Vec<SecurityEvent>,
    /// What is no event of ours.
    pub rejected: Vec<Rejected>,
}

/// A part of a message that is no event of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Why, as a code.
    pub reason: Reason,
    /// What, where, and what is allowed.
    pub problem: String,
    /// The part, as JSON; of a FlatBuffer its place; the body as it was sent if nothing of it can
    /// be read.
    pub original: Vec<u8>,
}

/// Why something is no event of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The envelope has no valid form.
    InvalidMessage,
    /// The body is in a form that is not read here.
    UnsupportedEncoding,
    /// It is of a kind that no posture has a place for.
    UnknownKind,
    /// A field has no valid form or is over its limit.
    InvalidField,
}

impl Reason {
    /// The stable code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidMessage => "INVALID_MESSAGE",
            Self::UnsupportedEncoding => "UNSUPPORTED_ENCODING",
            Self::UnknownKind => "UNKNOWN_KIND",
            Self::InvalidField => "INVALID_FIELD",
        }
    }
}

/// What is wrong with a part.
type Problem = (Reason, String);

/// Reads a message.
pub fn convert(properties: &PropertyBag, body: &[u8]) -> Converted {
    let mut converted = Converted::default();
    let events = match encoding(properties) {
        Ok(Encoding::FlatBuffer) => return micro::convert(body),
        Ok(Encoding::Json) => envelope(body),
        Err(problem) => Err(problem),
    };
    match events {
        Ok(events) => {
            for (index, event) in events.iter().enumerate() {
                let path = format!("Events[{index}]");
                if let Err(problem) = converted.read(&path, event) {
                    converted.reject(problem, event.to_string().into_bytes());
                }
            }
        }
        Err(problem) => converted.reject(problem, body.to_vec()),
    }
    converted
}

/// How a body is written.
enum Encoding {
    Json,
    FlatBuffer,
}

/// Agents that send FlatBuffers say so, with the version of their schema.
fn encoding(properties: &PropertyBag) -> Result<Encoding, Problem> {
    let Some(indicator) = properties.get(TYPE_INDICATOR) else {
        return Ok(Encoding::Json);
    };
    let mut parts = indicator.split('-');
    let (schema, encoding) = (parts.next().unwrap_or_default(), parts.next());
    match encoding {
        Some("0") => Ok(Encoding::Json),
        Some("1") if schema.split('.').next() == Some("2") => Ok(Encoding::FlatBuffer),
        _ => {
            let problem = format!(
                "the property mti is {}: its encoding (the second part) must be 0, JSON, or 1, \
                 a FlatBuffer of schema 2 (the first part)",
                quoted(indicator)
            );
            Err((Reason::UnsupportedEncoding, problem))
        }
    }
}

/// The events of a message in JSON.
fn envelope(body: &[u8]) -> Result<Vec<Value>, Problem> {
    let invalid = |problem: String| (Reason::InvalidMessage, problem);
    let mut message: Value = serde_json::from_slice(body)
        .map_err(|error| invalid(format!("the body is no JSON: {error}")))?;
    let root = Item::of("", &message).map_err(|(_, problem)| invalid(problem))?;
    for member in ["AgentVersion", "AgentId"] {
        root.text(member).map_err(|(_, problem)| invalid(problem))?;
    }
    let schema = root.text("MessageSchemaVersion");
    let schema = schema.map_err(|(_, problem)| invalid(problem))?;
    if schema != SCHEMA {
        let problem = format!(
            "MessageSchemaVersion is {}; {SCHEMA:?} is known",
            quoted(schema)
        );
        return Err(invalid(problem));
    }
    let Some(Value::Array(events)) = message.get_mut("Events").map(Value::take) else {
        return Err(invalid("Events is no list; it holds the events".to_owned()));
    };
    let payloads = events.iter().filter_map(|event| event.get("Payload"));
    let payloads = payloads.filter_map(Value::as_array).map(Vec::len);
    let snapshots_too: usize = payloads.sum();
    if events.is_empty() || events.len() + snapshots_too > EVENTS_MAX {
        let found = events.len() + snapshots_too;
        return Err(invalid(format!(
            "Events has {found} events and payloads; allowed are 1 to {EVENTS_MAX}"
        )));
    }
    Ok(events)
}

impl Converted {
    fn reject(&mut self, (reason, problem): Problem, original: Vec<u8>) {
        self.rejected.push(Rejected {
            reason,
            problem,
            original,
        });
    }

    /// Reads one event, which may come to several of ours, one per payload.
    fn read(&mut self, path: &str, event: &Value) -> Result<(), Problem> {
        let item = Item::of(path, event)?;
        let at = time::read(item.text("TimestampUTC")?)
            .map_err(|problem| item.wrong("TimestampUTC", &problem))?;
        let name = item.text("Name")?;
        let kind = payload::Kind::named(name).ok_or_else(|| {
            let known = payload::Kind::NAMES.join(", ");
            let problem = format!(
                "{path}.Name is {}; a posture has places for {known}",
                quoted(name)
            );
            (Reason::UnknownKind, problem)
        })?;
        let none = Vec::new();
        let payloads = match event.get("Payload") {
            Some(Value::Array(payloads)) => payloads,
            // A sign of life has nothing to say.
            None | Some(Value::Null) if kind == payload::Kind::Heartbeat => &none,
            _ => return Err(item.wrong("Payload", "is no list; it holds what was observed")),
        };
        let is_empty = match event.get("IsEmpty") {
            Some(Value::Bool(is_empty)) => *is_empty,
            None => payloads.is_empty(),
            Some(_) => return Err(item.wrong("IsEmpty", "is neither true nor false")),
        };
        if is_empty != payloads.is_empty() && kind != payload::Kind::Heartbeat {
            let problem = format!("is {is_empty}, but Payload has {}", payloads.len());
            return Err(item.wrong("IsEmpty", &problem));
        }
        if kind.is_snapshot() {
            let whole = payload::snapshot(kind, path, payloads)?;
            return whole.map_or(Ok(()), |whole| self.take(path, at, whole));
        }
        for (index, one) in payloads.iter().enumerate() {
            let path = format!("{path}.Payload[{index}]");
            let read = Item::of(&path, one).and_then(|item| payload::single(kind, &item));
            if let Err(problem) = read.and_then(|read| self.take(&path, at, read)) {
                self.reject(problem, one.to_string().into_bytes());
            }
        }
        Ok(())
    }

    /// Takes an event if it is within the limits of events.
    fn take(
        &mut self,
        path: &str,
        observed_at: jiff::Timestamp,
        payload: posture::EventPayload,
    ) -> Result<(), Problem> {
        let event = SecurityEvent {
            sequence: (self.events.len() as u64).saturating_add(1),
            observed_at,
            payload,
        };
        event
            .validate()
            .map_err(|problem| (Reason::InvalidField, format!("{path}: {problem}")))?;
        self.events.push(event);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
