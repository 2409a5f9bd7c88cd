//! Property bags: `name=value&name=value`, percent-encoded, at the end of a topic.

use std::fmt;

use crate::percent;

/// The properties of a message, in the order in which they stand. A name without `=` has no value,
/// which is not the same as an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertyBag(Vec<(String, Option<String>)>);

/// Properties that a bag may have. IoT Hub bounds their bytes alone; but 64 KiB of topic hold
/// thirty thousand of them, and each costs far more than its bytes.
pub const PROPERTIES_MAX: usize = 100;

/// Bytes that the names and values of an application's properties may have together, as in IoT Hub.
/// System properties are not counted.
pub const APPLICATION_BYTES_MAX: usize = 8 << 10;

/// A bag that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BagError {
    /// A property is none.
    #[error("property {index} of the topic is malformed: want name=value, percent-encoded UTF-8")]
    Malformed {
        /// Which one, from 0.
        index: usize,
    },
    /// There are too many.
    #[error("more than {PROPERTIES_MAX} properties")]
    TooMany,
    /// They are too large.
    #[error("more than {APPLICATION_BYTES_MAX} bytes of application properties")]
    TooLarge,
}

/// System properties, by their short names in bags and by the names that IoT Hub routes them under.
const SYSTEM: [(&str, &str); 17] = [
    ("$.mid", "message-id"),
    ("$.cid", "correlation-id"),
    ("$.uid", "user-id"),
    ("$.to", "to"),
    ("$.ct", "content-type"),
    ("$.ce", "content-encoding"),
    ("$.exp", "absolute-expiry-time"),
    ("$.ctime", "iothub-creation-time-utc"),
    ("$.on", "iothub-outputname"),
    ("$.ifid", "iothub-interface-id"),
    ("$.sub", "dt-subject"),
    ("$.schema", "iothub-message-schema"),
    ("$.cdid", "iothub-connection-device-id"),
    ("$.cmid", "iothub-connection-module-id"),
    ("$.diagid", "diagnostic-id"),
    ("$.diagctx", "diagnostic-context"),
    ("iothub-ack", "iothub-ack"),
];

impl PropertyBag {
    /// Reads a bag; an empty text is an empty bag. A `?` before it and a `/` behind it do not
    /// count, and a plus is a plus.
    pub fn parse(text: &str) -> Result<Self, BagError> {
        let text = text.strip_prefix('?').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let mut properties = Vec::new();
        let mut application_bytes = 0;
        for (index, pair) in text.split('&').enumerate() {
            if pair.is_empty() {
                continue;
            }
            // Before it is kept: the text may hold thousands.
            if properties.len() == PROPERTIES_MAX {
                return Err(BagError::TooMany);
            }
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (pair, None),
            };
            let broken = || BagError::Malformed { index };
            let name = percent::decode(name).ok_or_else(broken)?;
            if name.is_empty() {
                return Err(broken());
            }
            let value = value
                .map(|value| percent::decode(value).ok_or_else(broken))
                .transpose()?;
            if system_name(&name).is_none() {
                application_bytes += name.len() + value.as_ref().map_or(0, String::len);
            }
            if application_bytes > APPLICATION_BYTES_MAX {
                return Err(BagError::TooLarge);
            }
            properties.push((name, value));
        }
        Ok(Self(properties))
    }

    /// Adds a property at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), Some(value.into())));
    }

    /// The value of a property; the first, if it is there twice.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        value.as_deref()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The long name of a system property; `None` for a property of the application.
pub fn system_name(name: &str) -> Option<&'static str> {
    let found = SYSTEM.iter().find(|(short, _)| *short == name)?;
    Some(found.1)
}

impl fmt::Display for PropertyBag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("&")?;
            }
            f.write_str(&percent::encode(name))?;
            if let Some(value) = value {
                write!(f, "={}", percent::encode(value))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_sdks_write_is_read() {
        let text = "%24.ifid=urn%3aazureiot%3aSecurity%3aSecurityAgent%3a1&$.mid=a+b&flag&empty=";
        for text in [text.to_owned(), format!("?{text}"), format!("{text}/")] {
            let bag = PropertyBag::parse(&text).unwrap();
            let found: Vec<_> = bag.iter().collect();
            let wanted = [
                ("$.ifid", Some("urn:azureiot:Security:SecurityAgent:1")),
                ("$.mid", Some("a+b")),
                ("flag", None),
                ("empty", Some("")),
            ];
            assert_eq!(found, wanted, "{text}");
            assert_eq!(bag.get("$.mid"), Some("a+b"));
            assert_eq!(bag.get("flag"), None);
        }
        assert!(PropertyBag::parse("").unwrap().is_empty());
    }

    #[test]
    fn system_properties_are_known_by_their_short_names() {
        assert_eq!(system_name("$.ifid"), Some("iothub-interface-id"));
        assert_eq!(system_name("colour"), None);
    }

    #[test]
    fn a_broken_property_is_named() {
        for (text, index) in [("a=%zz", 0), ("a=1&=2", 1), ("a=1&&%f=2", 2)] {
            let broken = BagError::Malformed { index };
            assert_eq!(PropertyBag::parse(text), Err(broken), "{text}");
        }
    }

    #[test]
    fn a_bag_is_bounded_in_number_and_in_bytes() {
        let many = |count: usize| vec!["a"; count].join("&");
        assert!(PropertyBag::parse(&many(PROPERTIES_MAX)).is_ok());
        assert_eq!(
            PropertyBag::parse(&many(PROPERTIES_MAX + 1)),
            Err(BagError::TooMany)
        );
        let large = |bytes: usize| format!("n={}", "v".repeat(bytes - 1));
        assert!(PropertyBag::parse(&large(APPLICATION_BYTES_MAX)).is_ok());
        let over = large(APPLICATION_BYTES_MAX + 1);
        assert_eq!(PropertyBag::parse(&over), Err(BagError::TooLarge));
        let system = format!("$.ctime={}", "v".repeat(APPLICATION_BYTES_MAX + 1));
        assert!(PropertyBag::parse(&system).is_ok(), "they do not count");
        // As they are, not as they are written.
        let written = format!("n={}", "%20".repeat(APPLICATION_BYTES_MAX - 1));
        assert!(PropertyBag::parse(&written).is_ok());
    }

    proptest! {
        #[test]
        fn what_was_printed_is_read_back(
            given in prop::collection::vec((".{1,20}", prop::option::of(".{0,20}")), 0..8),
        ) {
            let bag = PropertyBag(given);
            prop_assert_eq!(PropertyBag::parse(&bag.to_string()), Ok(bag));
        }

        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _ = PropertyBag::parse(&text);
        }
    }
}
