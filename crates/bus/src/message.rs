//! What travels: a subject, a few headers and opaque bytes. It knows no encoding.

use std::borrow::Cow;
use std::fmt;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;

/// Position of a message in its stream; the first message is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first message: where a reader that has read nothing stands.
    pub const ZERO: Self = Self(0);

    /// Wraps a stored position.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The bare number, for storing.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Message headers: a short list, because there are at most a handful.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

impl Headers {
    /// The server drops a second message with the same value within the stream's duplicate
    /// window, so a publish may be repeated without harm.
    pub const MESSAGE_ID: &'static str = "Nats-Msg-Id";
    /// After how many seconds the server removes the message; streams of queues take it alone.
    pub const TIME_TO_LIVE: &'static str = "Nats-TTL";
    /// W3C trace context: which trace and span caused this message.
    pub const TRACEPARENT: &'static str = "traceparent";

    /// No headers.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds or replaces a header. Line breaks in the value become spaces, since a header ends at
    /// one and the value may come from outside.
    pub fn insert(&mut self, name: &'static str, value: impl Into<String>) {
        let mut value = value.into();
        if value.contains(['\r', '\n']) {
            value = value.replace(['\r', '\n'], " ");
        }
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((Cow::Borrowed(name), value)),
        }
    }

    /// [`Headers::insert`] for building in one expression.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.insert(name, value);
        self
    }

    /// The value of a header; names compare exactly, as NATS does.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Name and value of each header.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn to_nats(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.0 {
            let name: HeaderName = match name {
                Cow::Borrowed(name) => HeaderName::from_static(name),
                // Only a received header has an owned name, so the server has accepted it before.
                Cow::Owned(name) => match name.parse() {
                    Ok(name) => name,
                    Err(_) => continue,
                },
            };
            map.insert(name, HeaderValue::from(value.as_str()));
        }
        map
    }

    pub(crate) fn from_nats(map: Option<&HeaderMap>) -> Self {
        let Some(map) = map else { return Self::new() };
        let pairs = map.iter().filter_map(|(name, values)| {
            let value = values.last()?;
            Some((Cow::Owned(name.to_string()), value.as_str().to_owned()))
        });
        Self(pairs.collect())
    }
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to; a stream must own the subject for a durable publish.
    pub subject: String,
    /// Headers. Without [`Headers::MESSAGE_ID`] the publish makes one up, so that its own repeats
    /// are dropped by the server; name one yourself when the same message may be published again
    /// after a crash.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

impl Outgoing {
    /// A message without headers.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            subject: subject.into(),
            headers: Headers::new(),
            payload: payload.into(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.insert(name, value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_way_through_nats() {
        let headers = Headers::new()
            .with(Headers::MESSAGE_ID, "a-1")
            .with(Headers::TRACEPARENT, "00-0af7-01");
        let back = Headers::from_nats(Some(&headers.to_nats()));
        assert_eq!(back.get(Headers::MESSAGE_ID), Some("a-1"));
        assert_eq!(back.get(Headers::TRACEPARENT), Some("00-0af7-01"));
        assert_eq!(back.iter().count(), 2);
    }

    #[test]
    fn a_value_cannot_smuggle_in_another_header() {
        let headers = Headers::new().with("Reason", "bad\r\nNats-Msg-Id: x");
        assert_eq!(headers.get("Reason"), Some("bad  Nats-Msg-Id: x"));
        let back = Headers::from_nats(Some(&headers.to_nats()));
        assert_eq!(back.get(Headers::MESSAGE_ID), None);
    }

    #[test]
    fn inserting_again_replaces() {
        let headers = Headers::new().with("Reason", "a").with("Reason", "b");
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("Reason", "b")]);
    }
}
