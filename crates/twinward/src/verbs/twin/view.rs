//! What people and programs see of a twin. Programs get IoT Hub's shape, which scripts know:
//! `tags`, `properties.desired` and `properties.reported` with `$metadata` and `$version`; and
//! `posture` beside them.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use wire::twin::v1 as api;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::leaves::{Leaf, compact, is_blank, leaves};
use crate::output::{Paper, View, table, time};

/// Items of a list that people see; a page, not a file.
const ITEMS_MAX: usize = 20;

/// A twin whose documents have been read.
pub(super) struct TwinView {
    twin: api::Twin,
    tags: Value,
    desired: Value,
    desired_metadata: Value,
    reported: Value,
    reported_metadata: Value,
    posture: Value,
}

impl TwinView {
    /// Reads the documents of an answer.
    pub(super) fn read(twin: api::Twin) -> Result<Self, Failure> {
        let read = |field: &str, text: &str| match text {
            "" => Ok(Value::Object(Map::new())),
            text => serde_json::from_str(text).map_err(|error| {
                Failure::new(
                    Kind::Internal,
                    format!("the answer for {} is damaged", twin.name),
                )
                .because(format!("{field}: {error}"))
            }),
        };
        Ok(Self {
            tags: read("tags_json", &twin.tags_json)?,
            desired: read("desired_json", &twin.desired_json)?,
            desired_metadata: read("desired_metadata_json", &twin.desired_metadata_json)?,
            reported: read("reported_json", &twin.reported_json)?,
            reported_metadata: read("reported_metadata_json", &twin.reported_metadata_json)?,
            posture: read("posture_json", &twin.posture_json)?,
            twin,
        })
    }

    /// The resource name.
    pub(super) fn name(&self) -> &str {
        &self.twin.name
    }

    /// The message itself.
    pub(super) fn twin(&self) -> &api::Twin {
        &self.twin
    }

    /// The documents by section, for comparing with an earlier state.
    pub(super) fn sections(&self) -> [Section<'_>; 4] {
        const NONE: &Value = &Value::Null;
        let section = |name, document, metadata| Section {
            name,
            document,
            metadata,
        };
        [
            section("tags", &self.tags, NONE),
            section("desired", &self.desired, &self.desired_metadata),
            section("reported", &self.reported, NONE),
            section("posture", &self.posture, NONE),
        ]
    }

    /// Whether the device has what it should have, in a few words.
    fn configuration(&self) -> String {
        let Some(state) = self.posture.get("configuration") else {
            return String::new();
        };
        let text = |key: &str| state.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("state").is_empty() {
            return String::new();
        }
        let number = |key: &str| state.get(key).and_then(Value::as_u64);
        let mut words = text("state").to_owned();
        if let Some(version) = number("desiredVersion") {
            let _ = write!(words, ", desired version {version}");
        }
        if let Some(version) = number("appliedVersion") {
            let _ = write!(words, ", applied version {version}");
        }
        if !text("reason").is_empty() {
            let _ = write!(words, ": {}", text("reason"));
        }
        words
    }

    /// The twin as programs see it.
    pub(super) fn document(&self) -> TwinData<'_> {
        let twin = &self.twin;
        TwinData {
            name: &twin.name,
            device_id: &twin.device_id,
            module_id: (!twin.module_id.is_empty()).then_some(&twin.module_id),
            status: &twin.status,
            etag: &twin.etag,
            version: twin.version,
            update_time: time::precise(twin.update_time),
            tags: &self.tags,
            properties: Properties {
                desired: section(&self.desired, &self.desired_metadata, twin.desired_version),
                reported: section(
                    &self.reported,
                    &self.reported_metadata,
                    twin.reported_version,
                ),
            },
            posture: &self.posture,
            posture_version: twin.posture_version,
        }
    }
}

/// A section of a twin, and who wrote its leaves.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) name: &'static str,
    pub(super) document: &'a Value,
    pub(super) metadata: &'a Value,
}

/// A twin in IoT Hub's shape.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TwinData<'a> {
    name: &'a str,
    device_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_id: Option<&'a String>,
    status: &'a str,
    etag: &'a str,
    version: u64,
    update_time: Option<String>,
    tags: &'a Value,
    properties: Properties,
    posture: &'a Value,
    posture_version: u64,
}

#[derive(Serialize)]
struct Properties {
    desired: Value,
    reported: Value,
}

fn section(document: &Value, metadata: &Value, version: u64) -> Value {
    let mut document = document.clone();
    if let Value::Object(members) = &mut document {
        members.insert("$metadata".to_owned(), metadata.clone());
        members.insert("$version".to_owned(), version.into());
    }
    document
}

impl View for TwinView {
    fn data(&self) -> impl Serialize {
        self.document()
    }

    fn text(&self, paper: &Paper) -> String {
        let twin = &self.twin;
        let mut text = paper.bold(&twin.name) + "\n";
        let updated = match time::short(twin.update_time) {
            at if at.is_empty() => at,
            at => format!("{at}, {} ago", time::age(paper.now, twin.update_time)),
        };
        text.push_str(&table::pairs(
            paper,
            vec![
                ("status", twin.status.clone()),
                ("version", twin.version.to_string()),
                ("etag", twin.etag.clone()),
                ("updated", updated),
                ("configuration", self.configuration()),
            ],
        ));
        add(&mut text, paper, "Tags", leaves(&self.tags, &Value::Null));
        add(
            &mut text,
            paper,
            &format!("Desired, version {}", twin.desired_version),
            leaves(&self.desired, &self.desired_metadata),
        );
        add(
            &mut text,
            paper,
            &format!("Reported, version {}", twin.reported_version),
            leaves(&self.reported, &self.reported_metadata),
        );
        let posture = match twin.posture_version {
            0 => "Posture, no telemetry yet".to_owned(),
            version => format!("Posture, version {version}"),
        };
        let (blank, telling): (Vec<_>, Vec<_>) = leaves(&self.posture, &Value::Null)
            .into_iter()
            .partition(is_blank);
        add(&mut text, paper, &posture, telling);
        if !blank.is_empty() {
            let note = format!(
                "{} more that are zero or empty; -o json has them",
                blank.len()
            );
            let _ = writeln!(text, "  {}", paper.dim(&note));
        }
        text
    }
}

/// Adds a section: its title, then its leaves with who wrote them, where that is known.
fn add(text: &mut String, paper: &Paper, title: &str, found: Vec<Leaf>) {
    text.push('\n');
    text.push_str(&paper.bold(title));
    text.push('\n');
    if found.is_empty() {
        text.push_str("  empty\n");
        return;
    }
    let mut rows = Vec::new();
    for leaf in found {
        let written = match (leaf.by.is_empty(), leaf.version.is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!("at version {}", leaf.version),
            (false, true) => format!("by {}", leaf.by),
            (false, false) => format!("by {} at version {}", leaf.by, leaf.version),
        };
        let items = leaf.items();
        if items.iter().any(Value::is_object) {
            rows.extend(list(&leaf.path, &items, &written));
        } else {
            rows.push(vec![format!("  {}", leaf.path), leaf.value, written]);
        }
    }
    text.push_str(&table::rows(paper, rows));
}

/// A list of things: how many, then one on each line.
fn list(path: &str, items: &[Value], written: &str) -> Vec<Vec<String>> {
    let count = format!("{} in all", items.len());
    let mut rows = vec![vec![format!("  {path}"), count, written.to_owned()]];
    for item in items.iter().take(ITEMS_MAX) {
        rows.push(vec![String::new(), compact(item)]);
    }
    if items.len() > ITEMS_MAX {
        let rest = items.len() - ITEMS_MAX;
        rows.push(vec![
            String::new(),
            format!("and {rest} more; -o json has them"),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests;
