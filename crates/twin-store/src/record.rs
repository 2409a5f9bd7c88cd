//! What is kept of one identity: who it is, its twin, its posture.
//!
//! The sections of a twin stay JSON text here, as they came from the store, and are parsed only
//! when something writes to them: folding a batch of events touches the posture alone, and parsing
//! documents is three quarters of the cost of a change (limits: 11 µs for a 2 KB twin).

use jiff::Timestamp;
use posture::Posture;
use twin::limits::QUERY_STEPS_MAX;
use twin::{ConfigurationStates, Etag, IdentityKey, Revision, Section, SectionKind, Twin, Version};

use crate::secrets::Sealed;

mod etag;

pub use etag::IdentityEtag;

/// Everything about one identity.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Whose it is.
    pub key: IdentityKey,
    /// The registry's part.
    pub identity: Identity,
    /// The document.
    pub twin: TwinText,
    /// What we concluded.
    pub posture: Posture,
    /// The configurations of IoT Hub that target it, as the policy service says.
    pub configurations: ConfigurationStates,
    /// On a module the tags of its device, for whoever searches or decides by them; none on a device, and on a
    /// module from before they were handed down. The device's own record is what counts.
    pub device_tags: Option<String>,
    /// Position of the last change in the partition's log.
    pub revision: Revision,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The registry's part of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// New each time the id is created again.
    pub generation_id: String,
    /// Changes with every change of the identity.
    pub etag: IdentityEtag,
    /// Whether the device may connect. Always enabled on a module: whether that may connect is its
    /// device's to say (spec iot-hub-twins §1.1).
    pub status: Status,
    /// Why, at most 128 characters.
    pub status_reason: String,
    /// When the status was last changed; none: never.
    pub status_updated_at: Option<Timestamp>,
    /// How it proves itself.
    pub authentication: Authentication,
    /// Whether the device was registered as an IoT Edge device; false on a module.
    pub iot_edge: bool,
    /// Who manages the module, in its own words; empty on a device.
    pub managed_by: String,
    /// DTDL model id that it announced; may be empty.
    pub model_id: String,
    /// How the device registered itself by an enrolment; none if it did not.
    pub provisioned: Option<Provisioned>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// How a device registered itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// Under which id.
    pub registration_id: String,
    /// The enrolment that let it.
    pub enrollment: EnrolledBy,
    /// The group that had it before, if it has an enrolment of its own by now: should that go, the
    /// device is the group's again.
    pub group: Option<EnrolledBy>,
    /// Names the last registration.
    pub operation_id: String,
    /// Whether the last registration had its twin begin anew.
    pub was_reset: bool,
    /// How often it registered.
    pub count: u64,
    /// When it first did.
    pub first_at: Timestamp,
    /// When it last did.
    pub last_at: Timestamp,
}

/// An enrolment, as the devices know it that it let register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledBy {
    /// Its resource name.
    pub name: String,
    /// Its generation: one that is made anew under the name of another has none of its devices. None
    /// in what was written before generations were kept.
    pub generation: Option<String>,
}

impl EnrolledBy {
    /// Whether it is the one with this name and generation.
    pub fn is(&self, name: &str, generation: &str) -> bool {
        let is_that = |known: &String| known == generation;
        self.name == name && self.generation.as_ref().is_none_or(is_that)
    }
}

/// How an identity proves itself (spec iot-hub-twins §1.1, §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// With a token signed by one of two keys.
    Sas {
        /// Sealed.
        primary: Sealed,
        /// Sealed.
        secondary: Sealed,
    },
    /// With a certificate of one of two thumbprints (upper-case hex, SHA-1 or SHA-256).
    SelfSigned {
        /// Always there.
        primary: String,
        /// May be absent.
        secondary: Option<String>,
    },
    /// With a certificate of a known authority.
    CertificateAuthority,
    /// Not at all.
    None,
}

impl Authentication {
    /// The name that twins and queries show (spec iot-hub-twins §1.1).
    pub const fn as_str(&self) -> &'static str {
        match self {
            Authentication::Sas { .. } => "sas",
            Authentication::SelfSigned { .. } => "selfSigned",
            Authentication::CertificateAuthority => "certificateAuthority",
            Authentication::None => "none",
        }
    }
}

/// Whether an identity may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It may.
    Enabled,
    /// It may not.
    Disabled,
}

impl Status {
    /// The status as twins and queries show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Enabled => "enabled",
            Status::Disabled => "disabled",
        }
    }

    /// Reads what [`Status::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Status> {
        match text {
            "enabled" => Some(Status::Enabled),
            "disabled" => Some(Status::Disabled),
            _ => None,
        }
    }
}

/// A twin as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinText {
    /// What operators know about it.
    pub tags: SectionText,
    /// What it should be.
    pub desired: SectionText,
    /// What it says it is.
    pub reported: SectionText,
    /// Rises with every write.
    pub version: Version,
    /// Rises with every write of the service side.
    pub etag: Etag,
}

/// A section as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionText {
    /// JSON object.
    pub document: String,
    /// JSON, the compact form of `twin`.
    pub metadata: String,
    /// How often it was written, from 1.
    pub version: Version,
}

/// Something stored that cannot be read, or not be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {key} {}: {problem}", self.subject(), self.state())]
pub struct Damaged {
    /// Whose twin; of another row, which.
    pub key: String,
    /// Which part of it.
    pub part: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// What [`Damaged::part`] is where nothing is damaged.
const CONDITION: &str = "condition";

impl Damaged {
    /// A twin of which a condition cannot be decided, because judging it takes too many steps. It is
    /// treated as one that cannot be read: it may have been meant, and whoever asked has to hear so.
    pub fn undecided(key: &str) -> Damaged {
        Damaged {
            key: key.to_owned(),
            part: CONDITION,
            problem: format!(
                "judging it takes more than {QUERY_STEPS_MAX} steps; look at fewer elements, for \
                 example with one EXISTS instead of one within another"
            ),
        }
    }

    /// Whether nothing is damaged, but a condition too costly.
    pub fn is_undecided(&self) -> bool {
        self.part == CONDITION
    }

    fn subject(&self) -> &'static str {
        if self.is_undecided() {
            "the condition cannot be decided for"
        } else {
            "what is stored of"
        }
    }

    fn state(&self) -> String {
        if self.is_undecided() {
            return "in time".to_owned();
        }
        format!("is damaged: {}", self.part)
    }
}

impl TwinText {
    /// Prints a twin.
    pub fn print(twin: &Twin) -> TwinText {
        TwinText {
            tags: SectionText::print(&twin.tags),
            desired: SectionText::print(&twin.desired),
            reported: SectionText::print(&twin.reported),
            version: twin.version,
            etag: twin.etag,
        }
    }

    /// Reads the twin.
    ///
    /// # Errors
    /// Names the section that cannot be read; nothing but a damaged store causes it.
    pub fn parse(&self, key: &IdentityKey) -> Result<Twin, Damaged> {
        let section = |part: &'static str, text: &SectionText| {
            text.parse().map_err(|problem| Damaged {
                key: key.to_string(),
                part,
                problem,
            })
        };
        Ok(Twin {
            tags: section("tags", &self.tags)?,
            desired: section("properties.desired", &self.desired)?,
            reported: section("properties.reported", &self.reported)?,
            version: self.version,
            etag: self.etag,
        })
    }
}

impl SectionText {
    fn print(section: &Section) -> SectionText {
        SectionText {
            document: serde_json::Value::Object(section.document().clone()).to_string(),
            metadata: section.metadata_to_json().to_string(),
            version: section.version(),
        }
    }

    /// The metadata as callers know it: `$lastUpdated`, `$lastUpdatedVersion` (not of reported),
    /// `$lastUpdatedBy`.
    ///
    /// # Errors
    /// What cannot be read; nothing but a damaged store causes it.
    pub fn public_metadata(&self, kind: SectionKind) -> Result<String, String> {
        // The document is not parsed for it.
        twin::metadata::public_text(&self.metadata, kind).map_err(|error| error.to_string())
    }

    fn parse(&self) -> Result<Section, String> {
        let document = serde_json::from_str(&self.document).map_err(|error| error.to_string())?;
        let metadata: serde_json::Value =
            serde_json::from_str(&self.metadata).map_err(|error| error.to_string())?;
        let metadata = Section::metadata_from_json(&metadata).map_err(|error| error.to_string())?;
        Section::from_parts(document, metadata, self.version).map_err(|error| error.to_string())
    }
}
