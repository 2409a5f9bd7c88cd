//! Keeps policies, their revisions, and how far each `TWINS_{p}` was read, in `policy.db`.
//!
//! **Keys.** `policies` by id (deleted ones stay, so that no revision is given twice), `revisions`
//! by id and revision (immutable, with author and note), `rollouts` by the same, `configurations` by id, `freezes` by number, `positions` by partition, one row of `state` with the order
//! of creation and the numbers of the sweeps that are wanted and done, `frozen_paths` by twin and path, `action_places` by twin, policy and action, `action_results` by number, `reevaluations` by number, `strays` by id, and `audit_entries` that are
//! not delivered yet, written with their changes.
//!
//! **Update protocol.** One writer thread at a time, each change one transaction, durable when the
//! call returns (WAL, `synchronous=FULL`). A change of a policy raises `sweep_wanted` in the same
//! transaction, so a crash between the change and the evaluation of all twins loses nothing: at the
//! next start the sweep is still wanted. Positions are written late, up to a second after the
//! messages took effect; a crash replays them, and a policy that already holds writes nothing.
//!
//! **After a crash** there is nothing to clean. **What will not scale**: policies are all in
//! memory; the store belongs to one process.
//!
//! It decides nothing about twins and never talks to another service.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bus::Sequence;
use jiff::Timestamp;

use crate::evaluate::{ActivePolicy, Side, Stage};
use crate::keep::FrozenSet;
use crate::policy_doc::{Policy, PolicyId};
use crate::schedule::Gate;
use crate::stray::Given;

mod actions;
mod audit;
mod configurations;
mod content;
mod deletion;
mod error;
mod freezes;
mod frozen;
mod mend;
mod reevaluations;
mod revisions;
mod rollouts;
mod row;
mod sqlite;
mod strays;
mod unreadable;

pub(crate) use actions::{ActionOutcome, ActionQuery, ActionResult};
pub(crate) use audit::{AuditEntry, By};
pub(crate) use configurations::{ConfigurationChange, ConfigurationError, StoredConfiguration};
pub use error::Error;
pub(crate) use freezes::{Changed as FreezeChange, FreezeError, StoredFreeze, forget};
pub(crate) use frozen::FROZEN_MAX;
pub(crate) use reevaluations::{Range, ReevaluationError, State, StoredReevaluation};
pub(crate) use revisions::{Applied, Change, StoredRevision};
pub(crate) use rollouts::StoredRollout;
pub(crate) use rollouts::{Cause, RolloutError};
pub(crate) use unreadable::Unreadable;

/// Name of the file in the data directory.
pub(crate) const FILE_NAME: &str = "policy.db";

/// Policies of a hub: as many as twin-store takes for one twin, so that no combination of targets
/// can ever be too many there. IoT Hub allows as many configurations.
pub(crate) const POLICIES_MAX: usize = 100;

/// A policy as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPolicy {
    /// What it says.
    pub policy: Policy,
    /// Its revision; also its etag, since it is never reused.
    pub revision: u64,
    /// The revision under which its leaves are written: that of the last change of anything but
    /// words (description, labels), so that better wording does not write to the whole fleet.
    pub effective_revision: u64,
    /// Its place in the order of creation.
    pub created_order: u64,
    /// The sweep that must be done before every twin has been looked at since the last change.
    pub sweep: SweepNumber,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// How the effective revision spreads or has spread; none: over all twins at once.
    pub rollout: Option<Arc<StoredRollout>>,
}

impl StoredPolicy {
    /// What an evaluation needs of it, as if it were on all twins.
    pub(crate) fn active(&self) -> ActivePolicy {
        ActivePolicy {
            policy: self.policy.clone(),
            revision: self.effective_revision,
            created_order: self.created_order,
            stage: None,
            gate: Gate::Open,
        }
    }

    /// [`StoredPolicy::in_force`] while the policy is open, closed or over.
    pub(crate) fn in_force_at(&self, gate: &Gate) -> impl Iterator<Item = ActivePolicy> {
        let all = self.in_force().into_iter();
        all.map(|active| ActivePolicy {
            gate: gate.clone(),
            ..active
        })
    }

    /// What is in force of it: while it is rolled out, or after that was taken back, the new revision
    /// on some twins and the one before on the others.
    pub(crate) fn in_force(&self) -> Vec<ActivePolicy> {
        let whole = self.active();
        let Some(stored) = &self.rollout else {
            return vec![whole];
        };
        let rollout = &stored.rollout;
        let Some(course) = rollout.course(self.policy.id(), self.effective_revision) else {
            return vec![whole];
        };
        let course = Arc::new(course);
        let stage = |side| {
            Some(Stage {
                course: Arc::clone(&course),
                side,
            })
        };
        let before = stored.before.clone().zip(rollout.from);
        let before = before.map(|(policy, revision)| ActivePolicy {
            policy,
            revision,
            created_order: self.created_order,
            stage: stage(Side::Before),
            gate: Gate::Open,
        });
        let new = ActivePolicy {
            stage: stage(Side::New),
            ..whole
        };
        [Some(new), before].into_iter().flatten().collect()
    }
}

/// Number of a full evaluation; each change of a policy wants a further one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SweepNumber(u64);

impl SweepNumber {
    /// Wraps a stored number.
    pub const fn new(number: u64) -> SweepNumber {
        SweepNumber(number)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What a full evaluation found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SweepCounts {
    /// Twins looked at.
    pub evaluated: u64,
    /// Twins written.
    pub changed: u64,
    /// Twins that could not be written.
    pub failed: u64,
}

/// Which sweeps are wanted and done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SweepState {
    /// The last one wanted.
    pub wanted: SweepNumber,
    /// The last one that is complete; all before it count as done.
    pub done: SweepNumber,
    /// What that one found.
    pub counts: SweepCounts,
}

/// Everything that is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    /// Policies that are not deleted.
    pub policies: Vec<StoredPolicy>,
    /// Configurations that are not deleted.
    pub configurations: Vec<StoredConfiguration>,
    /// Freezes that have not ended, and those that ended a while ago.
    pub freezes: Vec<StoredFreeze>,
    /// Last evaluated message of each partition that has one.
    pub positions: BTreeMap<u16, Sequence>,
    /// Sweeps.
    pub sweep: SweepState,
    /// Paths that policies leave alone.
    pub frozen: FrozenSet,
    /// What cannot be read.
    pub unreadable: Unreadable,
    /// All revisions that were ever given.
    pub given: Given,
    /// What stands on twins and was never given, and of which nobody has said anything yet.
    pub strays: BTreeMap<PolicyId, u64>,
}

/// What applying a policy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was none with this id.
    Created,
    /// Its content differs from before.
    Updated,
    /// Its content is the same; nothing was written.
    Unchanged,
}

/// The handle to the store. Clones share it; every call runs on a blocking thread.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    engine: Arc<Mutex<sqlite::Engine>>,
}

impl Store {
    /// Opens or makes `policy.db` in a folder, which is made too, and brings it to the present
    /// schema.
    pub(crate) async fn open(folder: &Path) -> Result<Store, Error> {
        let folder = folder.to_owned();
        let engine = blocking(move || sqlite::Engine::open(&folder)).await?;
        Ok(Store {
            engine: Arc::new(Mutex::new(engine)),
        })
    }

    /// Reads everything.
    pub(crate) async fn load(&self, now: Timestamp) -> Result<Contents, Error> {
        self.run(move |engine| engine.load(now)).await
    }

    /// Deletes the policy if it is still at `expected`, and wants a sweep that takes out what it
    /// set; `then` is told the number of that sweep, under the terms of [`Store::apply`]. `check` is asked
    /// before it, with no other change in between.
    pub(crate) async fn delete<E: From<Error> + Send + 'static>(
        &self,
        id: PolicyId,
        expected: Option<String>,
        (at, by): (Timestamp, By),
        (check, then): (
            impl FnOnce() -> Result<(), E> + Send + 'static,
            impl FnOnce(SweepNumber) + Send + 'static,
        ),
    ) -> Result<(), E> {
        self.run(move |engine| {
            check()?;
            then(engine.delete(&id, expected.as_deref(), at, &by)?);
            Ok(())
        })
        .await
    }

    /// The oldest entry that is not in the audit log.
    pub(crate) async fn next_audit_entry(&self) -> Result<Option<AuditEntry>, Error> {
        self.run(sqlite::Engine::next_audit_entry).await
    }

    /// Notes that an entry is in the audit log.
    pub(crate) async fn audit_entry_done(&self, number: i64) -> Result<(), Error> {
        self.run(move |engine| engine.audit_entry_done(number))
            .await
    }

    /// Notes how far partitions were evaluated.
    pub(crate) async fn save_positions(
        &self,
        positions: BTreeMap<u16, Sequence>,
    ) -> Result<(), Error> {
        self.run(move |engine| engine.save_positions(&positions))
            .await
    }

    /// Wants a further sweep, because changes of a partition were missed; its reading goes on after
    /// `after`, noted in the same transaction.
    pub(crate) async fn want_sweep(
        &self,
        skipped: Option<(u16, Sequence)>,
    ) -> Result<SweepNumber, Error> {
        self.run(move |engine| engine.want_sweep(skipped)).await
    }

    /// Wants a further sweep; `then` is told its number, under the terms of [`Store::apply`].
    pub(crate) async fn want_sweep_for(
        &self,
        then: impl FnOnce(SweepNumber) + Send + 'static,
    ) -> Result<(), Error> {
        self.run(move |engine| {
            then(engine.want_sweep(None)?);
            Ok(())
        })
        .await
    }

    /// Notes that a sweep is complete.
    pub(crate) async fn sweep_done(
        &self,
        sweep: SweepNumber,
        counts: SweepCounts,
    ) -> Result<(), Error> {
        self.run(move |engine| engine.sweep_done(sweep, counts))
            .await
    }

    async fn run<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        work: impl FnOnce(&mut sqlite::Engine) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let engine = Arc::clone(&self.engine);
        // A panic while the lock was held left no half transaction: it was rolled back on unwind.
        blocking(move || work(&mut engine.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

/// The etag of a revision.
pub(crate) fn etag(revision: u64) -> String {
    format!("r{revision}")
}

async fn blocking<T: Send + 'static, E: From<Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::Stopped.into()))
}

#[cfg(test)]
mod tests;
