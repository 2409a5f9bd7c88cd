//! What policies make of a desired section.
//!
//! The result depends on two things alone: what operators wrote, and the ordered list of what
//! policies want now. It does not depend on what policies wanted before, so a lost, repeated or
//! late evaluation ends in the same document.

use jiff::Timestamp;

use crate::Map;
use crate::section::Section;
use crate::validate::Violations;
use crate::writer::Writer;

/// What one policy wants on one twin.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyWrite {
    /// The policy and its revision; always [`Writer::Policy`].
    pub writer: Writer,
    /// The desired leaves, as an object without `null`.
    pub settings: Map,
}

/// A leaf that a policy wanted and did not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostLeaf {
    /// Keys from the section's root.
    pub path: Vec<String>,
    /// The policy that wanted it.
    pub writer: Writer,
    /// Who holds the place: an operator, or a policy of higher precedence.
    pub winner: Writer,
}

/// What [`apply_policy_settings`] decided.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyOutcome {
    /// What became of the section.
    pub change: PolicyChange,
    /// Leaves that policies did not get, in order of precedence and path.
    pub lost: Vec<LostLeaf>,
}

/// What became of the section.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicyChange {
    /// Everything holds already; nothing must be written.
    Unchanged,
    /// The section must be written.
    Changed {
        /// The new section, one version on.
        section: Section,
        /// What the device is told: changed leaves, and `null` for what was taken out.
        patch: Map,
    },
}

/// Whether a document can be a policy's settings: the rules of a desired patch, and no `null`.
pub fn validate_settings(settings: &Map) -> Result<(), Violations> {
    let _ = settings;
    unimplemented!()
}

/// Computes the desired section that `writes`, in order of precedence (the first wins), lead to.
pub fn apply_policy_settings(
    desired: &Section,
    writes: &[PolicyWrite],
    at: Timestamp,
) -> Result<PolicyOutcome, Violations> {
    let _ = (desired, writes, at);
    unimplemented!()
}
