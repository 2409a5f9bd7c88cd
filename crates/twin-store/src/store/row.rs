//! A record as bytes: JSON under short stable names, with a CRC-32 beside it that covers the key
//! and the revision too, so that a row cannot pass for another one.
//!
//! The names are frozen: rows outlive the program that wrote them. A new field is optional when
//! read. Sections are strings inside, so that reading a row does not parse them.

use jiff::Timestamp;
use posture::Posture;
use serde::{Deserialize, Serialize};
use twin::{Etag, IdentityKey, Revision, Version};

use crate::record::{Damaged, Identity, Record, SectionText, Status, TwinText};
use crate::secrets::Sealed;

#[derive(Serialize, Deserialize)]
struct RowBody<'a> {
    generation: String,
    identity_etag: u64,
    status: String,
    status_reason: String,
    primary_key: String,
    secondary_key: String,
    created_at: String,
    identity_updated_at: String,
    tags: RowSection<'a>,
    desired: RowSection<'a>,
    reported: RowSection<'a>,
    version: u64,
    etag: u64,
    #[serde(borrow)]
    posture: std::borrow::Cow<'a, serde_json::value::RawValue>,
    updated_at: String,
}

#[derive(Serialize, Deserialize)]
struct RowSection<'a> {
    #[serde(borrow)]
    document: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    metadata: std::borrow::Cow<'a, str>,
    version: u64,
}

/// A record as it lies in a row.
pub(super) struct Row {
    pub(super) revision: u64,
    pub(super) body: Vec<u8>,
    pub(super) checksum: u32,
}

/// Prints a record.
pub(super) fn encode(record: &Record) -> Result<Row, serde_json::Error> {
    let identity = &record.identity;
    let body = RowBody {
        generation: identity.generation_id.clone(),
        identity_etag: identity.etag,
        status: identity.status.as_str().to_owned(),
        status_reason: identity.status_reason.clone(),
        primary_key: identity.primary_key.0.clone(),
        secondary_key: identity.secondary_key.0.clone(),
        created_at: identity.created_at.to_string(),
        identity_updated_at: identity.updated_at.to_string(),
        tags: section(&record.twin.tags),
        desired: section(&record.twin.desired),
        reported: section(&record.twin.reported),
        version: record.twin.version.get(),
        etag: record.twin.etag.counter(),
        posture: std::borrow::Cow::Owned(serde_json::value::to_raw_value(&record.posture)?),
        updated_at: record.updated_at.to_string(),
    };
    let body = serde_json::to_vec(&body)?;
    let revision = record.revision.get();
    let checksum = checksum(&record.key, revision, &body);
    Ok(Row {
        revision,
        body,
        checksum,
    })
}

/// Reads a record back.
pub(super) fn decode(key: IdentityKey, row: &Row) -> Result<Record, Damaged> {
    let damaged = |part: &'static str, problem: String| Damaged {
        key: key.to_string(),
        part,
        problem,
    };
    if checksum(&key, row.revision, &row.body) != row.checksum {
        return Err(damaged("row", "its checksum does not match".to_owned()));
    }
    let body: RowBody<'_> =
        serde_json::from_slice(&row.body).map_err(|error| damaged("row", error.to_string()))?;
    let instant = |part, text: &str| {
        text.parse::<Timestamp>()
            .map_err(|error| damaged(part, error.to_string()))
    };
    let version =
        |part, number| Version::new(number).map_err(|error| damaged(part, error.to_string()));
    let read = |part, section: RowSection<'_>| {
        Ok::<_, Damaged>(SectionText {
            document: section.document.into_owned(),
            metadata: section.metadata.into_owned(),
            version: version(part, section.version)?,
        })
    };
    let identity = Identity {
        status: Status::parse(&body.status)
            .ok_or_else(|| damaged("status", format!("{:?} is none", body.status)))?,
        created_at: instant("created_at", &body.created_at)?,
        updated_at: instant("identity_updated_at", &body.identity_updated_at)?,
        generation_id: body.generation,
        etag: body.identity_etag,
        status_reason: body.status_reason,
        primary_key: Sealed(body.primary_key),
        secondary_key: Sealed(body.secondary_key),
    };
    let posture: Posture = serde_json::from_str(body.posture.get())
        .map_err(|error| damaged("posture", error.to_string()))?;
    let twin = TwinText {
        tags: read("tags", body.tags)?,
        desired: read("properties.desired", body.desired)?,
        reported: read("properties.reported", body.reported)?,
        version: version("version", body.version)?,
        etag: Etag::from_counter(body.etag),
    };
    let updated_at = instant("updated_at", &body.updated_at)?;
    Ok(Record {
        key,
        identity,
        twin,
        posture,
        revision: Revision::new(row.revision),
        updated_at,
    })
}

/// Ids hold no zero byte, so the parts cannot run into each other.
fn checksum(key: &IdentityKey, revision: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key.device.as_str().as_bytes());
    crc.update(&[0]);
    if let Some(module) = &key.module {
        crc.update(module.as_str().as_bytes());
    }
    crc.update(&[0]);
    crc.update(&revision.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

fn section(text: &SectionText) -> RowSection<'_> {
    RowSection {
        document: text.document.as_str().into(),
        metadata: text.metadata.as_str().into(),
        version: text.version.get(),
    }
}
