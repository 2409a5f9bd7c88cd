//! One section of a twin: its document, who wrote what in it, and how often it was written.
//!
//! A section is a value: a write makes a new one or is refused, and never leaves half a change.
//! There is no detection of writes that change nothing: each accepted write raises the version by
//! one, because clients count on it (spec 3.2).

use serde_json::{Value, json};

use crate::Map;
use crate::limits::{
    COUNTED_BYTES_PER_VALUE, DESIRED_BYTES_MAX, REPORTED_BYTES_MAX, TAGS_BYTES_MAX,
    TEXT_BYTES_PER_COUNTED,
};
use crate::merge::{merge_member, replacement};
use crate::metadata::{Mark, MetadataError, NodeMeta, Stamp};
use crate::validate::{Judge, Violations, WriteForm, is_ignored};
use crate::version::Version;

mod repeat;

/// Which section a write goes to. It decides size, path and who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectionKind {
    /// Written by operators, invisible to the device.
    Tags,
    /// Written by operators and policies, sent to the device.
    Desired,
    /// Written by the device.
    Reported,
}

impl SectionKind {
    /// Where the section stands in a twin.
    pub fn path(self) -> &'static str {
        match self {
            SectionKind::Tags => "tags",
            SectionKind::Desired => "properties.desired",
            SectionKind::Reported => "properties.reported",
        }
    }

    /// How large the section may grow, by the documented rule ([`crate::validate::Cost::counted`]).
    pub fn bytes_max(self) -> usize {
        match self {
            SectionKind::Tags => TAGS_BYTES_MAX,
            SectionKind::Desired => DESIRED_BYTES_MAX,
            SectionKind::Reported => REPORTED_BYTES_MAX,
        }
    }

    /// How long the JSON text of the section may grow.
    pub fn text_bytes_max(self) -> usize {
        self.bytes_max() * TEXT_BYTES_PER_COUNTED
    }

    /// How many values the section may come to hold: members of objects and elements of arrays, at
    /// any depth.
    pub fn values_max(self) -> usize {
        self.bytes_max() / COUNTED_BYTES_PER_VALUE
    }
}

/// A document with its metadata and version.
///
/// Invariant: the metadata has exactly one node for each object and leaf of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    document: Map,
    metadata: NodeMeta,
    version: Version,
}

impl Section {
    /// An empty section at version 1.
    pub fn new(stamp: &Stamp) -> Section {
        let version = Version::FIRST;
        let mark = Mark {
            at: stamp.at,
            by: &stamp.by,
            version,
        };
        Section {
            document: Map::new(),
            metadata: NodeMeta::leaf(&mark),
            version,
        }
    }

    /// Puts a stored section together again, and refuses metadata that does not mirror the
    /// document.
    pub fn from_parts(
        document: Map,
        metadata: NodeMeta,
        version: Version,
    ) -> Result<Section, MetadataError> {
        metadata.check_mirrors(&document)?;
        Ok(Section {
            document,
            metadata,
            version,
        })
    }

    /// For this crate's own functions, which build both trees together.
    pub(crate) fn from_mirrored(document: Map, metadata: NodeMeta, version: Version) -> Section {
        debug_assert_eq!(metadata.check_mirrors(&document), Ok(()));
        Section {
            document,
            metadata,
            version,
        }
    }

    /// The data.
    pub fn document(&self) -> &Map {
        &self.document
    }

    /// Who wrote what, when.
    pub fn metadata(&self) -> &NodeMeta {
        &self.metadata
    }

    /// How often it was written, from 1.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Applies a JSON Merge Patch (RFC 7396): an object merges, `null` deletes, anything else
    /// replaces. All or nothing; the error lists every rule that the patch breaks.
    pub fn merge(
        &self,
        patch: &Map,
        stamp: &Stamp,
        kind: SectionKind,
    ) -> Result<Section, Violations> {
        let form = WriteForm::Patch;
        self.write(
            patch,
            stamp,
            kind,
            form,
            (self.document.clone(), self.metadata.clone()),
        )
    }

    /// Puts another document in the place of this one; every node gets the new stamp. Keys whose
    /// value is `null` are left out.
    pub fn replace(
        &self,
        document: &Map,
        stamp: &Stamp,
        kind: SectionKind,
    ) -> Result<Section, Violations> {
        let mark = Mark {
            at: stamp.at,
            by: &stamp.by,
            version: self.version,
        };
        let nothing = (Map::new(), NodeMeta::leaf(&mark));
        self.write(document, stamp, kind, WriteForm::Whole, nothing)
    }

    /// Merges `document` into `onto`, which is this section or nothing: a merge into nothing
    /// leaves `null` out, as a replacement has to.
    fn write(
        &self,
        document: &Map,
        stamp: &Stamp,
        kind: SectionKind,
        form: WriteForm,
        onto: (Map, NodeMeta),
    ) -> Result<Section, Violations> {
        let mut judge = Judge::of(document, kind, form);
        let Some(version) = self.version.next() else {
            judge.write_count();
            return Err(judge.verdict().expect_err("a breach was just noted"));
        };
        if judge.too_deep() {
            // Not worth measuring, and deep enough to exhaust the stack of the merge.
            return Err(judge.verdict().expect_err("the depth was noted"));
        }
        let (mut merged, mut metadata) = onto;
        let mark = Mark {
            at: stamp.at,
            by: &stamp.by,
            version,
        };
        for (key, value) in document {
            if !is_ignored(key, kind, form) {
                merge_member(&mut merged, &mut metadata, key, value, &mark);
            }
        }
        metadata.touch(&mark);
        judge.size(&self.document, &merged);
        judge.verdict()?;
        Ok(Section::from_mirrored(merged, metadata, version))
    }

    /// What a device is told when this section replaces `old`: the whole document, and `null` for
    /// every key, at any depth, that is gone (spec 3.5). Merged into the old document it gives the
    /// new one.
    pub fn replacement_patch(&self, old: &Section) -> Map {
        replacement(&old.document, &self.document)
    }

    /// The document with `$version`, as a device sees it.
    pub fn to_device_json(&self) -> Value {
        let mut json = self.document.clone();
        json.insert("$version".into(), json!(self.version.get()));
        Value::Object(json)
    }

    /// The document with `$metadata` and `$version`, as the service side sees it.
    pub fn to_json_with_metadata(&self, kind: SectionKind) -> Value {
        let mut json = self.document.clone();
        let metadata = self.metadata.to_public_json(kind);
        json.insert("$metadata".into(), Value::Object(metadata));
        json.insert("$version".into(), json!(self.version.get()));
        Value::Object(json)
    }

    /// The metadata in a compact form for storing.
    pub fn metadata_to_json(&self) -> Value {
        self.metadata.to_json()
    }

    /// Reads what [`Section::metadata_to_json`] wrote.
    pub fn metadata_from_json(json: &Value) -> Result<NodeMeta, MetadataError> {
        NodeMeta::from_json(json)
    }
}

#[cfg(test)]
mod tests;
