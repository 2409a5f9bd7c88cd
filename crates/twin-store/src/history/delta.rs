//! The difference of two JSON documents as a pair of merge patches (RFC 7396), forth and back.
//!
//! A merge patch alone cannot be put together with the one after it: `{"a": null}` and then
//! `{"a": {"y": 2}}` make another document of `{"a": {"x": 1}}` than `{"a": {"y": 2}}` does, and
//! nothing in the two says that `x` was there. The patch back says it, so a pair can be joined to
//! a pair without the documents. An absent document is `null`, as an absent member is.

use serde_json::{Map, Value};

/// How one document became another.
///
/// Invariant: both patches name the same members; where both are objects, both documents have an
/// object there; elsewhere each patch holds the whole value that it leads to, or `null` for none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Delta {
    /// From the document before to the one after.
    pub(super) patch: Value,
    /// Back again.
    pub(super) undo: Value,
}

impl Delta {
    /// What differs between two values, neither of which holds a `null` member.
    pub(super) fn between(before: &Value, after: &Value) -> Option<Delta> {
        if before == after {
            return None;
        }
        let (Value::Object(before), Value::Object(after)) = (before, after) else {
            return Some(Delta::whole(before, after));
        };
        let mut members = Members::default();
        for (key, before) in before {
            members.add(key, Delta::between(before, member(after, key)));
        }
        for (key, after) in after {
            if !before.contains_key(key) {
                members.add(key, Delta::between(&Value::Null, after));
            }
        }
        members.into_delta()
    }

    /// The difference of two documents that are the same.
    pub(super) fn nothing() -> Delta {
        Members::default().into()
    }

    /// This difference and the one after it, as one; none when the second takes back the first.
    pub(super) fn then(&self, next: &Delta) -> Option<Delta> {
        match (self.is_nested(), next.is_nested()) {
            (true, true) => self.join_members(next),
            (false, false) => Delta::between(&self.undo, &next.patch),
            (false, true) => {
                let mut last = self.patch.clone();
                apply(&mut last, &next.patch);
                Delta::between(&self.undo, &last)
            }
            (true, false) => {
                let mut first = next.undo.clone();
                apply(&mut first, &self.undo);
                Delta::between(&first, &next.patch)
            }
        }
    }

    fn join_members(&self, next: &Delta) -> Option<Delta> {
        let (own, later) = (self.members(), next.members());
        let mut members = Members::default();
        for (key, first) in &own {
            let joined = match later.iter().find(|(other, _)| other == key) {
                Some((_, second)) => first.then(second),
                None => Some(first.clone()),
            };
            members.add(key, joined);
        }
        for (key, second) in later {
            if !own.iter().any(|(other, _)| *other == key) {
                members.add(key, Some(second));
            }
        }
        members.into_delta()
    }

    fn members(&self) -> Vec<(&str, Delta)> {
        let (Value::Object(patch), Value::Object(undo)) = (&self.patch, &self.undo) else {
            return Vec::new();
        };
        let delta = |(key, patch): (&'_ String, &Value)| Delta {
            patch: patch.clone(),
            undo: member(undo, key).clone(),
        };
        patch
            .iter()
            .map(|member| (member.0.as_str(), delta(member)))
            .collect()
    }

    fn is_nested(&self) -> bool {
        self.patch.is_object() && self.undo.is_object()
    }

    fn whole(before: &Value, after: &Value) -> Delta {
        Delta {
            patch: after.clone(),
            undo: before.clone(),
        }
    }
}

/// Merges a patch into a document, as RFC 7396 says.
pub(super) fn apply(document: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        document.clone_from(patch);
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let Value::Object(document) = document else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            document.remove(key);
        } else {
            apply(document.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Takes out members that are `null`: a merge patch cannot carry them.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        // An array is replaced as a whole, so what is in it may be anything.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            value
        }
    }
}

fn member<'v>(map: &'v Map<String, Value>, key: &str) -> &'v Value {
    map.get(key).unwrap_or(&Value::Null)
}

#[derive(Default)]
struct Members {
    patch: Map<String, Value>,
    undo: Map<String, Value>,
}

impl Members {
    fn add(&mut self, key: &str, delta: Option<Delta>) {
        if let Some(Delta { patch, undo }) = delta {
            self.patch.insert(key.to_owned(), patch);
            self.undo.insert(key.to_owned(), undo);
        }
    }

    fn into_delta(self) -> Option<Delta> {
        (!self.patch.is_empty()).then(|| self.into())
    }
}

impl From<Members> for Delta {
    fn from(members: Members) -> Delta {
        Delta {
            patch: Value::Object(members.patch),
            undo: Value::Object(members.undo),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0_i64..3).prop_map(Value::from),
            "[xy]{0,2}".prop_map(Value::from),
            Just(json!([])),
            Just(json!([1, {"n": null}])),
        ];
        let value = leaf.prop_recursive(4, 24, 4, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect()))
        });
        prop_oneof![9 => value, 1 => Just(Value::Null)]
    }

    fn applied(document: &Value, delta: Option<&Delta>) -> (Value, Value) {
        let (mut forth, mut back) = (document.clone(), document.clone());
        if let Some(delta) = delta {
            apply(&mut forth, &delta.patch);
            apply(&mut back, &delta.undo);
        }
        (forth, back)
    }

    #[test]
    fn what_was_deleted_between_does_not_come_back() {
        let (first, second, third) = (json!({"a": {"x": 1}}), json!({}), json!({"a": {"y": 2}}));
        let joined = Delta::between(&first, &second)
            .unwrap()
            .then(&Delta::between(&second, &third).unwrap());
        assert_eq!(applied(&first, joined.as_ref()).0, third);
        assert_eq!(joined.unwrap().patch, json!({"a": {"x": null, "y": 2}}),);
    }

    #[test]
    fn there_and_back_is_nothing() {
        let (before, after) = (json!({"a": 1, "b": {}}), json!({"a": {"c": [1]}}));
        let there = Delta::between(&before, &after).unwrap();
        let back = Delta::between(&after, &before).unwrap();
        assert_eq!(there.then(&back), None);
    }

    proptest! {
        #[test]
        fn a_difference_leads_there_and_back(before in documents(), after in documents()) {
            let delta = Delta::between(&before, &after);
            prop_assert_eq!(delta.is_none(), before == after);
            prop_assert_eq!(&applied(&before, delta.as_ref()).0, &after);
            prop_assert_eq!(&applied(&after, delta.as_ref()).1, &before);
        }

        #[test]
        fn differences_joined_are_the_difference_of_the_ends(
            steps in prop::collection::vec(documents(), 3..6),
        ) {
            let mut joined: Option<Delta> = None;
            for pair in steps.windows(2) {
                let step = Delta::between(&pair[0], &pair[1]);
                joined = match (joined, step) {
                    (Some(so_far), Some(step)) => so_far.then(&step),
                    (so_far, step) => so_far.or(step),
                };
            }
            let (first, last) = (&steps[0], &steps[steps.len() - 1]);
            prop_assert_eq!(joined, Delta::between(first, last));
        }
    }
}
