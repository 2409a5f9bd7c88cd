//! What an operation comes to next: reads a page of twins, or of results to be taken back, and makes
//! a step of it. It writes nothing; what is read may change until the step is decided.

use tracing::error;
use twin::IdentityKey;

use super::decide::{Chunk, Next, Step};
use super::runner::{Runner, Stop, read_failed};
use super::survey::{condition, count, present};
use super::{Operation, Outcome, TwinResult, Update, Work};
use crate::lookup;
use crate::store::{Estimates, OperationId, Search};

/// Twins of one step: few enough that others' writes come in between.
const CHUNK: u32 = 64;

impl Runner {
    /// How many twins an operation will come to.
    pub(super) async fn count(&self, operation: &Operation) -> Result<u64, Stop> {
        match &operation.work {
            Work::Update(update) => {
                let condition = condition(update).map_err(Stop::Never)?;
                count(&self.store, update, &condition, operation.due_at())
                    .await
                    .map_err(|error| read_failed(&error))
            }
            Work::Undo { of } => {
                let undone = present(&self.store, of).await;
                let undone = undone.map_err(|error| read_failed(&error))?;
                let undone = undone.ok_or_else(|| Stop::Never(gone(of)))?;
                Ok(undone.succeeded)
            }
        }
    }

    /// The next twins of an operation.
    pub(super) async fn next(&self, operation: &Operation) -> Result<Chunk, Stop> {
        let limit = match operation.rate {
            0 => CHUNK,
            rate => CHUNK.min(rate),
        };
        match &operation.work {
            Work::Update(update) => self.next_to_write(operation, update, limit).await,
            Work::Undo { of } => self.next_to_take_back(operation, of, limit).await,
        }
    }

    async fn next_to_write(
        &self,
        operation: &Operation,
        update: &Update,
        limit: u32,
    ) -> Result<Chunk, Stop> {
        let condition = condition(update).map_err(Stop::Never)?;
        let search = Search {
            source: update.source,
            condition: condition.scope().clone(),
            now: operation.due_at(),
            after: operation.after.clone(),
            limit,
            estimates: Estimates::default(),
        };
        let page = self
            .store
            .search(search)
            .await
            .map_err(|error| read_failed(&error))?;
        let mut keys = Vec::new();
        for record in &page.records {
            let twin = lookup::of_record(record);
            let matches = condition.matches_at(&twin, operation.due_at());
            // A damaged twin may match; that it cannot be written is said of it in the results.
            if matches || twin.damage().is_some() {
                keys.push(record.key.clone());
            }
        }
        let damaged = page.damaged.iter();
        keys.extend(damaged.filter_map(|damaged| IdentityKey::parse_path(&damaged.key).ok()));
        keys.sort();
        let last = page.records.last().map(|record| record.key.clone());
        // Whom to call is only noted.
        let writes = |key: &IdentityKey| update.call.is_none() && self.owns(key);
        let (ours, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(writes);
        let now = self.clock.now();
        let hand_over = |key| TwinResult::pending(key, None, now);
        Ok(Chunk {
            from: operation.after.clone(),
            step: Step::Update(ours),
            noted: others.into_iter().map(hand_over).collect(),
            lost: 0,
            next: if page.next.is_none() {
                Next::Last
            } else {
                Next::More
            },
            after: page.next.or(last),
        })
    }

    async fn next_to_take_back(
        &self,
        operation: &Operation,
        of: &OperationId,
        limit: u32,
    ) -> Result<Chunk, Stop> {
        let after = operation.after.clone();
        let page = self.store.operation_results(of.clone(), after, limit).await;
        let page = page.map_err(|error| read_failed(&error))?;
        let (mut undos, mut damaged) = (Vec::new(), page.damaged);
        for row in &page.records {
            match TwinResult::from_row(row) {
                Ok(result) => {
                    if let (Outcome::Succeeded, Some(undo)) = (result.outcome, result.undo) {
                        undos.push((result.key, undo));
                    }
                }
                Err(one) => damaged.push(one),
            }
        }
        let (ours, others): (Vec<_>, Vec<_>) =
            undos.into_iter().partition(|(key, _)| self.owns(key));
        let now = self.clock.now();
        let hand_over = |(key, undo)| TwinResult::pending(key, Some(undo), now);
        let mut noted: Vec<_> = others.into_iter().map(hand_over).collect();
        let mut lost = 0;
        for damaged in damaged {
            error!(error = %damaged, "what an operation did to a twin is not taken back");
            match IdentityKey::parse_path(&damaged.key) {
                Ok(key) => noted.push(TwinResult::unreadable(key, &damaged, now)),
                Err(_) => lost += 1,
            }
        }
        let end = page.records.last().map(|row| row.key.clone());
        Ok(Chunk {
            from: operation.after.clone(),
            step: Step::TakeBack(ours),
            noted,
            lost,
            next: if page.next.is_none() {
                Next::Last
            } else {
                Next::More
            },
            after: page.next.or(end),
        })
    }
}

fn gone(of: &OperationId) -> String {
    format!("{} does not exist any more", super::name(of))
}
