//! One section of a twin: its document, who wrote what in it, and how often it was written.
//!
//! A section is a value: a write makes a new one or is refused, and never leaves half a change.
//! There is no detection of writes that change nothing: each accepted write raises the version by
//! one, because clients count on it (spec 3.2).

use jiff::Timestamp;
use serde_json::Value;

use crate::Map;
use crate::limits::{DESIRED_BYTES_MAX, REPORTED_BYTES_MAX, TAGS_BYTES_MAX};
use crate::metadata::{MetadataError, NodeMeta, Stamp};
use crate::validate::Violations;
use crate::version::Version;
use crate::writer::Writer;

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
    pub fn new(stamp: Stamp) -> Section {
        unimplemented!("{stamp:?}")
    }

    /// Puts a stored section together again, and refuses metadata that does not mirror the document.
    pub fn from_parts(
        document: Map,
        metadata: NodeMeta,
        version: Version,
    ) -> Result<Section, MetadataError> {
        let _ = (document, metadata, version);
        unimplemented!()
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
        let _ = (patch, stamp, kind);
        unimplemented!()
    }

    /// Puts another document in the place of this one. Keys whose value is `null` are left out.
    pub fn replace(
        &self,
        document: &Map,
        stamp: &Stamp,
        kind: SectionKind,
    ) -> Result<Section, Violations> {
        let _ = (document, stamp, kind);
        unimplemented!()
    }

    /// What a device is told when this section replaces `old`: the whole document, and `null` for
    /// every key, at any depth, that is gone (spec 3.5). Merged into the old document it gives the
    /// new one.
    pub fn replacement_patch(&self, old: &Section) -> Map {
        let _ = old;
        unimplemented!()
    }

    /// The document with `$version`, as a device sees it.
    pub fn to_device_json(&self) -> Value {
        unimplemented!()
    }

    /// The document with `$metadata` and `$version`, as the service side sees it.
    pub fn to_json_with_metadata(&self) -> Value {
        unimplemented!()
    }

    /// The metadata in a compact form for storing; [`NodeMeta::from_json`] reads it.
    pub fn metadata_to_json(&self) -> Value {
        unimplemented!()
    }

    /// Reads what [`Section::metadata_to_json`] wrote.
    pub fn metadata_from_json(json: &Value) -> Result<NodeMeta, MetadataError> {
        let _ = json;
        unimplemented!()
    }
}
