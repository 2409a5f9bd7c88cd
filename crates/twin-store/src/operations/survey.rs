//! What goes on, and how many twins an update would come to. Reads only.

use std::sync::Arc;

use tracing::error;
use twin::Condition;
use twin::query::{Scope, Vocabulary};

use super::{Operation, Outcome, TwinResult, Update};
use crate::lookup;
use crate::store::{self, OperationId, Search, Store};

/// Twins looked at at once while they are counted.
const COUNT_CHUNK: u32 = 1000;
/// Rows of operations read at once.
const ROWS: u32 = 200;

/// Operations that go on, the newest first. One that cannot be read is reported and left alone.
pub(crate) async fn running(store: &Arc<dyn Store>) -> Result<Vec<Operation>, store::Error> {
    let mut running = Vec::new();
    let mut after = None;
    loop {
        let rows = store.operations(after, ROWS).await?;
        let is_last = rows.len() < usize::try_from(ROWS).unwrap_or(usize::MAX);
        after = rows.last().map(|row| row.id.clone());
        for row in rows.iter().filter(|row| !row.ended) {
            match Operation::from_row(row) {
                Ok(operation) => running.push(operation),
                Err(damaged) => error!(error = %damaged, "an operation is left alone"),
            }
        }
        if is_last {
            return Ok(running);
        }
    }
}

/// How many twins an update would write now.
pub(crate) async fn count(
    store: &Arc<dyn Store>,
    update: &Update,
    condition: &Condition,
    now: jiff::Timestamp,
) -> Result<u64, store::Error> {
    let mut total = 0;
    let mut after = None;
    loop {
        let search = Search {
            source: update.source,
            condition: condition.scope().clone(),
            now,
            after,
            limit: COUNT_CHUNK,
        };
        let page = store.search(search).await?;
        let matching = page
            .records
            .iter()
            .filter(|record| condition.matches_at(&lookup::of_record(record), now));
        total += u64::try_from(matching.count()).unwrap_or(u64::MAX);
        after = page.next;
        if after.is_none() {
            return Ok(total);
        }
        tokio::task::yield_now().await;
    }
}

/// The condition of an update.
pub(crate) fn condition(update: &Update) -> Result<Condition, String> {
    let condition = Condition::parse_in(&update.condition, Vocabulary::Query)
        .map_err(|error| error.to_string())?;
    match condition.scope() {
        Scope::Nothing => Err("an empty condition matches no twin".to_owned()),
        Scope::Everything | Scope::Where(_) => Ok(condition),
    }
}

/// What became of the twins of an operation.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    pub(crate) pending: u64,
}

/// Counts the results of an operation. One that cannot be read counts as failed.
pub(crate) async fn tally(store: &Arc<dyn Store>, id: &OperationId) -> Result<Tally, store::Error> {
    let mut tally = Tally::default();
    let mut after = None;
    loop {
        let rows = store
            .operation_results(id.clone(), after, COUNT_CHUNK)
            .await?;
        for row in &rows {
            let counter = match TwinResult::from_row(row).map(|result| result.outcome) {
                Ok(Outcome::Succeeded) => &mut tally.succeeded,
                Ok(Outcome::Skipped) => &mut tally.skipped,
                Ok(Outcome::Pending) => &mut tally.pending,
                Ok(Outcome::Failed) | Err(_) => &mut tally.failed,
            };
            *counter += 1;
        }
        after = rows.last().map(|row| row.key.clone());
        if after.is_none() {
            return Ok(tally);
        }
    }
}
