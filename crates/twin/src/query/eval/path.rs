//! From a path to its value.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::Facts;
use crate::metadata::NodeMeta;
use crate::query::ast::{Path, Root};
use crate::query::datum::Datum;
use crate::section::SectionKind;

/// What a path leads to.
pub(in crate::query) fn resolve<'e>(path: &Path, facts: &Facts<'e>) -> Datum<'e> {
    match find(path, facts) {
        Found::Json(value) => Datum::of(value),
        Found::Datum(datum) => datum,
    }
}

/// What a path leads to, as the JSON that is stored there.
pub(in crate::query) fn resolve_json(path: &Path, facts: &Facts<'_>) -> Option<Value> {
    match find(path, facts) {
        Found::Json(value) => Some(value.clone()),
        Found::Datum(datum) => datum.to_json(),
    }
}

/// A stored value stays what it is, so that a result shows 1.0 and not 1 where 1.0 is stored.
enum Found<'e> {
    Json(&'e Value),
    Datum(Datum<'e>),
}

fn find<'e>(path: &Path, facts: &Facts<'e>) -> Found<'e> {
    let twin = facts.twin;
    let keys = path.keys.as_slice();
    match &path.root {
        Root::Attribute(attribute) => descend(Found::Datum(twin.attribute(*attribute)), keys),
        Root::Tags => section(SectionKind::Tags, keys, facts),
        Root::Desired => section(SectionKind::Desired, keys, facts),
        Root::Reported => section(SectionKind::Reported, keys, facts),
        Root::Posture => descend(optional(twin.posture()), keys),
        Root::Variable { level, .. } => {
            let element = facts.elements.get(*level).copied();
            descend(optional(element), keys)
        }
    }
}

fn optional(value: Option<&Value>) -> Found<'_> {
    value.map_or(Found::Datum(Datum::Undefined), Found::Json)
}

/// Version and metadata are beside a section's document, not in it.
fn section<'e>(kind: SectionKind, keys: &[String], facts: &Facts<'e>) -> Found<'e> {
    if let Some((first, below)) = keys.split_first()
        && first.starts_with('$')
    {
        let datum = match first.as_str() {
            "$version" => facts.twin.section_version(kind).map(Datum::count),
            "$metadata" => facts
                .twin
                .section_metadata(kind)
                .map(|root| metadata(root, below)),
            _ => None,
        };
        return Found::Datum(datum.unwrap_or(Datum::Undefined));
    }
    let document = facts.twin.section(kind);
    descend(
        Found::Datum(document.map_or(Datum::Undefined, Datum::object)),
        keys,
    )
}

fn descend<'e>(start: Found<'e>, keys: &[String]) -> Found<'e> {
    let mut found = start;
    for key in keys {
        let below = match found {
            Found::Json(Value::Object(members)) => members.get(key).map(Found::Json),
            Found::Datum(Datum::Object(Cow::Borrowed(members))) => {
                members.get(key).map(Found::Json)
            }
            Found::Datum(Datum::Object(Cow::Owned(mut members))) => members
                .remove(key)
                .map(|value| Found::Datum(Datum::owned(value))),
            Found::Json(_) | Found::Datum(_) => None,
        };
        let Some(below) = below else {
            return Found::Datum(Datum::Undefined);
        };
        found = below;
    }
    found
}

/// A node of `$metadata`, or one of its stamps, without making the rest of the tree.
fn metadata<'e>(root: &'e NodeMeta, keys: &[String]) -> Datum<'e> {
    let mut node = root;
    let mut is_root = true;
    for (index, key) in keys.iter().enumerate() {
        if let Some(child) = node.children.get(key) {
            node = child;
            is_root = false;
            continue;
        }
        let is_last = index + 1 == keys.len();
        // The author stands at leaves only, as in the public form.
        let is_leaf = !is_root && node.children.is_empty();
        return match key.as_str() {
            "$lastUpdated" if is_last => Datum::Instant(node.updated_at),
            "$lastUpdatedVersion" if is_last => Datum::count(node.version.get()),
            "$lastUpdatedBy" if is_last && is_leaf => Datum::owned(json!(node.by.to_string())),
            _ => Datum::Undefined,
        };
    }
    Datum::Object(Cow::Owned(if is_root {
        node.to_public_json()
    } else {
        node.to_public_json_below()
    }))
}
