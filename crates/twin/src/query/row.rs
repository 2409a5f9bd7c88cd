//! The rows of a query that is not aggregated.

use jiff::Timestamp;
use serde_json::{Map as JsonMap, Value, json};

use super::ast::{Attribute, Path, Root};
use super::eval::{self, Facts};
use super::lookup::Lookup;
use super::statement::{Item, ItemValue};
use crate::Map;
use crate::section::SectionKind;

/// The items of one twin. What it lacks is left out (spec 8.1).
pub(super) fn of_items(items: &[Item], twin: &dyn Lookup, now: Timestamp) -> Map {
    eval::bounded(twin, Some(now), |facts| {
        let mut row = Map::new();
        for item in items {
            if let ItemValue::Value(expr) = &item.value
                && let Some(value) = eval::json(expr, facts)
            {
                row.insert(item.name.clone(), value);
            }
        }
        row
    })
}

/// The whole twin, as the service side sees it (spec 1.1). Tags are left out if they are empty, a
/// section that the view does not hold and a posture that is not there yet as well.
pub(super) fn whole(twin: &dyn Lookup) -> Map {
    let mut document = Map::new();
    for attribute in Attribute::ALL {
        if let Some(value) = twin.attribute(attribute).to_json() {
            document.insert(attribute.name().to_owned(), value);
        }
    }
    if let Some(tags) = twin
        .section(SectionKind::Tags)
        .filter(|tags| !tags.is_empty())
    {
        document.insert("tags".to_owned(), Value::Object(tags.clone()));
    }
    let mut properties = JsonMap::new();
    for (root, kind, name) in [
        (Root::Desired, SectionKind::Desired, "desired"),
        (Root::Reported, SectionKind::Reported, "reported"),
    ] {
        let path = Path {
            root,
            keys: Vec::new(),
        };
        let facts = Facts::new(twin, None);
        if let Some(Value::Object(section)) = eval::resolve_json(&path, &facts) {
            properties.insert(name.to_owned(), whole_section(twin, kind, section));
        }
    }
    document.insert("properties".to_owned(), Value::Object(properties));
    if let Some(posture) = twin.posture().filter(|posture| !posture.is_null()) {
        document.insert("posture".to_owned(), posture.clone());
    }
    document
}

fn whole_section(twin: &dyn Lookup, kind: SectionKind, mut section: Map) -> Value {
    if let Some(metadata) = twin.section_metadata(kind) {
        section.insert(
            "$metadata".to_owned(),
            Value::Object(metadata.to_public_json(kind)),
        );
    }
    if let Some(version) = twin.section_version(kind) {
        section.insert("$version".to_owned(), json!(version));
    }
    Value::Object(section)
}
