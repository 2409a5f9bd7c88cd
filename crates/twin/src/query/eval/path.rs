//! From a path to its value.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::Facts;
use crate::metadata::{NodeMeta, shows_versions};
use crate::query::ast::{Path, Root};
use crate::query::datum::Datum;
use crate::section::SectionKind;

/// Steps in which a node of the metadata is printed.
const STEPS_PER_NODE: usize = 64;

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
    facts.step(keys.len());
    match &path.root {
        Root::Attribute(attribute) if keys.is_empty() => Found::Datum(twin.attribute(*attribute)),
        Root::Attribute(attribute) => below_attribute(twin.attribute(*attribute), keys),
        Root::Tags => section(SectionKind::Tags, keys, facts),
        Root::Desired => section(SectionKind::Desired, keys, facts),
        Root::Reported => section(SectionKind::Reported, keys, facts),
        Root::Posture => below(twin.posture(), keys),
        Root::DeviceTags => match keys.split_first() {
            None => Found::Datum(twin.device_tags().map_or(Datum::Undefined, Datum::object)),
            Some((first, rest)) => below(twin.device_tags().and_then(|tags| tags.get(first)), rest),
        },
        Root::Variable { level, .. } => below(facts.elements.get(*level).copied(), keys),
    }
}

/// Version and metadata are beside a section's document, not in it.
fn section<'e>(kind: SectionKind, keys: &[String], facts: &Facts<'e>) -> Found<'e> {
    let Some((first, rest)) = keys.split_first() else {
        let document = facts.twin.section(kind);
        return Found::Datum(document.map_or(Datum::Undefined, Datum::object));
    };
    let datum = match first.as_str() {
        "$version" => facts.twin.section_version(kind).map(Datum::count),
        "$metadata" => {
            let root = facts.twin.section_metadata(kind);
            root.map(|root| metadata(root, kind, rest, facts))
        }
        _ => {
            let document = facts.twin.section(kind);
            return below(document.and_then(|document| document.get(first)), rest);
        }
    };
    Found::Datum(datum.unwrap_or(Datum::Undefined))
}

/// What lies at these keys below a stored value. Most of the time of an evaluation is spent here.
fn below<'e>(start: Option<&'e Value>, keys: &[String]) -> Found<'e> {
    let mut found = start;
    for key in keys {
        found = match found {
            Some(Value::Object(members)) => members.get(key),
            _ => None,
        };
    }
    found.map_or(Found::Datum(Datum::Undefined), Found::Json)
}

/// What lies at these keys below an attribute, which may have been made for the occasion.
fn below_attribute<'e>(attribute: Datum<'e>, keys: &[String]) -> Found<'e> {
    let Some((first, rest)) = keys.split_first() else {
        return Found::Datum(attribute);
    };
    match attribute {
        Datum::Object(Cow::Borrowed(members)) => below(members.get(first), rest),
        Datum::Object(Cow::Owned(mut members)) => {
            let member = members.remove(first).map_or(Datum::Undefined, Datum::owned);
            below_attribute(member, rest)
        }
        Datum::Undefined
        | Datum::Null
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::Text(_)
        | Datum::Instant(_)
        | Datum::Array(_) => Found::Datum(Datum::Undefined),
    }
}

/// A node of `$metadata`, or one of its stamps, without making the rest of the tree.
fn metadata<'e>(
    root: &'e NodeMeta,
    kind: SectionKind,
    keys: &[String],
    facts: &Facts<'_>,
) -> Datum<'e> {
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
            "$lastUpdatedVersion" if is_last && shows_versions(kind) => {
                Datum::count(node.version.get())
            }
            "$lastUpdatedBy" if is_last && is_leaf => Datum::owned(json!(node.by.to_string())),
            _ => Datum::Undefined,
        };
    }
    if !facts.step(STEPS_PER_NODE * node.count()) {
        return Datum::Undefined;
    }
    Datum::Object(Cow::Owned(if is_root {
        node.to_public_json(kind)
    } else {
        node.to_public_json_below(kind)
    }))
}
