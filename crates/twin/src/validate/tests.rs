use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::section::SectionKind;
use crate::testing::{document, map};

fn check(document: Value, form: WriteForm) -> Result<(), Violations> {
    Judge::of(&map(document), SectionKind::Desired, form).verdict()
}

/// Objects within each other, so many below the root.
fn nested(levels: usize, innermost: Value) -> Value {
    (0..levels).fold(innermost, |inner, _| json!({"o": inner}))
}

#[test]
fn ten_levels_are_allowed_and_eleven_are_not() {
    assert_eq!(check(nested(11, json!(1)), WriteForm::Patch), Ok(()));
    let error = check(nested(12, json!(1)), WriteForm::Patch).unwrap_err();
    assert_eq!(error.list()[0].rule, Rule::Depth);
    assert_eq!(error.list()[0].actual, "11 levels of nesting");
    // An array of objects costs two levels.
    assert_eq!(
        check(nested(9, json!([{"x": 1}])), WriteForm::Patch),
        Ok(())
    );
    assert!(check(nested(10, json!([{"x": 1}])), WriteForm::Patch).is_err());
    assert_eq!(check(nested(10, json!([])), WriteForm::Patch), Ok(()));
}

#[test]
fn a_hostile_depth_is_told_without_walking_it() {
    let deep = (0..1000).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    let document: Map = [("a".to_owned(), deep)].into_iter().collect();
    let error = check(Value::Object(document), WriteForm::Patch).unwrap_err();
    assert_eq!(error.count(), 1);
}

#[test]
fn numbers_and_texts_are_bounded_exactly() {
    let ok = [
        json!(INTEGER_MAX),
        json!(INTEGER_MIN),
        json!(1e300),
        json!("x".repeat(4096)),
    ];
    for value in ok {
        assert_eq!(
            check(json!({ "a": value }), WriteForm::Patch),
            Ok(()),
            "{value}"
        );
    }
    let not = [
        json!(INTEGER_MAX + 1),
        json!(INTEGER_MIN - 1),
        json!(u64::MAX),
        json!("é".repeat(2049)),
    ];
    for value in not {
        assert!(
            check(json!({ "a": value }), WriteForm::Patch).is_err(),
            "{value}"
        );
    }
    assert_eq!(
        check(json!({ "x".repeat(1024): 1 }), WriteForm::Patch),
        Ok(())
    );
    let error = check(json!({ "x".repeat(1025): 1 }), WriteForm::Patch).unwrap_err();
    assert_eq!(error.list()[0].rule, Rule::KeyLength);
    assert!(
        error.to_string().len() < 300,
        "a long key is shortened: {error}"
    );
}

#[test]
fn null_is_judged_by_where_it_stands() {
    assert_eq!(check(json!({"a": {"b": null}}), WriteForm::Patch), Ok(()));
    assert_eq!(check(json!({"a": {"b": null}}), WriteForm::Whole), Ok(()));
    let error = check(json!({"a": {"b": null}}), WriteForm::Settings).unwrap_err();
    assert_eq!(error.list()[0].rule, Rule::NullInSettings);
    let error = check(json!({"a": [{"b": {"c": null}}]}), WriteForm::Patch).unwrap_err();
    assert_eq!(error.list()[0].rule, Rule::NullInArray);
    assert_eq!(error.list()[0].path, "properties.desired.a[0].b.c");
}

#[test]
fn a_flood_of_breaches_is_counted_and_cut() {
    let error = check(json!({ "a": vec![Value::Null; 1000] }), WriteForm::Patch).unwrap_err();
    assert_eq!(error.count(), 1000);
    assert_eq!(error.list().len(), 64);
    assert!(
        error
            .to_string()
            .starts_with("1000 rules are broken: properties.desired.a[0]: null")
    );
    assert!(error.to_string().ends_with("; and 936 more"));
}

#[test]
fn size_counts_what_the_documents_say() {
    let bytes = |value| counted_bytes(&map(value));
    assert_eq!(bytes(json!({})), 0);
    assert_eq!(bytes(json!({"ab": "xyz"})), 5);
    assert_eq!(bytes(json!({"k": 123_456_789, "l": 0.1})), 18);
    assert_eq!(bytes(json!({"k": true})), 5);
    assert_eq!(bytes(json!({"k": {"l": "m"}})), 3);
    assert_eq!(
        bytes(json!({"k": ["a", 1, {"b": false}]})),
        1 + 1 + 8 + 1 + 4
    );
    assert_eq!(
        bytes(json!({"k": "a\n\u{85}é"})),
        1 + 1 + 2,
        "control characters are left out"
    );
}

#[test]
fn control_characters_never_reach_a_message() {
    let error = check(json!({"a\u{1b}[31m": 1}), WriteForm::Patch).unwrap_err();
    assert!(!error.to_string().chars().any(char::is_control), "{error}");
}

proptest! {
    #[test]
    fn the_size_of_a_document_is_the_sum_of_its_members(document in document()) {
        let one_by_one: usize = document
            .iter()
            .map(|(key, value)| counted_bytes(&[(key.clone(), value.clone())].into_iter().collect()))
            .sum();
        prop_assert_eq!(counted_bytes(&document), one_by_one);
    }

    #[test]
    fn any_key_is_accepted_or_refused_in_one_line(key: String) {
        let result = check(json!({ key.clone(): 1 }), WriteForm::Patch);
        let bad = |c: char| c.is_control() || c.is_whitespace() || ".$#".contains(c);
        // The root keys that SDKs send back are passed over.
        let passed = key == "$version" || key == "$metadata";
        prop_assert_eq!(result.is_ok(), passed || !key.is_empty() && !key.contains(bad));
        if let Err(error) = result {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
