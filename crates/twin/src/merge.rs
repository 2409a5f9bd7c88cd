//! How a write changes a document and its metadata together: JSON Merge Patch (RFC 7396) and
//! replacement. The caller has judged the write before; nothing here can fail.

use serde_json::Value;

use crate::Map;
use crate::metadata::{Mark, NodeMeta};

/// Merges `patch` into `document`, and notes in `meta` what it touched: every node that the patch
/// names, whether or not its value changes, and all that lies above.
pub(crate) fn merge_object(document: &mut Map, meta: &mut NodeMeta, patch: &Map, mark: &Mark<'_>) {
    for (key, value) in patch {
        merge_member(document, meta, key, value, mark);
    }
    meta.touch(mark);
}

/// Merges one key of a patch into the object that `document` and `meta` describe. The caller
/// touches that object.
pub(crate) fn merge_member(
    document: &mut Map,
    meta: &mut NodeMeta,
    key: &str,
    value: &Value,
    mark: &Mark<'_>,
) {
    match value {
        Value::Null => {
            document.remove(key);
            meta.children.remove(key);
        }
        Value::Object(patch) => {
            let member = document.entry(key).or_insert(Value::Null);
            if !member.is_object() {
                *member = Value::Object(Map::new());
                meta.children.insert(key.to_owned(), NodeMeta::leaf(mark));
            }
            let node = meta
                .children
                .entry(key.to_owned())
                .or_insert_with(|| NodeMeta::leaf(mark));
            if let Value::Object(object) = member {
                merge_object(object, node, patch, mark);
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            document.insert(key.to_owned(), value.clone());
            meta.children.insert(key.to_owned(), NodeMeta::leaf(mark));
        }
    }
}

/// The whole of `new`, and `null` for every key of `old` that is gone, at any depth. Merged into
/// `old` it gives `new`.
pub(crate) fn replacement(old: &Map, new: &Map) -> Map {
    let mut patch = Map::new();
    for (key, value) in new {
        let told = match (old.get(key), value) {
            (Some(Value::Object(before)), Value::Object(after)) => {
                Value::Object(replacement(before, after))
            }
            _ => value.clone(),
        };
        patch.insert(key.clone(), told);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    patch
}
