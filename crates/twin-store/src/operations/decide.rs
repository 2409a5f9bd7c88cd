//! What an operation does to twins, decided on the overlay: pure, run by the engine, committed
//! together with the operation's progress.

use jiff::Timestamp;
use twin::query::Vocabulary;
use twin::{Condition, IdentityKey, TwinPatch};

use super::{Operation, Outcome, State, TwinResult, Undo, Work};
use crate::apply::twins::{self, Conditions, Form, OperatorWrite};
use crate::apply::{Cause, Mode, Overlay};
use crate::error::Error;
use crate::lookup;
use crate::store::OperationId;

/// What is to be done with the next twins.
#[derive(Debug, Clone)]
pub enum Step {
    /// These are written as the update says, if they still match.
    Update(Vec<IdentityKey>),
    /// Of these, what the results say is taken back.
    TakeBack(Vec<(IdentityKey, Undo)>),
}

/// Where a walk is after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// More twins follow.
    More,
    /// These were the last.
    Last,
}

/// Does one step of an operation, and answers how the operation stands then. One that has ended
/// meanwhile, because it was cancelled, does nothing any more.
///
/// # Errors
/// The operation is gone, or its row cannot be read.
pub fn step(
    overlay: &mut Overlay,
    id: &OperationId,
    step: &Step,
    after: Option<&IdentityKey>,
    next: Next,
    now: Timestamp,
) -> Result<Operation, Error> {
    let mut operation = load(overlay, id)?;
    if operation.state != State::Running {
        return Ok(operation);
    }
    let cause = Cause {
        actor: operation.actor.clone(),
        cause: format!("operation:{}", id.0),
        trace_parent: operation.trace_parent.clone(),
        ..Cause::default()
    };
    let mut results = Vec::new();
    match (step, &operation.work) {
        (Step::Update(keys), Work::Update(update)) => {
            let condition = Condition::parse_in(&update.condition, Vocabulary::Query).ok();
            let sections = || TwinPatch {
                tags: update.tags.clone(),
                desired: update.desired.clone(),
            };
            for key in keys {
                let still_matches = |overlay: &Overlay| -> Result<bool, Error> {
                    let Some(condition) = &condition else {
                        return Ok(false);
                    };
                    let record = overlay.get(key)?;
                    let twin = lookup::of_record(record);
                    let matches = condition.matches_at(&twin, operation.created_at);
                    lookup::undamaged(&key.to_string(), &twin)?;
                    Ok(matches)
                };
                let outcome = match still_matches(overlay) {
                    Ok(true) => write(overlay, key, sections(), &cause, now),
                    Ok(false) => Ok(Done::left("it no longer matches")),
                    Err(error) => Err(error),
                };
                results.push(result(key, outcome, now));
            }
        }
        (Step::TakeBack(undos), Work::Undo { .. }) => {
            for (key, undo) in undos {
                let outcome = take_back(overlay, key, undo, &cause, now);
                results.push(result(key, outcome, now));
            }
        }
        (Step::Update(_), Work::Undo { .. }) | (Step::TakeBack(_), Work::Update(_)) => {
            debug_assert!(false, "a runner reads what the operation is");
        }
    }
    for result in results {
        operation.count(result.outcome);
        overlay.put_result(result.to_row(id));
    }
    operation.after = after.cloned().or(operation.after);
    operation.updated_at = now;
    if next == Next::Last {
        operation.end(State::Succeeded, now);
    }
    overlay.put_operation(operation.to_row());
    Ok(operation)
}

/// Changes an operation that still runs, and answers it.
///
/// # Errors
/// The operation is gone, or its row cannot be read.
pub fn amend(
    overlay: &mut Overlay,
    id: &OperationId,
    change: impl FnOnce(&mut Operation),
) -> Result<Operation, Error> {
    let mut operation = load(overlay, id)?;
    if operation.state == State::Running {
        change(&mut operation);
        overlay.put_operation(operation.to_row());
    }
    Ok(operation)
}

fn load(overlay: &Overlay, id: &OperationId) -> Result<Operation, Error> {
    let row = overlay.operation(id);
    let row = row.ok_or_else(|| crate::error::ReadError::NoOperation(super::name(id)))?;
    Ok(Operation::from_row(row)?)
}

/// What was done to a twin.
struct Done {
    outcome: Outcome,
    reason: String,
    revision: u64,
    undo: Option<Undo>,
}

impl Done {
    fn left(reason: impl Into<String>) -> Done {
        Done {
            outcome: Outcome::Skipped,
            reason: reason.into(),
            revision: 0,
            undo: None,
        }
    }
}

fn write(
    overlay: &mut Overlay,
    key: &IdentityKey,
    sections: TwinPatch,
    cause: &Cause,
    now: Timestamp,
) -> Result<Done, Error> {
    let before = overlay.get(key)?.clone();
    let write = OperatorWrite {
        form: Form::Patch,
        sections,
        conditions: Conditions::default(),
        mode: Mode::Write,
        action: "twin.bulk",
    };
    let after = twins::write(overlay, key, &write, now, cause)?;
    Ok(Done {
        outcome: Outcome::Succeeded,
        reason: String::new(),
        revision: after.revision.get(),
        undo: Some(Undo::of(&before, &after)?),
    })
}

fn take_back(
    overlay: &mut Overlay,
    key: &IdentityKey,
    undo: &Undo,
    cause: &Cause,
    now: Timestamp,
) -> Result<Done, Error> {
    let found = undo.on(overlay.get(key)?)?;
    let reason = found.left.join("; ");
    if found.tags.is_empty() && found.desired.is_empty() {
        let nothing = "nothing of it is left to be taken back".to_owned();
        let reason = if reason.is_empty() { nothing } else { reason };
        return Ok(Done::left(reason));
    }
    let given = |patch: twin::Map| (!patch.is_empty()).then_some(patch);
    let sections = TwinPatch {
        tags: given(found.tags),
        desired: given(found.desired),
    };
    let reason = if reason.is_empty() {
        reason
    } else {
        format!("left alone: {reason}")
    };
    let done = write(overlay, key, sections, cause, now)?;
    Ok(Done { reason, ..done })
}

fn result(key: &IdentityKey, done: Result<Done, Error>, now: Timestamp) -> TwinResult {
    let done = done.unwrap_or_else(|error| match error {
        Error::NotFound(_) => Done::left("it was deleted meanwhile"),
        error => Done {
            outcome: Outcome::Failed,
            reason: error.to_string(),
            revision: 0,
            undo: None,
        },
    });
    TwinResult {
        key: key.clone(),
        outcome: done.outcome,
        reason: done.reason,
        revision: done.revision,
        at: now,
        undo: done.undo,
    }
}
