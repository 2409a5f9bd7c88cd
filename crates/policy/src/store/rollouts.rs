//! Rollouts as they are kept. A row changes only together with what it puts in force: the sweep that
//! carries it out is wanted in the same transaction, so that a crash leaves neither alone.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use service_kit::error::chain;

use super::audit::{self, By};
use super::content;
use super::frozen;
use super::row::{number, read_policy, stored};
use super::sqlite::{Engine, raise_sweep};
use super::{Error, Store, StoredPolicy, SweepNumber};
use crate::policy_doc::{Policy, PolicyId};
use crate::rollout::{Phase, Refusal, Rollout};

/// A rollout as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRollout {
    /// The revision that spreads.
    pub(crate) revision: u64,
    /// Rises with every change.
    pub(crate) version: u64,
    /// The sweep that must be done before every twin has been looked at with what is in force.
    pub(crate) sweep: SweepNumber,
    /// What it is.
    pub(crate) rollout: Rollout,
    /// The policy as twins have it that do not have the new revision.
    pub(crate) before: Option<Policy>,
}

/// Who or what changes a rollout, for the audit log.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    /// As the audit log names it, `rollout.pause`.
    pub(crate) action: String,
    /// Who.
    pub(crate) by: By,
    /// When.
    pub(crate) at: Timestamp,
}

/// Why a rollout is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RolloutError {
    /// There is none, or not any more.
    #[error("policy {id} has no rollout of revision {revision} that is in force")]
    NotFound {
        /// Of which policy.
        id: PolicyId,
        /// Of which revision.
        revision: u64,
    },
    /// It stands where this cannot be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Store {
    /// Changes the rollout that is in force for a policy; `then` is told the policy with it, under the
    /// terms of [`Store::apply`]. If `change` changes nothing nothing is written.
    pub(crate) async fn change_rollout(
        &self,
        id: PolicyId,
        revision: u64,
        cause: Cause,
        change: impl FnOnce(&Rollout) -> Result<Rollout, Refusal> + Send + 'static,
        then: impl FnOnce(&StoredPolicy) + Send + 'static,
    ) -> Result<StoredPolicy, RolloutError> {
        self.run(move |engine| {
            let policy = engine.change_rollout(&id, revision, &cause, change)?;
            then(&policy);
            Ok(policy)
        })
        .await
    }

    /// At most `limit` rollouts, ended ones too: of one policy or of all, in the order of the policies
    /// and the newest first, from behind `after`.
    pub(crate) async fn rollouts(
        &self,
        id: Option<PolicyId>,
        after: Option<(PolicyId, u64)>,
        limit: usize,
    ) -> Result<Vec<(PolicyId, StoredRollout)>, Error> {
        self.run(move |engine| engine.rollouts(id.as_ref(), after.as_ref(), limit))
            .await
    }

    /// One rollout, also an ended one.
    pub(crate) async fn rollout(
        &self,
        id: PolicyId,
        revision: u64,
    ) -> Result<Option<StoredRollout>, Error> {
        self.run(move |engine| {
            let transaction = engine.begin("read a rollout")?;
            read(&transaction, id.as_str(), revision)
        })
        .await
    }
}

impl Engine {
    fn change_rollout(
        &mut self,
        id: &PolicyId,
        revision: u64,
        cause: &Cause,
        change: impl FnOnce(&Rollout) -> Result<Rollout, Refusal>,
    ) -> Result<StoredPolicy, RolloutError> {
        const ACTION: &str = "write a rollout";
        let failed = |source| Error::Engine {
            action: ACTION,
            source,
        };
        let transaction = self.begin(ACTION)?;
        let row = read_policy(&transaction, id)?.filter(|row| !row.deleted);
        let policy = row.map(|row| row.into_policy(&transaction)).transpose()?;
        let found = policy.and_then(|policy| {
            let current = policy.rollout.clone()?;
            (current.revision == revision).then_some((policy, current))
        });
        let Some((policy, current)) = found else {
            return Err(RolloutError::NotFound {
                id: id.clone(),
                revision,
            });
        };
        let rollout = change(&current.rollout)?;
        if rollout == current.rollout {
            return Ok(policy);
        }
        let moves = rollout.in_force() != current.rollout.in_force();
        if moves {
            frozen::thaw_of(&transaction, id.as_str())?;
        }
        // Twins that did not stay with the revision ask for it to be pushed again, and were told to wait.
        let lets_go = rollout.phase == Phase::Completed;
        let sweep = if moves || lets_go {
            raise_sweep(&transaction)?
        } else {
            current.sweep
        };
        let next = StoredRollout {
            version: current.version + 1,
            sweep,
            rollout,
            ..(*current).clone()
        };
        write(&transaction, id.as_str(), &next)?;
        transaction
            .execute(
                "UPDATE policies SET sweep = max(sweep, ?2) WHERE policy_id = ?1",
                params![id.as_str(), stored(sweep.get())],
            )
            .map_err(failed)?;
        audit::note_why(
            &transaction,
            &cause.action,
            id.as_str(),
            (revision, None),
            &next.rollout.reason,
            (cause.at, &cause.by),
        )?;
        transaction.commit().map_err(failed)?;
        Ok(StoredPolicy {
            sweep: policy.sweep.max(sweep),
            rollout: Some(Arc::new(next)),
            ..policy
        })
    }

    fn rollouts(
        &mut self,
        id: Option<&PolicyId>,
        after: Option<&(PolicyId, u64)>,
        limit: usize,
    ) -> Result<Vec<(PolicyId, StoredRollout)>, Error> {
        let failed = |source| Error::Engine {
            action: "read rollouts",
            source,
        };
        let transaction = self.begin("read rollouts")?;
        let statement = format!(
            "{SELECT} WHERE (?1 = '' OR policy_id = ?1)
                 AND (policy_id > ?2 OR (policy_id = ?2 AND revision < ?3))
             ORDER BY policy_id, revision DESC LIMIT ?4"
        );
        let only = id.map_or("", PolicyId::as_str);
        let (from, below) = after.map_or(("", 0), |(id, revision)| (id.as_str(), *revision));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = transaction.prepare(&statement).map_err(failed)?;
        let rows = rows
            .query_map(params![only, from, stored(below), limit], RolloutRow::read)
            .map_err(failed)?;
        let mut found = Vec::new();
        for row in rows {
            let row = row.map_err(failed);
            let rollout = row.and_then(|row| {
                let id = PolicyId::parse(&row.policy_id).map_err(|problem| Error::Damaged {
                    what: format!("the policy of a rollout {problem}"),
                })?;
                Ok((id, row.into_rollout(&transaction)?))
            });
            match rollout {
                Ok(rollout) => found.push(rollout),
                // Whoever asks for that one is told; the others are listed.
                Err(error) if error.is_of_row() => {
                    tracing::error!(
                        error = chain(&error),
                        "a rollout cannot be read, and is not listed"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

const SELECT: &str = "SELECT policy_id, revision, version, sweep, body FROM rollouts";

struct RolloutRow {
    policy_id: String,
    revision: i64,
    version: i64,
    sweep: i64,
    body: String,
}

impl RolloutRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<RolloutRow> {
        Ok(RolloutRow {
            policy_id: row.get(0)?,
            revision: row.get(1)?,
            version: row.get(2)?,
            sweep: row.get(3)?,
            body: row.get(4)?,
        })
    }

    fn into_rollout(self, transaction: &Transaction<'_>) -> Result<StoredRollout, Error> {
        let rollout: Rollout =
            serde_json::from_str(&self.body).map_err(|error| Error::Damaged {
                what: format!("a rollout of policy {}: {error}", self.policy_id),
            })?;
        // Once it is on all twins, or something newer is in force, nobody has what was before it.
        let is_over = matches!(rollout.phase, Phase::Completed | Phase::Superseded);
        let before = match rollout.from.filter(|_| !is_over) {
            None => None,
            Some(revision) => Some(content_at(transaction, &self.policy_id, revision)?),
        };
        Ok(StoredRollout {
            revision: number("a revision", self.revision)?,
            version: number("a version", self.version)?,
            sweep: SweepNumber::new(number("a sweep", self.sweep)?),
            rollout,
            before,
        })
    }
}

/// Reads the rollout of a revision, if it has one.
pub(super) fn read(
    transaction: &Transaction<'_>,
    policy_id: &str,
    revision: u64,
) -> Result<Option<StoredRollout>, Error> {
    let row = transaction
        .query_row(
            &format!("{SELECT} WHERE policy_id = ?1 AND revision = ?2"),
            params![policy_id, stored(revision)],
            RolloutRow::read,
        )
        .optional()
        .map_err(|source| Error::Engine {
            action: "read a rollout",
            source,
        })?;
    row.map(|row| row.into_rollout(transaction)).transpose()
}

/// Writes a rollout, new or changed.
pub(super) fn write(
    transaction: &Transaction<'_>,
    policy_id: &str,
    rollout: &StoredRollout,
) -> Result<(), Error> {
    let body = serde_json::to_string(&rollout.rollout).map_err(|error| Error::Damaged {
        what: format!("a rollout of policy {policy_id} cannot be written: {error}"),
    })?;
    transaction
        .execute(
            "INSERT OR REPLACE INTO rollouts VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                policy_id,
                stored(rollout.revision),
                stored(rollout.version),
                stored(rollout.sweep.get()),
                body
            ],
        )
        .map(|_| ())
        .map_err(|source| Error::Engine {
            action: "write a rollout",
            source,
        })
}

/// Ends a rollout that is under way, because something newer is in force.
pub(super) fn supersede(
    transaction: &Transaction<'_>,
    policy_id: &str,
    current: &StoredRollout,
    reason: &str,
    at: Timestamp,
) -> Result<(), Error> {
    if current.rollout.phase.has_ended() {
        return Ok(());
    }
    let ended = StoredRollout {
        version: current.version + 1,
        rollout: current.rollout.superseded(reason, at),
        ..current.clone()
    };
    write(transaction, policy_id, &ended)
}

/// The content of one revision as a policy.
pub(super) fn content_at(
    transaction: &Transaction<'_>,
    policy_id: &str,
    revision: u64,
) -> Result<Policy, Error> {
    let text: String = transaction
        .query_row(
            "SELECT content FROM revisions WHERE policy_id = ?1 AND revision = ?2",
            params![policy_id, stored(revision)],
            |row| row.get(0),
        )
        .map_err(|source| Error::Engine {
            action: "read a revision",
            source,
        })?;
    let spec = content::read(policy_id, &text)?;
    Policy::check(spec).map_err(|source| Error::Policy {
        id: policy_id.to_owned(),
        source,
    })
}

/// The revision that twins are to have if the next one fails: the last that reached all of them.
pub(super) fn last_good(policy: &StoredPolicy) -> Option<u64> {
    match &policy.rollout {
        Some(stored) if stored.rollout.phase != Phase::Completed => stored.rollout.from,
        Some(_) | None => Some(policy.effective_revision),
    }
}
