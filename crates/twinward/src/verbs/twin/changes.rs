//! What a commit changed, in words: the names of the kinds, and the leaves of a patch without the
//! bookkeeping that every commit moves.

use clap::ValueEnum;
use serde_json::Value;
use wire::twin::v1 as api;

use crate::output::leaves::leaves;

/// What changes with every event or hop and would crowd out what a person looks for. Programs get
/// it all.
const BOOKKEEPING: [&str; 6] = [
    "posture.agent.sessionId",
    "posture.configuration.traceParent",
    "posture.delivery.",
    "posture.eventCount",
    "posture.eventsByKind.",
    "posture.version",
];

/// The parts of a twin's document that people look for, in the order in which they are told.
const SECTIONS: [&str; 12] = [
    "status",
    "statusReason",
    "authenticationType",
    "x509Thumbprint",
    "capabilities",
    "managedBy",
    "modelId",
    "configurations",
    "tags",
    "desired",
    "reported",
    "posture",
];

/// A kind of change that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChangeArg {
    /// The identity was created
    Created,
    /// Tags were written
    Tags,
    /// Desired was written
    Desired,
    /// The device reported
    Reported,
    /// Telemetry changed the posture
    Posture,
    /// The device acknowledged a configuration
    Configuration,
    /// The device was enabled or disabled
    Status,
    /// How it proves itself or what it is was changed
    Identity,
    /// Configurations of IoT Hub came to stand otherwise
    Configurations,
    /// The tags of the module's device were written
    DeviceTags,
    /// The identity was deleted
    Deleted,
}

impl ChangeArg {
    /// As messages have it.
    pub(super) fn to_wire(self) -> api::Change {
        match self {
            ChangeArg::Created => api::Change::Created,
            ChangeArg::Tags => api::Change::Tags,
            ChangeArg::Desired => api::Change::Desired,
            ChangeArg::Reported => api::Change::Reported,
            ChangeArg::Posture => api::Change::Posture,
            ChangeArg::Configuration => api::Change::ConfigurationState,
            ChangeArg::Status => api::Change::Status,
            ChangeArg::Identity => api::Change::Identity,
            ChangeArg::Configurations => api::Change::Configurations,
            ChangeArg::DeviceTags => api::Change::DeviceTags,
            ChangeArg::Deleted => api::Change::Deleted,
        }
    }
}

/// What a change is called; empty for one that we do not know.
pub(super) fn name(change: api::Change) -> &'static str {
    match change {
        api::Change::Unspecified => "",
        api::Change::Created => "created",
        api::Change::Tags => "tags",
        api::Change::Desired => "desired",
        api::Change::Reported => "reported",
        api::Change::Posture => "posture",
        api::Change::ConfigurationState => "configuration",
        api::Change::Status => "status",
        api::Change::Identity => "identity",
        api::Change::Configurations => "configurations",
        api::Change::DeviceTags => "device-tags",
        api::Change::Deleted => "deleted",
    }
}

/// The names of several changes.
pub(super) fn names(changes: impl Iterator<Item = api::Change>) -> Vec<&'static str> {
    changes.map(name).filter(|name| !name.is_empty()).collect()
}

/// Whether a line about a leaf is about bookkeeping.
pub(super) fn is_bookkeeping(text: &str) -> bool {
    let path = text.split(['=', ' ']).next().unwrap_or(text);
    // Times of all kinds: the line has one already.
    let last = path.rsplit('.').next().unwrap_or(path);
    let is_time = path.starts_with("posture.") && (last == "at" || last.ends_with("At"));
    is_time || BOOKKEEPING.iter().any(|start| path.starts_with(start))
}

/// What a merge patch over the document of a twin does: `tags.site=hall-3`, `desired.a removed`.
pub(super) fn of_patch(patch: &Value) -> Vec<String> {
    let mut words = Vec::new();
    for section in SECTIONS {
        let Some(value) = patch.get(section) else {
            continue;
        };
        let members = match value {
            Value::Object(_) => leaves(value, &Value::Null),
            Value::Null => {
                words.push(format!("{section} removed"));
                continue;
            }
            Value::String(text) if text.is_empty() => continue,
            Value::String(text) => {
                words.push(format!("{section}={text}"));
                continue;
            }
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                words.push(format!("{section}={value}"));
                continue;
            }
        };
        for leaf in members {
            words.push(if leaf.value == "null" {
                format!("{section}.{} removed", leaf.path)
            } else {
                format!("{section}.{}={}", leaf.path, leaf.value)
            });
        }
    }
    words.retain(|text| !is_bookkeeping(text));
    words
}

/// Whether a merge patch over the document writes the leaf at a path, or what holds it.
pub(super) fn touches(patch: &Value, leaf: &str) -> bool {
    let keys = leaf.strip_prefix("properties.").unwrap_or(leaf);
    let mut value = patch;
    for key in keys.split('.') {
        match value {
            Value::Object(members) => match members.get(key) {
                Some(member) => value = member,
                None => return false,
            },
            // Something else took the place of what held the leaf.
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_is_told_leaf_by_leaf_without_bookkeeping() {
        let patch = json!({
            "desiredMetadata": {"a": {"$lastUpdated": "x"}},
            "desiredVersion": 4,
            "posture": {"eventCount": 9, "lastEventAt": "x", "listeningPorts": [22]},
            "status": "disabled",
            "tags": {"site": "hall-3", "old": null},
        });
        assert_eq!(
            of_patch(&patch),
            [
                "status=disabled",
                "tags.old removed",
                "tags.site=hall-3",
                "posture.listeningPorts=[22]"
            ]
        );
    }

    #[test]
    fn a_patch_touches_what_it_writes_and_what_it_takes_away_with_its_holder() {
        let patch = json!({"desired": {"a": {"b": 1}, "c": null}});
        for (path, expected) in [
            ("properties.desired.a.b", true),
            ("properties.desired.a.x", false),
            ("properties.desired.c.d.e", true),
            ("tags.a", false),
        ] {
            assert_eq!(touches(&patch, path), expected, "{path}");
        }
    }
}
