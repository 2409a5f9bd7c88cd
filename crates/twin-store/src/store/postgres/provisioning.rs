//! The id scope and enrolments in the shared store.

use deadpool_postgres::{Client, Transaction};
use service_kit::error::chain;
use tokio_postgres::Row;

use super::operations::{Reading, lossy};
use super::{engine, execute, query};
use crate::record::Damaged;
use crate::store::row::sums;
use crate::store::{
    Error, Page, ProvisioningKey, ProvisioningKind, ProvisioningRow, ProvisioningWrite,
};

/// Writes what a commit says of them.
pub(super) async fn write(
    transaction: &Transaction<'_>,
    writes: &[ProvisioningWrite],
) -> Result<(), Error> {
    for one in writes {
        let (kind, id) = (one.key().kind.as_str(), &one.key().id);
        match one {
            ProvisioningWrite::Put(ProvisioningRow { body, .. }) => {
                let sum = i64::from(sums::provisioning(kind, id, body));
                execute(
                    transaction,
                    "write an enrolment",
                    "INSERT INTO provisioning (kind, id, body, checksum) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (kind, id) DO UPDATE SET
                         body = excluded.body, checksum = excluded.checksum",
                    &[&kind, id, body, &sum],
                )
                .await?
            }
            ProvisioningWrite::Remove(_) => {
                execute(
                    transaction,
                    "remove an enrolment",
                    "DELETE FROM provisioning WHERE kind = $1 AND id = $2",
                    &[&kind, id],
                )
                .await?
            }
        };
    }
    Ok(())
}

/// Reads one row.
pub(super) async fn find(
    client: &Client,
    key: &ProvisioningKey,
) -> Result<Option<ProvisioningRow>, Error> {
    let rows = query(
        client,
        "read an enrolment",
        "SELECT id, body, checksum FROM provisioning WHERE kind = $1 AND id = $2",
        &[&key.kind.as_str(), &key.id],
    )
    .await?;
    let row = rows.first().map(|row| decode(key.kind, row));
    Ok(row.transpose()?)
}

/// Reads rows of one kind in the order of their ids, behind one.
pub(super) async fn list(
    client: &Client,
    after: &ProvisioningKey,
    limit: u32,
) -> Result<Page<ProvisioningRow, ProvisioningKey>, Error> {
    let mut reading = Reading::new(limit);
    loop {
        let rows = query(
            client,
            "list enrolments",
            "SELECT id, body, checksum FROM provisioning WHERE kind = $1 AND id > $2
             ORDER BY id LIMIT $3 OFFSET $4",
            &[
                &after.kind.as_str(),
                &after.id,
                &reading.rows(),
                &reading.offset,
            ],
        )
        .await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return reading.cut_off(error),
        };
        let read = |row: &Row| decode(after.kind, row);
        if let Some(page) = reading.take(&rows, read, |row| row.key.clone()) {
            return Ok(page);
        }
    }
}

/// How many of single devices there are.
pub(super) async fn individuals(client: &Client) -> Result<u64, Error> {
    let action = "count enrolments";
    let sql = "SELECT count(*) FROM provisioning WHERE kind = $1";
    let rows = query(
        client,
        action,
        sql,
        &[&ProvisioningKind::Individual.as_str()],
    )
    .await?;
    let count = rows.first().map(|row| row.try_get::<_, i64>(0));
    let count = count.transpose().map_err(engine(action))?;
    Ok(u64::try_from(count.unwrap_or_default()).unwrap_or_default())
}

fn decode(kind: ProvisioningKind, row: &Row) -> Result<ProvisioningRow, Damaged> {
    let key = ProvisioningKey {
        kind,
        id: lossy(row, 0),
    };
    let damaged = |problem: String| Damaged {
        key: key.to_string(),
        part: "row",
        problem,
    };
    let read = || -> Result<(String, i64), tokio_postgres::Error> {
        Ok((row.try_get(1)?, row.try_get(2)?))
    };
    let (body, stored) = read().map_err(|error| damaged(chain(&error)))?;
    let sum = sums::provisioning(kind.as_str(), &key.id, &body);
    sums::check(Some(stored), sum).map_err(|problem| damaged(problem.to_owned()))?;
    Ok(ProvisioningRow { key, body })
}
