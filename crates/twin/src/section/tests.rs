use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{at, by_operator, by_policy, document, map, patch, rfc7396, without_nulls};
use crate::validate::{Rule, ViolationKind};
use crate::writer::Writer;

fn empty() -> Section {
    Section::new(&by_operator("root", 0))
}

fn desired(section: &Section, patch: Value, stamp: &Stamp) -> Section {
    section
        .merge(&map(patch), stamp, SectionKind::Desired)
        .unwrap()
}

/// The writer and version of the node at a dotted path.
fn node(section: &Section, path: &str) -> (String, u64) {
    let node = section
        .metadata()
        .at(path.split('.').filter(|key| !key.is_empty()))
        .unwrap();
    (node.by.to_string(), node.version.get())
}

#[test]
fn a_change_refreshes_the_leaf_and_its_ancestors_but_no_sibling() {
    let first = desired(
        &empty(),
        json!({"net": {"hz": 5, "on": true}}),
        &by_operator("a", 1),
    );
    let second = desired(&first, json!({"net": {"hz": 6}}), &by_operator("b", 2));
    assert_eq!(
        second.document(),
        &map(json!({"net": {"hz": 6, "on": true}}))
    );
    assert_eq!(node(&second, "net.hz"), ("operator:b".into(), 3));
    assert_eq!(node(&second, "net"), ("operator:b".into(), 3));
    assert_eq!(node(&second, ""), ("operator:b".into(), 3));
    assert_eq!(node(&second, "net.on"), ("operator:a".into(), 2));
    assert_eq!(
        second.metadata().at(["net", "on"]).unwrap().updated_at,
        at(1)
    );
    assert_eq!(second.metadata().updated_at, at(2));
}

#[test]
fn the_versions_of_the_worked_example_come_out() {
    let one = empty();
    let two = desired(&one, json!({"a": 1}), &by_operator("x", 1));
    let three = desired(&two, json!({"a": 1}), &by_operator("x", 2));
    let four = desired(&three, json!({"a": null}), &by_operator("x", 3));
    let versions = [&one, &two, &three, &four].map(|section| section.version().get());
    assert_eq!(versions, [1, 2, 3, 4]);
    assert!(four.document().is_empty());
    assert!(four.metadata().children.is_empty());
}

#[test]
fn nulls_below_a_missing_object_leave_it_empty() {
    let section = desired(
        &empty(),
        json!({"p": {"q": null}, "gone": null}),
        &by_operator("x", 1),
    );
    assert_eq!(section.document(), &map(json!({"p": {}})));
}

#[test]
fn a_policy_never_claims_an_object_that_an_operator_named() {
    let section = desired(&empty(), json!({"a": {}, "p": {}}), &by_operator("x", 1));
    let section = desired(
        &section,
        json!({"a": {"k": 1}, "n": {"k": 1}}),
        &by_policy("p", 1, 2),
    );
    assert_eq!(node(&section, "a"), ("operator:x".into(), 3));
    assert_eq!(node(&section, "n"), ("policy:p@1".into(), 3));
    let section = desired(&section, json!({"n": {"k": null}}), &by_operator("x", 3));
    assert_eq!(node(&section, "n"), ("operator:x".into(), 4));
}

#[test]
fn a_round_tripped_twin_is_read_and_an_echoing_device_is_told() {
    let echoed = map(json!({"$version": 7, "$metadata": {"a": {}}, "a": 1}));
    for kind in [SectionKind::Tags, SectionKind::Desired] {
        let section = empty().merge(&echoed, &by_operator("x", 1), kind).unwrap();
        assert_eq!(section.document(), &map(json!({"a": 1})));
        let section = empty()
            .replace(&echoed, &by_operator("x", 1), kind)
            .unwrap();
        assert_eq!(section.document(), &map(json!({"a": 1})));
    }
    let stamp = Stamp {
        at: at(1),
        by: Writer::Device,
    };
    let violations = empty()
        .merge(&echoed, &stamp, SectionKind::Reported)
        .unwrap_err();
    assert_eq!(
        violations.to_string(),
        "2 rules are broken: properties.reported.$metadata: a key with '$' at character 1 \
         (a key holds no control character, no white space and none of . $ #); \
         properties.reported.$version: a key with '$' at character 1 \
         (a key holds no control character, no white space and none of . $ #)"
    );
}

#[test]
fn only_growth_above_the_limit_is_refused() {
    let text = |bytes: usize| Value::Array(vec![json!("x".repeat(4096)); bytes / 4096]);
    let stamp = by_operator("x", 1);
    let tags = |section: &Section, patch| section.merge(&map(patch), &stamp, SectionKind::Tags);
    // One key of one byte beside 8192 bytes.
    let violations = tags(&empty(), json!({"a": text(8192)})).unwrap_err();
    assert_eq!(violations.kind(), ViolationKind::TooLarge);
    assert_eq!(violations.list()[0].rule, Rule::SectionSize);
    assert_eq!(violations.list()[0].path, "tags");
    assert_eq!(violations.list()[0].actual, "8193 bytes after the write");
    // The same is far below the limit of desired, and then may shrink under that of tags.
    let large = desired(&empty(), json!({"a": text(12288), "b": 1}), &stamp);
    assert!(tags(&large, json!({"b": 2})).is_ok(), "no growth");
    assert!(tags(&large, json!({"b": null})).is_ok(), "shrinks");
    assert!(tags(&large, json!({"c": 1})).is_err(), "grows");
}

/// What counts nothing is bounded all the same: a device must not make its twin as large as it likes.
#[test]
fn what_counts_nothing_is_bounded_by_text_and_by_number() {
    let stamp = by_operator("x", 1);
    let merged = |section: &Section, patch| section.merge(&map(patch), &stamp, SectionKind::Tags);
    let list = |element: &Value, count: usize| json!({ "k": vec![element.clone(); count] });
    // A key of one letter, and 8192 / 4 values with the list itself.
    for element in [json!({}), json!([]), json!(""), json!("\u{1}"), json!("é")] {
        assert!(merged(&empty(), list(&element, 2047)).is_ok(), "{element}");
        let violations = merged(&empty(), list(&element, 2048)).unwrap_err();
        assert_eq!(
            violations.to_string(),
            "tags: 2049 values after the write (at most 2048 values: members of objects and \
             elements of arrays, at any depth)"
        );
        assert_eq!(violations.error_code().number(), 403_100);
    }
    // 4096 control characters count nothing and are 6 bytes each: `{"k":"…"}` has 8 bytes more.
    let text = |characters: usize| json!("\u{1}".repeat(characters));
    let fits = json!({"k": text(4096), "l": text(1361), "m": "xxxx"});
    assert_eq!(Value::Object(map(fits.clone())).to_string().len(), 32768);
    let full = merged(&empty(), fits).unwrap();
    let violations = merged(&full, json!({"m": "xxxxx"})).unwrap_err();
    assert_eq!(
        violations.to_string(),
        "tags: 32769 bytes of JSON text after the write (at most 32768 bytes of JSON text, with \
         quotes, brackets and escapes)"
    );
    // A section that is too large shrinks, by text and by number, and does not grow.
    let large = desired(
        &empty(),
        json!({"k": vec![json!({}); 5000], "t": vec![text(4096); 2]}),
        &stamp,
    );
    for smaller in [
        json!({"k": vec![json!({}); 4999]}),
        json!({"t": [text(4096), text(4095)]}),
    ] {
        assert!(merged(&large, smaller).is_ok());
    }
    for larger in [json!({"k": vec![json!({}); 5001]}), json!({"x": ""})] {
        let violations = merged(&large, larger).unwrap_err();
        assert_eq!(violations.count(), 2, "{violations}");
    }
    // Policies come to the same bounds.
    assert!(crate::validate_settings(&map(list(&json!({}), 8191))).is_ok());
    assert!(crate::validate_settings(&map(list(&json!({}), 8192))).is_err());
}

#[test]
fn a_refused_write_names_everything_that_is_wrong_with_it() {
    let patch = map(json!({
        "a b": 1,
        "list": [1, null, {"k": null}],
        "big": 4_503_599_627_370_496_i64,
        "float": 1e300,
        "text": "é".repeat(2049),
        "": {"x#y": null},
    }));
    let violations = empty()
        .merge(&patch, &by_operator("x", 1), SectionKind::Desired)
        .unwrap_err();
    let listed: Vec<_> = violations
        .list()
        .iter()
        .map(|v| (v.path.as_str(), v.rule))
        .collect();
    assert_eq!(
        listed,
        [
            ("properties.desired.[[]]", Rule::KeyEmpty),
            ("properties.desired.[[]].[[x#y]]", Rule::KeyCharacters),
            ("properties.desired.[[a b]]", Rule::KeyCharacters),
            ("properties.desired.big", Rule::IntegerRange),
            ("properties.desired.list[1]", Rule::NullInArray),
            ("properties.desired.list[2].k", Rule::NullInArray),
            ("properties.desired.text", Rule::StringLength),
        ]
    );
    assert_eq!(violations.kind(), ViolationKind::Invalid);
}

#[test]
fn the_last_version_cannot_be_followed() {
    let last = Version::new(i64::MAX.unsigned_abs()).unwrap();
    let section = empty();
    let section = Section::from_parts(Map::new(), section.metadata, last).unwrap();
    let error = section
        .merge(&Map::new(), &by_operator("x", 1), SectionKind::Tags)
        .unwrap_err();
    assert_eq!(error.list()[0].rule, Rule::WriteCount);
    assert_eq!(error.kind(), ViolationKind::TooLarge);
}

#[test]
fn the_service_side_sees_stamps_and_authors_of_leaves() {
    let section = desired(
        &empty(),
        json!({"net": {"hz": 5}, "l": [1], "o": {}}),
        &by_policy("p", 2, 1),
    );
    let stamp = json!({"$lastUpdated": "2026-01-01T00:00:01.1234567Z", "$lastUpdatedVersion": 2});
    let leaf = rfc7396(stamp.clone(), &json!({"$lastUpdatedBy": "policy:p@2"}));
    let net = rfc7396(stamp.clone(), &json!({"hz": leaf}));
    assert_eq!(
        section.to_json_with_metadata(SectionKind::Desired),
        json!({
            "net": {"hz": 5}, "l": [1], "o": {}, "$version": 2,
            "$metadata": rfc7396(stamp, &json!({"net": net, "l": leaf, "o": leaf})),
        })
    );
    // Nodes of reported show no version.
    let reported = section.to_json_with_metadata(SectionKind::Reported);
    assert_eq!(
        reported["$metadata"]["net"]["hz"]["$lastUpdatedBy"],
        "policy:p@2"
    );
    assert!(
        !reported.to_string().contains("$lastUpdatedVersion"),
        "{reported}"
    );
    assert_eq!(
        section.to_device_json(),
        json!({"net": {"hz": 5}, "l": [1], "o": {}, "$version": 2})
    );
}

#[test]
fn metadata_that_does_not_mirror_the_document_is_refused() {
    let section = desired(
        &empty(),
        json!({"a": {"b": 1}, "c": 2}),
        &by_operator("x", 1),
    );
    let with = |document: Value| {
        Section::from_parts(map(document), section.metadata.clone(), section.version)
            .map(|_| ())
            .map_err(|error| error.path)
    };
    assert_eq!(with(json!({"a": {"b": 7}, "c": []})), Ok(()));
    assert_eq!(with(json!({"a": {"b": 1}})), Err("/c".into()));
    assert_eq!(
        with(json!({"a": {"b": 1, "x": 1}, "c": 2})),
        Err("/a/x".into())
    );
    assert_eq!(with(json!({"a": 1, "c": 2})), Err("/a".into()));
}

proptest! {
    #[test]
    fn merging_is_what_rfc_7396_says(patches in prop::collection::vec(patch(), 1..6)) {
        let mut section = empty();
        let mut model = json!({});
        for (patch, second) in patches.iter().zip(1..) {
            let next = section
                .merge(patch, &by_operator("x", second), SectionKind::Desired)
                .unwrap();
            model = rfc7396(model, &Value::Object(patch.clone()));
            prop_assert_eq!(&Value::Object(next.document().clone()), &model);
            prop_assert_eq!(next.version(), section.version().next().unwrap());
            prop_assert_eq!(next.metadata().check_mirrors(next.document()), Ok(()));
            prop_assert_eq!(next.metadata().updated_at, at(second));
            section = next;
        }
    }

    #[test]
    fn stamps_below_are_never_newer_than_above(patches in prop::collection::vec(patch(), 1..6)) {
        fn check(node: &NodeMeta) -> bool {
            node.children.values().all(|c| c.version <= node.version && check(c))
        }
        let mut section = empty();
        for (patch, second) in patches.iter().zip(1..) {
            let stamp = by_operator("x", second);
            section = section.merge(patch, &stamp, SectionKind::Desired).unwrap();
            prop_assert!(check(section.metadata()));
            prop_assert_eq!(section.metadata().version, section.version());
        }
    }

    #[test]
    fn merging_twice_is_merging_once_except_for_versions(base in document(), patch in patch()) {
        let stamp = by_operator("x", 1);
        let base = empty().replace(&base, &stamp, SectionKind::Desired).unwrap();
        let once = base.merge(&patch, &stamp, SectionKind::Desired).unwrap();
        let twice = once.merge(&patch, &stamp, SectionKind::Desired).unwrap();
        prop_assert_eq!(once.document(), twice.document());
        prop_assert_eq!(twice.version().get(), once.version().get() + 1);
    }

    #[test]
    fn a_replacement_forgets_everything_before(old in document(), new in patch()) {
        let old = empty().replace(&old, &by_operator("a", 1), SectionKind::Desired).unwrap();
        let section = old.replace(&new, &by_operator("b", 2), SectionKind::Desired).unwrap();
        prop_assert_eq!(section.document(), &without_nulls(&new));
        prop_assert_eq!(section.version(), old.version().next().unwrap());
        let from_nothing = empty().merge(&new, &by_operator("b", 2), SectionKind::Desired).unwrap();
        prop_assert_eq!(section.document(), from_nothing.document());
        let mut nodes = vec![section.metadata()];
        while let Some(node) = nodes.pop() {
            prop_assert_eq!(node.updated_at, at(2));
            prop_assert_eq!(node.version, section.version());
            prop_assert_eq!(&node.by, &Writer::Operator("b".into()));
            nodes.extend(node.children.values());
        }
    }

    #[test]
    fn the_notification_of_a_replacement_leads_from_the_old_document_to_the_new(
        old in document(),
        new in document(),
    ) {
        let old = empty().replace(&old, &by_operator("a", 1), SectionKind::Desired).unwrap();
        let section = old.replace(&new, &by_operator("b", 2), SectionKind::Desired).unwrap();
        let told = Value::Object(section.replacement_patch(&old));
        let device = rfc7396(Value::Object(old.document().clone()), &told);
        prop_assert_eq!(device, Value::Object(section.document().clone()));
        // It holds the new document whole, not only what differs.
        let alone = rfc7396(json!({}), &told);
        prop_assert_eq!(without_nulls(&map(alone)), new);
    }

    #[test]
    fn metadata_survives_storing(patches in prop::collection::vec((patch(), 0..3_i64), 1..6)) {
        let mut section = empty();
        for (patch, author) in &patches {
            let stamp = by_policy("p", author.unsigned_abs(), *author);
            section = section.merge(patch, &stamp, SectionKind::Desired).unwrap();
        }
        let text = section.metadata_to_json().to_string();
        let stored = serde_json::from_str(&text).unwrap();
        let read = Section::metadata_from_json(&stored).unwrap();
        let again = Section::from_parts(section.document().clone(), read, section.version());
        prop_assert_eq!(again, Ok(section));
    }

    #[test]
    fn a_refused_write_says_why_and_an_accepted_one_fits(
        sizes in prop::collection::vec(0..4096_usize, 1..6),
    ) {
        let mut section = empty();
        for (index, size) in sizes.iter().enumerate() {
            let patch = map(json!({ format!("k{}", index % 2): ["x".repeat(*size), "x".repeat(*size)] }));
            match section.merge(&patch, &by_operator("x", 1), SectionKind::Tags) {
                Ok(next) => {
                    let bytes = crate::validate::Cost::of(next.document()).counted;
                    prop_assert!(bytes <= 8192);
                    section = next;
                }
                Err(error) => {
                    let mut model = section.document().clone();
                    model.extend(patch);
                    prop_assert!(crate::validate::Cost::of(&model).counted > 8192);
                    prop_assert_eq!(error.kind(), ViolationKind::TooLarge);
                }
            }
        }
    }
}
