//! Re-evaluations as they are kept. Where one is and what it has counted so far are one row, so that
//! it goes on after a crash as if the twins since had not been looked at: that is harmless.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{OptionalExtension as _, Transaction, params};
use service_kit::error::{Classified, Kind};

use super::audit::{self, By};
use super::row::{number, stored};
use super::sqlite::Engine;
use super::{Error, Store, SweepCounts};
use crate::policy_doc::PolicyId;

mod row;

use row::select;

/// Re-evaluations that have not ended: each looks at every twin, so nobody needs more.
const WAITING_MAX: i64 = 20;
/// Ended ones are kept for so long,
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// and so many of them.
const KEPT_MAX: i64 = 1000;

/// Where a re-evaluation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for others.
    Waiting,
    /// It goes on.
    Running,
    /// It came to all twins.
    Succeeded,
    /// Somebody ended it.
    Cancelled,
    /// It could not go on.
    Failed,
}

impl State {
    const ALL: [State; 5] = [
        State::Waiting,
        State::Running,
        State::Succeeded,
        State::Cancelled,
        State::Failed,
    ];

    /// As it is kept.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Running => "running",
            State::Succeeded => "succeeded",
            State::Cancelled => "cancelled",
            State::Failed => "failed",
        }
    }

    /// Whether nothing will change any more.
    pub(crate) fn has_ended(self) -> bool {
        match self {
            State::Waiting | State::Running => false,
            State::Succeeded | State::Cancelled | State::Failed => true,
        }
    }
}

/// Which twins are looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    /// Those of one policy; none: all.
    pub(crate) policy: Option<PolicyId>,
    /// The same in the query language; empty: all.
    pub(crate) filter: String,
}

/// A re-evaluation as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredReevaluation {
    /// Its name; never given again.
    pub(crate) number: u64,
    /// Of the caller; empty: none.
    pub(crate) request_id: String,
    /// Which twins.
    pub(crate) range: Range,
    /// Where it stands.
    pub(crate) state: State,
    /// Whether somebody wants it to end.
    pub(crate) cancelling: bool,
    /// twin-store's token of the next page; empty: the first.
    pub(crate) place: String,
    /// How many twins there were when it began; none: not counted.
    pub(crate) total: Option<u64>,
    /// What was found up to `place`.
    pub(crate) counts: SweepCounts,
    /// Why it failed.
    pub(crate) error: String,
    /// Who asked for it.
    pub(crate) actor: String,
    /// When.
    pub(crate) created_at: Timestamp,
    /// When it last moved.
    pub(crate) updated_at: Timestamp,
    /// When it ended.
    pub(crate) ended_at: Option<Timestamp>,
}

/// Why a re-evaluation is not begun or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReevaluationError {
    /// There is none, or not any more.
    #[error("there is no re-evaluation {number}; ended ones are kept for 30 days")]
    NotFound {
        /// Which one.
        number: u64,
    },
    /// As many wait as may.
    #[error("{WAITING_MAX} re-evaluations have not ended, which is the most; cancel one first")]
    TooMany,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Classified for ReevaluationError {
    fn kind(&self) -> Kind {
        match self {
            ReevaluationError::NotFound { .. } => Kind::NotFound,
            ReevaluationError::TooMany => Kind::ResourceExhausted,
            ReevaluationError::Store(error) => error.kind(),
        }
    }

    fn reason(&self) -> &str {
        match self {
            ReevaluationError::NotFound { .. } => "REEVALUATION_NOT_FOUND",
            ReevaluationError::TooMany => "TOO_MANY_REEVALUATIONS",
            ReevaluationError::Store(error) => error.reason(),
        }
    }
}

impl Store {
    /// Keeps a new one, or answers what the same request began before.
    pub(crate) async fn begin_reevaluation(
        &self,
        range: Range,
        request_id: String,
        (at, by): (Timestamp, By),
    ) -> Result<StoredReevaluation, ReevaluationError> {
        self.run(move |engine| engine.begin_reevaluation(&range, &request_id, at, &by))
            .await
    }

    /// The oldest one that has not ended, which is running from here on.
    pub(crate) async fn next_reevaluation(
        &self,
        at: Timestamp,
    ) -> Result<Option<StoredReevaluation>, Error> {
        self.run(move |engine| engine.next_reevaluation(at)).await
    }

    /// Keeps where one is. Whether somebody wants it to end stays as it is kept, and is answered.
    pub(crate) async fn keep_reevaluation(&self, one: StoredReevaluation) -> Result<bool, Error> {
        self.run(move |engine| engine.keep_reevaluation(&one)).await
    }

    /// Has one end: at once if it waits, else whoever works on it is to end it.
    pub(crate) async fn cancel_reevaluation(
        &self,
        number: u64,
        (at, by): (Timestamp, By),
    ) -> Result<StoredReevaluation, ReevaluationError> {
        self.run(move |engine| engine.cancel_reevaluation(number, at, &by))
            .await
    }

    /// One of them.
    pub(crate) async fn reevaluation(
        &self,
        number: u64,
    ) -> Result<StoredReevaluation, ReevaluationError> {
        self.run(move |engine| {
            let transaction = engine.begin(READ)?;
            one(&transaction, number)
        })
        .await
    }

    /// At most `limit` of them below a number, the newest first.
    pub(crate) async fn reevaluations(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredReevaluation>, Error> {
        self.run(move |engine| {
            let transaction = engine.begin(READ)?;
            let below = below.map_or(i64::MAX, stored);
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rest = "WHERE number < ?1 ORDER BY number DESC LIMIT ?2";
            select(&transaction, rest, params![below, limit])
        })
        .await
    }
}

const READ: &str = "read a re-evaluation";
const WRITE: &str = "write a re-evaluation";

impl Engine {
    fn begin_reevaluation(
        &mut self,
        range: &Range,
        request_id: &str,
        at: Timestamp,
        by: &By,
    ) -> Result<StoredReevaluation, ReevaluationError> {
        let transaction = self.begin(WRITE)?;
        if !request_id.is_empty() {
            let rest = "WHERE request_id = ?1 LIMIT 1";
            let known = select(&transaction, rest, params![request_id])?;
            if let Some(known) = known.into_iter().next() {
                return Ok(known);
            }
        }
        let statement = "SELECT count(*) FROM reevaluations WHERE end_time = ''";
        let waiting: i64 = transaction
            .query_row(statement, [], |row| row.get(0))
            .map_err(failed(WRITE))?;
        if waiting >= WAITING_MAX {
            return Err(ReevaluationError::TooMany);
        }
        forget(&transaction, at)?;
        let policy = range.policy.as_ref().map_or("", PolicyId::as_str);
        transaction
            .execute(
                "INSERT INTO reevaluations (request_id, policy_id, filter, state, cancelling, place,
                     total, evaluated, changed, failed, error, actor, create_time, update_time, end_time)
                 VALUES (?1, ?2, ?3, ?4, 0, '', NULL, 0, 0, 0, '', ?5, ?6, ?6, '')",
                params![
                    request_id,
                    policy,
                    range.filter,
                    State::Waiting.as_str(),
                    by.actor,
                    at.to_string()
                ],
            )
            .map_err(failed(WRITE))?;
        let number = number("a re-evaluation", transaction.last_insert_rowid())?;
        note(
            &transaction,
            "reevaluation.start",
            (number, policy),
            (at, by),
        )?;
        let begun = one(&transaction, number)?;
        transaction.commit().map_err(failed(WRITE))?;
        Ok(begun)
    }

    fn next_reevaluation(&mut self, at: Timestamp) -> Result<Option<StoredReevaluation>, Error> {
        let transaction = self.begin(WRITE)?;
        // All that wait, which are few: the first may be one that cannot be read.
        let rest = "WHERE end_time = '' ORDER BY number";
        let Some(next) = select(&transaction, rest, [])?.into_iter().next() else {
            return Ok(None);
        };
        let next = StoredReevaluation {
            state: State::Running,
            updated_at: at,
            ..next
        };
        write(&transaction, &next)?;
        transaction.commit().map_err(failed(WRITE))?;
        Ok(Some(next))
    }

    fn keep_reevaluation(&mut self, one: &StoredReevaluation) -> Result<bool, Error> {
        let transaction = self.begin(WRITE)?;
        write(&transaction, one)?;
        let statement = "SELECT cancelling FROM reevaluations WHERE number = ?1";
        let cancelling = transaction
            .query_row(statement, [stored(one.number)], |row| row.get(0))
            .optional()
            .map_err(failed(WRITE))?;
        transaction.commit().map_err(failed(WRITE))?;
        Ok(cancelling.unwrap_or(false))
    }

    fn cancel_reevaluation(
        &mut self,
        number: u64,
        at: Timestamp,
        by: &By,
    ) -> Result<StoredReevaluation, ReevaluationError> {
        let transaction = self.begin(WRITE)?;
        let found = one(&transaction, number)?;
        if found.state.has_ended() || found.cancelling {
            return Ok(found);
        }
        let waits = found.state == State::Waiting;
        let cancelled = StoredReevaluation {
            state: if waits { State::Cancelled } else { found.state },
            ended_at: waits.then_some(at),
            updated_at: at,
            cancelling: true,
            ..found
        };
        write(&transaction, &cancelled)?;
        transaction
            .execute(
                "UPDATE reevaluations SET cancelling = 1 WHERE number = ?1",
                [stored(number)],
            )
            .map_err(failed(WRITE))?;
        let policy = cancelled.range.policy.as_ref().map_or("", PolicyId::as_str);
        note(
            &transaction,
            "reevaluation.cancel",
            (number, policy),
            (at, by),
        )?;
        transaction.commit().map_err(failed(WRITE))?;
        Ok(cancelled)
    }
}

/// Notes who did it, with the policy; empty: all.
fn note(
    transaction: &Transaction<'_>,
    action: &str,
    (number, policy): (u64, &str),
    when: (Timestamp, &By),
) -> Result<(), Error> {
    let content = serde_json::json!({ "policy": policy }).to_string();
    let what = (number, Some(&*content));
    audit::note(transaction, action, &number.to_string(), what, when)
}

/// Writes what moves; what somebody wants of it is not touched.
fn write(transaction: &Transaction<'_>, one: &StoredReevaluation) -> Result<(), Error> {
    transaction
        .execute(
            "UPDATE reevaluations SET state = ?2, place = ?3, total = ?4, evaluated = ?5,
                 changed = ?6, failed = ?7, error = ?8, update_time = ?9, end_time = ?10
             WHERE number = ?1",
            params![
                stored(one.number),
                one.state.as_str(),
                one.place,
                one.total.map(stored),
                stored(one.counts.evaluated),
                stored(one.counts.changed),
                stored(one.counts.failed),
                one.error,
                one.updated_at.to_string(),
                one.ended_at.map(|at| at.to_string()).unwrap_or_default(),
            ],
        )
        .map(|_| ())
        .map_err(failed(WRITE))
}

/// Removes ended ones that are kept no longer.
fn forget(transaction: &Transaction<'_>, at: Timestamp) -> Result<(), Error> {
    let since = at.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
    let statement =
        "DELETE FROM reevaluations WHERE end_time <> '' AND (end_time < ?1 OR number <= (
                         SELECT number FROM reevaluations WHERE end_time <> ''
                         ORDER BY number DESC LIMIT 1 OFFSET ?2))";
    transaction
        .execute(statement, params![since.to_string(), KEPT_MAX - 1])
        .map(|_| ())
        .map_err(failed("forget a re-evaluation"))
}

fn one(
    transaction: &Transaction<'_>,
    number: u64,
) -> Result<StoredReevaluation, ReevaluationError> {
    let found = select(transaction, "WHERE number = ?1", [stored(number)])?;
    let found = found.into_iter().next();
    found.ok_or(ReevaluationError::NotFound { number })
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}

#[cfg(test)]
mod tests;
