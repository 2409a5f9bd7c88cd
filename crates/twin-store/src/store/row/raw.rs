//! A row as it is, for whoever looks at a few values of very many.

use twin::IdentityKey;

use super::{Row, decode, encode};
use crate::record::{Damaged, Record};

/// A record that is not parsed: a row whose checksum was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    key: IdentityKey,
    row: Row<'static>,
}

impl RawRecord {
    /// Prints a record.
    pub(crate) fn of(record: &Record) -> Result<RawRecord, Damaged> {
        let row = encode(record).map_err(|error| Damaged {
            key: record.key.to_string(),
            part: "row",
            problem: error.to_string(),
        })?;
        RawRecord::new(record.key.clone(), &row)
    }

    /// Takes a row over.
    pub(crate) fn new(key: IdentityKey, row: &Row<'_>) -> Result<RawRecord, Damaged> {
        row.check(&key)?;
        let row = Row {
            revision: row.revision,
            status: row.status.clone().into_owned().into(),
            tags: row.tags.clone().into_owned().into(),
            desired: row.desired.clone().into_owned().into(),
            reported: row.reported.clone().into_owned().into(),
            posture: row.posture.clone().into_owned().into(),
            body: row.body.clone().into_owned().into(),
            opaque: row.opaque,
            checksum: row.checksum,
        };
        Ok(RawRecord { key, row })
    }

    /// Whose it is.
    pub fn key(&self) -> &IdentityKey {
        &self.key
    }

    /// The registry's status.
    pub fn status(&self) -> &str {
        &self.row.status
    }

    /// JSON of `tags`.
    pub fn tags(&self) -> &str {
        &self.row.tags
    }

    /// JSON of `properties.desired`.
    pub fn desired(&self) -> &str {
        &self.row.desired
    }

    /// JSON of `properties.reported`.
    pub fn reported(&self) -> &str {
        &self.row.reported
    }

    /// JSON of the posture.
    pub fn posture(&self) -> &str {
        &self.row.posture
    }

    /// Parses it.
    ///
    /// # Errors
    /// A part of it cannot be read.
    pub fn parse(self) -> Result<Record, Damaged> {
        decode(self.key, &self.row)
    }
}
