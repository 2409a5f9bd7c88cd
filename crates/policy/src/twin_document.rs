//! A twin as twin-store sends it, parsed for a decision. What cannot be parsed is named with its
//! field; this module never guesses.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use twin::{IdentityKey, Map, NodeMeta, Section, TwinView, Version, Writer};
use wire::InvalidField;

use crate::policy_doc::Scope;

/// What a decision looks at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TwinDocument {
    key: IdentityKey,
    status: String,
    tags: Map,
    desired: Section,
    reported: Map,
    reported_version: u64,
    posture: Value,
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
            desired,
            reported: object("reported_json", &twin.reported_json)?,
            reported_version: twin.reported_version,
            posture: Value::Object(object("posture_json", &twin.posture_json)?),
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

/// Reads a JSON object; no text at all is an empty object, as protobuf has it.
fn object(field: &str, text: &str) -> Result<Map, InvalidField> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text)
        .map_err(|error| InvalidField::new(field, format!("is no JSON object: {error}")))
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
    Ok(NodeMeta {
        updated_at: Timestamp::UNIX_EPOCH,
        version: Version::FIRST,
        by,
        children,
    })
}

fn damaged(problem: &str) -> InvalidField {
    InvalidField::new("desired_metadata_json", problem)
}
