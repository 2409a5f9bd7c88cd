//! The id scope and enrolments in the embedded store.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::engine;
use super::operations::page;
use super::write::execute;
use crate::record::Damaged;
use crate::store::row::sums;
use crate::store::{
    Error, Page, ProvisioningKey, ProvisioningKind, ProvisioningRow, ProvisioningWrite,
};

/// Writes what a commit says of them.
pub(super) fn write(
    transaction: &Transaction<'_>,
    writes: &[ProvisioningWrite],
) -> Result<(), Error> {
    for one in writes {
        let (kind, id) = (one.key().kind.as_str(), &one.key().id);
        match one {
            ProvisioningWrite::Put(ProvisioningRow { body, .. }) => execute(
                transaction,
                "write an enrolment",
                "INSERT INTO provisioning (kind, id, body, checksum) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (kind, id) DO UPDATE SET
                     body = excluded.body, checksum = excluded.checksum",
                params![kind, id, body, sums::provisioning(kind, id, body)],
            )?,
            ProvisioningWrite::Remove(_) => execute(
                transaction,
                "remove an enrolment",
                "DELETE FROM provisioning WHERE kind = ?1 AND id = ?2",
                params![kind, id],
            )?,
        };
    }
    Ok(())
}

/// Reads one row.
pub(super) fn find(
    connection: &Connection,
    key: &ProvisioningKey,
) -> Result<Option<ProvisioningRow>, Error> {
    let action = "read an enrolment";
    let row = connection
        .prepare_cached("SELECT id, body, checksum FROM provisioning WHERE kind = ?1 AND id = ?2")
        .map_err(engine(action))?
        .query_row(params![key.kind.as_str(), key.id], |row| {
            Ok(decode(key.kind, row))
        })
        .optional()
        .map_err(engine(action))?;
    Ok(row.transpose()?)
}

/// Reads rows of one kind in the order of their ids, behind one.
pub(super) fn list(
    connection: &Connection,
    after: &ProvisioningKey,
    limit: u32,
) -> Result<Page<ProvisioningRow, ProvisioningKey>, Error> {
    let action = "list enrolments";
    let mut statement = connection
        .prepare_cached(
            "SELECT id, body, checksum FROM provisioning WHERE kind = ?1 AND id > ?2 ORDER BY id",
        )
        .map_err(engine(action))?;
    let rows = statement
        .query(params![after.kind.as_str(), after.id])
        .map_err(engine(action))?;
    let read = |row: &rusqlite::Row<'_>| decode(after.kind, row);
    page(rows, limit, action, read, |row| row.key.clone())
}

/// How many of single devices there are.
pub(super) fn individuals(connection: &Connection) -> Result<u64, Error> {
    let kind = ProvisioningKind::Individual.as_str();
    connection
        .prepare_cached("SELECT count(*) FROM provisioning WHERE kind = ?1")
        .and_then(|mut statement| statement.query_row([kind], |row| row.get::<_, i64>(0)))
        .map(|count| u64::try_from(count).unwrap_or_default())
        .map_err(engine("count enrolments"))
}

fn decode(kind: ProvisioningKind, row: &rusqlite::Row<'_>) -> Result<ProvisioningRow, Damaged> {
    let key = ProvisioningKey {
        kind,
        id: super::operations::lossy(row, 0),
    };
    let damaged = |problem: String| Damaged {
        key: key.to_string(),
        part: "row",
        problem,
    };
    let read = || -> rusqlite::Result<(String, i64)> { Ok((row.get(1)?, row.get(2)?)) };
    let (body, stored) = read().map_err(|error| damaged(error.to_string()))?;
    let sum = sums::provisioning(kind.as_str(), &key.id, &body);
    sums::check(Some(stored), sum).map_err(|problem| damaged(problem.to_owned()))?;
    Ok(ProvisioningRow { key, body })
}
