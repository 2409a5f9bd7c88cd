//! Decides of rows that stand by themselves: tokens, answers, operations, enrolments.

use super::fields::{Fields, device_or_any, hash, json, key};
use crate::store::ProvisioningKind;
use crate::store::maintain::Table;
use crate::store::row::sums;

/// Whether a row of one of these tables is sound.
pub(super) fn check(table: Table, row: &Fields<'_>) -> Result<(), String> {
    let (stored, sum) = match table {
        Table::Requests => {
            hash(row.bytes(1), "fingerprint")?;
            let sum = sums::request(row.text(0), row.bytes(1), row.bytes(2), row.integer(3));
            (row.optional_integer(4), sum)
        }
        Table::Tokens => {
            hash(row.bytes(0), "hash")?;
            device_or_any(row.text(1))?;
            let sum = sums::token(row.bytes(0), row.text(1), row.integer(2), row.integer(3));
            (row.optional_integer(4), sum)
        }
        Table::Enrollments => {
            hash(row.bytes(0), "hash")?;
            key(row.text(1), "")?;
            let sum = sums::enrollment(row.bytes(0), row.text(1), row.text(2));
            (row.optional_integer(3), sum)
        }
        Table::Operations => {
            json(row.text(3), "body")?;
            let sum = sums::operation(row.text(0), row.truth(1), row.integer(2), row.text(3));
            (row.optional_integer(4), sum)
        }
        Table::Results => {
            key(row.text(1), row.text(2))?;
            json(row.text(3), "body")?;
            let sum = sums::result(row.text(0), row.text(1), row.text(2), row.text(3));
            (row.optional_integer(4), sum)
        }
        Table::Provisioning => {
            let (kind, id, body) = (row.text(0), row.text(1), row.text(2));
            if ProvisioningKind::parse(kind).is_none() {
                return Err(format!("the kind {kind:?} is none"));
            }
            json(body, "body")?;
            (Some(row.integer(3)), sums::provisioning(kind, id, body))
        }
        Table::Partitions
        | Table::Twins
        | Table::Index
        | Table::Log
        | Table::History
        | Table::Audit => return Ok(()),
    };
    Ok(sums::check(stored, sum)?)
}
