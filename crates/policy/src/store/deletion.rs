//! Deleting a policy, also one of which a part cannot be read, and finding policies whose row is lost.
//!
//! A deleted policy keeps its row, so a policy that has revisions and no row was not deleted: its row is
//! damaged, perhaps in its very id. Its settings stay as they are until somebody deletes it under its own id.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::audit::{self, By};
use super::row::{number, stored};
use super::sqlite::{Engine, raise_sweep};
use super::unreadable::Unreadable;
use super::{Error, SweepNumber, etag, frozen, rollouts, strays};
use crate::policy_doc::PolicyId;

const ACTION: &str = "delete a policy";

impl Engine {
    /// See [`super::Store::delete`].
    pub(super) fn delete(
        &mut self,
        id: &PolicyId,
        expected: Option<&str>,
        at: Timestamp,
        by: &By,
    ) -> Result<SweepNumber, Error> {
        let transaction = self.begin(ACTION)?;
        let found = Found::read(&transaction, id)?;
        let revision = found.revision;
        let tag = etag(revision);
        if let Some(expected) = expected.filter(|expected| *expected != tag) {
            return Err(Error::Etag {
                id: id.clone(),
                found: tag,
                expected: expected.to_owned(),
            });
        }
        // Whole, so that nothing of it is damaged any more. Of a deleted policy nobody asks but its revision.
        transaction
            .execute(
                "INSERT OR REPLACE INTO policies VALUES (?1, ?2, ?2, 0, 0, ?3, ?3, 1)",
                params![id.as_str(), stored(revision), at.to_string()],
            )
            .map_err(failed(ACTION))?;
        let sweep = raise_sweep(&transaction)?;
        frozen::thaw_of(&transaction, id.as_str())?;
        // One that cannot be read goes on for nobody once its policy is gone.
        let rollout = match found.effective {
            None => None,
            Some(effective) => match rollouts::read(&transaction, id.as_str(), effective) {
                Err(error) if error.is_of_row() => None,
                other => other?,
            },
        };
        if let Some(rollout) = rollout {
            let reason = "the policy was deleted";
            rollouts::supersede(&transaction, id.as_str(), &rollout, reason, at)?;
        }
        audit::note(
            &transaction,
            "policy.delete",
            id.as_str(),
            (revision, None),
            (at, by),
        )?;
        transaction.commit().map_err(failed(ACTION))?;
        Ok(sweep)
    }
}

/// What a deletion needs of a policy.
struct Found {
    /// The last one given.
    revision: u64,
    /// None: not known.
    effective: Option<u64>,
}

impl Found {
    fn read(transaction: &Transaction<'_>, id: &PolicyId) -> Result<Found, Error> {
        let statement =
            "SELECT revision, effective_revision, deleted FROM policies WHERE policy_id = ?1";
        let row = transaction
            .query_row(statement, [id.as_str()], |row| {
                Ok((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get(2)))
            })
            .optional()
            .map_err(failed(ACTION))?;
        let stray = Some(strays::newest(transaction, id)?).filter(|stray| *stray > 0);
        let newest = newest_revision(transaction, id)?.max(stray);
        let not_found = || Error::NotFound { id: id.clone() };
        let Some((revision, effective, deleted)) = row else {
            let revision = newest.ok_or_else(not_found)?;
            return Ok(Found {
                revision,
                effective: None,
            });
        };
        let whole = |found: rusqlite::Result<i64>| number("a revision", found.ok()?).ok();
        let own = whole(revision);
        // What was seen on twins since can only be of another life of it.
        if deleted.unwrap_or(false) && own >= stray {
            return Err(not_found());
        }
        // A number that is damaged must not have a revision be given twice.
        let revision = own.max(newest).unwrap_or_default();
        Ok(Found {
            revision,
            effective: whole(effective),
        })
    }
}

/// The newest revision that is kept of a policy; none: it never had one, or none that can be read.
pub(super) fn newest_revision(
    transaction: &Transaction<'_>,
    id: &PolicyId,
) -> Result<Option<u64>, Error> {
    let statement = "SELECT max(revision) FROM revisions WHERE policy_id = ?1";
    let newest: Option<i64> = transaction
        .query_row(statement, [id.as_str()], |row| row.get(0))
        .map_err(failed("read revisions"))?;
    Ok(newest.and_then(|newest| number("a revision", newest).ok()))
}

/// Of a policy that has revisions and no row.
pub(super) fn lost_row(id: &PolicyId) -> Error {
    Error::Damaged {
        what: format!("policy {id} has revisions, and no row of its own; what it has set stays"),
    }
}

/// Finds policies whose row is lost, and forgets rows that nobody can name once all policies have theirs.
pub(super) fn find_lost(
    transaction: &Transaction<'_>,
    unreadable: &mut Unreadable,
) -> Result<(), Error> {
    let lost = ids(
        transaction,
        "SELECT DISTINCT CAST(policy_id AS BLOB) FROM revisions
         WHERE policy_id NOT IN (SELECT policy_id FROM policies)",
    )?;
    for bytes in &lost {
        let text = String::from_utf8_lossy(bytes);
        match PolicyId::parse(&text) {
            Ok(id) => {
                let why = lost_row(&id);
                unreadable.policy(Some(id), &text, why)?;
            }
            // A revision under another name: the policy that misses it says so itself, if it is its newest.
            Err(problem) => unreadable.other(format!("a revision of policy {text:?}: {problem}")),
        }
    }
    if !lost.is_empty() {
        return Ok(());
    }
    let bare = ids(
        transaction,
        "SELECT CAST(policy_id AS BLOB) FROM policies
         WHERE policy_id NOT IN (SELECT policy_id FROM revisions)",
    )?;
    for bytes in bare {
        let text = String::from_utf8_lossy(&bytes);
        if PolicyId::parse(&text).is_ok() {
            continue;
        }
        tracing::error!(
            policy_id = %text,
            "forgets a row that no policy misses, and that has no name that a policy may have"
        );
        transaction
            .execute(
                "DELETE FROM policies WHERE CAST(policy_id AS BLOB) = ?1",
                [&bytes],
            )
            .map_err(failed("forget a row"))?;
    }
    Ok(())
}

fn ids(transaction: &Transaction<'_>, statement: &str) -> Result<Vec<Vec<u8>>, Error> {
    const ACTION: &str = "look for lost policies";
    let mut rows = transaction.prepare(statement).map_err(failed(ACTION))?;
    let rows = rows
        .query_map([], |row| row.get(0))
        .map_err(failed(ACTION))?;
    rows.collect::<Result<_, _>>().map_err(failed(ACTION))
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}
