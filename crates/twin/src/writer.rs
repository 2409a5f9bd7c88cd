//! Who wrote a leaf of a twin. Every leaf carries one, so that "why does this device have this
//! value" always has an answer, and a policy can take back exactly what it set.

use std::fmt;
use std::str::FromStr;

use crate::validate::quote;

/// The author of a write.
///
/// As text: `operator:alice`, `policy:lockdown@3`, `configuration:firmware`, `device`, `twinward`.
/// Any value survives its text form, so that nothing once stored can fail to load.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Writer {
    /// A person or a program outside, by name.
    Operator(String),
    /// One revision of a policy.
    Policy {
        /// The policy's id.
        id: String,
        /// Which of its immutable revisions.
        revision: u64,
    },
    /// A configuration of IoT Hub, by its id. It has no revision: its content never changes.
    Configuration(String),
    /// The device or module whose twin it is.
    Device,
    /// Twinward on its own behalf.
    System,
}

impl Writer {
    /// What the text of a configuration begins with, and the name by which policies' settings are
    /// those of one; no policy's id has a colon.
    pub const CONFIGURATION: &str = "configuration:";

    /// Whether a policy wrote it, of whatever revision, or a configuration: what is taken out again
    /// when nobody wants it any more.
    pub fn is_policy(&self) -> bool {
        match self {
            Writer::Policy { .. } | Writer::Configuration(_) => true,
            Writer::Operator(_) | Writer::Device | Writer::System => false,
        }
    }

    /// Whether a policy of this name wrote it, of whatever revision; `configuration:<id>` is the name
    /// of a configuration.
    pub fn is_of(&self, name: &str) -> bool {
        match self {
            Writer::Policy { id, .. } => id == name,
            Writer::Configuration(id) => name.strip_prefix(Writer::CONFIGURATION) == Some(id),
            Writer::Operator(_) | Writer::Device | Writer::System => false,
        }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Writer, WriterError> {
        let error = || WriterError { text: quote(text) };
        match text {
            "device" => return Ok(Writer::Device),
            "twinward" => return Ok(Writer::System),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("operator:") {
            return Ok(Writer::Operator(name.to_owned()));
        }
        if let Some(id) = text.strip_prefix(Writer::CONFIGURATION) {
            return Ok(Writer::Configuration(id.to_owned()));
        }
        // The id itself may hold an `@`, so the last one separates.
        let (id, revision) = text
            .strip_prefix("policy:")
            .and_then(|rest| rest.rsplit_once('@'))
            .ok_or_else(error)?;
        let revision = revision.parse().map_err(|_| error())?;
        Ok(Writer::Policy {
            id: id.to_owned(),
            revision,
        })
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Writer::Operator(name) => write!(f, "operator:{name}"),
            Writer::Policy { id, revision } => write!(f, "policy:{id}@{revision}"),
            Writer::Configuration(id) => write!(f, "{}{id}", Writer::CONFIGURATION),
            Writer::Device => f.write_str("device"),
            Writer::System => f.write_str("twinward"),
        }
    }
}

impl FromStr for Writer {
    type Err = WriterError;

    fn from_str(text: &str) -> Result<Writer, WriterError> {
        Writer::parse(text)
    }
}

/// A text that names no writer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text} names no writer: expected `operator:<name>`, `policy:<id>@<revision>`, `configuration:<id>`, `device` or `twinward`"
)]
pub struct WriterError {
    /// What was given, shortened.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writers_read_as_documented() {
        let policy = Writer::Policy {
            id: "lock@down".into(),
            revision: 3,
        };
        assert_eq!(policy.to_string(), "policy:lock@down@3");
        assert_eq!("policy:lock@down@3".parse().as_ref(), Ok(&policy));
        assert_eq!(
            Writer::parse("operator:alice"),
            Ok(Writer::Operator("alice".into()))
        );
        let configuration = Writer::Configuration("c-1".into());
        assert_eq!(configuration.to_string(), "configuration:c-1");
        assert!(configuration.is_of("configuration:c-1") && !configuration.is_of("c-1"));
        assert!(!policy.is_of("configuration:lock@down") && policy.is_of("lock@down"));
        assert_eq!(Writer::System.to_string(), "twinward");
        for text in [
            "",
            "alice",
            "policy:x",
            "policy:x@",
            "policy:x@-1",
            "Device",
        ] {
            assert!(Writer::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_writer_survives_its_text(name: String, revision: u64) {
            for writer in [
                Writer::Operator(name.clone()),
                Writer::Policy { id: name.clone(), revision },
                Writer::Configuration(name.clone()),
                Writer::Device,
                Writer::System,
            ] {
                prop_assert_eq!(Writer::parse(&writer.to_string()), Ok(writer));
            }
        }
    }
}
