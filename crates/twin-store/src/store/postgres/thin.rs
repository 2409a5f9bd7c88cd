//! Puts routine revisions of the shared store together when they are no longer young.
//!
//! Every replica does so. Who puts revisions together holds their rows; who comes second finds fewer
//! rows than he looked at, and leaves them alone.

use std::collections::BTreeMap;

use deadpool_postgres::Transaction;

use super::trails::{COLUMNS, revision, write};
use super::trim::{LookedAt, look};
use super::{Parameter, engine, execute, query_in};
use crate::history::merge_all;
use crate::store::row::parse_key;
use crate::store::thin::{AT_ONCE, Light, Spans};
use crate::store::{Error, Retention};

/// Puts a bounded amount together. Answers how many revisions are part of another one now, and up to
/// where it has looked if there is more to look at.
pub(super) async fn thin(
    transaction: &Transaction<'_>,
    retention: &Retention,
    from: &LookedAt,
) -> Result<(u64, Option<LookedAt>), Error> {
    let Some(spans) = Spans::of(retention) else {
        return Ok((0, None));
    };
    let looked = look(transaction, from, spans.end, retention.batch).await?;
    let mut reached: BTreeMap<(&str, &str), (i64, i64)> = BTreeMap::new();
    for one in &looked {
        let bounds = reached
            .entry((&one.device, &one.module))
            .or_insert((one.revision, one.revision));
        *bounds = (bounds.0.min(one.revision), bounds.1.max(one.revision));
    }
    let (mut joined, mut read) = (0, 0);
    for ((device, module), (lowest, highest)) in reached {
        if read >= AT_ONCE {
            // Not further than this: the next call looks at the rest of them again.
            return Ok((joined, Some(from.clone())));
        }
        let revisions = light(transaction, (device, module), (lowest, highest)).await?;
        for (first, last, count) in spans.runs(&revisions) {
            if join(transaction, (device, module), (first, last), count).await? {
                read += count;
                joined += u64::try_from(count - 1).unwrap_or(u64::MAX);
            }
        }
    }
    Ok((joined, looked.into_iter().next_back()))
}

/// Revisions of an identity, and the one before them, with which the first may be put together.
async fn light(
    transaction: &Transaction<'_>,
    (device, module): (&str, &str),
    (lowest, highest): (i64, i64),
) -> Result<Vec<Light>, Error> {
    let action = "look at revisions";
    let rows = query_in(
        transaction,
        action,
        "SELECT revision, first_at, at, routine FROM history
         WHERE device_id = $1 AND module_id = $2 AND revision <= $4 AND revision >= coalesce(
             (SELECT max(revision) FROM history
              WHERE device_id = $1 AND module_id = $2 AND revision < $3), $3)
         ORDER BY revision",
        &[&device, &module, &lowest, &highest],
    )
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Light {
                revision: row.try_get(0)?,
                first_at: row.try_get(1)?,
                at: row.try_get(2)?,
                routine: row.try_get(3)?,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(engine::<tokio_postgres::Error>(action))
}

/// Makes one of so many revisions in a row; not if one of them cannot be read, which stays as it is, or
/// is not there any more.
async fn join(
    transaction: &Transaction<'_>,
    (device, module): (&str, &str),
    (first, last): (i64, i64),
    count: usize,
) -> Result<bool, Error> {
    let Ok(key) = parse_key(device, module) else {
        return Ok(false);
    };
    let range: [Parameter<'_>; 4] = [&device, &module, &first, &last];
    let rows = query_in(
        transaction,
        "read revisions",
        &format!(
            "SELECT {COLUMNS} FROM history h WHERE h.device_id = $1 AND h.module_id = $2
                 AND h.revision BETWEEN $3 AND $4 ORDER BY h.revision FOR UPDATE"
        ),
        &range,
    )
    .await?;
    let read = rows.iter().map(|row| revision(key.clone(), row, 0));
    let Ok(entries) = read.collect::<Result<Vec<_>, _>>() else {
        return Ok(false);
    };
    let whole = entries.len() == count;
    let Some(merged) = merge_all(&entries).ok().flatten().filter(|_| whole) else {
        return Ok(false);
    };
    execute(
        transaction,
        "put revisions together",
        "DELETE FROM history WHERE device_id = $1 AND module_id = $2
             AND revision BETWEEN $3 AND $4",
        &range,
    )
    .await?;
    write(transaction, &[merged]).await?;
    Ok(true)
}
