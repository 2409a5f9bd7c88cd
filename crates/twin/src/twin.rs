//! The document of one identity: tags, desired and reported, with the counters around them.
//!
//! Posture is not here: it is a fold of events with a version of its own (crate `posture`).
//!
//! Counters (spec 1.3): a section's version rises with each write of that section; the twin's
//! version rises with each write of anything; the etag only with writes of the service side, so
//! that a chatty device never disturbs an operator who writes under a condition.

use jiff::Timestamp;

use crate::Map;
use crate::code::ErrorCode;
use crate::metadata::Stamp;
use crate::section::{Section, SectionKind};
use crate::settings::{LostLeaf, PolicyChange, PolicyWrite, apply_policy_settings};
use crate::validate::{Violations, WriteForm, is_ignored};
use crate::version::{Etag, Version};
use crate::writer::Writer;

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
    /// was not written. It is prepared for doors that send patches, as MQTT does: our own agent gets
    /// the whole section, so twin-store asks only whether there is one.
    pub notification: Option<Map>,
}

/// What [`Twin::apply_policies`] decided.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyApplied {
    /// The write to commit; none if everything holds already.
    pub write: Option<TwinWrite>,
    /// Leaves that policies did not get, in order of precedence and path.
    pub lost: Vec<LostLeaf>,
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
    /// The twin was written 2^63 − 1 times.
    #[error("the twin cannot be written any more: its version is the largest possible")]
    VersionsExhausted,
}

impl TwinError {
    /// The code and name under which IoT Hub reports it.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            TwinError::Rules(violations) => violations.error_code(),
            TwinError::EtagMismatch { .. } | TwinError::VersionMismatch { .. } => {
                ErrorCode::PRECONDITION_FAILED
            }
            // It has no room, as a section that was written as often.
            TwinError::VersionsExhausted => ErrorCode::TWIN_SECTION_TOO_LARGE,
        }
    }
}

impl Twin {
    /// A twin just created: sections at version 1, etag counter 1, version 2 (spec 1.3).
    pub fn new(at: Timestamp) -> Twin {
        let empty = Section::new(&Stamp {
            at,
            by: Writer::System,
        });
        Twin {
            tags: empty.clone(),
            desired: empty.clone(),
            reported: empty,
            version: Version::FIRST.next().expect("2 follows 1"),
            etag: Etag::FIRST,
        }
    }

    /// Merges into tags and desired. A section without any key of its own counts as absent; none
    /// if that leaves nothing to write (spec 3.1).
    pub fn patch(
        &self,
        patch: &TwinPatch,
        stamp: &Stamp,
        expected: Option<Etag>,
    ) -> Result<Option<TwinWrite>, TwinError> {
        self.expect_etag(expected)?;
        let tags = patch
            .tags
            .as_ref()
            .filter(|p| has_own_keys(p, SectionKind::Tags));
        let desired = patch
            .desired
            .as_ref()
            .filter(|p| has_own_keys(p, SectionKind::Desired));
        if tags.is_none() && desired.is_none() {
            return Ok(None);
        }
        let (new_tags, new_desired) = both(
            match tags {
                Some(patch) => self.tags.merge(patch, stamp, SectionKind::Tags),
                None => Ok(self.tags.clone()),
            },
            match desired {
                Some(patch) => self.desired.merge(patch, stamp, SectionKind::Desired),
                None => Ok(self.desired.clone()),
            },
        )?;
        Ok(Some(TwinWrite {
            twin: self.written_by_service(new_tags, new_desired)?,
            // The patch as sent, not a difference: clients count on it (spec 3.5).
            notification: desired.map(|patch| own_keys(patch, SectionKind::Desired)),
        }))
    }

    /// Puts other tags and another desired section in place. An empty section empties; none if
    /// both are absent.
    pub fn replace(
        &self,
        sections: &TwinPatch,
        stamp: &Stamp,
        expected: Option<Etag>,
    ) -> Result<Option<TwinWrite>, TwinError> {
        self.expect_etag(expected)?;
        if sections.tags.is_none() && sections.desired.is_none() {
            return Ok(None);
        }
        let (tags, desired) = both(
            match &sections.tags {
                Some(tags) => self.tags.replace(tags, stamp, SectionKind::Tags),
                None => Ok(self.tags.clone()),
            },
            match &sections.desired {
                Some(desired) => self.desired.replace(desired, stamp, SectionKind::Desired),
                None => Ok(self.desired.clone()),
            },
        )?;
        let is_told = sections.desired.is_some();
        let notification = is_told.then(|| desired.replacement_patch(&self.desired));
        Ok(Some(TwinWrite {
            twin: self.written_by_service(tags, desired)?,
            notification,
        }))
    }

    /// Merges what the device or module itself reports. An empty patch counts as a write (spec 3.3).
    pub fn patch_reported(
        &self,
        patch: &Map,
        at: Timestamp,
        expected: Option<Version>,
    ) -> Result<Twin, TwinError> {
        expect_version(SectionKind::Reported, &self.reported, expected)?;
        let stamp = Stamp {
            at,
            by: Writer::Device,
        };
        let reported = self.reported.merge(patch, &stamp, SectionKind::Reported)?;
        let version = self.version.next().ok_or(TwinError::VersionsExhausted)?;
        Ok(Twin {
            tags: self.tags.clone(),
            desired: self.desired.clone(),
            reported,
            version,
            etag: self.etag,
        })
    }

    /// Refuses if the desired section has another version than a decision was made on.
    pub fn expect_desired(&self, expected: Option<Version>) -> Result<(), TwinError> {
        expect_version(SectionKind::Desired, &self.desired, expected)
    }

    /// Lets the policies' settings, in order of precedence, take effect on the desired section.
    pub fn apply_policies(
        &self,
        writes: &[PolicyWrite],
        at: Timestamp,
        expected: Option<Version>,
    ) -> Result<PolicyApplied, TwinError> {
        self.expect_desired(expected)?;
        let outcome = apply_policy_settings(&self.desired, writes, at)?;
        let write = match outcome.change {
            PolicyChange::Unchanged => None,
            PolicyChange::Changed { section, patch } => {
                let twin = self.written_by_service(self.tags.clone(), *section)?;
                Some(TwinWrite {
                    twin,
                    notification: Some(patch),
                })
            }
        };
        Ok(PolicyApplied {
            write,
            lost: outcome.lost,
        })
    }

    /// The same desired settings under a new version, with these properties (`name` or
    /// `component.name`) told to the device again; none: the whole section by its number. Who wrote
    /// what stays so.
    pub fn repeat_desired(
        &self,
        properties: &[String],
        at: Timestamp,
    ) -> Result<TwinWrite, TwinError> {
        let repeated = self.desired.repeat(properties, at);
        let (desired, patch) = repeated.ok_or(TwinError::VersionsExhausted)?;
        Ok(TwinWrite {
            twin: self.written_by_service(self.tags.clone(), desired)?,
            notification: Some(patch),
        })
    }

    /// The twin after a write of the service side. The counters rise once, however many sections
    /// it touched.
    fn written_by_service(&self, tags: Section, desired: Section) -> Result<Twin, TwinError> {
        let version = self.version.next().ok_or(TwinError::VersionsExhausted)?;
        Ok(Twin {
            tags,
            desired,
            reported: self.reported.clone(),
            version,
            etag: self.etag.next(),
        })
    }

    fn expect_etag(&self, expected: Option<Etag>) -> Result<(), TwinError> {
        match expected {
            Some(expected) if expected != self.etag => Err(TwinError::EtagMismatch {
                expected,
                actual: self.etag,
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Both sections, or every breach of both.
fn both(
    tags: Result<Section, Violations>,
    desired: Result<Section, Violations>,
) -> Result<(Section, Section), Violations> {
    match (tags, desired) {
        (Ok(tags), Ok(desired)) => Ok((tags, desired)),
        (Err(tags), Err(desired)) => Err(tags.and(desired)),
        (Err(violations), Ok(_)) | (Ok(_), Err(violations)) => Err(violations),
    }
}

fn expect_version(
    kind: SectionKind,
    section: &Section,
    expected: Option<Version>,
) -> Result<(), TwinError> {
    let actual = section.version();
    match expected {
        Some(expected) if expected != actual => Err(TwinError::VersionMismatch {
            section: kind.path(),
            expected,
            actual,
        }),
        Some(_) | None => Ok(()),
    }
}

fn has_own_keys(patch: &Map, kind: SectionKind) -> bool {
    patch
        .keys()
        .any(|key| !is_ignored(key, kind, WriteForm::Patch))
}

fn own_keys(patch: &Map, kind: SectionKind) -> Map {
    let own = patch
        .iter()
        .filter(|(key, _)| !is_ignored(key, kind, WriteForm::Patch));
    own.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
