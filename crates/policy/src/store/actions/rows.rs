//! Rows of actions: where they stand, and what came of a call.

use jiff::Timestamp;
use rusqlite::{Transaction, params};
use service_kit::error::chain;
use twin::IdentityKey;

use super::{ActionOutcome, ActionResult, damaged};
use crate::actions::{ActionId, ActionKey, Due, Place, State};
use crate::policy_doc::PolicyId;
use crate::store::Error;
use crate::store::row::{NUMBER_MAX, instant, number, stored};

/// Reads where an action stands. What of it cannot be read is taken to be so that nobody is called for it: the
/// next cause calls again. Only a row whose key cannot be read is an error.
pub(super) fn read_place(
    texts: [String; 8],
    numbers: [i64; 8],
    problems: &mut Vec<String>,
) -> Result<(ActionKey, Place), Error> {
    let [twin, policy, action, state, since, until, begin, change] = texts;
    let [
        seen,
        holds,
        revision,
        fingerprint,
        cause,
        tries,
        called,
        again,
    ] = numbers;
    let key = ActionKey {
        twin: IdentityKey::parse_path(&twin).map_err(|error| damaged("the twin", &error))?,
        id: ActionId {
            policy: PolicyId::parse(&policy).map_err(|error| damaged("the policy", &error))?,
            action,
        },
    };
    let mut wrong = Vec::new();
    // A time that was long ago: what is due until then is over, and what began then has ended unknown.
    let mut time = |what: &str, text: &str| {
        instant(text).unwrap_or_else(|error| {
            wrong.push(format!("{what}: {}", chain(&error)));
            Timestamp::UNIX_EPOCH
        })
    };
    let state = match state.as_str() {
        "waiting" => Ok(State::Waiting {
            until: time("until when it waits", &until),
        }),
        "due" | "calling" => {
            let due = Due {
                since: time("since when it is due", &since),
                until: time("until when it is due", &until),
                tries: u32::try_from(tries).unwrap_or(u32::MAX),
            };
            Ok(if state == "due" {
                State::Due(due)
            } else {
                State::Calling {
                    due,
                    revision: number("a revision", called).unwrap_or_default(),
                    begun: time("when it was called", &begin),
                    again: again != 0,
                }
            })
        }
        "idle" => Ok(State::Idle),
        other => Err(format!("its state is {other:?}")),
    };
    let at = time("when it changed", &change);
    let state = state.unwrap_or_else(|problem| {
        wrong.push(problem);
        State::Idle
    });
    let mut whole = |what: &str, stored| {
        number(what, stored).unwrap_or_else(|error| {
            wrong.push(chain(&error));
            0
        })
    };
    let place = Place {
        seen: whole("a revision of a twin", seen),
        revision: whole("a revision", revision),
        cause: whole("a cause", cause),
        // Of a damaged row it is taken to hold: then nothing is called before it has ended and begun again.
        holds: holds != 0,
        fingerprint: fingerprint.cast_unsigned(),
        state,
        at,
    };
    if wrong.is_empty() {
        return Ok((key, place));
    }
    problems.push(format!(
        "where action {} of policy {} stands on {twin} ({})",
        key.id.action,
        key.id.policy,
        wrong.join(", ")
    ));
    let place = Place {
        holds: true,
        revision: NUMBER_MAX.cast_unsigned(),
        ..place
    };
    Ok((key, place))
}

pub(super) fn write_place(
    transaction: &Transaction<'_>,
    key: &ActionKey,
    place: &Place,
) -> rusqlite::Result<usize> {
    let (state, due, until, called) = match place.state {
        State::Idle => ("idle", None, None, None),
        State::Waiting { until } => ("waiting", None, Some(until), None),
        State::Due(due) => ("due", Some(due), Some(due.until), None),
        State::Calling {
            due,
            revision,
            begun,
            again,
        } => (
            "calling",
            Some(due),
            Some(due.until),
            Some((revision, begun, again)),
        ),
    };
    let text = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let statement = "INSERT OR REPLACE INTO action_places
        (twin, policy_id, action, seen, holds, revision, fingerprint, cause, state, since_time,
         until_time, begin_time, tries, called_revision, again, change_time)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
    transaction.prepare_cached(statement)?.execute(params![
        key.twin.to_string(),
        key.id.policy.as_str(),
        key.id.action,
        stored(place.seen),
        place.holds,
        stored(place.revision),
        place.fingerprint.cast_signed(),
        stored(place.cause),
        state,
        text(due.map(|due| due.since)),
        text(until),
        text(called.map(|(_, begun, _)| begun)),
        due.map_or(0, |due| due.tries),
        called.map_or(0, |(revision, _, _)| stored(revision)),
        called.is_some_and(|(_, _, again)| again),
        place.at.to_string(),
    ])
}

pub(super) fn write_result(
    transaction: &Transaction<'_>,
    result: &ActionResult,
) -> rusqlite::Result<usize> {
    let module = result.key.twin.module.as_ref();
    let statement = "INSERT INTO action_results
        (policy_id, revision, action, device_id, module_id, cause, outcome, status, payload, error,
         begin_time, end_time)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    transaction.prepare_cached(statement)?.execute(params![
        result.key.id.policy.as_str(),
        stored(result.revision),
        result.key.id.action,
        result.key.twin.device.as_str(),
        module.map_or("", twin::ModuleId::as_str),
        stored(result.cause),
        result.outcome.as_str(),
        result.status,
        result.payload,
        result.error,
        result.begun.map(|at| at.to_string()).unwrap_or_default(),
        result.ended.to_string(),
    ])
}

pub(super) fn read_result(
    texts: [String; 9],
    numbers: [i64; 4],
) -> Result<(u64, ActionResult), Error> {
    let [
        policy,
        action,
        device,
        module,
        outcome,
        payload,
        error,
        begin,
        end,
    ] = texts;
    let [at, revision, cause, status] = numbers;
    let twin = if module.is_empty() {
        device
    } else {
        format!("{device}/{module}")
    };
    let mut outcomes = ActionOutcome::ALL.into_iter();
    let result = ActionResult {
        key: ActionKey {
            twin: IdentityKey::parse_path(&twin).map_err(|error| damaged("the twin", &error))?,
            id: ActionId {
                policy: PolicyId::parse(&policy).map_err(|error| damaged("the policy", &error))?,
                action,
            },
        },
        revision: number("a revision", revision)?,
        cause: number("a cause", cause)?,
        outcome: outcomes
            .find(|known| known.as_str() == outcome)
            .ok_or_else(|| damaged("the outcome", &format!("is {outcome:?}")))?,
        status: i32::try_from(status).map_err(|error| damaged("the status", &error))?,
        payload,
        error,
        begun: match begin.as_str() {
            "" => None,
            text => Some(instant(text)?),
        },
        ended: instant(&end)?,
    };
    Ok((number("a result", at)?, result))
}
