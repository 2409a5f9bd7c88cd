//! A twin as twin-store sends it, parsed for a decision. What cannot be parsed is named with its
//! field; this module never guesses.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use posture::ConfigurationState;
use posture::configuration::PushState;
use serde::Deserialize as _;
use serde_json::Value;
use twin::{ConfigurationStates, IdentityKey, Map, NodeMeta, Section, TwinView, Version, Writer};
use wire::InvalidField;

use crate::policy_doc::Scope;

/// What a decision looks at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TwinDocument {
    key: IdentityKey,
    status: String,
    tags: Map,
    device_tags: Option<Map>,
    desired: Section,
    reported: Map,
    reported_version: u64,
    posture: Value,
    configurations: ConfigurationStates,
}

impl TwinDocument {
    /// Parses what came over the wire.
    pub(crate) fn from_wire(twin: &wire::twin::v1::Twin) -> Result<TwinDocument, InvalidField> {
        let key = wire::names::identity_from_ids(&twin.device_id, &twin.module_id)?;
        let document = object("desired_json", &twin.desired_json)?;
        let version = Version::new(twin.desired_version)
            .map_err(|error| InvalidField::new("desired_version", error))?;
        let metadata = read_metadata(&document, &twin.desired_metadata_json)?;
        let desired = Section::from_parts(document, metadata, version)
            .map_err(|error| InvalidField::new("desired_metadata_json", error))?;
        Ok(TwinDocument {
            key,
            status: twin.status.clone(),
            tags: object("tags_json", &twin.tags_json)?,
            device_tags: Some(&*twin.device_tags_json)
                .filter(|tags| !tags.is_empty())
                .map(|tags| object("device_tags_json", tags))
                .transpose()?,
            desired,
            reported: object("reported_json", &twin.reported_json)?,
            reported_version: twin.reported_version,
            posture: read_posture(&twin.posture_json)?,
            configurations: wire::configurations::from_wire(
                "configurations",
                &twin.configurations,
            )?,
        })
    }

    /// Whose twin it is.
    pub(crate) fn key(&self) -> &IdentityKey {
        &self.key
    }

    /// Which policies look at it.
    pub(crate) fn scope(&self) -> Scope {
        scope_of(&self.key)
    }

    /// The section that policies write.
    pub(crate) fn desired(&self) -> &Section {
        &self.desired
    }

    /// Where configurations of IoT Hub stand.
    pub(crate) fn configurations(&self) -> &ConfigurationStates {
        &self.configurations
    }

    /// What the device says of itself.
    pub(crate) fn reported(&self) -> &Map {
        &self.reported
    }

    /// The twin once its desired section is this one.
    pub(crate) fn with_desired(&self, desired: Section) -> TwinDocument {
        TwinDocument {
            desired,
            ..self.clone()
        }
    }

    /// Where the push of its configuration stands; before the first event it stands nowhere.
    pub(crate) fn configuration(&self) -> ConfigurationState {
        let stored = self.posture.get("configuration");
        let state = stored.and_then(|stored| ConfigurationState::deserialize(stored).ok());
        state.unwrap_or_default()
    }

    /// Whether it says of any path that it is frozen.
    pub(crate) fn tells_of_frozen(&self) -> bool {
        let configuration = self.posture.get("configuration");
        configuration.is_some_and(|stored| stored.get("frozen").is_some())
    }

    /// Whether it is asked for its settings to be pushed again to a device that is there.
    pub(crate) fn asks_for_push(&self) -> bool {
        self.is_connected() && self.configuration().is_asked()
    }

    /// Whether a session of the device is open.
    pub(crate) fn is_connected(&self) -> bool {
        let agent = self.posture.get("agent");
        let connected = agent.and_then(|agent| agent.get("connected"));
        connected.and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether the device went away within this time of its newest answer, or before that was known, and is
    /// not back: nobody knows whether it came through what it answered for.
    pub(crate) fn is_gone_since_answering(&self, within: SignedDuration) -> bool {
        if self.is_connected() {
            return false;
        }
        let agent = self.posture.get("agent");
        let gone = agent.and_then(|agent| agent.get("disconnectedAt")?.as_str()?.parse().ok());
        let answered = self.configuration().timeline.acknowledged_at;
        let both: Option<(Timestamp, Timestamp)> = gone.zip(answered);
        both.is_some_and(|(gone, answered)| gone.duration_since(answered) < within)
    }

    /// Whether the device has ever said what became of a configuration.
    pub(crate) fn has_ever_answered(&self) -> bool {
        let configuration = self.configuration();
        let said = matches!(
            configuration.state,
            PushState::Applied | PushState::Rejected | PushState::Reverted | PushState::Drifted
        );
        said || configuration.applied_version.is_some()
    }

    /// The twin as conditions see it.
    pub(crate) fn view(&self) -> TwinView<'_> {
        TwinView {
            device_id: self.key.device.as_str(),
            module_id: self.key.module.as_ref().map(twin::ModuleId::as_str),
            status: &self.status,
            tags: &self.tags,
            desired: self.desired.document(),
            desired_version: self.desired.version().get(),
            reported: &self.reported,
            reported_version: self.reported_version,
            posture: &self.posture,
            device_tags: self.device_tags.as_ref(),
        }
    }
}

/// Which policies look at the twin of this identity.
pub(crate) fn scope_of(key: &IdentityKey) -> Scope {
    match key.module {
        None => Scope::Devices,
        Some(_) => Scope::Modules,
    }
}

/// Whether a twin as it came may ask for a push: only then is it worth looking closer.
pub(crate) fn may_ask_for_push(twin: &wire::twin::v1::Twin) -> bool {
    twin.posture_json.contains("\"pushAskedAt\"")
}

/// Reads a JSON object; no text at all is an empty object, as protobuf has it.
fn object(field: &str, text: &str) -> Result<Map, InvalidField> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text)
        .map_err(|error| InvalidField::new(field, format!("is no JSON object: {error}")))
}

/// There is no posture, as `null` or as no text, before the first event.
fn read_posture(text: &str) -> Result<Value, InvalidField> {
    match text {
        "" | "null" => Ok(Value::Null),
        _ => object("posture_json", text).map(Value::Object),
    }
}

/// Reads the metadata in the public form of `$metadata`, in which authors stand at leaves only, or
/// in the compact form in which twins are stored: changes carry the stored text as it is.
fn read_metadata(document: &Map, text: &str) -> Result<NodeMeta, InvalidField> {
    const COMPACT_TIME: &str = "t";
    let json = Value::Object(object("desired_metadata_json", text)?);
    let compact = json.get(COMPACT_TIME).is_some_and(Value::is_string);
    if compact {
        return NodeMeta::from_json(&json).map_err(|error| damaged(&error.to_string()));
    }
    node(&Value::Object(document.clone()), &json)
}

fn node(value: &Value, public: &Value) -> Result<NodeMeta, InvalidField> {
    let mut children = BTreeMap::new();
    if let Value::Object(members) = value {
        for (key, member) in members {
            let below = public
                .get(key)
                .ok_or_else(|| damaged(&format!("{key} has no entry")))?;
            children.insert(key.clone(), node(member, below)?);
        }
    }
    let by = match public.get("$lastUpdatedBy").and_then(Value::as_str) {
        Some(text) => Writer::parse(text).map_err(|error| damaged(&error.to_string()))?,
        // Who made an object decides only whether it stays when it is empty. Taking it for a
        // policy's can cost one call too many, which then changes nothing; it never saves one that
        // is needed, since an object that loses a leaf is written in either case.
        None if value.is_object() => Writer::Policy {
            id: String::new(),
            revision: 0,
        },
        None => return Err(damaged("a leaf has no $lastUpdatedBy")),
    };
    let version = public.get("$lastUpdatedVersion").and_then(Value::as_u64);
    let version = version.and_then(|number| Version::new(number).ok());
    Ok(NodeMeta {
        updated_at: Timestamp::UNIX_EPOCH,
        version: version.unwrap_or(Version::FIRST),
        by,
        children,
    })
}

fn damaged(problem: &str) -> InvalidField {
    InvalidField::new("desired_metadata_json", problem)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use twin::{SectionKind, Stamp};

    use super::*;

    /// A section with leaves and objects of an operator and of a policy.
    fn section() -> Section {
        let stamp = |by| Stamp {
            at: Timestamp::UNIX_EPOCH,
            by,
        };
        let operator = stamp(Writer::Operator("o".to_owned()));
        let patch = json!({"a": 1, "t": {"u": {}, "list": [1]}});
        let section = Section::new(&operator);
        let section = section
            .merge(patch.as_object().unwrap(), &operator, SectionKind::Desired)
            .unwrap();
        let policy = stamp(Writer::Policy {
            id: "p".to_owned(),
            revision: 3,
        });
        let patch = json!({"b": {"c": "x"}, "t": {"v": 2}});
        section
            .merge(patch.as_object().unwrap(), &policy, SectionKind::Desired)
            .unwrap()
    }

    fn sent(section: &Section, metadata: &Value) -> wire::twin::v1::Twin {
        wire::twin::v1::Twin {
            device_id: "d".to_owned(),
            module_id: "m".to_owned(),
            desired_json: Value::Object(section.document().clone()).to_string(),
            desired_version: section.version().get(),
            desired_metadata_json: metadata.to_string(),
            ..wire::twin::v1::Twin::default()
        }
    }

    /// Who wrote each leaf, by path.
    fn writers(value: &Value, meta: &NodeMeta, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (key, member) in members {
                    writers(member, &meta.children[key], &format!("{path}/{key}"), found);
                }
            }
            _ => found.push(format!("{path} {}", meta.by)),
        }
    }

    #[test]
    fn the_author_of_every_leaf_is_read_from_both_forms_of_metadata() {
        let section = section();
        let public = section.to_json_with_metadata(SectionKind::Desired)["$metadata"].clone();
        for metadata in [public, section.metadata_to_json()] {
            let twin = TwinDocument::from_wire(&sent(&section, &metadata)).unwrap();
            assert_eq!(twin.desired().document(), section.document());
            assert_eq!(twin.desired().version(), section.version());
            let mut found = Vec::new();
            let document = Value::Object(section.document().clone());
            writers(&document, twin.desired().metadata(), "", &mut found);
            assert_eq!(
                found,
                [
                    "/a operator:o",
                    "/b/c policy:p@3",
                    "/t/list operator:o",
                    "/t/u operator:o",
                    "/t/v policy:p@3"
                ],
                "{metadata}"
            );
        }
    }

    #[test]
    fn what_cannot_be_parsed_is_named() {
        let good = sent(&section(), &section().metadata_to_json());
        let field = |twin: wire::twin::v1::Twin| TwinDocument::from_wire(&twin).unwrap_err().field;
        let text = || "[1]".to_owned();
        assert_eq!(
            field(wire::twin::v1::Twin {
                tags_json: text(),
                ..good.clone()
            }),
            "tags_json"
        );
        assert_eq!(
            field(wire::twin::v1::Twin {
                posture_json: text(),
                ..good.clone()
            }),
            "posture_json"
        );
        assert_eq!(
            field(wire::twin::v1::Twin {
                desired_version: 0,
                ..good.clone()
            }),
            "desired_version"
        );
        let metadata = "{}".to_owned();
        assert_eq!(
            field(wire::twin::v1::Twin {
                desired_metadata_json: metadata,
                ..good.clone()
            }),
            "desired_metadata_json"
        );
        assert_eq!(
            field(wire::twin::v1::Twin {
                device_id: "a b".to_owned(),
                ..good
            }),
            "device_id"
        );
    }

    #[test]
    fn before_the_first_event_there_is_no_posture() {
        let mut twin = sent(&section(), &section().metadata_to_json());
        for text in ["", "null"] {
            twin.posture_json = text.to_owned();
            assert_eq!(
                TwinDocument::from_wire(&twin).unwrap().view().posture,
                &Value::Null
            );
        }
    }
}
