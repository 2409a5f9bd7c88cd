//! Freezes as they are kept: who ordered them, for which policies and for how long. A change and its
//! entry for the audit log are one transaction.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Row, Transaction, params};
use service_kit::error::{Classified, Kind};

use super::audit::{self, By};
use super::row::{instant, number, stored};
use super::sqlite::{Engine, raise_sweep};
use super::{Error, Store, SweepNumber};
use crate::policy_doc::PolicyId;
use crate::schedule::Freeze;

/// Freezes that have not ended: more than anybody keeps in mind.
const FREEZES_MAX: usize = 100;

/// Ended ones are read for so long: nothing waits for longer, so nobody asks what was before.
const KEPT: SignedDuration = SignedDuration::from_hours(40 * 24);

/// A freeze as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredFreeze {
    /// Its name; never given again.
    pub(crate) number: u64,
    /// Which policies; none: all.
    pub(crate) policies: BTreeSet<PolicyId>,
    /// When it begins.
    pub(crate) from: Timestamp,
    /// When it ends; none: when somebody ends it.
    pub(crate) to: Option<Timestamp>,
    /// Why, for people.
    pub(crate) reason: String,
    /// Who ordered it.
    pub(crate) author: String,
    /// When it was ordered.
    pub(crate) created_at: Timestamp,
}

impl StoredFreeze {
    /// Whether it is for a policy.
    pub(crate) fn is_for(&self, id: &PolicyId) -> bool {
        self.policies.is_empty() || self.policies.contains(id)
    }

    /// Whether it holds at a time.
    pub(crate) fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && !self.has_ended(at)
    }

    fn has_ended(&self, at: Timestamp) -> bool {
        self.to.is_some_and(|to| to <= at)
    }

    /// As schedules ask for it.
    pub(crate) fn freeze(&self) -> Freeze {
        let mut what = format!("frozen by {} (freezes/{})", self.author, self.number);
        if !self.reason.is_empty() {
            what = format!("{what}: {}", self.reason);
        }
        Freeze {
            from: self.from,
            to: self.to,
            what,
        }
    }
}

/// Why a freeze is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FreezeError {
    /// There never was one.
    #[error("there is no freeze {number}")]
    NotFound {
        /// Which one.
        number: u64,
    },
    /// There are as many as there may be.
    #[error("there are {FREEZES_MAX} freezes, which is the most; end one first")]
    TooMany,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Classified for FreezeError {
    fn kind(&self) -> Kind {
        match self {
            FreezeError::NotFound { .. } => Kind::NotFound,
            FreezeError::TooMany => Kind::ResourceExhausted,
            FreezeError::Store(error) => error.kind(),
        }
    }

    fn reason(&self) -> &str {
        match self {
            FreezeError::NotFound { .. } => "FREEZE_NOT_FOUND",
            FreezeError::TooMany => "TOO_MANY_FREEZES",
            FreezeError::Store(error) => error.reason(),
        }
    }
}

/// What became of a change: the freeze, and a sweep for what it may have let go on, if it ended one.
pub(crate) type Changed = (StoredFreeze, SweepNumber);

impl Store {
    /// Keeps a freeze, whose number is given here; `then` is told, under the terms of [`Store::apply`].
    pub(crate) async fn create_freeze(
        &self,
        freeze: StoredFreeze,
        by: By,
        then: impl FnOnce(&Changed) + Send + 'static,
    ) -> Result<StoredFreeze, FreezeError> {
        self.run(move |engine| {
            let changed = engine.create_freeze(freeze, &by)?;
            then(&changed);
            Ok(changed.0)
        })
        .await
    }

    /// Ends a freeze; one that has ended stays as it is.
    pub(crate) async fn end_freeze(
        &self,
        number: u64,
        (at, by): (Timestamp, By),
        then: impl FnOnce(&Changed) + Send + 'static,
    ) -> Result<StoredFreeze, FreezeError> {
        self.run(move |engine| {
            let changed = engine.end_freeze(number, at, &by)?;
            then(&changed);
            Ok(changed.0)
        })
        .await
    }
}

impl Engine {
    fn create_freeze(&mut self, freeze: StoredFreeze, by: &By) -> Result<Changed, FreezeError> {
        const ACTION: &str = "write a freeze";
        let transaction = self.begin(ACTION)?;
        let at = freeze.created_at;
        let open = read(&transaction)?;
        let open = open.iter().filter(|freeze| !freeze.has_ended(at)).count();
        if open >= FREEZES_MAX {
            return Err(FreezeError::TooMany);
        }
        let values = params![
            print_policies(&freeze.policies)?,
            freeze.from.to_string(),
            freeze.to.map(|to| to.to_string()).unwrap_or_default(),
            freeze.reason,
            freeze.author,
            at.to_string(),
        ];
        transaction
            .execute(
                "INSERT INTO freezes (policies, start_time, end_time, reason, author, create_time)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                values,
            )
            .map_err(failed(ACTION))?;
        let freeze = StoredFreeze {
            number: number("a freeze", transaction.last_insert_rowid())?,
            ..freeze
        };
        let freeze = note(&transaction, "freeze.create", freeze, (at, by))?;
        transaction.commit().map_err(failed(ACTION))?;
        // A policy that closes changes nothing on any twin.
        Ok((freeze, SweepNumber::default()))
    }

    fn end_freeze(&mut self, number: u64, at: Timestamp, by: &By) -> Result<Changed, FreezeError> {
        const ACTION: &str = "end a freeze";
        let transaction = self.begin(ACTION)?;
        let freeze = read_one(&transaction, number)?;
        let freeze = freeze.ok_or(FreezeError::NotFound { number })?;
        if freeze.has_ended(at) {
            return Ok((freeze, SweepNumber::default()));
        }
        let freeze = StoredFreeze {
            // One that has not begun never does.
            from: freeze.from.min(at),
            to: Some(at),
            ..freeze
        };
        transaction
            .execute(
                "UPDATE freezes SET start_time = ?2, end_time = ?3 WHERE number = ?1",
                params![stored(number), freeze.from.to_string(), at.to_string()],
            )
            .map_err(failed(ACTION))?;
        let freeze = note(&transaction, "freeze.end", freeze, (at, by))?;
        // What is open now may have to be written.
        let sweep = raise_sweep(&transaction)?;
        transaction.commit().map_err(failed(ACTION))?;
        Ok((freeze, sweep))
    }
}

/// Notes who changed a freeze.
fn note(
    transaction: &Transaction<'_>,
    action: &str,
    freeze: StoredFreeze,
    when: (Timestamp, &By),
) -> Result<StoredFreeze, Error> {
    let content = serde_json::json!({
        "policies": freeze.policies.iter().map(PolicyId::as_str).collect::<Vec<_>>(),
        "from": freeze.from.to_string(),
        "to": freeze.to.map(|to| to.to_string()),
    });
    let (id, content) = (freeze.number.to_string(), content.to_string());
    let what = (freeze.number, Some(&*content));
    audit::note_why(transaction, action, &id, what, &freeze.reason, when)?;
    Ok(freeze)
}

/// Reads those that have not ended, and those that ended a while ago.
pub(super) fn load(
    transaction: &Transaction<'_>,
    now: Timestamp,
) -> Result<Vec<StoredFreeze>, Error> {
    let mut freezes = read(transaction)?;
    let since = now.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
    freezes.retain(|freeze| !freeze.has_ended(since));
    Ok(freezes)
}

const SELECT: &str = "SELECT number, policies, start_time, end_time, reason, author, create_time
                      FROM freezes";

fn read(transaction: &Transaction<'_>) -> Result<Vec<StoredFreeze>, Error> {
    const ACTION: &str = "read freezes";
    let mut rows = transaction
        .prepare(&format!("{SELECT} ORDER BY number"))
        .map_err(failed(ACTION))?;
    let rows = rows
        .query_map([], FreezeRow::read)
        .map_err(failed(ACTION))?;
    rows.map(|row| row.map_err(failed(ACTION))?.into_freeze())
        .collect()
}

fn read_one(transaction: &Transaction<'_>, number: u64) -> Result<Option<StoredFreeze>, Error> {
    let all = read(transaction)?;
    Ok(all.into_iter().find(|freeze| freeze.number == number))
}

struct FreezeRow {
    number: i64,
    policies: String,
    start_time: String,
    end_time: String,
    reason: String,
    author: String,
    create_time: String,
}

impl FreezeRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<FreezeRow> {
        Ok(FreezeRow {
            number: row.get(0)?,
            policies: row.get(1)?,
            start_time: row.get(2)?,
            end_time: row.get(3)?,
            reason: row.get(4)?,
            author: row.get(5)?,
            create_time: row.get(6)?,
        })
    }

    fn into_freeze(self) -> Result<StoredFreeze, Error> {
        let damaged = |problem: String| Error::Damaged {
            what: format!("the policies of freeze {}: {problem}", self.number),
        };
        let ids: Vec<String> =
            serde_json::from_str(&self.policies).map_err(|error| damaged(error.to_string()))?;
        let ids = ids.iter().map(|id| PolicyId::parse(id).map_err(damaged));
        let to = Some(self.end_time.as_str()).filter(|text| !text.is_empty());
        Ok(StoredFreeze {
            number: number("a freeze", self.number)?,
            policies: ids.collect::<Result<_, _>>()?,
            from: instant(&self.start_time)?,
            to: to.map(instant).transpose()?,
            reason: self.reason,
            author: self.author,
            created_at: instant(&self.create_time)?,
        })
    }
}

fn print_policies(policies: &BTreeSet<PolicyId>) -> Result<String, Error> {
    let ids: Vec<&str> = policies.iter().map(PolicyId::as_str).collect();
    serde_json::to_string(&ids).map_err(|error| Error::Damaged {
        what: format!("the policies of a freeze cannot be written: {error}"),
    })
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}
