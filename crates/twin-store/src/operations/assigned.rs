//! What other replicas' walks have handed over to us: twins of partitions that we own.
//!
//! Results tell: a pending one of a twin whose partition is ours is ours to carry out. The twin and
//! its final result are one commit, fenced by the partition, so that it is done once whoever owns
//! the partition meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use service_kit::error::chain;
use tracing::warn;
use twin::{IdentityKey, Partition};

use super::decide::{self, Step};
use super::runner::{LOOK, Runner, Stop, read_failed, stop};
use super::survey::{self, running};
use super::{Operation, Outcome, State, TwinResult, Work};
use crate::error::Error;
use crate::store::OperationId;

/// Results read at once.
const ROWS: u32 = 200;

/// How far the results of operations were looked at. It is only a short cut: what is before a place
/// was final, or another's.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    owned: BTreeSet<Partition>,
    looked: bool,
    places: BTreeMap<OperationId, Option<IdentityKey>>,
}

impl Runner {
    /// Carries out what was handed over to us since the last look.
    pub(super) async fn serve(&self, assigned: &mut Assigned) {
        let owned: BTreeSet<Partition> = self.engine.logs().into_keys().collect();
        if owned != assigned.owned {
            // What was another's may be ours now.
            *assigned = Assigned {
                owned,
                ..Assigned::default()
            };
        }
        if assigned.owned.len() == usize::from(self.engine.count().get()) && assigned.looked {
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
        for operation in operations.iter().filter(|one| one.handed_over > 0) {
            if let Err(error) = self.serve_one(operation, assigned).await {
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

    async fn serve_one(&self, operation: &Operation, assigned: &mut Assigned) -> Result<(), Error> {
        let place = assigned.places.entry(operation.id.clone()).or_default();
        loop {
            let rows = self
                .store
                .operation_results(operation.id.clone(), place.clone(), ROWS)
                .await?;
            let Some(last) = rows.last().map(|row| row.key.clone()) else {
                return Ok(());
            };
            let mut ours = Vec::new();
            for row in &rows {
                let result = TwinResult::from_row(row)?;
                if result.outcome == Outcome::Pending && self.owns(&result.key) {
                    ours.push(result);
                }
            }
            let step = match &operation.work {
                Work::Update(_) => Step::Update(ours.into_iter().map(|one| one.key).collect()),
                Work::Undo { .. } => Step::TakeBack(
                    ours.into_iter()
                        .filter_map(|one| Some((one.key, one.undo?)))
                        .collect(),
                ),
            };
            if !step.is_empty() {
                let done = operation.clone();
                self.engine
                    .decide(step.selections(), move |overlay, now| {
                        decide::assigned(overlay, &done, &step, now);
                        Ok(())
                    })
                    .await?;
            }
            *place = Some(last);
        }
    }

    /// Counts what became of the twins that were handed over, and ends the operation once none of
    /// them is left.
    pub(super) async fn wait_for_others(&self, id: &OperationId) -> Result<Operation, Stop> {
        let tally = self
            .until_read(|| async {
                let tally = survey::tally(&self.store, id).await;
                tally.map_err(|error| read_failed(&error))
            })
            .await?;
        let now = self.clock.now();
        let operation = self
            .amend(id, move |operation| {
                operation.succeeded = tally.succeeded;
                operation.failed = tally.failed;
                operation.skipped = tally.skipped;
                operation.updated_at = now;
                if tally.pending == 0 {
                    operation.end(State::Succeeded, now);
                }
            })
            .await
            .map_err(|error| stop(&error))?;
        if operation.state == State::Running {
            let waited = self.shutdown.run_until(tokio::time::sleep(LOOK)).await;
            waited.ok_or(Stop::Later)?;
        }
        Ok(operation)
    }
}
