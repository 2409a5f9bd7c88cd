//! Topics: what a device publishes to, and what it hears from.
//!
//! Ids stand in topics as they are, not escaped. A request id is opaque and is echoed byte for byte.

use std::fmt;

use twin::IdentityKey;

use crate::mqtt::bag::{BagError, PropertyBag};
use crate::percent;

/// Longest request id: SDKs send a UUID; more would be somebody's way to have us send much.
pub const RID_BYTES_MAX: usize = 256;

/// Characters of a topic that an error shows.
const SHOWN_MAX: usize = 120;

/// A topic that a device publishes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceTopic {
    /// A message to the cloud: `devices/{d}/messages/events/{bag}`.
    Telemetry(PropertyBag),
    /// Asks for the twin: `$iothub/twin/GET/?$rid={rid}`.
    TwinGet {
        /// The request's id.
        rid: String,
    },
    /// Merges into the reported section: `$iothub/twin/PATCH/properties/reported/?$rid={rid}`.
    TwinPatchReported {
        /// The request's id.
        rid: String,
        /// The version of the reported section that the patch was made on, if it must be the
        /// present one.
        base_version: Option<u64>,
    },
    /// Answers a direct method: `$iothub/methods/res/{status}/?$rid={rid}`.
    MethodResponse {
        /// Chosen by the device.
        status: i32,
        /// Of the call.
        rid: String,
    },
}

/// A topic that a device hears from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceTopic<'a> {
    /// The answer to a request about the twin.
    TwinResponse {
        /// As of HTTP, three digits.
        status: u16,
        /// The request's id.
        rid: &'a str,
        /// The section's new version, after a patch.
        version: Option<u64>,
    },
    /// The desired section changed.
    DesiredChanged {
        /// Its version.
        version: u64,
    },
    /// A direct method.
    Method {
        /// Its name.
        name: &'a str,
        /// Of the call.
        rid: &'a str,
    },
    /// A message from the cloud to a device.
    DeviceBound {
        /// To whom.
        device: &'a str,
        /// Its properties.
        properties: &'a PropertyBag,
    },
}

/// Why a topic is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No topic of IoT Hub, or not of this identity.
    #[error("\"{topic}\" is no topic that this identity may use")]
    Unknown {
        /// Its beginning.
        topic: String,
    },
    /// The topic's own part is fine, but not what follows.
    #[error("\"{topic}\": {problem}")]
    Malformed {
        /// Its beginning.
        topic: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The properties cannot be read.
    #[error(transparent)]
    Bag(#[from] BagError),
}

impl DeviceTopic {
    /// Reads a topic that an identity publishes to.
    pub fn parse(topic: &str, identity: &IdentityKey) -> Result<Self, TopicError> {
        if let Some(query) = topic.strip_prefix("$iothub/twin/GET/") {
            return Ok(Self::TwinGet {
                rid: rid(topic, query)?,
            });
        }
        if let Some(query) = topic.strip_prefix("$iothub/twin/PATCH/properties/reported/") {
            return Ok(Self::TwinPatchReported {
                rid: rid(topic, query)?,
                base_version: base_version(topic, query)?,
            });
        }
        if let Some(rest) = topic.strip_prefix("$iothub/methods/res/") {
            let (status, query) = rest.split_once('/').ok_or_else(|| unknown(topic))?;
            let problem = "the status is no integer of 32 bits";
            let status = status.parse().map_err(|_| malformed(topic, problem))?;
            let rid = rid(topic, query)?;
            return Ok(Self::MethodResponse { status, rid });
        }
        let root = format!("{}messages/events", root_of(identity));
        let rest = topic
            .strip_prefix(&root)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            .ok_or_else(|| unknown(topic))?;
        let bag = rest.strip_prefix('/').unwrap_or(rest);
        Ok(Self::Telemetry(PropertyBag::parse(bag)?))
    }

    /// As an identity writes it.
    pub fn to_topic(&self, identity: &IdentityKey) -> String {
        match self {
            Self::Telemetry(bag) => format!("{}messages/events/{bag}", root_of(identity)),
            Self::TwinGet { rid } => format!("$iothub/twin/GET/?$rid={rid}"),
            Self::TwinPatchReported { rid, base_version } => {
                let base = base_version.map(|version| format!("&$version={version}"));
                let base = base.unwrap_or_default();
                format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}{base}")
            }
            Self::MethodResponse { status, rid } => {
                format!("$iothub/methods/res/{status}/?$rid={rid}")
            }
        }
    }
}

impl fmt::Display for ServiceTopic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The order of the parameters and the slash before them are what parsers of SDKs
            // rely on.
            Self::TwinResponse {
                status,
                rid,
                version,
            } => {
                write!(f, "$iothub/twin/res/{status:03}/?$rid={rid}")?;
                match version {
                    Some(version) => write!(f, "&$version={version}"),
                    None => Ok(()),
                }
            }
            Self::DesiredChanged { version } => {
                write!(
                    f,
                    "$iothub/twin/PATCH/properties/desired/?$version={version}"
                )
            }
            Self::Method { name, rid } => {
                let name = percent::encode(name);
                write!(f, "$iothub/methods/POST/{name}/?$rid={rid}")
            }
            Self::DeviceBound { device, properties } => {
                write!(f, "devices/{device}/messages/devicebound/{properties}")
            }
        }
    }
}

/// What all topics of an identity's own begin with: `devices/{d}/` or `devices/{d}/modules/{m}/`.
pub(super) fn root_of(identity: &IdentityKey) -> String {
    match &identity.module {
        Some(module) => format!("devices/{}/modules/{module}/", identity.device),
        None => format!("devices/{}/", identity.device),
    }
}

pub(super) fn unknown(topic: &str) -> TopicError {
    TopicError::Unknown {
        topic: beginning(topic),
    }
}

fn malformed(topic: &str, problem: &'static str) -> TopicError {
    TopicError::Malformed {
        topic: beginning(topic),
        problem,
    }
}

/// The part of a topic that goes into errors and logs, without control characters.
fn beginning(topic: &str) -> String {
    topic
        .chars()
        .take(SHOWN_MAX)
        .flat_map(char::escape_debug)
        .collect()
}

/// The value of a parameter, as it stands.
fn parameter<'t>(query: &'t str, name: &str) -> Option<&'t str> {
    let query = query.strip_prefix('?')?;
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        let found = found.strip_prefix("%24").or(found.strip_prefix('$'))?;
        (found == name).then_some(value)
    })
}

fn rid(topic: &str, query: &str) -> Result<String, TopicError> {
    match parameter(query, "rid") {
        Some(rid) if rid.len() > RID_BYTES_MAX => {
            Err(malformed(topic, "$rid is longer than 256 bytes"))
        }
        Some(rid) if !rid.is_empty() => Ok(rid.to_owned()),
        Some(_) | None => Err(malformed(topic, "wants ?$rid= and an id of the request")),
    }
}

fn base_version(topic: &str, query: &str) -> Result<Option<u64>, TopicError> {
    let Some(text) = parameter(query, "version") else {
        return Ok(None);
    };
    match text.parse() {
        Ok(version) if version > 0 => Ok(Some(version)),
        Ok(_) | Err(_) => Err(malformed(topic, "$version is no positive number")),
    }
}

#[cfg(test)]
mod tests;
