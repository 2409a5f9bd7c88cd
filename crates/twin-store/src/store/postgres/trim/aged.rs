//! Removes revisions of the shared store that are too old.

use deadpool_postgres::Transaction;

use super::before;
use crate::store::postgres::{execute, query_in};
use crate::store::{Error, Retention};

/// How often old ones of others are looked for, if nothing can be removed of those that were found.
const TURNS: usize = 8;

/// The oldest revisions, but for those of identities that are passed over.
const OLDEST: &str = "SELECT device_id, module_id FROM history
     WHERE at < $1 AND device_id IS NOT NULL AND module_id IS NOT NULL
         AND NOT EXISTS (SELECT FROM UNNEST($3::text[], $4::text[]) AS passed (device, module)
                         WHERE passed.device = device_id AND passed.module = module_id)
     ORDER BY at LIMIT $2";

/// Removes revisions that are too old; answers how many, and whether there is more. Of each identity only the oldest
/// go, also when a clock was put back: a document is rewound through all revisions behind it.
pub(super) async fn old_revisions(
    transaction: &Transaction<'_>,
    retention: &Retention,
) -> Result<(u64, bool), Error> {
    let action = "forget old revisions";
    let oldest_kept = before(retention, retention.history_age);
    let batch = i64::from(retention.batch);
    let forget = format!(
        "DELETE FROM history WHERE (device_id, module_id, revision) IN
             (SELECT old.device_id, old.module_id, old.revision
              FROM (SELECT device_id, module_id, count(*) AS due FROM ({OLDEST}) AS oldest
                    GROUP BY device_id, module_id) AS k
              CROSS JOIN LATERAL
                  (SELECT h.device_id, h.module_id, h.revision FROM history h
                   WHERE h.device_id = k.device_id AND h.module_id = k.module_id
                       AND h.revision < coalesce(
                           (SELECT min(young.revision) FROM history young
                            WHERE young.device_id = k.device_id
                                AND young.module_id = k.module_id AND young.at >= $1),
                           9223372036854775807)
                   ORDER BY h.revision LIMIT k.due) AS old)"
    );
    let name = format!("SELECT DISTINCT device_id, module_id FROM ({OLDEST}) AS oldest");
    // Of some that are found by their times nothing can go yet, or they are not where they are looked for; they must
    // not stand before all others.
    let (mut devices, mut modules) = (Vec::<String>::new(), Vec::<String>::new());
    for _ in 0..TURNS {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&oldest_kept, &batch, &devices, &modules];
        let removed = execute(transaction, action, &forget, &parameters).await?;
        let left = query_in(transaction, action, &name, &parameters).await?;
        if removed > 0 || left.is_empty() {
            return Ok((removed, !left.is_empty()));
        }
        let readable = left.iter().filter_map(|row| {
            let key = (row.try_get(0).ok()?, row.try_get(1).ok()?);
            Some(key)
        });
        let (more_devices, more_modules): (Vec<String>, Vec<String>) = readable.unzip();
        if more_devices.is_empty() {
            break;
        }
        devices.extend(more_devices);
        modules.extend(more_modules);
    }
    Ok((0, false))
}
