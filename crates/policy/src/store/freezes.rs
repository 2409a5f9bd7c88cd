//! Freezes as they are kept: who ordered them, for which policies and for how long. A change and its
//! entry for the audit log are one transaction.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Row, Transaction, params};
use service_kit::error::{Classified, Kind, chain};

use super::audit::{self, By};
use super::row::{instant, number, stored};
use super::sqlite::{Engine, raise_sweep};
use super::{Error, Store, SweepNumber, Unreadable};
use crate::policy_doc::PolicyId;
use crate::schedule::Freeze;

/// Freezes that have not ended: more than anybody keeps in mind.
const FREEZES_MAX: usize = 100;

/// Ended ones are kept for so long: nothing waits for longer, so nobody asks what was before.
const KEPT: SignedDuration = SignedDuration::from_hours(40 * 24);

/// Ended ones that are kept at most, the last ones: who freezes with each deployment leaves many.
const ENDED_MAX: usize = 1000;

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

    /// Whether it is over at a time.
    pub(crate) fn has_ended(&self, at: Timestamp) -> bool {
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

/// Takes out of freezes, which stand in the order of their numbers, those that ended so long ago, or so many
/// freezes ago, that nobody asks what was then; answers their numbers.
pub(crate) fn forget(freezes: &mut Vec<StoredFreeze>, now: Timestamp) -> Vec<u64> {
    let since = now.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
    let ended = freezes.iter().filter(|freeze| freeze.has_ended(now));
    let mut too_many = ended.count().saturating_sub(ENDED_MAX);
    let mut forgotten = Vec::new();
    freezes.retain(|freeze| {
        let old = freeze.has_ended(since) || (too_many > 0 && freeze.has_ended(now));
        if old {
            too_many = too_many.saturating_sub(1);
            forgotten.push(freeze.number);
        }
        !old
    });
    forgotten
}

/// Why a freeze is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FreezeError {
    /// There never was one, or it ended long ago.
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

/// What became of a change: the freeze, and a sweep if it may have let something go on.
pub(crate) type Changed = (StoredFreeze, Option<SweepNumber>);

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
        let mut kept = read(&transaction)?;
        for old in forget(&mut kept, at) {
            let statement = "DELETE FROM freezes WHERE number = ?1";
            let done = transaction.execute(statement, [stored(old)]);
            done.map_err(failed(ACTION))?;
        }
        let open = kept.iter().filter(|freeze| !freeze.has_ended(at)).count();
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
        // Who closes changes no twin, so nobody has to be looked at.
        note(&transaction, "freeze.create", &freeze, (at, by))?;
        transaction.commit().map_err(failed(ACTION))?;
        Ok((freeze, None))
    }

    fn end_freeze(&mut self, number: u64, at: Timestamp, by: &By) -> Result<Changed, FreezeError> {
        const ACTION: &str = "end a freeze";
        let transaction = self.begin(ACTION)?;
        let freeze = read_one(&transaction, number)?;
        let freeze = freeze.ok_or(FreezeError::NotFound { number })?;
        if freeze.has_ended(at) {
            return Ok((freeze, None));
        }
        let freeze = StoredFreeze {
            // One that has not begun never does.
            from: freeze.from.min(at),
            to: Some(at),
            ..freeze
        };
        transaction
            .execute(
                // All of it: one of which a part could not be read can be read from here on.
                "UPDATE freezes SET start_time = ?2, end_time = ?3, policies = ?4, reason = ?5, author = ?6,
                    create_time = ?7
                 WHERE number = ?1",
                params![
                    stored(number),
                    freeze.from.to_string(),
                    at.to_string(),
                    print_policies(&freeze.policies)?,
                    freeze.reason,
                    freeze.author,
                    freeze.created_at.to_string(),
                ],
            )
            .map_err(failed(ACTION))?;
        note(&transaction, "freeze.end", &freeze, (at, by))?;
        let sweep = raise_sweep(&transaction)?;
        transaction.commit().map_err(failed(ACTION))?;
        Ok((freeze, Some(sweep)))
    }
}

/// Notes who changed a freeze.
fn note(
    transaction: &Transaction<'_>,
    action: &str,
    freeze: &StoredFreeze,
    when: (Timestamp, &By),
) -> Result<(), Error> {
    let content = serde_json::json!({
        "policies": freeze.policies.iter().map(PolicyId::as_str).collect::<Vec<_>>(),
        "from": freeze.from.to_string(),
        "to": freeze.to.map(|to| to.to_string()),
    });
    let (id, content) = (freeze.number.to_string(), content.to_string());
    let what = (freeze.number, Some(&*content));
    audit::note_why(transaction, action, &id, what, &freeze.reason, when)
}

/// Reads those that have not ended, and those that ended a while ago.
pub(super) fn load(
    transaction: &Transaction<'_>,
    now: Timestamp,
    unreadable: &mut Unreadable,
) -> Result<Vec<StoredFreeze>, Error> {
    let (mut freezes, damaged) = read_rows(transaction)?;
    for problem in damaged {
        unreadable.other(problem);
    }
    forget(&mut freezes, now);
    Ok(freezes)
}

const SELECT: &str = "SELECT number, policies, start_time, end_time, reason, author, create_time
                      FROM freezes";

fn read(transaction: &Transaction<'_>) -> Result<Vec<StoredFreeze>, Error> {
    Ok(read_rows(transaction)?.0)
}

/// Reads all of them, and what is wrong with some. Of a part that cannot be read the worst is taken to be so: that
/// it is of all policies, and lasts until somebody ends it.
fn read_rows(transaction: &Transaction<'_>) -> Result<(Vec<StoredFreeze>, Vec<String>), Error> {
    const ACTION: &str = "read freezes";
    let mut rows = transaction
        .prepare(&format!("{SELECT} ORDER BY number"))
        .map_err(failed(ACTION))?;
    let rows = rows
        .query_map([], FreezeRow::read)
        .map_err(failed(ACTION))?;
    let (mut freezes, mut damaged) = (Vec::new(), Vec::new());
    for row in rows {
        match row.map_err(failed(ACTION))?.into_freeze() {
            Ok((freeze, problem)) => {
                freezes.push(freeze);
                damaged.extend(problem);
            }
            // Nobody could end it.
            Err(error) => {
                damaged.push(format!("a freeze, which does not count: {}", chain(&error)));
            }
        }
    }
    Ok((freezes, damaged))
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
        const NONE: &str = "no text";
        // No text is no good text for what must have one.
        let text = |column| row.get::<_, String>(column);
        Ok(FreezeRow {
            number: row.get(0)?,
            policies: text(1).unwrap_or_else(|_| NONE.to_owned()),
            start_time: text(2).unwrap_or_else(|_| NONE.to_owned()),
            end_time: text(3).unwrap_or_else(|_| NONE.to_owned()),
            reason: text(4).unwrap_or_default(),
            author: text(5).unwrap_or_default(),
            create_time: text(6).unwrap_or_else(|_| NONE.to_owned()),
        })
    }

    /// The freeze, and what of it cannot be read.
    fn into_freeze(self) -> Result<(StoredFreeze, Option<String>), Error> {
        let mut problems = Vec::new();
        let policies = self.policies().unwrap_or_else(|problem| {
            problems.push(format!(
                "whose it is ({problem}), so it is taken to be of all policies"
            ));
            BTreeSet::new()
        });
        let mut time = |name: &str, text: &str| {
            let time = instant(text).ok();
            if time.is_none() {
                problems.push(format!("{name} ({text:?})"));
            }
            time
        };
        let from = time("its beginning", &self.start_time);
        let to = Some(self.end_time.as_str()).filter(|text| !text.is_empty());
        let to = to.and_then(|to| time("its end", to));
        let created_at = time("when it was made", &self.create_time);
        let number = number("a freeze", self.number)?;
        let problem = (!problems.is_empty()).then(|| {
            format!(
                "of freezes/{number} {}; end it if it is not meant any more",
                problems.join(", ")
            )
        });
        let reason = match &problem {
            None => self.reason,
            Some(_) => format!("{} (a part of it cannot be read)", self.reason),
        };
        let freeze = StoredFreeze {
            number,
            policies,
            from: from.unwrap_or(Timestamp::UNIX_EPOCH),
            to,
            reason,
            author: self.author,
            created_at: created_at.unwrap_or(Timestamp::UNIX_EPOCH),
        };
        Ok((freeze, problem))
    }

    fn policies(&self) -> Result<BTreeSet<PolicyId>, String> {
        let ids: Vec<String> =
            serde_json::from_str(&self.policies).map_err(|error| error.to_string())?;
        ids.iter().map(|id| PolicyId::parse(id)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze(number: u64, to: Option<i64>) -> StoredFreeze {
        StoredFreeze {
            number,
            policies: BTreeSet::new(),
            from: Timestamp::UNIX_EPOCH,
            to: to.map(|second| Timestamp::from_second(second).unwrap()),
            reason: String::new(),
            author: "operator:a".to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_ended_is_forgotten_after_a_while_or_when_it_is_too_much() {
        let now = Timestamp::UNIX_EPOCH + KEPT;
        let mut freezes = vec![freeze(1, Some(0)), freeze(2, Some(1)), freeze(3, None)];
        assert_eq!(forget(&mut freezes, now), [1]);
        assert_eq!(freezes, [freeze(2, Some(1)), freeze(3, None)]);
        let more = (4..).map(|number| freeze(number, Some(2)));
        freezes.extend(more.take(ENDED_MAX + 1));
        assert_eq!(forget(&mut freezes, now), [2, 4]);
        assert_eq!(
            (freezes.len(), &freezes[0]),
            (ENDED_MAX + 1, &freeze(3, None))
        );
    }

    #[tokio::test]
    async fn rows_are_removed_and_their_numbers_not_given_again() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let by = || By {
            actor: "operator:a".to_owned(),
            request_id: uuid::Uuid::now_v7().to_string(),
            trace_parent: String::new(),
        };
        let create = async |at: Timestamp, to: Timestamp| {
            let freeze = StoredFreeze {
                to: Some(to),
                created_at: at,
                ..freeze(0, None)
            };
            store
                .create_freeze(freeze, by(), |_| ())
                .await
                .unwrap()
                .number
        };
        let (first, later) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + KEPT);
        assert_eq!(create(first, first).await, 1);
        assert_eq!(create(later, later + KEPT).await, 2);
        let loaded = store.load(first).await.unwrap().freezes;
        let numbers: Vec<u64> = loaded.iter().map(|freeze| freeze.number).collect();
        assert_eq!(numbers, [2]);
        assert_eq!(create(later, later + KEPT).await, 3);
    }
}
