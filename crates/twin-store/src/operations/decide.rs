//! What an operation does to twins, decided on the overlay: pure, run by the engine, committed
//! together with the operation's progress.

use jiff::Timestamp;
use twin::query::Vocabulary;
use twin::{Condition, IdentityKey, TwinPatch};

use super::{Called, Operation, Outcome, State, TwinResult, Undo, Update, Work};
use crate::apply::twins::{self, Conditions, Form, OperatorWrite};
use crate::apply::{Cause, Mode, Overlay};
use crate::error::Error;
use crate::lookup;
use crate::store::{OperationId, Selection};

/// What is to be done with the next twins.
#[derive(Debug, Clone)]
pub enum Step {
    /// These are written as the update says, if they still match.
    Update(Vec<IdentityKey>),
    /// Of these, what the results say is taken back.
    TakeBack(Vec<(IdentityKey, Undo)>),
    /// These are left alone, because the operation was stopped before it came to them.
    Leave(Vec<IdentityKey>),
}

impl Step {
    /// How many twins it comes to.
    pub fn len(&self) -> usize {
        match self {
            Step::Update(keys) | Step::Leave(keys) => keys.len(),
            Step::TakeBack(undos) => undos.len(),
        }
    }

    /// Whether it comes to none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has to be loaded for it.
    pub fn selections(&self) -> Vec<Selection> {
        match self {
            Step::Update(keys) | Step::Leave(keys) => {
                keys.iter().cloned().map(Selection::One).collect()
            }
            Step::TakeBack(undos) => undos
                .iter()
                .map(|(key, _)| Selection::One(key.clone()))
                .collect(),
        }
    }
}

/// Where a walk is after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// More twins follow.
    More,
    /// These were the last.
    Last,
}

/// One step of an operation.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Where the walk was when it was made; if it is elsewhere, this was done already.
    pub from: Option<IdentityKey>,
    /// What is to be done here.
    pub step: Step,
    /// What is only noted: twins that are left to the owners of other partitions, and ones that an
    /// undo cannot do anything about, because what was written to them cannot be read.
    pub noted: Vec<TwinResult>,
    /// Results that an undo came to and that do not even say whose they are.
    pub lost: u64,
    /// Up to where the walk is after it.
    pub after: Option<IdentityKey>,
    /// Whether more follows.
    pub next: Next,
}

/// Does one step of an operation, and answers how the operation stands then. One that was stopped
/// meanwhile does nothing any more, nor does one that was led on from elsewhere.
///
/// # Errors
/// The operation is gone, or its row cannot be read.
pub fn step(
    overlay: &mut Overlay,
    id: &OperationId,
    chunk: &Chunk,
    now: Timestamp,
) -> Result<Operation, Error> {
    let mut operation = load(overlay, id)?;
    if !operation.goes_on() || operation.after != chunk.from {
        return Ok(operation);
    }
    let mut results = carry_out(overlay, &operation, &chunk.step, now);
    results.extend(chunk.noted.iter().cloned());
    operation.lost += chunk.lost;
    for result in results {
        operation.count(result.outcome);
        overlay.put_result(result.to_row(id));
    }
    operation.after = chunk.after.clone().or(operation.after);
    operation.updated_at = now;
    if chunk.next == Next::Last {
        operation.walked = true;
        if operation.handed_over == 0 {
            operation.end(State::Succeeded, now);
        }
    }
    overlay.put_operation(operation.to_row());
    Ok(operation)
}

/// Does what was handed over to us, and leaves the final results.
pub fn assigned(overlay: &mut Overlay, operation: &Operation, step: &Step, now: Timestamp) {
    for result in carry_out(overlay, operation, step, now) {
        overlay.put_result(result.to_row(&operation.id));
    }
}

/// Writes to each twin as the operation wants, and tells what became of it.
pub(super) fn carry_out(
    overlay: &mut Overlay,
    operation: &Operation,
    step: &Step,
    now: Timestamp,
) -> Vec<TwinResult> {
    let cause = Cause {
        actor: operation.actor.clone(),
        cause: format!("operation:{}", operation.id.0),
        trace_parent: operation.trace_parent.clone(),
        ..Cause::default()
    };
    let mut results = Vec::new();
    match (step, &operation.work) {
        (Step::Update(keys), Work::Update(update)) => {
            for key in keys {
                let outcome = match still_matches(overlay, operation, update, key) {
                    Ok(true) => {
                        let sections = TwinPatch {
                            tags: update.tags.clone(),
                            desired: update.desired.clone(),
                        };
                        write(overlay, key, sections, &cause, now)
                    }
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
        (Step::Leave(keys), _) => {
            for key in keys {
                let left = Done::left("the operation was stopped before it came to this twin");
                results.push(result(key, Ok(left), now));
            }
        }
        (Step::Update(_), Work::Undo { .. }) | (Step::TakeBack(_), Work::Update(_)) => {
            debug_assert!(false, "a runner reads what the operation is");
        }
    }
    results
}

fn still_matches(
    overlay: &Overlay,
    operation: &Operation,
    update: &Update,
    key: &IdentityKey,
) -> Result<bool, Error> {
    // What could be read when it began can be read now.
    let Ok(condition) = Condition::parse_in(&update.condition, Vocabulary::Query) else {
        return Ok(false);
    };
    let twin = lookup::of_record(overlay.get(key)?);
    let matches = condition.matches_at(&twin, operation.due_at());
    lookup::undamaged(&key.to_string(), &twin)?;
    Ok(matches)
}

/// Whether a device is called now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is.
    Yes,
    /// Not here and now.
    No,
    /// Not at all, and why.
    Never(&'static str),
}

/// Notes that a device is about to be called, unless the operation was stopped.
///
/// # Errors
/// The operation is gone, or its row cannot be read.
pub fn begin_call(
    overlay: &mut Overlay,
    id: &OperationId,
    key: IdentityKey,
    now: Timestamp,
) -> Result<Begun, Error> {
    let operation = load(overlay, id)?;
    if operation.state != State::Running || operation.ending.is_some() {
        return Ok(Begun::No);
    }
    let result = TwinResult {
        call: Some(Called::Begun),
        ..TwinResult::pending(key, None, now)
    };
    overlay.put_result(result.to_row(id));
    Ok(Begun::Yes)
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
    let row = overlay.operation(id)?;
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
        call: None,
    }
}
