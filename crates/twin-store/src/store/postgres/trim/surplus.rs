//! Removes from the histories of the shared store what is too much of those that have grown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_postgres::Transaction;
use service_kit::error::chain;

use super::look::look;
use super::{fact, remember};
use crate::store::place::{COUNTED, Walk};
use crate::store::postgres::apart::{Care, each, part};
use crate::store::postgres::execute;
use crate::store::quarantine::Note;
use crate::store::thin::Spans;
use crate::store::{Error, Retention};

/// Removes what is too much of the histories that have grown; answers how many, and whether there is more to
/// look at. One that damage keeps from being counted is noted and passed over.
pub(super) async fn surplus_revisions(
    transaction: &Transaction<'_>,
    retention: &Retention,
    care: Care,
    notes: &mut Vec<Note>,
) -> Result<(u64, bool), Error> {
    let end = Spans::settled(retention);
    let mut counted = Walk::from(fact(transaction, COUNTED).await?, end);
    let from = &counted.place;
    let looked = look(transaction, from, end, retention.batch, care, notes).await?;
    // Each identity once, with its first revision that was found.
    let mut keys = BTreeMap::new();
    for one in &looked.found {
        let key = (&*one.device, &*one.module);
        keys.entry(key).or_insert(one.revision);
    }
    let keys: Vec<((&str, &str), i64)> = keys.into_iter().collect();
    let left = AtomicU32::new(retention.batch);
    let forgotten = each(transaction, care, &keys, |range| {
        forget(transaction, retention, part(&keys, range), &left)
    });
    for (number, error) in forgotten.await?.failed {
        if let Some(((device, module), revision)) = keys.get(number) {
            let why = format!("its history cannot be counted: {}", chain(&error));
            notes.push(Note::of_revisions(device, module, *revision, why));
        }
    }
    let left = left.into_inner();
    // Otherwise not further than this: the next call looks at the same ones again.
    if left > 0 {
        counted.reach(looked.found.into_iter().next_back().or(looked.beyond));
        remember(transaction, COUNTED, &counted).await?;
    }
    Ok((u64::from(retention.batch - left), counted.more))
}

/// Removes no more than is left to be removed in all.
async fn forget(
    transaction: &Transaction<'_>,
    retention: &Retention,
    keys: &[((&str, &str), i64)],
    left: &AtomicU32,
) -> Result<(), Error> {
    let most = left.load(Ordering::Relaxed);
    let (devices, modules): (Vec<&str>, Vec<&str>) = keys.iter().map(|(key, _)| *key).unzip();
    let removed = execute(
        transaction,
        "forget surplus revisions",
        "DELETE FROM history WHERE (device_id, module_id, revision) IN
             (SELECT k.device_id, k.module_id, surplus.revision
              FROM UNNEST($1::text[], $2::text[]) AS k (device_id, module_id)
              CROSS JOIN LATERAL
                  (SELECT l.revision FROM history l
                   WHERE l.device_id = k.device_id AND l.module_id = k.module_id
                       AND NOT (l.routine AND l.at >= $5)
                   ORDER BY l.revision DESC OFFSET $3 LIMIT 1) AS last
              CROSS JOIN LATERAL
                  (SELECT h.revision FROM history h
                   WHERE h.device_id = k.device_id AND h.module_id = k.module_id
                       AND h.revision <= last.revision
                   ORDER BY h.revision LIMIT $4) AS surplus
              ORDER BY k.device_id, k.module_id, surplus.revision LIMIT $4)",
        &[
            &devices,
            &modules,
            &i64::from(retention.history_count),
            &i64::from(most),
            &Spans::young(retention),
        ],
    )
    .await?;
    let removed = u32::try_from(removed).unwrap_or(u32::MAX);
    left.store(most.saturating_sub(removed), Ordering::Relaxed);
    Ok(())
}
