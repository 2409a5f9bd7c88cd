//! Rows of re-evaluations. What is read is not trusted.

use rusqlite::{Row, Transaction};
use service_kit::error::chain;

use super::super::row::{instant, number};
use super::{Error, READ, Range, State, StoredReevaluation, SweepCounts, failed};
use crate::policy_doc::PolicyId;

/// Reads those that `rest` of a statement names. One that cannot be read is left out: it is not carried out
/// and not told of.
pub(super) fn select(
    transaction: &Transaction<'_>,
    rest: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<StoredReevaluation>, Error> {
    let mut rows = transaction
        .prepare(&format!(
            "SELECT number, request_id, policy_id, filter, state, cancelling, place, total, evaluated,
                 changed, failed, error, actor, create_time, update_time, end_time
             FROM reevaluations {rest}"
        ))
        .map_err(failed(READ))?;
    let rows = rows.query_map(values, Kept::read).map_err(failed(READ))?;
    let mut found = Vec::new();
    for row in rows {
        let one = row.map_err(failed(READ));
        match one.and_then(Kept::into_reevaluation) {
            Ok(one) => found.push(one),
            Err(error) if error.is_of_row() => {
                tracing::error!(error = chain(&error), "a re-evaluation is left out");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A row, not trusted yet.
struct Kept {
    number: i64,
    request_id: String,
    policy_id: String,
    filter: String,
    state: String,
    cancelling: bool,
    place: String,
    total: Option<i64>,
    counts: [i64; 3],
    error: String,
    actor: String,
    times: [String; 3],
}

impl Kept {
    fn read(row: &Row<'_>) -> rusqlite::Result<Kept> {
        Ok(Kept {
            number: row.get(0)?,
            request_id: row.get(1)?,
            policy_id: row.get(2)?,
            filter: row.get(3)?,
            state: row.get(4)?,
            cancelling: row.get(5)?,
            place: row.get(6)?,
            total: row.get(7)?,
            counts: [row.get(8)?, row.get(9)?, row.get(10)?],
            error: row.get(11)?,
            actor: row.get(12)?,
            times: [row.get(13)?, row.get(14)?, row.get(15)?],
        })
    }

    fn into_reevaluation(self) -> Result<StoredReevaluation, Error> {
        let damaged = |what: &str, found: &str| Error::Damaged {
            what: format!("{what} of re-evaluation {} is {found:?}", self.number),
        };
        let state = State::ALL.into_iter().find(|it| it.as_str() == self.state);
        let policy = match self.policy_id.as_str() {
            "" => None,
            id => Some(PolicyId::parse(id).map_err(|_| damaged("the policy", id))?),
        };
        let [evaluated, changed, failed] = self.counts;
        let [created_at, updated_at, ended_at] = &self.times;
        Ok(StoredReevaluation {
            number: number("a re-evaluation", self.number)?,
            state: state.ok_or_else(|| damaged("the state", &self.state))?,
            range: Range {
                policy,
                filter: self.filter,
            },
            request_id: self.request_id,
            cancelling: self.cancelling,
            place: self.place,
            total: self
                .total
                .map(|total| number("a count", total))
                .transpose()?,
            counts: SweepCounts {
                evaluated: number("a count", evaluated)?,
                changed: number("a count", changed)?,
                failed: number("a count", failed)?,
            },
            error: self.error,
            actor: self.actor,
            created_at: instant(created_at)?,
            updated_at: instant(updated_at)?,
            ended_at: match ended_at.as_str() {
                "" => None,
                text => Some(instant(text)?),
            },
        })
    }
}
