//! Rows of the store: from a policy to its columns and back. What is read is not trusted: a value
//! that we never wrote is reported as damage.

use std::sync::Arc;

use bus::Sequence;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::content;
use super::rollouts;
use super::{Error, StoredPolicy, SweepNumber};
use crate::policy_doc::{Policy, PolicyId, PolicySpec};

/// A row of `policies` with the content of its revision.
#[derive(Clone)]
pub(super) struct PolicyRow {
    pub(super) policy_id: String,
    pub(super) revision: i64,
    pub(super) effective_revision: i64,
    pub(super) created_order: i64,
    pub(super) sweep: i64,
    pub(super) create_time: String,
    pub(super) update_time: String,
    pub(super) deleted: bool,
    /// None: there is none, or none that is text.
    pub(super) content: Option<String>,
}

pub(super) fn select_policies(rest: &str) -> String {
    format!(
        "SELECT p.policy_id, p.revision, p.effective_revision, p.created_order, p.sweep,
                p.create_time, p.update_time, p.deleted, r.content
         FROM policies p LEFT JOIN revisions r USING (policy_id, revision) {rest}"
    )
}

impl PolicyRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<PolicyRow> {
        Ok(PolicyRow {
            policy_id: row.get(0)?,
            revision: row.get(1)?,
            effective_revision: row.get(2)?,
            created_order: row.get(3)?,
            sweep: row.get(4)?,
            create_time: row.get(5)?,
            update_time: row.get(6)?,
            deleted: row.get(7)?,
            content: row.get(8).ok(),
        })
    }

    /// What its newest revision says.
    pub(super) fn spec(&self) -> Result<PolicySpec, Error> {
        let content = self.content.as_deref().ok_or_else(|| Error::Damaged {
            what: format!("the content of policy {} is not there", self.policy_id),
        })?;
        content::read(&self.policy_id, content)
    }

    pub(super) fn into_policy(self, transaction: &Transaction<'_>) -> Result<StoredPolicy, Error> {
        let policy = Policy::check(self.spec()?).map_err(|source| Error::Policy {
            id: self.policy_id.clone(),
            source,
        })?;
        let effective_revision = number("a revision", self.effective_revision)?;
        let rollout = rollouts::read(transaction, &self.policy_id, effective_revision)?;
        if rollout.is_none() {
            self.check_needs_no_rollout(&policy, effective_revision, transaction)?;
        }
        Ok(StoredPolicy {
            policy,
            rollout: rollout.map(Arc::new),
            revision: number("a revision", self.revision)?,
            effective_revision,
            created_order: number("an order of creation", self.created_order)?,
            sweep: SweepNumber::new(number("a sweep", self.sweep)?),
            created_at: instant(&self.create_time)?,
            updated_at: instant(&self.update_time)?,
        })
    }
}

impl PolicyRow {
    /// A revision that is to spread in waves has a rollout from its first moment on: without its row it
    /// would be on all twins at once.
    fn check_needs_no_rollout(
        &self,
        newest: &Policy,
        effective: u64,
        transaction: &Transaction<'_>,
    ) -> Result<(), Error> {
        let spreads = if stored(effective) == self.revision {
            newest.strategy().is_some()
        } else {
            let policy = rollouts::content_at(transaction, &self.policy_id, effective)?;
            policy.strategy().is_some()
        };
        if !spreads {
            return Ok(());
        }
        Err(Error::Damaged {
            what: format!(
                "the rollout of revision {effective} of policy {} is not there",
                self.policy_id
            ),
        })
    }
}

pub(super) fn read_policy(
    transaction: &Transaction<'_>,
    id: &PolicyId,
) -> Result<Option<PolicyRow>, Error> {
    transaction
        .query_row(
            &select_policies("WHERE p.policy_id = ?1"),
            [id.as_str()],
            PolicyRow::read,
        )
        .optional()
        .map_err(|source| Error::Engine {
            action: "read a policy",
            source,
        })
}

pub(super) fn write_policy(
    transaction: &Transaction<'_>,
    policy: &StoredPolicy,
    (author, note): (&str, &str),
) -> Result<(), Error> {
    let failed = |source| Error::Engine {
        action: "write a policy",
        source,
    };
    let id = policy.policy.id().as_str();
    let content = content::print(policy.policy.spec())?;
    let (created_at, updated_at) = (policy.created_at.to_string(), policy.updated_at.to_string());
    transaction
        .execute(
            "INSERT INTO revisions (policy_id, revision, content, create_time, author, note)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                id,
                stored(policy.revision),
                content,
                updated_at,
                author,
                note
            ],
        )
        .map_err(failed)?;
    transaction
        .execute(
            "INSERT OR REPLACE INTO policies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
            params![
                id,
                stored(policy.revision),
                stored(policy.effective_revision),
                stored(policy.created_order),
                stored(policy.sweep.get()),
                created_at,
                updated_at,
            ],
        )
        .map_err(failed)?;
    Ok(())
}

pub(super) fn write_position(
    transaction: &Transaction<'_>,
    partition: u16,
    sequence: Sequence,
) -> Result<(), Error> {
    transaction
        .execute(
            "INSERT OR REPLACE INTO positions VALUES (?1, ?2)",
            params![partition, stored(sequence.get())],
        )
        .map(|_| ())
        .map_err(|source| Error::Engine {
            action: "write positions",
            source,
        })
}

/// SQLite's integers are signed; our counters start at zero and cannot reach 2^63.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// No counter of ours comes near it. What is above it would have others follow, to where there are no more.
pub(super) const NUMBER_MAX: i64 = 1 << 53;

pub(super) fn number(what: &str, stored: i64) -> Result<u64, Error> {
    u64::try_from(stored)
        .ok()
        .filter(|_| stored <= NUMBER_MAX)
        .ok_or_else(|| Error::Damaged {
            what: format!("{what} is {stored}"),
        })
}

pub(super) fn instant(text: &str) -> Result<Timestamp, Error> {
    text.parse().map_err(|_| Error::Damaged {
        what: format!("a time is {text:?}"),
    })
}
