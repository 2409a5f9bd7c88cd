//! What goes on, and how many twins an update would come to. Reads only.

use std::sync::Arc;

use tracing::error;
use twin::query::{Scope, Vocabulary};
use twin::{Condition, IdentityKey};

use super::{Operation, Outcome, TwinResult, Update};
use crate::lookup;
use crate::record::Damaged;
use crate::search::Turn;
use crate::store::{self, Estimates, Loaded, OperationId, Search, Selection, Store};

/// Twins looked at at once while they are counted.
const COUNT_CHUNK: u32 = 1000;

/// Operations that have not ended, in the order of their begin. One that cannot be read is reported and left
/// alone.
pub(crate) async fn running(store: &Arc<dyn Store>) -> Result<Vec<Operation>, store::Error> {
    let mut running = read(store, Selection::Running).await?;
    running.sort_by(|one, other| (one.due_at(), &one.id).cmp(&(other.due_at(), &other.id)));
    Ok(running)
}

/// One operation as it is now, if it is there and can be read.
pub(crate) async fn present(
    store: &Arc<dyn Store>,
    id: &OperationId,
) -> Result<Option<Operation>, store::Error> {
    let found = read(store, Selection::Operation(id.clone())).await?;
    Ok(found.into_iter().next())
}

async fn read(
    store: &Arc<dyn Store>,
    selection: Selection,
) -> Result<Vec<Operation>, store::Error> {
    let mut operations = Vec::new();
    for loaded in store.load(vec![selection]).await? {
        let Loaded::Operation(row) = loaded else {
            continue;
        };
        match Operation::from_row(&row) {
            Ok(operation) => operations.push(operation),
            Err(damaged) => error!(error = %damaged, "an operation is left alone"),
        }
    }
    Ok(operations)
}

/// How many twins an update would write now.
pub(crate) async fn count(
    store: &Arc<dyn Store>,
    update: &Update,
    condition: &Condition,
    now: jiff::Timestamp,
) -> Result<u64, store::Error> {
    let (mut total, mut after) = (0, None);
    let mut turn = Turn::begin();
    loop {
        let search = Search {
            source: update.source,
            condition: condition.scope().clone(),
            now,
            after,
            limit: COUNT_CHUNK,
            estimates: Estimates::default(),
        };
        let page = store.search(search).await?;
        for record in &page.records {
            turn.share().await;
            total += u64::from(condition.matches_at(&lookup::of_record(record), now));
        }
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

/// What became of the twins of an operation. A result that cannot be read counts as failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    pub(crate) pending: u64,
}

impl Tally {
    fn count(&mut self, result: &Result<Outcome, Damaged>) {
        let counter = match result {
            Ok(Outcome::Succeeded) => &mut self.succeeded,
            Ok(Outcome::Skipped) => &mut self.skipped,
            Ok(Outcome::Pending) => &mut self.pending,
            Ok(Outcome::Failed) | Err(_) => &mut self.failed,
        };
        *counter += 1;
    }
}

/// Counts the results of one operation again and again. Final ones stay final, so what lies before
/// the first pending one is counted once.
#[derive(Debug, Default)]
pub(crate) struct Count {
    through: Option<IdentityKey>,
    settled: Tally,
    before: Option<Tally>,
}

impl Count {
    /// Counts what there is now; answers none if that is what there was the last time, and some are
    /// pending still.
    pub(crate) async fn again(
        &mut self,
        store: &Arc<dyn Store>,
        id: &OperationId,
    ) -> Result<Option<Tally>, store::Error> {
        let tally = self.all(store, id).await?;
        let before = self.before.replace(tally);
        let tells = before != Some(tally) || tally.pending == 0;
        Ok(tells.then_some(tally))
    }

    async fn all(
        &mut self,
        store: &Arc<dyn Store>,
        id: &OperationId,
    ) -> Result<Tally, store::Error> {
        let mut tally = self.settled;
        let mut after = self.through.clone();
        loop {
            let page = store
                .operation_results(id.clone(), after, COUNT_CHUNK)
                .await?;
            for row in &page.records {
                tally.count(&TwinResult::from_row(row).map(|result| result.outcome));
            }
            for damaged in page.damaged {
                tally.count(&Err(damaged));
            }
            if tally.pending == 0 && page.next.is_some() {
                self.settled = tally;
                self.through.clone_from(&page.next);
            }
            after = page.next;
            if after.is_none() {
                return Ok(tally);
            }
        }
    }
}
