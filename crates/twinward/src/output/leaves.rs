//! A document as its leaves: `properties.a.b` and its value, one per line, with who wrote it.

use serde_json::{Map, Value};

/// One leaf of a document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leaf {
    /// Dotted path.
    pub(crate) path: String,
    /// The value as compact JSON, text without its quotes.
    pub(crate) value: String,
    /// Who wrote it, when the metadata tells.
    pub(crate) by: String,
    /// At which version of the section, when the metadata tells.
    pub(crate) version: String,
}

impl Leaf {
    /// Whether it is a list.
    fn is_list(&self) -> bool {
        self.value.starts_with('[')
    }

    /// The items of a list; none if it is something else.
    pub(crate) fn items(&self) -> Vec<Value> {
        serde_json::from_str(&self.value).unwrap_or_default()
    }
}

/// Lists the leaves in the order of their paths. Arrays and empty objects are leaves.
pub(crate) fn leaves(document: &Value, metadata: &Value) -> Vec<Leaf> {
    let mut found = Vec::new();
    walk(String::new(), document, metadata, &mut found);
    found
}

/// Leaves that say nothing: numbers not counted yet, lists without items.
pub(crate) fn is_blank(leaf: &Leaf) -> bool {
    matches!(leaf.value.as_str(), "" | "0" | "[]" | "{}" | "null")
}

/// Lists what differs between two documents: `path=value by writer`, `path + item` and `path - item`
/// of a list, and `path removed`.
pub(crate) fn differences(before: &Value, after: &Value, metadata: &Value) -> Vec<String> {
    let before = leaves(before, &Value::Null);
    let after = leaves(after, metadata);
    let mut lines = Vec::new();
    for leaf in &after {
        let old = before.iter().find(|old| old.path == leaf.path);
        match old {
            Some(old) if old.value == leaf.value => {}
            Some(old) if leaf.is_list() && old.is_list() => {
                let (old, new) = (old.items(), leaf.items());
                let path = &leaf.path;
                let added = new.iter().filter(|item| !old.contains(item));
                lines.extend(added.map(|item| format!("{path} + {}", compact(item))));
                let gone = old.iter().filter(|item| !new.contains(item));
                lines.extend(gone.map(|item| format!("{path} - {}", compact(item))));
            }
            Some(_) | None if leaf.by.is_empty() => {
                lines.push(format!("{}={}", leaf.path, leaf.value));
            }
            Some(_) | None => {
                lines.push(format!("{}={} by {}", leaf.path, leaf.value, leaf.by));
            }
        }
    }
    for leaf in &before {
        if !after.iter().any(|kept| kept.path == leaf.path) {
            lines.push(format!("{} removed", leaf.path));
        }
    }
    lines
}

/// An item of a list on one line, without JSON's punctuation: `port=22 protocol=tcp`.
pub(crate) fn compact(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(members) => {
            let members: Vec<_> = ordered(members)
                .into_iter()
                .map(|(key, member)| format!("{key}={}", compact(member)))
                .collect();
            members.join(" ")
        }
        Value::Array(items) => items.iter().map(compact).collect::<Vec<_>>().join(","),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn walk(path: String, value: &Value, metadata: &Value, found: &mut Vec<Leaf>) {
    match value {
        Value::Object(members) if !members.is_empty() || path.is_empty() => {
            for (key, member) in ordered(members) {
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                walk(
                    below,
                    member,
                    metadata.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        Value::String(text) => found.push(leaf(path, text.clone(), metadata)),
        Value::Object(_) | Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {
            found.push(leaf(path, value.to_string(), metadata));
        }
    }
}

fn ordered(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(key, _)| *key);
    members
}

fn leaf(path: String, value: String, metadata: &Value) -> Leaf {
    let by = metadata
        .get("$lastUpdatedBy")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let version = metadata
        .get("$lastUpdatedVersion")
        .map(Value::to_string)
        .unwrap_or_default();
    Leaf {
        path,
        value,
        by: by.to_owned(),
        version,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn leaves_come_with_their_writer() {
        let document = json!({"b": {"c": [1, 2]}, "a": "x", "e": {}});
        let metadata = json!({
            "a": {"$lastUpdatedBy": "operator:eve", "$lastUpdatedVersion": 3},
            "b": {"c": {"$lastUpdatedBy": "policy:p@1", "$lastUpdatedVersion": 4}},
        });
        let found: Vec<_> = leaves(&document, &metadata)
            .into_iter()
            .map(|leaf| format!("{} {} {} {}", leaf.path, leaf.value, leaf.by, leaf.version))
            .collect();
        assert_eq!(
            found,
            ["a x operator:eve 3", "b.c [1,2] policy:p@1 4", "e {}  "]
        );
    }

    #[test]
    fn differences_name_what_changed_and_what_went() {
        let before = json!({"a": 1, "b": {"c": 2, "d": 3}});
        let after = json!({"a": 1, "b": {"c": 5}, "e": true});
        let metadata = json!({"e": {"$lastUpdatedBy": "policy:p@1"}});
        assert_eq!(
            differences(&before, &after, &metadata),
            ["b.c=5", "e=true by policy:p@1", "b.d removed"]
        );
        assert_eq!(differences(&after, &after, &metadata), [""; 0]);
    }

    #[test]
    fn differences_of_a_list_name_its_items() {
        let before = json!({"ports": [{"port": 22, "protocol": "tcp"}, {"port": 80}]});
        let after = json!({"ports": [{"port": 80}, {"port": 8080, "names": ["a", "b"]}]});
        assert_eq!(
            differences(&before, &after, &Value::Null),
            [
                "ports + names=a,b port=8080",
                "ports - port=22 protocol=tcp"
            ]
        );
    }
}
