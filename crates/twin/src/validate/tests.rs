use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Map;
use crate::section::{Section, SectionKind};
use crate::testing::{by_operator, map};

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
    let bytes = |value| Cost::of(&map(value)).counted;
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

/// Documents whose texts hold letters of all lengths and control characters.
fn sized() -> impl Strategy<Value = Map> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(|b| json!(b)),
        (-9_000_000..9_000_000_i64).prop_map(|n| json!(n)),
        Just(json!(0.125)),
        prop::collection::vec(
            prop::sample::select(vec![
                "a", "ä", "€", "😀", "\0", "\n", "\u{7f}", "\u{85}", "\u{a0}"
            ]),
            0..40,
        )
        .prop_map(|letters| json!(letters.concat())),
    ];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-zäß]{1,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[a-zäß]{1,6}", value, 0..5)
        .prop_map(|members| members.into_iter().collect())
}

/// The documented rule, told over the pieces of a document and not over its tree.
fn model_bytes(document: &Map) -> usize {
    let mut todo: Vec<(Option<&str>, &Value)> = document
        .iter()
        .map(|(key, value)| (Some(key.as_str()), value))
        .collect();
    let (mut texts, mut numbers, mut booleans) = (String::new(), 0, 0);
    while let Some((key, value)) = todo.pop() {
        texts.push_str(key.unwrap_or_default());
        match value {
            Value::Null => {}
            Value::Bool(_) => booleans += 1,
            Value::Number(_) => numbers += 1,
            Value::String(text) => texts.push_str(text),
            Value::Array(elements) => todo.extend(elements.iter().map(|element| (None, element))),
            Value::Object(members) => {
                todo.extend(
                    members
                        .iter()
                        .map(|(key, value)| (Some(key.as_str()), value)),
                );
            }
        }
    }
    let control = |c: &char| matches!(u32::from(*c), 0..=0x1F | 0x7F..=0x9F);
    let counted: String = texts.chars().filter(|c| !control(c)).collect();
    counted.len() + 8 * numbers + 4 * booleans
}

/// Members and elements, told over the pieces.
fn model_values(document: &Map) -> usize {
    let mut todo: Vec<&Value> = document.values().collect();
    let mut count = 0;
    while let Some(value) = todo.pop() {
        count += 1;
        match value {
            Value::Array(elements) => todo.extend(elements),
            Value::Object(members) => todo.extend(members.values()),
            _ => {}
        }
    }
    count
}

/// Values that count little or nothing, and some that count.
fn empties() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({}),
        json!([]),
        json!(""),
        json!("\u{1}"),
        json!("\u{1}\u{2}\u{3}"),
        json!([[]]),
        json!("\"\\"),
        json!(true),
        json!(-1.234_567_890_123_456_7e-300),
    ])
}

#[test]
fn every_rule_has_the_code_that_clients_branch_on() {
    for (document, code) in [
        (json!({"a b": 1}), "400004 ArgumentInvalid"),
        (json!({"a": [null]}), "400004 ArgumentInvalid"),
        (json!({"a": 1_i64 << 60}), "400004 ArgumentInvalid"),
        (nested(12, json!(1)), "400004 ArgumentInvalid"),
    ] {
        let error = check(document, WriteForm::Patch).unwrap_err();
        assert_eq!(error.error_code().to_string(), code, "{error}");
        assert_eq!(error.error_code().http_status(), 400);
    }
    assert_eq!(Rule::SectionSize.error_code().number(), 403_100);
    assert_eq!(
        Rule::Malformed.error_code().to_string(),
        "400006 IotHubFormatError"
    );
    // A write that is wrong and too large is wrong first.
    let both = map(json!({"a b": 1, "c": vec!["x".repeat(4096); 3]}));
    let stamp = by_operator("x", 1);
    let error = Section::new(&stamp)
        .merge(&both, &stamp, SectionKind::Tags)
        .unwrap_err();
    assert_eq!(error.count(), 2);
    assert_eq!(error.error_code().number(), 400_004);
}

proptest! {
    #[test]
    fn the_size_of_a_document_is_what_a_plain_model_counts(document in sized()) {
        let cost = Cost::of(&document);
        prop_assert_eq!(cost.counted, model_bytes(&document));
        prop_assert_eq!(cost.text, Value::Object(document.clone()).to_string().len());
        prop_assert_eq!(cost.values, model_values(&document));
    }

    #[test]
    fn a_section_never_costs_more_than_it_may(
        patches in prop::collection::vec((0..6_usize, empties(), 0..4000_usize), 1..8),
    ) {
        let stamp = by_operator("x", 1);
        let mut section = Section::new(&stamp);
        for (key, element, count) in patches {
            let patch = map(json!({ format!("k{key}"): vec![element; count] }));
            let mut merged = section.document().clone();
            crate::patch::apply_to_object(&patch, &mut merged);
            let costs = |document: &Map| {
                let text = Value::Object(document.clone()).to_string().len();
                [model_bytes(document), text, model_values(document)]
            };
            let (before, after) = (costs(section.document()), costs(&merged));
            let limits = [8192, 4 * 8192, 8192 / 4];
            let fits = (0..3).all(|i| after[i] <= limits[i] || after[i] <= before[i]);
            match section.merge(&patch, &stamp, SectionKind::Tags) {
                Ok(next) => {
                    prop_assert!(fits);
                    section = next;
                }
                Err(error) => {
                    prop_assert!(!fits);
                    prop_assert_eq!(error.error_code().to_string(), "403100 TwinSectionTooLarge");
                }
            }
        }
    }

    #[test]
    fn a_section_grows_up_to_its_limit_and_not_above(
        documents in prop::collection::vec(sized(), 1..5),
        fill in 7000..8300_usize,
    ) {
        let filling = [3000, 3000, fill - 6000].map(|bytes| "x".repeat(bytes));
        let stamp = by_operator("x", 1);
        let start = map(json!({ "filling": filling }));
        let Ok(mut section) = Section::new(&stamp).merge(&start, &stamp, SectionKind::Tags) else {
            prop_assert!(model_bytes(&start) > 8192);
            return Ok(());
        };
        for patch in documents {
            let mut merged = section.document().clone();
            crate::patch::apply_to_object(&patch, &mut merged);
            let (before, after) = (model_bytes(section.document()), model_bytes(&merged));
            match section.merge(&patch, &stamp, SectionKind::Tags) {
                Ok(next) => {
                    prop_assert!(after <= 8192 || after <= before);
                    section = next;
                }
                Err(error) => {
                    prop_assert!(after > 8192 && after > before);
                    prop_assert_eq!(error.error_code().to_string(), "403100 TwinSectionTooLarge");
                }
            }
        }
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
