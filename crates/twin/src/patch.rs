//! Merge patches (RFC 7396) as values: what turns one document into another, for history and undo.
//!
//! Documents here are what a section is: no object in them holds a `null`. Nothing here judges,
//! stamps or counts; [`crate::Section::merge`] does.

use serde_json::Value;

use crate::Map;

/// The smallest patch that turns `before` into `after`; none if they are equal.
pub fn diff(before: &Value, after: &Value) -> Option<Value> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let patch = diff_objects(before, after);
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ if before == after => None,
        _ => Some(after.clone()),
    }
}

/// The same between two objects; empty if they are equal.
pub fn diff_objects(before: &Map, after: &Map) -> Map {
    let mut patch = Map::new();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in after {
        let change = match before.get(key) {
            Some(old) => diff(old, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    patch
}

/// The document after a patch, by the algorithm of RFC 7396.
pub fn apply(patch: &Value, document: Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut merged = match document {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    apply_to_object(patch, &mut merged);
    Value::Object(merged)
}

/// The same on an object in place.
pub fn apply_to_object(patch: &Map, document: &mut Map) {
    for (key, change) in patch {
        if change.is_null() {
            document.remove(key);
        } else {
            let old = document.remove(key).unwrap_or(Value::Null);
            document.insert(key.clone(), apply(change, old));
        }
    }
}

/// One patch that does what `first` and then `second` do to any document; none if there is no such
/// patch.
///
/// There is none if `second` goes into an object at a place that `first` removed or set to another
/// value: together they put a certain object there, whatever stood there before, and a merge patch
/// can only add to an object. With the documents at hand, [`diff`] gives a patch for those two.
pub fn compose(first: &Value, second: &Value) -> Option<Value> {
    let Value::Object(later) = second else {
        // It replaces whatever the first made.
        return Some(second.clone());
    };
    let Value::Object(earlier) = first else {
        return None;
    };
    let mut both = earlier.clone();
    for (key, change) in later {
        let change = match earlier.get(key) {
            Some(before) => compose(before, change)?,
            None => change.clone(),
        };
        both.insert(key.clone(), change);
    }
    Some(Value::Object(both))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{document, patch, rfc7396};

    /// An object, or seldom something else, which a whole document may be as well.
    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![8 => document().prop_map(Value::Object), 1 => Just(json!(1)), 1 => Just(json!([1]))]
    }

    fn change() -> impl Strategy<Value = Value> {
        prop_oneof![8 => patch().prop_map(Value::Object), 1 => Just(json!(1)), 1 => Just(json!([1]))]
    }

    #[test]
    fn a_difference_names_what_differs_and_nothing_else() {
        let before = json!({"a": 1, "b": {"c": 2, "d": [3]}, "e": {"f": 4}, "g": 5});
        let after = json!({"a": 1, "b": {"c": 9, "d": [3]}, "e": {}, "g": {"h": 6}, "i": {}});
        let patch = json!({"b": {"c": 9}, "e": {"f": null}, "g": {"h": 6}, "i": {}});
        assert_eq!(diff(&before, &after), Some(patch.clone()));
        assert_eq!(apply(&patch, before.clone()), after);
        assert_eq!(diff(&before, &before), None);
    }

    #[test]
    fn patches_that_no_single_one_equals_have_no_composition() {
        for first in [
            json!({"a": null}),
            json!({"a": 1}),
            json!({"a": []}),
            json!(1),
        ] {
            assert_eq!(compose(&first, &json!({"a": {"b": 2}})), None, "{first}");
        }
        let both = compose(
            &json!({"a": {"b": 1}, "c": {"d": 1}}),
            &json!({"a": {"b": null}, "c": 2}),
        );
        assert_eq!(both, Some(json!({"a": {"b": null}, "c": 2})));
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_the_one_to_the_other(a in value(), b in value()) {
            let Some(patch) = diff(&a, &b) else {
                prop_assert_eq!(a, b);
                return Ok(());
            };
            prop_assert_ne!(&a, &b);
            prop_assert_eq!(apply(&patch, a), b);
        }

        #[test]
        fn applying_is_what_rfc_7396_says(d in value(), p in change()) {
            prop_assert_eq!(apply(&p, d.clone()), rfc7396(d, &p));
        }

        #[test]
        fn a_difference_is_the_smallest_patch(a in value(), p in change()) {
            let b = apply(&p, a.clone());
            let Some(Value::Object(patch)) = diff(&a, &b) else { return Ok(()) };
            for key in patch.keys() {
                let mut smaller = patch.clone();
                smaller.remove(key);
                prop_assert_ne!(apply(&Value::Object(smaller), a.clone()), b.clone());
            }
        }

        #[test]
        fn a_composition_does_what_both_do(p in change(), q in change(), d in value()) {
            let one_by_one = apply(&q, apply(&p, d.clone()));
            if let Some(both) = compose(&p, &q) {
                prop_assert_eq!(apply(&both, d), one_by_one);
            } else {
                // Then indeed no patch does so for every document: the patch has to leave the
                // same thing whatever was there, and yet something is merged there.
                let both = apply(&q, apply(&p, json!({})));
                let other = apply(&q, apply(&p, everything()));
                let candidate = diff(&json!({}), &both).unwrap_or(json!({}));
                prop_assert_ne!(apply(&candidate, everything()), other);
            }
        }
    }

    /// A document in which every key of the random ones is an object with something of its own.
    fn everything() -> Value {
        fn level(depth: usize) -> Value {
            let keys = ["a", "b", "c", "größe"].map(str::to_owned);
            let below = || {
                if depth == 0 {
                    json!({"own": 1})
                } else {
                    level(depth - 1)
                }
            };
            let mut members: Map = keys.into_iter().map(|key| (key, below())).collect();
            members.insert("own".into(), json!(1));
            Value::Object(members)
        }
        level(4)
    }
}
