//! When, at which version and by whom each node of a section was last written.
//!
//! The tree mirrors the section: one node for the root, for each object and for each leaf. An
//! array is a leaf. A change of a leaf refreshes the leaf and every ancestor; its siblings keep
//! what they had (spec 1.2).
//!
//! Stored, a node is a small JSON object: `t` time, `v` version, `w` writer, `c` children. What is
//! the same as in the node above is left out; since most leaves are written together, most nodes
//! are `{}`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Map;
use crate::section::SectionKind;
use crate::version::Version;
use crate::writer::Writer;

mod public;

pub use public::public_text;

/// Time and author of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// When it is made.
    pub at: Timestamp,
    /// Who makes it.
    pub by: Writer,
}

/// What a write leaves on every node that it touches.
#[derive(Clone, Copy)]
pub(crate) struct Mark<'a> {
    pub(crate) at: Timestamp,
    pub(crate) by: &'a Writer,
    pub(crate) version: Version,
}

/// The metadata of one node of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMeta {
    /// When the node, or anything below it, was last written.
    pub updated_at: Timestamp,
    /// The section's version that this write produced.
    pub version: Version,
    /// Of a leaf, who wrote it. Of an object, who says that it exists: an object that only
    /// policies needed disappears with their last leaf, one that an operator named stays.
    pub by: Writer,
    /// The nodes below, by key.
    pub children: BTreeMap<String, NodeMeta>,
}

impl NodeMeta {
    /// A node just written, with nothing below.
    pub(crate) fn leaf(mark: &Mark<'_>) -> NodeMeta {
        NodeMeta {
            updated_at: mark.at,
            version: mark.version,
            by: mark.by.clone(),
            children: BTreeMap::new(),
        }
    }

    /// Notes a write of an object. Whoever names an object claims it, except that a policy never
    /// takes it from somebody else: what an operator made must outlive the policy.
    pub(crate) fn touch(&mut self, mark: &Mark<'_>) {
        self.updated_at = mark.at;
        self.version = mark.version;
        if !mark.by.is_policy() || self.by.is_policy() {
            self.by.clone_from(mark.by);
        }
    }

    /// How many nodes there are, with this one.
    pub(crate) fn count(&self) -> usize {
        1 + self.children.values().map(NodeMeta::count).sum::<usize>()
    }

    /// The node at these keys, counted from this one.
    pub fn at<'k>(&self, path: impl IntoIterator<Item = &'k str>) -> Option<&NodeMeta> {
        let mut node = self;
        for key in path {
            node = node.children.get(key)?;
        }
        Some(node)
    }

    /// The compact form for storing.
    pub fn to_json(&self) -> Value {
        Value::Object(self.differences(None))
    }

    /// Reads what [`NodeMeta::to_json`] wrote.
    pub fn from_json(json: &Value) -> Result<NodeMeta, MetadataError> {
        read(json, None, &mut Vec::new())
    }

    fn differences(&self, above: Option<&NodeMeta>) -> Map {
        let mut node = Map::new();
        if above.is_none_or(|a| a.updated_at != self.updated_at) {
            node.insert("t".into(), json!(self.updated_at.to_string()));
        }
        if above.is_none_or(|a| a.version != self.version) {
            node.insert("v".into(), json!(self.version.get()));
        }
        if above.is_none_or(|a| a.by != self.by) {
            node.insert("w".into(), json!(self.by.to_string()));
        }
        if !self.children.is_empty() {
            let children = self.children.iter();
            let children = children
                .map(|(key, child)| (key.clone(), Value::Object(child.differences(Some(self)))));
            node.insert("c".into(), Value::Object(children.collect()));
        }
        node
    }

    /// `$metadata` as the service side sees it, of a section's root.
    pub fn to_public_json(&self, kind: SectionKind) -> Map {
        let mut node = self.public_stamp(kind);
        for (key, child) in &self.children {
            let child = child.to_public_json_below(kind);
            node.insert(key.clone(), Value::Object(child));
        }
        node
    }

    /// The same of a node below the root.
    pub(crate) fn to_public_json_below(&self, kind: SectionKind) -> Map {
        if self.children.is_empty() {
            // The author stands at leaves only (spec 1.2); an empty object is one.
            let mut leaf = self.public_stamp(kind);
            leaf.insert("$lastUpdatedBy".into(), json!(self.by.to_string()));
            return leaf;
        }
        self.to_public_json(kind)
    }

    fn public_stamp(&self, kind: SectionKind) -> Map {
        let mut stamp = Map::new();
        // Seven digits, because IoT Hub writes seven and old parsers count them.
        stamp.insert(
            "$lastUpdated".into(),
            json!(format!("{:.7}", self.updated_at)),
        );
        if shows_versions(kind) {
            stamp.insert("$lastUpdatedVersion".into(), json!(self.version.get()));
        }
        stamp
    }

    /// Checks that this tree has exactly one node for each object and leaf of `document`.
    pub(crate) fn check_mirrors(&self, document: &Map) -> Result<(), MetadataError> {
        mirrors(self, document, &mut Vec::new())
    }
}

/// Whether the nodes of a section show the version that last wrote them: those of reported do not
/// (spec 1.2).
pub(crate) fn shows_versions(kind: SectionKind) -> bool {
    match kind {
        SectionKind::Tags | SectionKind::Desired => true,
        SectionKind::Reported => false,
    }
}

/// Why a stored metadata tree cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata of a section is damaged at {path}: {problem}")]
pub struct MetadataError {
    /// Which node: keys from the root, with slashes.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl MetadataError {
    fn new(path: &[&str], problem: impl Into<String>) -> MetadataError {
        MetadataError {
            path: format!("/{}", path.join("/")),
            problem: problem.into(),
        }
    }
}

fn read<'j>(
    json: &'j Value,
    above: Option<&NodeMeta>,
    path: &mut Vec<&'j str>,
) -> Result<NodeMeta, MetadataError> {
    let Value::Object(fields) = json else {
        return Err(MetadataError::new(path, "the node is not an object"));
    };
    if let Some(unknown) = fields
        .keys()
        .find(|key| !["t", "v", "w", "c"].contains(&key.as_str()))
    {
        return Err(MetadataError::new(
            path,
            format!("unknown field {unknown:?}"),
        ));
    }
    let updated_at = match (fields.get("t"), above) {
        (Some(Value::String(text)), _) => text
            .parse()
            .map_err(|_| MetadataError::new(path, "`t` is not an RFC 3339 time"))?,
        (None, Some(above)) => above.updated_at,
        _ => return Err(MetadataError::new(path, "`t` is not a time")),
    };
    let version = match (fields.get("v"), above) {
        (Some(Value::Number(number)), _) => number
            .as_u64()
            .and_then(|number| Version::new(number).ok())
            .ok_or_else(|| MetadataError::new(path, "`v` is not a version"))?,
        (None, Some(above)) => above.version,
        _ => return Err(MetadataError::new(path, "`v` is not a version")),
    };
    let by = match (fields.get("w"), above) {
        (Some(Value::String(text)), _) => {
            Writer::parse(text).map_err(|error| MetadataError::new(path, error.to_string()))?
        }
        (None, Some(above)) => above.by.clone(),
        _ => return Err(MetadataError::new(path, "`w` is not a writer")),
    };
    let mut node = NodeMeta {
        updated_at,
        version,
        by,
        children: BTreeMap::new(),
    };
    match fields.get("c") {
        None => {}
        Some(Value::Object(children)) => {
            for (key, child) in children {
                path.push(key);
                let child = read(child, Some(&node), path)?;
                path.pop();
                node.children.insert(key.clone(), child);
            }
        }
        Some(_) => return Err(MetadataError::new(path, "`c` is not an object")),
    }
    Ok(node)
}

fn mirrors<'d>(
    node: &'d NodeMeta,
    document: &'d Map,
    path: &mut Vec<&'d str>,
) -> Result<(), MetadataError> {
    for (key, value) in document {
        path.push(key);
        let Some(child) = node.children.get(key) else {
            return Err(MetadataError::new(
                path,
                "the document has this key, the metadata not",
            ));
        };
        match value {
            Value::Object(object) => mirrors(child, object, path)?,
            _ if child.children.is_empty() => {}
            _ => return Err(MetadataError::new(path, "a leaf has metadata below it")),
        }
        path.pop();
    }
    if let Some(key) = node
        .children
        .keys()
        .find(|key| !document.contains_key(*key))
    {
        path.push(key);
        return Err(MetadataError::new(
            path,
            "the metadata has this key, the document not",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_tree_is_refused_with_the_place() {
        let stored = |text: &str| NodeMeta::from_json(&serde_json::from_str(text).unwrap());
        let root = r#""t":"2026-01-01T00:00:00Z","v":1,"w":"device""#;
        assert!(stored(&format!("{{{root}}}")).is_ok());
        let error = stored(&format!(
            r#"{{{root},"c":{{"a":{{"c":{{"b":{{"v":0}}}}}}}}}}"#
        ));
        assert_eq!(
            error.unwrap_err().to_string(),
            "the metadata of a section is damaged at /a/b: `v` is not a version"
        );
        for damaged in [
            "null",
            "{}",
            r#"{"t":1,"v":1,"w":"device"}"#,
            r#"{"t":"2026-01-01T00:00:00Z","v":1,"w":"nobody"}"#,
            r#"{"t":"2026-01-01T00:00:00Z","v":1,"w":"device","x":1}"#,
            r#"{"t":"2026-01-01T00:00:00Z","v":1,"w":"device","c":[]}"#,
        ] {
            assert!(stored(damaged).is_err(), "{damaged}");
        }
    }
}
