//! Actions as they are kept: where they stand on twins, and what came of calls.

use jiff::Timestamp;
use rusqlite::{Row, params};
use service_kit::error::chain;

use super::row::{instant, stored};
use super::sqlite::Engine;
use super::{Error, Store};
use crate::actions::{ActionKey, Change, Place};
use crate::policy_doc::PolicyId;

use rows::{read_place, read_result, write_place, write_result};

mod rows;

/// Results that are kept: some weeks of what a fleet should be asked.
const RESULTS_MAX: i64 = 100_000;

/// Results that are removed at once, so that not every call costs a removal.
const RESULTS_SLACK: i64 = 1000;

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActionOutcome {
    /// The device answered with a status below 400.
    Succeeded,
    /// It answered with another, or the call was refused.
    Failed,
    /// It did not answer in time.
    Unanswered,
    /// Nobody knows whether it got the call.
    Unknown,
    /// It was never called.
    Expired,
}

impl ActionOutcome {
    /// All of them.
    pub(crate) const ALL: [ActionOutcome; 5] = [
        ActionOutcome::Succeeded,
        ActionOutcome::Failed,
        ActionOutcome::Unanswered,
        ActionOutcome::Unknown,
        ActionOutcome::Expired,
    ];

    /// As rows and metrics spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ActionOutcome::Succeeded => "succeeded",
            ActionOutcome::Failed => "failed",
            ActionOutcome::Unanswered => "unanswered",
            ActionOutcome::Unknown => "unknown",
            ActionOutcome::Expired => "expired",
        }
    }
}

/// What is kept of a call that has ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ActionResult {
    /// Of which action on which twin.
    pub(crate) key: ActionKey,
    /// The revision whose action it is.
    pub(crate) revision: u64,
    /// For which cause.
    pub(crate) cause: u64,
    /// What came of it.
    pub(crate) outcome: ActionOutcome,
    /// What the device answered with; 0: nothing.
    pub(crate) status: i32,
    /// JSON; empty: none.
    pub(crate) payload: String,
    /// Why there is no answer.
    pub(crate) error: String,
    /// When it was called; none: it was not.
    pub(crate) begun: Option<Timestamp>,
    /// When it ended.
    pub(crate) ended: Timestamp,
}

/// Which results are asked for.
#[derive(Debug, Clone)]
pub(crate) struct ActionQuery {
    /// Of which policy.
    pub(crate) policy: PolicyId,
    /// Of one device and its modules; empty: of all.
    pub(crate) device: String,
    /// With which outcome; none: any.
    pub(crate) outcome: Option<ActionOutcome>,
    /// With a lower number; none: from the newest.
    pub(crate) before: Option<u64>,
    /// At most so many.
    pub(crate) limit: usize,
}

impl Store {
    /// All places. Of those that cannot be read is said why; see [`rows::read_place`].
    pub(crate) async fn action_places(&self) -> Result<Places, Error> {
        self.run(Engine::action_places).await
    }

    /// Keeps what became of places, and what came of calls, together.
    pub(crate) async fn write_actions(
        &self,
        changes: Vec<Change>,
        results: Vec<ActionResult>,
    ) -> Result<(), Error> {
        self.run(move |engine| engine.write_actions(&changes, &results))
            .await
    }

    /// Results with their numbers, the newest first.
    pub(crate) async fn action_results(
        &self,
        query: ActionQuery,
    ) -> Result<Vec<(u64, ActionResult)>, Error> {
        self.run(move |engine| engine.action_results(&query)).await
    }

    /// The calls that began since then, by policy.
    pub(crate) async fn actions_begun_since(
        &self,
        since: Timestamp,
    ) -> Result<Vec<(PolicyId, Timestamp)>, Error> {
        self.run(move |engine| engine.actions_begun_since(since))
            .await
    }
}

/// Where actions stand.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// By twin and action.
    pub(crate) found: Vec<(ActionKey, Place)>,
    /// What is wrong with rows, whether something of them is found or not.
    pub(crate) problems: Vec<String>,
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error::Engine { action, source }
}

fn damaged(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Damaged {
        what: format!("{what} of an action: {error}"),
    }
}

/// A result that cannot be read is not told of, and others are.
fn left_out(error: Error) -> Result<(), Error> {
    if !error.is_of_row() {
        return Err(error);
    }
    tracing::error!(error = chain(&error), "a result of an action is left out");
    Ok(())
}

impl Engine {
    fn action_places(&mut self) -> Result<Places, Error> {
        const ACTION: &str = "read where actions stand";
        let statement = "SELECT twin, policy_id, action, state, since_time, until_time, begin_time,
                         change_time, seen, holds, revision, fingerprint, cause, tries,
                         called_revision, again FROM action_places";
        let mut rows = self
            .connection()
            .prepare(statement)
            .map_err(failed(ACTION))?;
        let read = |row: &Row<'_>| {
            let mut texts: [String; 8] = Default::default();
            for (index, text) in texts.iter_mut().enumerate() {
                // No text of ours is this one.
                *text = row.get(index).unwrap_or_else(|_| "\u{fffd}".to_owned());
            }
            let mut numbers = [0_i64; 8];
            for (index, number) in numbers.iter_mut().enumerate() {
                *number = row.get(8 + index)?;
            }
            Ok((texts, numbers))
        };
        let rows = rows.query_map([], read).map_err(failed(ACTION))?;
        let mut places = Places::default();
        for row in rows {
            let (texts, numbers) = row.map_err(failed(ACTION))?;
            match read_place(texts, numbers, &mut places.problems) {
                Ok(place) => places.found.push(place),
                Err(error) => places.problems.push(chain(&error)),
            }
        }
        Ok(places)
    }

    fn write_actions(&mut self, changes: &[Change], results: &[ActionResult]) -> Result<(), Error> {
        const ACTION: &str = "write where actions stand";
        let transaction = self.begin(ACTION)?;
        for (key, place) in changes {
            match place {
                Some(place) => write_place(&transaction, key, place),
                None => transaction.execute(
                    "DELETE FROM action_places
                     WHERE twin = ?1 AND policy_id = ?2 AND action = ?3",
                    params![key.twin.to_string(), key.id.policy.as_str(), key.id.action],
                ),
            }
            .map_err(failed(ACTION))?;
        }
        for result in results {
            write_result(&transaction, result).map_err(failed(ACTION))?;
        }
        if !results.is_empty() {
            let last = transaction.last_insert_rowid();
            if last % RESULTS_SLACK < i64::try_from(results.len()).unwrap_or(i64::MAX) {
                transaction
                    .execute(
                        "DELETE FROM action_results WHERE number <= ?1",
                        [last - RESULTS_MAX],
                    )
                    .map_err(failed(ACTION))?;
            }
        }
        transaction.commit().map_err(failed(ACTION))
    }

    fn action_results(&mut self, query: &ActionQuery) -> Result<Vec<(u64, ActionResult)>, Error> {
        const ACTION: &str = "read what came of actions";
        let statement = "SELECT policy_id, action, device_id, module_id, outcome, payload, error,
                         begin_time, end_time, number, revision, cause, status
                         FROM action_results
                         WHERE policy_id = ?1 AND (?2 = '' OR device_id = ?2)
                           AND (?3 = '' OR outcome = ?3) AND number < ?4
                         ORDER BY number DESC LIMIT ?5";
        let mut rows = self
            .connection()
            .prepare(statement)
            .map_err(failed(ACTION))?;
        let values = params![
            query.policy.as_str(),
            query.device,
            query.outcome.map_or("", ActionOutcome::as_str),
            query.before.map_or(i64::MAX, stored),
            i64::try_from(query.limit).unwrap_or(i64::MAX),
        ];
        let read = |row: &Row<'_>| {
            let mut texts: [String; 9] = Default::default();
            for (index, text) in texts.iter_mut().enumerate() {
                *text = row.get(index)?;
            }
            let mut numbers = [0_i64; 4];
            for (index, number) in numbers.iter_mut().enumerate() {
                *number = row.get(9 + index)?;
            }
            Ok((texts, numbers))
        };
        let rows = rows.query_map(values, read).map_err(failed(ACTION))?;
        let mut results = Vec::new();
        for row in rows {
            let result = row.map_err(failed(ACTION));
            match result.and_then(|(texts, numbers)| read_result(texts, numbers)) {
                Ok(result) => results.push(result),
                Err(error) => left_out(error)?,
            }
        }
        Ok(results)
    }

    fn actions_begun_since(
        &mut self,
        since: Timestamp,
    ) -> Result<Vec<(PolicyId, Timestamp)>, Error> {
        const ACTION: &str = "read when actions were called";
        // The newest by number; times are texts that do not sort to the last digit.
        let statement = "SELECT policy_id, begin_time FROM
                         (SELECT policy_id, begin_time, number FROM action_results
                          ORDER BY number DESC LIMIT 10000) WHERE begin_time <> ''";
        let mut rows = self
            .connection()
            .prepare(statement)
            .map_err(failed(ACTION))?;
        let rows = rows
            .query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .map_err(failed(ACTION))?;
        let mut begun = Vec::new();
        for row in rows {
            let one = row.map_err(failed(ACTION)).and_then(|(policy, at)| {
                let policy = PolicyId::parse(&policy);
                let policy = policy.map_err(|error| damaged("the policy", &error))?;
                Ok((policy, instant(&at)?))
            });
            match one {
                Ok((policy, at)) if at > since => begun.push((policy, at)),
                Ok(_) => {}
                Err(error) => left_out(error)?,
            }
        }
        Ok(begun)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use twin::IdentityKey;

    use super::*;
    use crate::actions::{ActionId, Due, State};

    fn key(twin: &str, action: &str) -> ActionKey {
        ActionKey {
            twin: IdentityKey::parse_path(twin).unwrap(),
            id: ActionId {
                policy: PolicyId::parse("p").unwrap(),
                action: action.to_owned(),
            },
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    #[tokio::test]
    async fn every_place_comes_back_as_it_was_and_goes_when_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let due = Due {
            since: at(3),
            until: at(4000),
            tries: 2,
        };
        let states = [
            State::Idle,
            State::Waiting { until: at(77) },
            State::Due(due),
            State::Calling {
                due,
                revision: 6,
                begun: at(9),
                again: true,
            },
        ];
        let place = |state| Place {
            seen: 12,
            holds: state != State::Idle,
            revision: 7,
            fingerprint: u64::MAX - 1,
            cause: 3,
            state,
            at: at(10),
        };
        let places: Vec<_> = states
            .into_iter()
            .enumerate()
            .map(|(n, state)| (key("d/m", &format!("a{n}")), place(state)))
            .collect();
        let changes = places.iter().cloned();
        let changes = changes.map(|(key, place)| (key, Some(place))).collect();
        let store = Store::open(folder.path()).await.unwrap();
        store.write_actions(changes, Vec::new()).await.unwrap();
        drop(store);
        let store = Store::open(folder.path()).await.unwrap();
        assert_eq!(store.action_places().await.unwrap().found, places);
        let gone = places.into_iter().map(|(key, _)| (key, None)).collect();
        store.write_actions(gone, Vec::new()).await.unwrap();
        assert_eq!(store.action_places().await.unwrap().found, []);
    }

    #[tokio::test]
    async fn results_are_found_by_device_and_outcome_the_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let result = |twin: &str, outcome, second| ActionResult {
            key: key(twin, "a"),
            revision: 2,
            cause: 1,
            outcome,
            status: 200,
            payload: "{}".to_owned(),
            error: String::new(),
            begun: (outcome != ActionOutcome::Expired).then(|| at(second)),
            ended: at(second + 1),
        };
        let all = vec![
            result("d/m", ActionOutcome::Succeeded, 1),
            result("d", ActionOutcome::Expired, 2),
            result("e", ActionOutcome::Succeeded, 3),
        ];
        store.write_actions(Vec::new(), all.clone()).await.unwrap();
        let ask = |device: &str, outcome, before| {
            let query = ActionQuery {
                policy: PolicyId::parse("p").unwrap(),
                device: device.to_owned(),
                outcome,
                before,
                limit: 2,
            };
            store.action_results(query)
        };
        let newest = ask("", None, None).await.unwrap();
        assert_eq!(newest, [(3, all[2].clone()), (2, all[1].clone())]);
        let rest = ask("", None, Some(2)).await.unwrap();
        assert_eq!(rest, [(1, all[0].clone())]);
        assert_eq!(ask("d", None, None).await.unwrap().len(), 2);
        let good = ask("d", Some(ActionOutcome::Succeeded), None)
            .await
            .unwrap();
        assert_eq!(good, [(1, all[0].clone())]);
        let begun = store.actions_begun_since(at(2)).await.unwrap();
        assert_eq!(begun, [(PolicyId::parse("p").unwrap(), at(3))]);
    }
}
