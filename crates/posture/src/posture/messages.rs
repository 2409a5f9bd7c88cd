//! What arrived as security messages of IoT Hub, which number no events: the rule that gives every
//! message effect once.
//!
//! Such a message is sent again when its acknowledgement was lost, soon and unchanged. The newest
//! ones are remembered by their keys, and what is remembered has no effect a second time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// What arrived as security messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageDelivery {
    /// Events folded.
    pub received: u64,
    /// Events of messages that arrived again; they had no effect.
    pub duplicates: u64,
    /// What ingestion could not turn into events.
    pub rejected: u64,
    /// Keys of the newest messages, newest first; at most [`limits::MESSAGE_KEYS_MAX`].
    pub newest: Vec<MessageKey>,
}

impl MessageDelivery {
    /// Whether the message is seen for the first time; remembers it.
    pub(crate) fn admit(&mut self, key: MessageKey) -> bool {
        if self.newest.contains(&key) {
            return false;
        }
        self.newest.insert(0, key);
        self.newest.truncate(limits::MESSAGE_KEYS_MAX);
        true
    }
}

/// What tells one message from another: a hash of what the device sent. Shown as 16 hexadecimal
/// digits, because readers of JSON do not keep such numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MessageKey(u64);

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message key: want 16 hexadecimal digits")]
pub struct MessageKeyError;

impl MessageKey {
    /// Wraps the number.
    pub const fn new(key: u64) -> Self {
        Self(key)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for MessageKey {
    type Err = MessageKeyError;

    fn from_str(text: &str) -> Result<Self, MessageKeyError> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(Self).ok_or(MessageKeyError)
    }
}

impl TryFrom<String> for MessageKey {
    type Error = MessageKeyError;

    fn try_from(text: String) -> Result<Self, MessageKeyError> {
        text.parse()
    }
}

impl From<MessageKey> for String {
    fn from(key: MessageKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_it_was_shown() {
        let key = MessageKey::new(0xfe);
        assert_eq!(key.to_string(), "00000000000000fe");
        assert_eq!(key.to_string().parse(), Ok(key));
        for text in ["", "fe", "+0000000000000fe", "00000000000000fé"] {
            assert_eq!(text.parse::<MessageKey>(), Err(MessageKeyError), "{text}");
        }
    }

    #[test]
    fn the_newest_messages_are_remembered() {
        let mut delivery = MessageDelivery::default();
        for key in 0..=limits::MESSAGE_KEYS_MAX {
            let key = MessageKey::new(u64::try_from(key).unwrap());
            assert!(delivery.admit(key));
            assert!(!delivery.admit(key));
        }
        assert_eq!(delivery.newest.len(), limits::MESSAGE_KEYS_MAX);
        assert!(delivery.admit(MessageKey::new(0)), "it is forgotten");
    }
}
