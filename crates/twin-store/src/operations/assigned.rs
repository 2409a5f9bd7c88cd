//! What other replicas' walks have handed over to us: twins of partitions that we own.
//!
//! Results tell: a pending one of a twin whose partition is ours is ours to carry out. The twin and
//! its final result are one commit, fenced by the partition, so that it is done once whoever owns
//! the partition meanwhile. What is pending when its operation is stopped is settled without a write.

use std::collections::{BTreeMap, BTreeSet};

use service_kit::error::chain;
use tracing::{error, warn};
use twin::IdentityKey;

use super::decide::{self, Step};
use super::runner::{LOOK, Runner};
use super::survey::{present, running};
use super::{Operation, Outcome, State, TwinResult, Work};
use crate::engine::Tenure;
use crate::error::Error;
use crate::store::OperationId;

/// Results read at once.
const ROWS: u32 = 200;

/// How far the results of operations were looked at. It is only a short cut: what is before a place
/// was final, or another's, under the same tenure.
#[derive(Debug, Default)]
struct Assigned {
    tenure: Tenure,
    looked: bool,
    places: BTreeMap<OperationId, Option<IdentityKey>>,
}

impl Runner {
    /// Carries out what was handed over to us, for ever.
    pub(super) async fn serve(&self) {
        let mut assigned = Assigned::default();
        loop {
            self.look(&mut assigned).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Carries out what was handed over to us since the last look.
    async fn look(&self, assigned: &mut Assigned) {
        let tenure = self.engine.tenure();
        if tenure != assigned.tenure {
            // What was another's may be ours now, and what we took for another's, because nothing
            // was ours for a moment, was ours.
            *assigned = Assigned {
                tenure,
                ..Assigned::default()
            };
        }
        let owned = self.engine.logs().len();
        if owned == usize::from(self.engine.count().get()) && assigned.looked {
            // With all partitions ours nobody hands anything over; what one that is gone has left
            // was found at the first look.
            return;
        }
        let operations = match running(&self.store).await {
            Ok(operations) => operations,
            Err(error) => {
                warn!(error = chain(&error), "operations cannot be read");
                return;
            }
        };
        let known: BTreeSet<_> = operations.iter().map(|one| one.id.clone()).collect();
        assigned.places.retain(|id, _| known.contains(id));
        let mut complete = true;
        // Calls are whoever's who walks.
        let ours = |one: &&Operation| one.handed_over > 0 && one.call().is_none();
        for operation in operations.iter().filter(ours) {
            if let Err(error) = self.serve_one(&operation.id, assigned).await {
                warn!(
                    error = chain(&error),
                    operation = operation.id.0,
                    "an operation waits"
                );
                complete = false;
            }
        }
        assigned.looked = complete;
    }

    async fn serve_one(&self, id: &OperationId, assigned: &mut Assigned) -> Result<(), Error> {
        let tenure = assigned.tenure;
        let place = assigned.places.entry(id.clone()).or_default();
        loop {
            let results = self
                .store
                .operation_results(id.clone(), place.clone(), ROWS);
            let page = results.await?;
            let last = page.records.last().map(|row| row.key.clone());
            let Some(last) = page.next.or(last) else {
                return Ok(());
            };
            let mut ours = Vec::new();
            for row in &page.records {
                match TwinResult::from_row(row) {
                    Ok(result) if result.outcome == Outcome::Pending && self.owns(&result.key) => {
                        ours.push(result);
                    }
                    Ok(_) => {}
                    // It counts as failed.
                    Err(damaged) => error!(error = %damaged, "a result is left alone"),
                }
            }
            if !ours.is_empty() {
                // As it is now: it may have been stopped since the last of them.
                let operation = present(&self.store, id).await?;
                let Some(operation) = operation.filter(|one| one.state == State::Running) else {
                    return Ok(());
                };
                self.carry_out(operation, ours, tenure).await?;
            }
            *place = Some(last);
        }
    }

    /// Settles results that were pending and ours when they were read.
    async fn carry_out(
        &self,
        operation: Operation,
        ours: Vec<TwinResult>,
        tenure: Tenure,
    ) -> Result<(), Error> {
        let keys = |ours: Vec<TwinResult>| ours.into_iter().map(|one| one.key).collect();
        let step = match &operation.work {
            _ if operation.ending.is_some() => Step::Leave(keys(ours)),
            Work::Update(_) => Step::Update(keys(ours)),
            Work::Undo { .. } => Step::TakeBack(
                ours.into_iter()
                    .filter_map(|one| Some((one.key, one.undo?)))
                    .collect(),
            ),
        };
        let engine = self.engine.clone();
        self.engine
            .decide(step.selections(), move |overlay, now| {
                // Somebody else may have settled them if a partition was not ours for a moment.
                if engine.tenure() == tenure {
                    decide::assigned(overlay, &operation, &step, now);
                }
                Ok(())
            })
            .await
    }
}
