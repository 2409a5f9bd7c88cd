//! What a device may subscribe to.

use std::fmt;

use twin::IdentityKey;

use crate::mqtt::topic::{self, TopicError};

/// Subscriptions that one identity may have, as IoT Hub documents it. Each is kept, so it is a
/// bound on what a stranger can make us keep, too.
pub const FILTERS_MAX: usize = 5;

/// Longest filter: the longest prefix with two ids of 128 characters.
const FILTER_BYTES_MAX: usize = 512;

/// A topic filter of IoT Hub, for one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    kind: FilterKind,
    text: String,
}

/// What a filter lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterKind {
    /// Answers about the twin: `$iothub/twin/res/#`.
    TwinResponses,
    /// Changes of the desired section: `$iothub/twin/PATCH/properties/desired/#`.
    DesiredChanges,
    /// Direct methods, one or all: `$iothub/methods/POST/#`.
    Methods(Option<String>),
    /// Messages from the cloud: `devices/{d}/messages/devicebound/#`.
    DeviceBound,
    /// Inputs of a module, one or all: `devices/{d}/modules/{m}/#`, `.../inputs/#`.
    ModuleInputs,
}

impl Filter {
    /// Reads a filter that an identity subscribes to.
    pub fn parse(text: &str, identity: &IdentityKey) -> Result<Self, TopicError> {
        let kind = kind_of(text, identity).filter(|_| text.len() <= FILTER_BYTES_MAX);
        match kind {
            Some(kind) => Ok(Self {
                kind,
                text: text.to_owned(),
            }),
            None => Err(topic::unknown(text)),
        }
    }

    /// What it lets through.
    pub fn kind(&self) -> &FilterKind {
        &self.kind
    }

    /// As the device wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn kind_of(text: &str, identity: &IdentityKey) -> Option<FilterKind> {
    match text {
        "$iothub/twin/res/#" => return Some(FilterKind::TwinResponses),
        "$iothub/twin/PATCH/properties/desired/#" => return Some(FilterKind::DesiredChanges),
        "$iothub/methods/POST/#" => return Some(FilterKind::Methods(None)),
        _ => {}
    }
    if let Some(rest) = text.strip_prefix("$iothub/methods/POST/") {
        let name = rest.strip_suffix("/#")?;
        let plain = !name.is_empty() && !name.contains(['/', '#', '+']);
        return plain.then(|| FilterKind::Methods(Some(name.to_owned())));
    }
    let rest = text.strip_prefix(&topic::root_of(identity))?;
    if identity.module.is_none() {
        return (rest == "messages/devicebound/#").then_some(FilterKind::DeviceBound);
    }
    let inputs = match rest {
        "#" | "inputs/#" => true,
        _ => rest
            .strip_prefix("inputs/")
            .and_then(|rest| rest.strip_suffix("/#"))
            .is_some_and(|name| !name.is_empty() && !name.contains(['/', '#', '+'])),
    };
    inputs.then_some(FilterKind::ModuleInputs)
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(path: &str, text: &str) -> Option<FilterKind> {
        let identity = IdentityKey::parse_path(path).unwrap();
        Filter::parse(text, &identity)
            .ok()
            .map(|filter| filter.kind().clone())
    }

    #[test]
    fn what_sdks_subscribe_to_is_allowed() {
        use FilterKind::{DesiredChanges, DeviceBound, Methods, ModuleInputs, TwinResponses};
        let reboot = || Methods(Some("reboot".to_owned()));
        for (path, text, wanted) in [
            ("d", "$iothub/twin/res/#", TwinResponses),
            (
                "d",
                "$iothub/twin/PATCH/properties/desired/#",
                DesiredChanges,
            ),
            ("d/m", "$iothub/methods/POST/#", Methods(None)),
            ("d/m", "$iothub/methods/POST/reboot/#", reboot()),
            ("d", "devices/d/messages/devicebound/#", DeviceBound),
            ("d/m", "devices/d/modules/m/#", ModuleInputs),
            ("d/m", "devices/d/modules/m/inputs/#", ModuleInputs),
            ("d/m", "devices/d/modules/m/inputs/a/#", ModuleInputs),
        ] {
            assert_eq!(kind(path, text), Some(wanted), "{path} {text}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for (path, text) in [
            ("d", "#"),
            ("d", "$iothub/#"),
            ("d", "$iothub/twin/res/200/#"),
            ("d", "$iothub/methods/POST/+/#"),
            ("d", "$iothub/methods/POST/"),
            ("d", "devices/e/messages/devicebound/#"),
            ("d", "devices/+/messages/devicebound/#"),
            ("d", "devices/d/modules/m/#"),
            ("d", "devices/d/#"),
            ("d/m", "devices/d/messages/devicebound/#"),
            ("d/m", "devices/d/modules/n/#"),
            ("d/m", "devices/d/modules/m/inputs/+/#"),
        ] {
            assert_eq!(kind(path, text), None, "{path} {text}");
        }
        let long = format!("$iothub/methods/POST/{}/#", "a".repeat(600));
        assert_eq!(kind("d", &long), None);
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _ = kind("d", &text);
            let _ = kind("d/m", &format!("devices/d/modules/m/{text}"));
        }
    }
}
