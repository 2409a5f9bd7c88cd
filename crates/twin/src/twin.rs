//! The document of one identity: tags, desired and reported, with the counters around them.
//!
//! Posture is not here: it is a fold of events with a version of its own (crate `posture`).
//!
//! Counters (spec 1.3): a section's version rises with each write of that section; the twin's
//! version rises with each write of anything; the etag only with writes of the service side, so
//! that a chatty device never disturbs an operator who writes under a condition.

use jiff::Timestamp;

use crate::Map;
use crate::metadata::Stamp;
use crate::section::Section;
use crate::settings::{PolicyOutcome, PolicyWrite};
use crate::validate::Violations;
use crate::version::{Etag, Version};

/// The document of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// What operators know about it. Its version is internal.
    pub tags: Section,
    /// What it should be.
    pub desired: Section,
    /// What it says it is.
    pub reported: Section,
    /// Rises with every write.
    pub version: Version,
    /// Rises with every write of the service side.
    pub etag: Etag,
}

/// A write of the service side. A section that is absent is untouched.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TwinPatch {
    /// For `tags`.
    pub tags: Option<Map>,
    /// For `properties.desired`.
    pub desired: Option<Map>,
}

/// A write that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinWrite {
    /// The twin after it.
    pub twin: Twin,
    /// What the device is told of its desired section, without `$version`; none if that section
    /// was not written.
    pub notification: Option<Map>,
}

/// Why a write was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TwinError {
    /// The write breaks rules of the document.
    #[error(transparent)]
    Rules(#[from] Violations),
    /// Somebody else wrote in between.
    #[error("the twin changed in between: its etag is {actual}, the write expects {expected}")]
    EtagMismatch {
        /// What the write expects.
        expected: Etag,
        /// What the twin has.
        actual: Etag,
    },
    /// Somebody else wrote the section in between.
    #[error("{section} changed in between: its version is {actual}, the write expects {expected}")]
    VersionMismatch {
        /// Which section: `properties.desired` or `properties.reported`.
        section: &'static str,
        /// What the write expects.
        expected: Version,
        /// What the section has.
        actual: Version,
    },
}

impl Twin {
    /// A twin just created: sections at version 1, etag counter 1, version 2 (spec 1.3).
    pub fn new(at: Timestamp) -> Twin {
        unimplemented!("{at}")
    }

    /// Merges into tags and desired. A patch that touches neither changes nothing.
    pub fn patch(
        &self,
        patch: &TwinPatch,
        stamp: &Stamp,
        expected: Option<Etag>,
    ) -> Result<TwinWrite, TwinError> {
        let _ = (patch, stamp, expected);
        unimplemented!()
    }

    /// Puts other tags and another desired section in place.
    pub fn replace(
        &self,
        sections: &TwinPatch,
        stamp: &Stamp,
        expected: Option<Etag>,
    ) -> Result<TwinWrite, TwinError> {
        let _ = (sections, stamp, expected);
        unimplemented!()
    }

    /// Merges what the device or module itself reports, at `at`.
    pub fn patch_reported(
        &self,
        patch: &Map,
        at: Timestamp,
        expected: Option<Version>,
    ) -> Result<Twin, TwinError> {
        let _ = (patch, at, expected);
        unimplemented!()
    }

    /// Lets the policies' settings take effect; none in the first place if nothing has to change.
    pub fn apply_policies(
        &self,
        writes: &[PolicyWrite],
        at: Timestamp,
        expected: Option<Version>,
    ) -> Result<(Option<TwinWrite>, PolicyOutcome), TwinError> {
        let _ = (writes, at, expected);
        unimplemented!()
    }
}
