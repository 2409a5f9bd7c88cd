use std::time::Duration;

use iot_hub::MethodName;
use serde_json::json;

use super::called::ANSWER_BYTES_MAX;
use super::decide::{self, Chunk, Next, Step};
use super::take_back::TakeBack;
use super::*;
use crate::apply::twins::{self, Conditions, Form, OperatorWrite};
use crate::apply::{Cause, Mode, Overlay};
use crate::error::Error;
use crate::record::Record;
use crate::store::Loaded;
use crate::testing::{key, now, object, overlay, record};

const ID: &str = "0190b3a2-7c1e-7d3a-9d0b-0d6a2b9f4c11";

fn id() -> OperationId {
    OperationId(ID.to_owned())
}

fn update(condition: &str, desired: serde_json::Value) -> Operation {
    let update = Update {
        source: Source::Devices,
        condition: condition.to_owned(),
        tags: None,
        desired: Some(object(desired)),
        call: None,
    };
    let actor = Writer::Operator("alice".to_owned());
    Operation::begin(id(), Work::Update(update), actor, None, 0, now())
}

/// A record that somebody writes to.
fn patched(record: &Record, by: &str, desired: serde_json::Value) -> Record {
    let mut overlay = overlay([record.clone()]);
    let write = OperatorWrite {
        form: Form::Patch,
        sections: twin::TwinPatch {
            tags: None,
            desired: Some(object(desired)),
        },
        conditions: Conditions::default(),
        mode: Mode::Write,
        action: "twin.patch",
    };
    let cause = Cause {
        actor: Writer::Operator(by.to_owned()),
        ..Cause::default()
    };
    twins::write(&mut overlay, &record.key, &write, now(), &cause).expect("written")
}

fn desired(record: &Record) -> serde_json::Value {
    serde_json::from_str(&record.twin.desired.document).expect("JSON")
}

#[test]
fn what_is_stored_is_read_back() {
    let mut operation = update("*", json!({"a": {"b": null}}));
    operation.total = Some(7);
    operation.after = Some(key("d/m"));
    operation.count(Outcome::Failed);
    operation.end(State::Cancelled, now());
    let row = operation.to_row();
    assert!(row.ended);
    assert_eq!(Operation::from_row(&row).unwrap(), operation);
    let undo = Operation {
        work: Work::Undo { of: id() },
        state: State::Running,
        ended_at: None,
        ..operation
    };
    assert!(!undo.to_row().ended);
    assert_eq!(Operation::from_row(&undo.to_row()).unwrap(), undo);

    let before = record("d", "g");
    let after = patched(&before, "a", json!({"x": 1}));
    let result = TwinResult {
        key: key("d"),
        outcome: Outcome::Succeeded,
        reason: "r".to_owned(),
        revision: 9,
        at: now(),
        undo: Some(Undo::of(&before, &after).unwrap()),
        call: None,
    };
    let row = result.to_row(&id());
    assert_eq!(TwinResult::from_row(&row).unwrap(), result);
    let answer = |payload: String| Answer {
        status: -7,
        payload,
    };
    let (large, said) = Called::answered(answer("1".repeat(ANSWER_BYTES_MAX + 1)));
    assert_eq!(large, Called::Answered(answer("null".to_owned())));
    assert!(said.contains("8193 bytes"), "{said}");
    let (small, said) = Called::answered(answer("[1.50]".to_owned()));
    assert!(said.is_empty());
    for called in [Called::Begun, small] {
        let result = TwinResult {
            call: Some(called),
            ..TwinResult::pending(key("d"), None, now())
        };
        assert_eq!(TwinResult::from_row(&result.to_row(&id())).unwrap(), result);
    }
    let mut calling = update("*", json!({}));
    calling.work = Work::Update(Update {
        source: Source::Devices,
        condition: "*".to_owned(),
        tags: None,
        desired: None,
        call: Some(Call {
            method: MethodName::parse("reboot").unwrap(),
            payload: "[1e400]".to_owned(),
            response_within: Duration::from_secs(7),
            connect_within: Duration::ZERO,
        }),
    });
    assert_eq!(Operation::from_row(&calling.to_row()).unwrap(), calling);
    let broken = OperationResultRow {
        body: row.body.replace("succeeded", "won"),
        ..row
    };
    let refused = TwinResult::from_row(&broken).unwrap_err();
    assert!(refused.to_string().contains("\"won\""), "{refused}");
}

/// What of an operation's write can be taken back after others have written.
#[track_caller]
fn check(
    before: serde_json::Value,
    wrote: serde_json::Value,
    since: Option<serde_json::Value>,
    expected: &serde_json::Value,
    left: &[&str],
) {
    let before = patched(&record("d", "g"), "before", before);
    let after = patched(&before, "operation", wrote);
    let undo = Undo::of(&before, &after).unwrap();
    let present = match since {
        Some(since) => patched(&after, "bob", since),
        None => after,
    };
    let TakeBack {
        desired: patch,
        left: found,
        ..
    } = undo.on(&present).unwrap();
    assert_eq!(found, left);
    let undone = patched(&present, "undo", serde_json::Value::Object(patch));
    assert_eq!(desired(&undone), *expected);
}

#[test]
fn what_nobody_has_written_since_is_taken_back() {
    let before = json!({"a": 1, "b": {"c": 2, "d": 3}, "gone": {"x": 1}, "list": [1]});
    let wrote = json!({
        "a": 5, "b": {"c": null, "e": 9}, "gone": null, "new": {"y": {"z": 1}}, "list": [2]
    });
    check(before.clone(), wrote, None, &before, &[]);
}

#[test]
fn paths_that_others_wrote_since_stay_and_are_named() {
    check(
        json!({"a": 1, "b": 1, "c": 1}),
        json!({"a": 2, "b": 2, "c": null, "d": 4}),
        Some(json!({"a": 2, "c": 7, "other": 1})),
        &json!({"a": 2, "b": 1, "c": 7, "other": 1}),
        &[
            "properties.desired.a was written since, by operator:bob",
            "properties.desired.c was written since, by operator:bob",
        ],
    );
    check(
        json!({"a": 1}),
        json!({"a": 2, "b": 2}),
        Some(json!({"a": null, "b": null})),
        &json!({}),
        &["properties.desired.a was removed since"],
    );
    check(
        json!({}),
        json!({"o": {"x": 1, "y": 1}}),
        Some(json!({"o": {"y": 5}})),
        &json!({"o": {"x": 1, "y": 5}}),
        &["properties.desired.o.y was written since, by operator:bob"],
    );
    check(
        json!({"o": {"x": 1, "y": 1}}),
        json!({"o": null}),
        Some(json!({"o": {"x": 3}})),
        &json!({"o": {"x": 3}}),
        &[
            "properties.desired.o.x was written since, by operator:bob",
            "properties.desired.o.y was removed since",
        ],
    );
}

#[test]
fn another_identity_of_the_same_name_is_left_alone() {
    let before = record("d", "g");
    let after = patched(&before, "operation", json!({"a": 1}));
    let undo = Undo::of(&before, &after).unwrap();
    let other = patched(&record("d", "h"), "x", json!({"a": 1}));
    let found = undo.on(&other).unwrap();
    assert!(found.desired.is_empty());
    assert_eq!(found.left, ["the identity was created again since"]);
}

/// Runs a step on these records.
fn step(
    operation: &Operation,
    records: Vec<Record>,
    step: &Step,
    next: Next,
) -> (Operation, Vec<TwinResult>, usize) {
    let mut overlay = with_operation(operation, records);
    let chunk = Chunk {
        from: operation.after.clone(),
        step: step.clone(),
        noted: Vec::new(),
        lost: 0,
        after: Some(key("z")),
        next,
    };
    let done = decide::step(&mut overlay, &id(), &chunk, now()).unwrap();
    let outcome = overlay.into_outcome();
    let results = outcome.left.results.iter();
    let results = results
        .map(|row| TwinResult::from_row(row).unwrap())
        .collect();
    (done, results, outcome.changes.len())
}

fn with_operation(operation: &Operation, records: Vec<Record>) -> Overlay {
    let mut loaded: Vec<_> = records
        .into_iter()
        .map(|record| Loaded::Whole(Box::new(record)))
        .collect();
    loaded.push(Loaded::Operation(operation.to_row()));
    crate::testing::overlay_of(loaded)
}

#[test]
fn a_step_writes_what_still_matches_and_says_why_of_the_rest() {
    let operation = update("properties.desired.n = 1", json!({"a": "x"}));
    let matching = patched(&record("a", "g"), "o", json!({"n": 1}));
    let other = patched(&record("b", "g"), "o", json!({"n": 2}));
    let keys = vec![key("a"), key("b"), key("c")];
    let keys = Step::Update(keys);
    let (done, results, changes) = step(&operation, vec![matching, other], &keys, Next::More);
    assert_eq!(changes, 1);
    assert_eq!((done.succeeded, done.failed, done.skipped), (1, 0, 2));
    assert_eq!(
        (done.state, done.after.clone()),
        (State::Running, Some(key("z")))
    );
    let told: Vec<_> = results
        .iter()
        .map(|result| (result.outcome, result.reason.as_str()))
        .collect();
    let expected = [
        (Outcome::Succeeded, ""),
        (Outcome::Skipped, "it no longer matches"),
        (Outcome::Skipped, "it was deleted meanwhile"),
    ];
    assert_eq!(told, expected);
    assert!(results[0].revision > 0 && results[0].undo.is_some());
    let (done, ..) = step(&done, Vec::new(), &Step::Update(Vec::new()), Next::Last);
    assert_eq!((done.state, done.ended_at), (State::Succeeded, Some(now())));
}

#[test]
fn a_twin_that_cannot_take_the_patch_fails_alone() {
    let large = "x".repeat(4000);
    let nearly_full: serde_json::Map<_, _> = (0..8)
        .map(|number| (format!("k{number}"), json!(large)))
        .collect();
    let full = patched(
        &record("a", "g"),
        "o",
        serde_json::Value::Object(nearly_full),
    );
    let operation = update("*", json!({"more": large}));
    let keys = Step::Update(vec![key("a"), key("b")]);
    let (done, results, changes) =
        step(&operation, vec![full, record("b", "g")], &keys, Next::Last);
    assert_eq!((done.succeeded, done.failed, changes), (1, 1, 1));
    assert_eq!(results[0].outcome, Outcome::Failed);
    assert!(
        results[0].reason.contains("properties.desired"),
        "{:?}",
        results[0]
    );
}

#[test]
fn an_operation_that_was_cancelled_writes_nothing_more() {
    let mut operation = update("*", json!({"a": 1}));
    operation.end(State::Cancelled, now());
    let keys = Step::Update(vec![key("a")]);
    let (done, results, changes) = step(&operation, vec![record("a", "g")], &keys, Next::Last);
    assert_eq!((done, results.len(), changes), (operation.clone(), 0, 0));
    let mut overlay = with_operation(&operation, Vec::new());
    let amended = decide::amend(&mut overlay, &id(), |operation| operation.failed = 9).unwrap();
    assert_eq!(amended, operation, "what has ended stays as it is");
    let other = OperationId("other".to_owned());
    let missing = decide::amend(&mut overlay, &other, |_| {}).unwrap_err();
    assert!(matches!(missing, Error::Read(_)), "{missing}");
}

#[test]
fn what_another_replica_owns_is_handed_over_and_waited_for() {
    let operation = update("*", json!({"a": "x"}));
    let chunk = Chunk {
        from: None,
        step: Step::Update(vec![key("a")]),
        lost: 0,
        noted: vec![TwinResult::pending(key("b"), None, now())],
        after: Some(key("b")),
        next: Next::Last,
    };
    let mut overlay = with_operation(&operation, vec![record("a", "g")]);
    let done = decide::step(&mut overlay, &id(), &chunk, now()).unwrap();
    assert_eq!(
        (done.succeeded, done.handed_over, done.walked),
        (1, 1, true)
    );
    assert_eq!(done.state, State::Running, "one is not done yet");
    let left = overlay.into_outcome().left;
    let pending = TwinResult::from_row(&left.results[1]).unwrap();
    assert_eq!(pending.outcome, Outcome::Pending);

    let mut overlay = crate::testing::overlay([record("b", "g")]);
    let step = Step::Update(vec![pending.key]);
    decide::assigned(&mut overlay, &done, &step, now());
    let outcome = overlay.into_outcome();
    let last = TwinResult::from_row(&outcome.left.results[0]).unwrap();
    assert_eq!((last.key, last.outcome), (key("b"), Outcome::Succeeded));
    assert_eq!(outcome.changes.len(), 1, "with the twin in one commit");
}
