//! What differs between two documents of one twin, leaf by leaf. Pure.
//!
//! A leaf is a value that is no object; an empty object counts as one. Arrays are compared whole,
//! as they are written whole. What was an object and is something else now is all its leaves gone
//! and one new leaf. A section that is empty is as good as none: that it came to hold something is told by
//! what it holds.

use std::collections::BTreeMap;

use serde_json::Value;
use wire::twin::v1 as proto;

/// The parts of a document that are compared, and their names in the query language. Versions and
/// metadata follow from the rest.
const PARTS: [(&str, &str); 11] = [
    ("authenticationType", "authenticationType"),
    ("capabilities", "capabilities"),
    ("desired", "properties.desired"),
    ("managedBy", "managedBy"),
    ("modelId", "modelId"),
    ("posture", "posture"),
    ("reported", "properties.reported"),
    ("status", "status"),
    ("statusReason", "statusReason"),
    ("tags", "tags"),
    ("x509Thumbprint", "x509Thumbprint"),
];

/// What differs, in the order of paths.
pub(super) fn differences(before: &Value, after: &Value) -> Vec<proto::Difference> {
    let mut found = BTreeMap::new();
    for (part, path) in PARTS {
        compare(path, held(before, part), held(after, part), &mut found);
    }
    let difference = |(path, (before, after)): (String, (Option<&Value>, Option<&Value>))| {
        let json = |value: Option<&Value>| value.map(ToString::to_string).unwrap_or_default();
        proto::Difference {
            path,
            before_json: json(before),
            after_json: json(after),
        }
    };
    found.into_iter().map(difference).collect()
}

/// A part of a document, unless it is there and empty.
fn held<'a>(document: &'a Value, part: &str) -> Option<&'a Value> {
    let value = document.get(part)?;
    let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
    (!is_empty).then_some(value)
}

type Leaves<'a> = BTreeMap<String, (Option<&'a Value>, Option<&'a Value>)>;

fn compare<'a>(
    path: &str,
    before: Option<&'a Value>,
    after: Option<&'a Value>,
    found: &mut Leaves<'a>,
) {
    if before == after {
        return;
    }
    let (old, new) = (members(before), members(after));
    // A leaf of one side; of the other the leaves below, if it has any.
    if old.is_none() && before.is_some() {
        found.entry(path.to_owned()).or_default().0 = before;
    }
    if new.is_none() && after.is_some() {
        found.entry(path.to_owned()).or_default().1 = after;
    }
    for (key, before) in old.into_iter().flatten() {
        let after = new.and_then(|new| new.get(key));
        compare(&below(path, key), Some(before), after, found);
    }
    for (key, after) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(key)) {
            compare(&below(path, key), None, Some(after), found);
        }
    }
}

/// The members of a value that is no leaf.
fn members(value: Option<&Value>) -> Option<&serde_json::Map<String, Value>> {
    value?.as_object().filter(|members| !members.is_empty())
}

/// A path as the query language writes it.
fn below(path: &str, key: &str) -> String {
    let is_word = |key: &str| {
        let mut letters = key.chars();
        letters
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    if is_word(key) {
        format!("{path}.{key}")
    } else {
        format!("{path}.[[{key}]]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// `path: before -> after` of each difference.
    fn check(before: &Value, after: &Value, expected: &[&str]) {
        let found = differences(before, after);
        let lines: Vec<_> = found
            .iter()
            .map(|found| {
                format!(
                    "{}: {} -> {}",
                    found.path, found.before_json, found.after_json
                )
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn leaves_are_told_one_by_one_in_the_order_of_their_paths() {
        let before = json!({
            "tags": {"site": "a", "kept": 1, "list": [1, 2]},
            "desired": {"a": {"b": 1, "c": 2}},
            "status": "enabled",
            "version": 1,
        });
        let after = json!({
            "tags": {"site": "b", "kept": 1, "list": [1]},
            "desired": {"a": {"b": 1}, "new key": {"x": {}}},
            "status": "disabled",
            "version": 2,
        });
        check(
            &before,
            &after,
            &[
                "properties.desired.[[new key]].x:  -> {}",
                "properties.desired.a.c: 2 -> ",
                "status: \"enabled\" -> \"disabled\"",
                "tags.list: [1,2] -> [1]",
                "tags.site: \"a\" -> \"b\"",
            ],
        );
    }

    #[test]
    fn an_object_that_becomes_a_leaf_loses_its_leaves() {
        let before = json!({"tags": {"a": {"b": 1, "c": {"d": 2}}}});
        let after = json!({"tags": {"a": 5}});
        let lines = ["tags.a:  -> 5", "tags.a.b: 1 -> ", "tags.a.c.d: 2 -> "];
        check(&before, &after, &lines);
        let emptied = json!({"tags": {"a": {}}});
        check(&after, &emptied, &["tags.a: 5 -> {}"]);
        check(&emptied, &emptied, &[]);
        let empty = json!({"tags": {}});
        check(&empty, &after, &["tags.a:  -> 5"]);
        check(&after, &empty, &["tags.a: 5 -> "]);
        check(&empty, &Value::Null, &[]);
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i8>().prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
            Just(json!([])),
            Just(json!({})),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop::collection::btree_map("[a-c.]{1,2}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect()))
        })
    }

    /// Every leaf with its path.
    fn leaves(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
        match members(Some(value)) {
            None => {
                found.insert(path.to_owned(), value.clone());
            }
            Some(members) => {
                for (key, value) in members {
                    leaves(&below(path, key), value, found);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_the_difference_of_the_sets_of_leaves(before in document(), after in document()) {
            let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
            for (side, found) in [(&before, &mut old), (&after, &mut new)] {
                if *side != json!({}) {
                    leaves("tags", side, found);
                }
            }
            let paths: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
            let text = |value: Option<&Value>| value.map(ToString::to_string).unwrap_or_default();
            let expected: Vec<_> = paths
                .into_iter()
                .filter(|path| old.get(*path) != new.get(*path))
                .map(|path| (path.clone(), text(old.get(path)), text(new.get(path))))
                .collect();
            let found: Vec<_> = differences(&json!({"tags": before}), &json!({"tags": after}))
                .into_iter()
                .map(|found| (found.path, found.before_json, found.after_json))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
