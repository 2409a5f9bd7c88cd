use serde_json::json;

use super::*;
use crate::apply::pushes;
use crate::testing::{key, now, object, operator_write, overlay, record};
use posture::Timeline;
use posture::configuration::{AckOutcome, Acknowledgement, PushState};
use twin::{ConfigurationStatus, Writer};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn cause() -> Cause {
    Cause {
        actor: operator(),
        cause: "request:1".to_owned(),
        trace_parent: Some(TRACE.to_owned()),
        timeline: Timeline {
            observed_at: Some(now()),
            ..Timeline::default()
        },
    }
}

fn operator() -> Writer {
    Writer::Operator("alice".to_owned())
}

fn desired(overlay: &mut Overlay, document: serde_json::Value) -> Result<Record, Error> {
    let sections = TwinPatch {
        desired: Some(object(document)),
        tags: None,
    };
    let patch = operator_write(Form::Patch, sections);
    write(overlay, &key("d"), &patch, now(), &cause())
}

fn settings(writes: &[PolicyWrite]) -> Wanted {
    Wanted {
        settings: Some(writes.to_vec()),
        ..Wanted::default()
    }
}

fn policy(id: &str, settings: serde_json::Value) -> PolicyWrite {
    PolicyWrite {
        policy: id.to_owned(),
        revision: 3,
        settings: object(settings),
    }
}

fn changes(overlay: Overlay) -> Vec<ChangeKind> {
    let mut outcome = overlay.into_outcome();
    let Some(change) = outcome.changes.pop() else {
        return Vec::new();
    };
    assert!(change.after.is_some());
    change.touch.changes.into_iter().collect()
}

#[test]
fn a_desired_patch_is_pending_with_its_cause() {
    let mut old = record("d", "g");
    old.updated_at = Timestamp::UNIX_EPOCH;
    let mut overlay = overlay([old]);
    let record = desired(&mut overlay, json!({"a": 1})).unwrap();
    assert_eq!(record.updated_at, now());
    assert_eq!(record.twin.desired.document, r#"{"a":1}"#);
    let configuration = &record.posture.configuration;
    assert_eq!(configuration.state, PushState::Pending);
    assert_eq!(configuration.desired_version, Some(2));
    assert_eq!(configuration.trace_parent.as_deref(), Some(TRACE));
    assert_eq!(configuration.timeline.observed_at, Some(now()));
    assert_eq!(configuration.timeline.committed_at, Some(now()));
    assert_eq!(changes(overlay), [ChangeKind::Desired]);
}

fn tags(document: serde_json::Value) -> TwinPatch {
    TwinPatch {
        tags: Some(object(document)),
        desired: None,
    }
}

#[test]
fn tags_do_not_concern_the_device() {
    let mut overlay = overlay([record("d", "g")]);
    let patch = operator_write(Form::Patch, tags(json!({"site": "x"})));
    let record = write(&mut overlay, &key("d"), &patch, now(), &cause()).unwrap();
    assert_eq!(record.posture.configuration.desired_version, Some(1));
    assert_eq!(changes(overlay), [ChangeKind::Tags]);
}

#[test]
fn a_refused_patch_changes_nothing_and_says_every_path() {
    let mut overlay = overlay([record("d", "g")]);
    let before = overlay.get(&key("d")).unwrap().clone();
    let refused = desired(&mut overlay, json!({"bad key.": 1, "$x": 2})).unwrap_err();
    let Error::Twin {
        source: twin::TwinError::Rules(rules),
        ..
    } = &refused
    else {
        panic!("{refused}")
    };
    assert_eq!(rules.list().len(), 2, "{rules}");
    let patch = operator_write(Form::Patch, tags(json!({"a": 1})));
    let refused = write(&mut overlay, &key("x"), &patch, now(), &cause());
    assert!(matches!(refused, Err(Error::NotFound(_))));
    assert_eq!(*overlay.get(&key("d")).unwrap(), before);
    let outcome = overlay.into_outcome();
    assert!(outcome.changes.is_empty() && outcome.left.audit.is_empty());
}

/// What a write under these conditions is answered.
fn under(conditions: Conditions) -> Result<Record, Error> {
    let mut overlay = overlay([record("d", "g")]);
    let mut patch = operator_write(Form::Patch, tags(json!({"a": 1})));
    patch.conditions = conditions;
    let result = write(&mut overlay, &key("d"), &patch, now(), &cause());
    let written = usize::from(result.is_ok());
    assert_eq!(overlay.into_outcome().changes.len(), written);
    result
}

#[test]
fn a_write_holds_its_conditions() {
    let etag = |text: &str| Conditions {
        etag: Some(text.to_owned()),
        ..Conditions::default()
    };
    under(etag("AAAAAAAAAAE=")).unwrap();
    for wrong in ["AAAAAAAAAAI=", "abc"] {
        let refused = under(etag(wrong)).unwrap_err();
        assert!(
            matches!(refused, Error::TwinEtagMismatch { .. }),
            "{refused}"
        );
    }
    let version = |number| Conditions {
        desired_version: Some(Version::new(number).unwrap()),
        ..Conditions::default()
    };
    under(version(1)).unwrap();
    let refused = under(version(2)).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Twin {
                source: TwinError::VersionMismatch { .. },
                ..
            }
        ),
        "{refused}"
    );
    let only_if = |holds| Conditions {
        only_if: Some(OnlyIf {
            text: "tags.a = 1".to_owned(),
            holds: Box::new(move |_, _| Ok(holds)),
        }),
        ..Conditions::default()
    };
    under(only_if(true)).unwrap();
    let refused = under(only_if(false)).unwrap_err();
    assert!(refused.to_string().contains("tags.a = 1"), "{refused}");
}

#[test]
fn what_is_only_validated_answers_what_would_be_and_leaves_nothing() {
    let mut overlay = overlay([record("d", "g")]);
    let mut patch = operator_write(Form::Patch, tags(json!({"a": 1})));
    patch.mode = Mode::Validate;
    let would = write(&mut overlay, &key("d"), &patch, now(), &cause()).unwrap();
    assert_eq!(would.twin.tags.document, r#"{"a":1}"#);
    assert_eq!(would.twin.etag, record("d", "g").twin.etag.next());
    patch.sections = tags(json!({"a b": 1}));
    write(&mut overlay, &key("d"), &patch, now(), &cause()).unwrap_err();
    let outcome = overlay.into_outcome();
    assert!(outcome.changes.is_empty() && outcome.left.audit.is_empty());
}

#[test]
fn a_replacement_leaves_exactly_what_it_says_and_spares_what_it_does_not_name() {
    let mut overlay = overlay([record("d", "g")]);
    desired(&mut overlay, json!({"a": 1, "b": {"c": 2}})).unwrap();
    let both = TwinPatch {
        tags: Some(object(json!({"site": "x"}))),
        desired: Some(object(json!({"b": {}, "n": null}))),
    };
    let replace = operator_write(Form::Replace, both);
    let record = write(&mut overlay, &key("d"), &replace, now(), &cause()).unwrap();
    assert_eq!(record.twin.desired.document, r#"{"b":{}}"#);
    assert_eq!(record.twin.desired.version.get(), 3);
    let none = TwinPatch {
        tags: Some(object(json!({}))),
        desired: None,
    };
    let replace = operator_write(Form::Replace, none);
    let record = write(&mut overlay, &key("d"), &replace, now(), &cause()).unwrap();
    assert_eq!(record.twin.tags.document, "{}");
    assert_eq!(record.twin.desired.document, r#"{"b":{}}"#);
}

#[test]
fn the_same_write_again_is_another_revision_and_each_is_audited() {
    let mut overlay = overlay([record("d", "g")]);
    for version in [2, 3] {
        overlay.begin();
        let record = desired(&mut overlay, json!({"a": 1})).unwrap();
        assert_eq!(record.twin.desired.version.get(), version);
        assert_eq!(record.revision.get(), version - 1);
    }
    let outcome = overlay.into_outcome();
    assert_eq!(outcome.left.audit.len(), 2);
    let [change] = outcome.changes.as_slice() else {
        panic!("{:?}", outcome.changes)
    };
    assert_eq!(change.steps.len(), 2);
    assert_eq!(change.revision.get(), 2);
}

#[test]
fn a_reported_patch_answers_its_version_and_holds_its_condition() {
    let mut overlay = overlay([record("d", "g")]);
    let mut report = |expected: Option<u64>| {
        let patch = object(json!({"battery": 80}));
        let expected = expected.map(|version| Version::new(version).unwrap());
        {
            let report = Report {
                patch: &patch,
                expected,
                told: 0,
            };
            patch_reported(&mut overlay, &key("d"), &report, now(), &cause())
        }
    };
    assert_eq!(report(None).unwrap().get(), 2);
    assert_eq!(report(Some(2)).unwrap().get(), 3);
    assert!(matches!(
        report(Some(2)),
        Err(Error::Twin {
            source: twin::TwinError::VersionMismatch { .. },
            ..
        })
    ));
    assert_eq!(changes(overlay), [ChangeKind::Reported]);
}

#[test]
fn policies_that_hold_already_write_nothing_and_the_operators_leaf_stays() {
    let mut overlay = overlay([record("d", "g")]);
    desired(&mut overlay, json!({"mine": 1})).unwrap();
    let wanted = [policy("p", json!({"mine": 2, "theirs": 5}))];
    let mut apply = |writes: &[PolicyWrite]| {
        let wanted = settings(writes);
        apply_policies(&mut overlay, &key("d"), &wanted, None, now(), &cause()).unwrap()
    };
    let first = apply(&wanted);
    assert_eq!((first.changed, first.desired_version.get()), (true, 3));
    assert_eq!(first.lost.len(), 1);
    assert_eq!(
        (first.lost[0].path.join("."), &first.lost[0].winner),
        ("mine".into(), &operator())
    );
    let second = apply(&wanted);
    assert_eq!((second.changed, second.desired_version.get()), (false, 3));
    let gone = apply(&[]);
    assert_eq!((gone.changed, gone.desired_version.get()), (true, 4));
    let record = overlay.get(&key("d")).unwrap();
    assert_eq!(record.twin.desired.document, r#"{"mine":1}"#);
}

#[test]
fn policies_that_change_nothing_leave_no_touch() {
    let mut overlay = overlay([record("d", "g")]);
    let none = settings(&[]);
    let applied = apply_policies(&mut overlay, &key("d"), &none, None, now(), &cause()).unwrap();
    assert!(!applied.changed);
    let stale = Some(Version::new(7).unwrap());
    let writes = settings(&[policy("p", json!({"a": 1}))]);
    let refused = apply_policies(&mut overlay, &key("d"), &writes, stale, now(), &cause());
    assert!(matches!(refused, Err(Error::Twin { .. })), "{refused:?}");
    assert_eq!(changes(overlay), []);
}

#[test]
fn where_configurations_stand_is_noted_with_the_settings_or_without_a_new_version() {
    let mut overlay = overlay([record("d", "g")]);
    let state = |status| ConfigurationStates::from([("c".to_owned(), status)]);
    let both = Wanted {
        configurations: state(ConfigurationStatus::Applied),
        ..settings(&[policy("configuration:c", json!({"a": 1}))])
    };
    let mut apply = |wanted: &Wanted, expected| {
        let expected = Some(Version::new(expected).unwrap());
        apply_policies(&mut overlay, &key("d"), wanted, expected, now(), &cause())
    };
    let applied = apply(&both, 1).unwrap();
    assert_eq!((applied.changed, applied.desired_version.get()), (true, 2));
    let noted = Wanted {
        settings: None,
        configurations: state(ConfigurationStatus::Targeted),
    };
    assert!(apply(&noted, 1).is_err(), "decided on another version");
    let applied = apply(&noted, 2).unwrap();
    assert_eq!((applied.changed, applied.desired_version.get()), (true, 2));
    assert!(!apply(&noted, 2).unwrap().changed);
    let record = overlay.get(&key("d")).unwrap();
    assert_eq!(record.configurations, noted.configurations);
    assert!(record.twin.desired.document.contains("\"a\":1"));
    let kinds = [ChangeKind::Desired, ChangeKind::Configurations];
    assert_eq!(changes(overlay), kinds);
}

fn answer(version: u64, outcome: AckOutcome) -> Acknowledgement {
    Acknowledgement {
        version,
        outcome,
        at: now(),
        pushed_at: Some(now()),
        applied_at: Some(now()),
    }
}

#[test]
fn an_answer_moves_the_configuration_once_and_closes_the_loop() {
    let mut overlay = overlay([record("d", "g")]);
    desired(&mut overlay, json!({"a": 1})).unwrap();
    let mut acknowledge = |answer| pushes::acknowledge(&mut overlay, &key("d"), &answer, &cause());
    let timeline = acknowledge(answer(2, AckOutcome::Applied))
        .unwrap()
        .expect("a change");
    assert!(timeline.observed_at.is_some() && timeline.applied_at.is_some());
    assert_eq!(
        acknowledge(answer(2, AckOutcome::Applied)).unwrap(),
        None,
        "repeated"
    );
    assert_eq!(
        acknowledge(answer(1, AckOutcome::Applied)).unwrap(),
        None,
        "outdated"
    );
    let never = acknowledge(answer(9, AckOutcome::Applied));
    assert!(
        matches!(never, Err(Error::NeverDesired { version: 9, .. })),
        "{never:?}"
    );
    let configuration = &overlay.get(&key("d")).unwrap().posture.configuration;
    assert_eq!(configuration.state, PushState::Applied);
    assert_eq!(configuration.applied_version, Some(2));
}

#[test]
fn a_rejection_keeps_its_reason_and_fields() {
    let mut overlay = overlay([record("d", "g")]);
    let outcome = AckOutcome::Rejected {
        reason: "no such collector".to_owned(),
        invalid_fields: vec!["a".to_owned()],
    };
    pushes::acknowledge(&mut overlay, &key("d"), &answer(1, outcome), &cause()).unwrap();
    let configuration = &overlay.get(&key("d")).unwrap().posture.configuration;
    assert_eq!(configuration.state, PushState::Rejected);
    assert_eq!(configuration.reason.as_deref(), Some("no such collector"));
    assert_eq!(configuration.invalid_fields, ["a"]);
    assert_eq!(changes(overlay), [ChangeKind::ConfigurationState]);
}
