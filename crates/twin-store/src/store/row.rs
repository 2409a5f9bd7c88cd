//! A record, a revision and a change as they lie in a row, the same in every store.
//!
//! The documents of a record have columns of their own, the rest is one JSON object under short
//! stable names. A CRC-32 covers the key and every column, so that no flipped byte goes unnoticed
//! and a row cannot pass for another one. The names are frozen: rows outlive the program that wrote
//! them. A new field is optional when read. Nothing here parses a document of a twin.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use posture::Posture;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use twin::{ConfigurationStatus, DeviceId, Etag, IdentityKey, ModuleId, Revision, Version};

use crate::record::{
    Authentication, Damaged, Identity, IdentityEtag, Record, SectionText, Status, TwinText,
};
use crate::secrets::Sealed;

pub(crate) mod change;
pub(crate) mod history;
mod provisioned;
mod raw;
pub(crate) mod sums;

use provisioned::RowProvisioned;

pub use raw::RawRecord;

/// What is in no column of its own.
#[derive(Serialize, Deserialize)]
struct RowBody<'a> {
    generation: String,
    identity_etag: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    status_reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status_updated_at: Option<String>,
    #[serde(default, skip_serializing_if = "RowAuthentication::is_none")]
    authentication: RowAuthentication,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    iot_edge: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    managed_by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    model_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provisioned: Option<RowProvisioned>,
    created_at: String,
    identity_updated_at: String,
    #[serde(borrow)]
    tags: RowSection<'a>,
    #[serde(borrow)]
    desired: RowSection<'a>,
    #[serde(borrow)]
    reported: RowSection<'a>,
    version: u64,
    etag: u64,
    updated_at: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    configurations: BTreeMap<String, String>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    device_tags: Option<&'a RawValue>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RowAuthentication {
    Sas {
        primary: String,
        secondary: String,
    },
    SelfSigned {
        primary: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secondary: Option<String>,
    },
    CertificateAuthority,
    #[default]
    None,
}

#[derive(Serialize, Deserialize)]
struct RowSection<'a> {
    #[serde(borrow)]
    metadata: Cow<'a, str>,
    version: u64,
}

/// A record as it lies in a row, without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(crate) revision: u64,
    pub(crate) status: Cow<'a, str>,
    pub(crate) tags: Cow<'a, str>,
    pub(crate) desired: Cow<'a, str>,
    pub(crate) reported: Cow<'a, str>,
    pub(crate) posture: Cow<'a, str>,
    pub(crate) body: Cow<'a, str>,
    pub(crate) opaque: bool,
    pub(crate) checksum: u32,
}

/// The module's id as the rows have it: empty for a device.
pub(crate) fn module_text(key: &IdentityKey) -> &str {
    key.module.as_ref().map_or("", ModuleId::as_str)
}

/// Reads the key of a row.
pub(crate) fn parse_key(device: &str, module: &str) -> Result<IdentityKey, Damaged> {
    let parse = || {
        Ok(IdentityKey {
            device: DeviceId::parse(device)?,
            module: match module {
                "" => None,
                module => Some(ModuleId::parse(module)?),
            },
        })
    };
    parse().map_err(|problem: twin::IdError| Damaged {
        key: format!("{device}/{module}"),
        part: "key",
        problem: problem.to_string(),
    })
}

/// Prints a record.
pub(crate) fn encode(record: &Record) -> Result<Row<'_>, serde_json::Error> {
    let identity = &record.identity;
    let twin = &record.twin;
    let device_tags = record.device_tags.as_deref();
    let body = RowBody {
        generation: identity.generation_id.clone(),
        identity_etag: identity.etag.number(),
        status_reason: identity.status_reason.clone(),
        status_updated_at: identity.status_updated_at.map(|at| at.to_string()),
        authentication: RowAuthentication::of(&identity.authentication),
        iot_edge: identity.iot_edge,
        managed_by: identity.managed_by.clone(),
        model_id: identity.model_id.clone(),
        provisioned: identity.provisioned.as_ref().map(RowProvisioned::of),
        created_at: identity.created_at.to_string(),
        identity_updated_at: identity.updated_at.to_string(),
        tags: section(&twin.tags),
        desired: section(&twin.desired),
        reported: section(&twin.reported),
        version: twin.version.get(),
        etag: twin.etag.counter(),
        updated_at: record.updated_at.to_string(),
        configurations: record
            .configurations
            .iter()
            .map(|(id, status)| (id.clone(), status.as_str().to_owned()))
            .collect(),
        device_tags: device_tags.map(serde_json::from_str).transpose()?,
    };
    let posture = serde_json::to_string(&record.posture)?;
    let body = serde_json::to_string(&body)?;
    let documents = [
        &twin.tags.document,
        &twin.desired.document,
        &twin.reported.document,
        &posture,
        &body,
    ];
    let opaque = documents.into_iter().any(|text| is_opaque(text));
    let mut row = Row {
        revision: record.revision.get(),
        status: identity.status.as_str().into(),
        tags: twin.tags.document.as_str().into(),
        desired: twin.desired.document.as_str().into(),
        reported: twin.reported.document.as_str().into(),
        posture: posture.into(),
        body: body.into(),
        opaque,
        checksum: 0,
    };
    row.checksum = row.sum(&record.key);
    Ok(row)
}

/// Whether a document holds what the JSON functions of a store do not read as we do: PostgreSQL's
/// JSONB has no zero character, and SQLite misses the last bit of numbers whose exponents go beyond
/// some eighty. What only looks so costs a search in memory, and nothing else.
pub(crate) fn is_opaque(document: &str) -> bool {
    document.contains("\\u0000")
        || document
            .match_indices('e')
            .any(|(at, _)| has_large_exponent(&document.as_bytes()[..at], &document[at + 1..]))
}

/// Whether a number with an exponent of sixty or more stands around an `e`.
fn has_large_exponent(before: &[u8], behind: &str) -> bool {
    let behind = behind.strip_prefix(['+', '-']).unwrap_or(behind).as_bytes();
    let digits = behind
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let is_large = digits > 2 || (digits == 2 && behind[0] >= b'6');
    is_large && before.last().is_some_and(u8::is_ascii_digit)
}

/// Reads a record back.
pub(crate) fn decode(key: IdentityKey, row: &Row<'_>) -> Result<Record, Damaged> {
    let damaged = |part: &'static str, problem: String| Damaged {
        key: key.to_string(),
        part,
        problem,
    };
    row.check(&key)?;
    let body: RowBody<'_> =
        serde_json::from_str(&row.body).map_err(|error| damaged("body", error.to_string()))?;
    let instant = |part, text: &str| {
        text.parse::<Timestamp>()
            .map_err(|error| damaged(part, error.to_string()))
    };
    let version =
        |part, number| Version::new(number).map_err(|error| damaged(part, error.to_string()));
    let read = |part, document: &str, section: RowSection<'_>| {
        Ok::<_, Damaged>(SectionText {
            document: document.to_owned(),
            metadata: section.metadata.into_owned(),
            version: version(part, section.version)?,
        })
    };
    let status_updated_at = body.status_updated_at.as_deref();
    let identity = Identity {
        status: Status::parse(&row.status)
            .ok_or_else(|| damaged("status", format!("{:?} is none", row.status)))?,
        status_updated_at: status_updated_at
            .map(|text| instant("status_updated_at", text))
            .transpose()?,
        created_at: instant("created_at", &body.created_at)?,
        updated_at: instant("identity_updated_at", &body.identity_updated_at)?,
        generation_id: body.generation,
        etag: IdentityEtag::from_number(body.identity_etag),
        status_reason: body.status_reason,
        authentication: body.authentication.into_authentication(),
        iot_edge: body.iot_edge,
        managed_by: body.managed_by,
        model_id: body.model_id,
        provisioned: body.provisioned.map(|row| row.read(&key)).transpose()?,
    };
    let posture: Posture = serde_json::from_str(&row.posture)
        .map_err(|error| damaged("posture", error.to_string()))?;
    let twin = TwinText {
        tags: read("tags", &row.tags, body.tags)?,
        desired: read("properties.desired", &row.desired, body.desired)?,
        reported: read("properties.reported", &row.reported, body.reported)?,
        version: version("version", body.version)?,
        etag: Etag::from_counter(body.etag),
    };
    let updated_at = instant("updated_at", &body.updated_at)?;
    let standing = |(id, text): (String, String)| match ConfigurationStatus::parse(&text) {
        Some(status) => Ok((id, status)),
        None => Err(damaged("configurations", format!("{text:?} is no status"))),
    };
    let configurations = body.configurations.into_iter().map(standing);
    let configurations = configurations.collect::<Result<_, _>>()?;
    Ok(Record {
        key,
        identity,
        twin,
        posture,
        configurations,
        device_tags: body.device_tags.map(|tags| tags.get().to_owned()),
        revision: Revision::new(row.revision),
        updated_at,
    })
}

impl Row<'_> {
    /// Compares the checksum.
    pub(super) fn check(&self, key: &IdentityKey) -> Result<(), Damaged> {
        if self.sum(key) == self.checksum {
            return Ok(());
        }
        Err(Damaged {
            key: key.to_string(),
            part: "row",
            problem: "its checksum does not match".to_owned(),
        })
    }

    /// The checksum that the row should have.
    fn sum(&self, key: &IdentityKey) -> u32 {
        let mut sum = Sum::new(key);
        sum.number(self.revision);
        for text in [
            &self.status,
            &self.tags,
            &self.desired,
            &self.reported,
            &self.posture,
            &self.body,
        ] {
            sum.text(text);
        }
        sum.number(u64::from(self.opaque));
        sum.finish()
    }
}

impl RowAuthentication {
    fn of(authentication: &Authentication) -> RowAuthentication {
        match authentication {
            Authentication::Sas { primary, secondary } => RowAuthentication::Sas {
                primary: primary.0.clone(),
                secondary: secondary.0.clone(),
            },
            Authentication::SelfSigned { primary, secondary } => RowAuthentication::SelfSigned {
                primary: primary.clone(),
                secondary: secondary.clone(),
            },
            Authentication::CertificateAuthority => RowAuthentication::CertificateAuthority,
            Authentication::None => RowAuthentication::None,
        }
    }

    fn into_authentication(self) -> Authentication {
        match self {
            RowAuthentication::Sas { primary, secondary } => Authentication::Sas {
                primary: Sealed(primary),
                secondary: Sealed(secondary),
            },
            RowAuthentication::SelfSigned { primary, secondary } => {
                Authentication::SelfSigned { primary, secondary }
            }
            RowAuthentication::CertificateAuthority => Authentication::CertificateAuthority,
            RowAuthentication::None => Authentication::None,
        }
    }

    fn is_none(&self) -> bool {
        matches!(self, RowAuthentication::None)
    }
}

fn section(text: &SectionText) -> RowSection<'_> {
    RowSection {
        metadata: text.metadata.as_str().into(),
        version: text.version.get(),
    }
}

/// A CRC-32 over parts with their lengths, so that no byte can move from one part to the next.
pub(crate) struct Sum(crc32fast::Hasher);

impl Sum {
    /// Begins with nothing.
    pub(crate) fn empty() -> Sum {
        Sum(crc32fast::Hasher::new())
    }

    /// Begins with the key.
    pub(crate) fn new(key: &IdentityKey) -> Sum {
        let mut sum = Sum::empty();
        sum.text(key.device.as_str());
        sum.text(module_text(key));
        sum
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> u32 {
        self.0.finalize()
    }
}
