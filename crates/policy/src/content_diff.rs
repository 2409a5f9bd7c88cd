//! How two contents of a policy differ: field by field, and settings leaf by leaf. Pure.
//!
//! For the answers of `ApplyPolicy`, for what a revision changed, and for the command line. It knows
//! neither protobuf nor the store.

use std::collections::BTreeMap;

use serde_json::Value;
use twin::Map;

use crate::policy_doc::PolicySpec;

/// How paths of settings begin.
const SETTINGS: &str = "settings";

/// One difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// `priority`, or `settings.` and the keys of a leaf, divided by dots.
    pub path: String,
    /// What was there.
    pub old: Option<Value>,
    /// What is there.
    pub new: Option<Value>,
}

/// Lists what differs, fields first and then the leaves of settings in the order of their paths.
/// Arrays and empty objects are leaves.
pub fn differences(old: &PolicySpec, new: &PolicySpec) -> Vec<Difference> {
    let mut found = Vec::new();
    for ((path, old), (_, new)) in fields(old).into_iter().zip(fields(new)) {
        if old != new {
            found.push(Difference {
                path: path.to_owned(),
                old: Some(old),
                new: Some(new),
            });
        }
    }
    let (before, mut after) = (leaves(&old.settings), leaves(&new.settings));
    let mut settings = BTreeMap::new();
    for (path, old) in before {
        let new = after.remove(&path);
        if new.as_ref() != Some(&old) {
            settings.insert(path, (Some(old), new));
        }
    }
    settings.extend(
        after
            .into_iter()
            .map(|(path, new)| (path, (None, Some(new)))),
    );
    found.extend(settings.into_iter().map(|(path, (old, new))| Difference {
        path: format!("{SETTINGS}.{}", path.join(".")),
        old,
        new,
    }));
    found
}

/// Which fields differ.
pub fn changed_fields(old: &PolicySpec, new: &PolicySpec) -> Vec<&'static str> {
    let fields = fields(old).into_iter().zip(fields(new));
    let mut changed: Vec<_> = fields
        .filter(|((_, old), (_, new))| old != new)
        .map(|((path, _), _)| path)
        .collect();
    if old.settings != new.settings {
        changed.push(SETTINGS);
    }
    changed
}

/// Everything but the id and the settings.
fn fields(spec: &PolicySpec) -> [(&'static str, Value); 9] {
    [
        ("description", spec.description.as_str().into()),
        ("labels", labels(spec)),
        ("scope", spec.scope.as_str().into()),
        ("target", spec.target.as_str().into()),
        ("when", spec.when.as_str().into()),
        ("priority", spec.priority.into()),
        ("rollout", rollout(spec)),
        (
            "schedule",
            serde_json::to_value(&spec.schedule).unwrap_or_default(),
        ),
        (
            "actions",
            serde_json::to_value(&spec.actions).unwrap_or_default(),
        ),
    ]
}

/// As a JSON object.
fn labels(spec: &PolicySpec) -> Value {
    serde_json::to_value(&spec.labels).unwrap_or_default()
}

/// As JSON; a strategy that is not there is null.
fn rollout(spec: &PolicySpec) -> Value {
    serde_json::to_value(&spec.rollout).unwrap_or_default()
}

fn leaves(settings: &Map) -> BTreeMap<Vec<String>, Value> {
    let mut found = BTreeMap::new();
    let mut open: Vec<(Vec<String>, &Map)> = vec![(Vec::new(), settings)];
    while let Some((path, object)) = open.pop() {
        for (key, value) in object {
            let mut path = path.clone();
            path.push(key.clone());
            match value {
                Value::Object(inner) if !inner.is_empty() => open.push((path, inner)),
                leaf => {
                    found.insert(path, leaf.clone());
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(priority: i32, settings: &Value) -> PolicySpec {
        PolicySpec {
            id: "p".to_owned(),
            priority,
            settings: settings.as_object().unwrap().clone(),
            ..PolicySpec::default()
        }
    }

    #[test]
    fn fields_and_leaves_that_differ_are_listed_with_both_values() {
        let old = spec(1, &json!({"a": {"x": 1, "y": 2}, "b": {}, "same": [1]}));
        let new = spec(
            2,
            &json!({"a": {"x": 1, "y": 3}, "b": {"z": 1}, "same": [1]}),
        );
        let told: Vec<_> = differences(&old, &new)
            .into_iter()
            .map(|one| (one.path, one.old, one.new))
            .collect();
        let expected = |path: &str, old, new| (path.to_owned(), old, new);
        assert_eq!(
            told,
            [
                expected("priority", Some(json!(1)), Some(json!(2))),
                expected("settings.a.y", Some(json!(2)), Some(json!(3))),
                expected("settings.b", Some(json!({})), None),
                expected("settings.b.z", None, Some(json!(1))),
            ]
        );
        assert_eq!(changed_fields(&old, &new), ["priority", "settings"]);
        assert_eq!(differences(&new, &new), []);
        assert!(changed_fields(&new, &new).is_empty());
    }
}
