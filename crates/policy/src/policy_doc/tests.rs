use serde_json::{Value, json};

use super::*;

fn map(value: Value) -> Map {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn good() -> PolicySpec {
    PolicySpec {
        id: "p".to_owned(),
        target: "*".to_owned(),
        settings: map(json!({"a": 1})),
        ..PolicySpec::default()
    }
}

/// Field, position and a part of the message of each problem.
fn check(spec: PolicySpec, expected: &[(Field, Option<&str>, &str)]) {
    let problems = Policy::check(spec).expect_err("a problem");
    let found = problems.list();
    assert_eq!(found.len(), expected.len(), "{problems}");
    for (found, (field, position, part)) in found.iter().zip(expected) {
        assert_eq!(found.field, *field, "{found}");
        assert_eq!(found.position.as_deref(), *position, "{found}");
        assert!(found.message.contains(part), "{found} lacks {part:?}");
    }
}

#[test]
fn a_good_policy_is_what_was_written() {
    let spec = PolicySpec {
        when: "posture.x = 1".to_owned(),
        ..good()
    };
    let policy = Policy::check(spec.clone()).unwrap();
    assert_eq!(policy.spec(), &spec);
    assert!(policy.when().is_some());
    assert_eq!(
        Policy::check(good()).unwrap().when(),
        None,
        "an empty `when` is always"
    );
}

#[test]
fn every_problem_is_reported_at_once_with_field_and_position() {
    let spec = PolicySpec {
        id: "Unexpected".to_owned(),
        description: "x".repeat(DESCRIPTION_CHARS_MAX + 1),
        target: "tags.site = ".to_owned(),
        when: "posture.a = 1 AND\n  OR".to_owned(),
        settings: map(json!({"a": null, "$x": 1})),
        ..good()
    };
    check(
        spec,
        &[
            (Field::Id, None, "'U' at character 1"),
            (Field::Description, None, "4096"),
            (Field::Target, Some("line 1, column 13"), "found "),
            (Field::When, Some("line 2, column 3"), "found "),
            (Field::Settings, Some("properties.desired.$x"), "$"),
            (Field::Settings, Some("properties.desired.a"), "null"),
        ],
    );
}

#[test]
fn the_position_in_a_condition_is_said_once() {
    let spec = PolicySpec {
        target: "tags.site = ".to_owned(),
        ..good()
    };
    let text = Policy::check(spec).unwrap_err().to_string();
    assert_eq!(text.matches("line 1, column 13").count(), 1, "{text}");
}

#[test]
fn a_policy_must_set_something() {
    let spec = PolicySpec {
        settings: Map::new(),
        ..good()
    };
    check(spec, &[(Field::Settings, None, "sets nothing")]);
}

#[test]
fn settings_over_the_limit_of_a_twin_are_refused() {
    let spec = PolicySpec {
        settings: map(json!({"a": "x".repeat(5000)})),
        ..good()
    };
    check(
        spec,
        &[(Field::Settings, Some("properties.desired.a"), "4096")],
    );
}

#[test]
fn a_policy_may_not_decide_by_what_it_sets_itself() {
    for target in [
        "properties.desired.a = 1",
        "IS_DEFINED(properties.desired.a.b)",
    ] {
        let spec = PolicySpec {
            target: target.to_owned(),
            ..good()
        };
        check(
            spec,
            &[(Field::Target, None, "which the policy itself sets")],
        );
    }
    let others = PolicySpec {
        when: "properties.desired.b = 1".to_owned(),
        ..good()
    };
    assert!(Policy::check(others).is_ok());
}

#[test]
fn ids_keep_to_their_alphabet() {
    for good in ["a", "0", "a-b_c.d", &"x".repeat(ID_CHARS_MAX)] {
        assert_eq!(PolicyId::parse(good).unwrap().as_str(), good);
    }
    for bad in [
        "",
        "A",
        "-a",
        ".a",
        "a b",
        "a/b",
        "ä",
        &"x".repeat(ID_CHARS_MAX + 1),
    ] {
        let problem = PolicyId::parse(bad).unwrap_err();
        assert!(problem.contains("1 to 128 lower-case letters"), "{problem}");
    }
}
