//! When, at which version and by whom each node of a section was last written.
//!
//! The tree mirrors the section: one node for the root, for each object and for each leaf. An
//! array is a leaf. A change of a leaf refreshes the leaf and every ancestor; its siblings keep
//! what they had (spec 1.2).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::version::Version;
use crate::writer::Writer;

/// Time and author of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// When it is made.
    pub at: Timestamp,
    /// Who makes it.
    pub by: Writer,
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

/// Why a stored metadata tree cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata of a section is damaged at {path}: {problem}")]
pub struct MetadataError {
    /// Which node.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}
