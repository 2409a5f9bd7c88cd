//! What people and programs see of a twin. Programs get IoT Hub's shape, which scripts know:
//! `tags`, `properties.desired` and `properties.reported` with `$metadata` and `$version`; and
//! `posture` beside them.

mod data;

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use wire::twin::v1 as api;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::leaves::{Leaf, compact, is_blank, leaves};
use crate::output::{Paper, View, table, time};

use super::changes;
use super::get::Field;
pub(crate) use data::TwinData;

/// Items of a list that people see; a page, not a file.
const ITEMS_MAX: usize = 20;

/// A twin whose documents have been read.
pub(crate) struct TwinView {
    twin: api::Twin,
    as_of: Option<AsOf>,
    fields: Vec<Field>,
    tags: Value,
    desired: Value,
    desired_metadata: Value,
    reported: Value,
    reported_metadata: Value,
    posture: Value,
}

impl TwinView {
    /// Reads the documents of an answer.
    pub(crate) fn read(twin: api::Twin) -> Result<Self, Failure> {
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
            as_of: None,
            fields: Field::ALL.to_vec(),
        })
    }

    /// Says that it is not as it is now.
    #[must_use]
    pub(super) fn with_as_of(mut self, as_of: AsOf) -> Self {
        self.as_of = Some(as_of);
        self
    }

    /// Shows only some of it; none means all.
    #[must_use]
    pub(super) fn only(mut self, fields: &[Field]) -> Self {
        if !fields.is_empty() {
            self.fields = fields.to_vec();
        }
        self
    }

    fn has(&self, field: Field) -> bool {
        self.fields.contains(&field)
    }

    /// What operators know.
    pub(crate) fn tags(&self) -> &Value {
        &self.tags
    }

    /// What it should be, without metadata.
    pub(super) fn desired(&self) -> &Value {
        &self.desired
    }

    /// The resource name.
    pub(super) fn name(&self) -> &str {
        &self.twin.name
    }

    /// The message itself.
    pub(crate) fn twin(&self) -> &api::Twin {
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
    pub(crate) fn configuration(&self) -> String {
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

    /// What stands above the sections.
    fn head(&self, paper: &Paper) -> String {
        let twin = &self.twin;
        let as_of = self.as_of.as_ref().map(AsOf::words);
        let status = match twin.status_reason.as_str() {
            "" => twin.status.clone(),
            reason => format!("{}: {reason}", twin.status),
        };
        let connection = match (
            twin.connected,
            time::age(paper.now, twin.last_activity_time),
        ) {
            (connected, age) if age.is_empty() && !connected => "never connected".to_owned(),
            (true, age) if age.is_empty() => "connected".to_owned(),
            (true, age) => format!("connected, last activity {age} ago"),
            (false, age) => format!("disconnected, last activity {age} ago"),
        };
        let authentication = [
            twin.authentication_type.as_str(),
            &twin.primary_thumbprint,
            &twin.secondary_thumbprint,
        ];
        let updated = match time::short(twin.update_time) {
            at if at.is_empty() => at,
            at => format!("{at}, {} ago", time::age(paper.now, twin.update_time)),
        };
        let only = |field: Field, value: String| {
            if self.has(field) {
                value
            } else {
                String::new()
            }
        };
        table::pairs(
            paper,
            vec![
                ("as of", as_of.unwrap_or_default()),
                ("status", only(Field::Status, status)),
                ("connection", only(Field::Connection, connection)),
                (
                    "authentication",
                    only(
                        Field::Authentication,
                        authentication.join(" ").trim_end().to_owned(),
                    ),
                ),
                ("model", twin.model_id.clone()),
                (
                    "version",
                    format!("{}, revision {}", twin.version, twin.revision),
                ),
                ("etag", twin.etag.clone()),
                ("updated", updated),
                ("configuration", only(Field::Posture, self.configuration())),
            ],
        )
    }
}

/// The revision that a twin is shown as of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AsOf {
    revision: u64,
    commit_time: Option<String>,
    actor: String,
    cause: String,
    changes: Vec<&'static str>,
}

impl AsOf {
    /// Takes over what the history says of a revision.
    pub(super) fn read(revision: &api::TwinRevision) -> Self {
        Self {
            revision: revision.revision,
            commit_time: time::precise(revision.commit_time),
            actor: revision.actor.clone(),
            cause: revision.cause.clone(),
            changes: changes::names(revision.changes()),
        }
    }

    fn words(&self) -> String {
        format!(
            "revision {}, {}, {} by {}",
            self.revision,
            self.commit_time.as_deref().unwrap_or("at an unknown time"),
            self.changes.join("+"),
            self.actor
        )
    }
}

/// A section of a twin, and who wrote its leaves.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) name: &'static str,
    pub(super) document: &'a Value,
    pub(super) metadata: &'a Value,
}

impl View for TwinView {
    fn data(&self) -> impl Serialize {
        self.document()
    }

    fn text(&self, paper: &Paper) -> String {
        let twin = &self.twin;
        let mut text = paper.bold(&twin.name) + "\n" + &self.head(paper);
        if self.has(Field::Tags) {
            add(&mut text, paper, "Tags", leaves(&self.tags, &Value::Null));
        }
        if self.has(Field::Desired) {
            let title = format!("Desired, version {}", twin.desired_version);
            add(
                &mut text,
                paper,
                &title,
                leaves(&self.desired, &self.desired_metadata),
            );
        }
        if self.has(Field::Reported) {
            let title = format!("Reported, version {}", twin.reported_version);
            add(
                &mut text,
                paper,
                &title,
                leaves(&self.reported, &self.reported_metadata),
            );
        }
        if self.has(Field::Posture) {
            self.add_posture(&mut text, paper);
        }
        text
    }
}

impl TwinView {
    fn add_posture(&self, text: &mut String, paper: &Paper) {
        let title = match self.twin.posture_version {
            0 => "Posture, no telemetry yet".to_owned(),
            version => format!("Posture, version {version}"),
        };
        let (blank, telling): (Vec<_>, Vec<_>) = leaves(&self.posture, &Value::Null)
            .into_iter()
            .partition(is_blank);
        add(text, paper, &title, telling);
        if !blank.is_empty() {
            let note = format!(
                "{} more that are zero or empty; -o json has them",
                blank.len()
            );
            let _ = writeln!(text, "  {}", paper.dim(&note));
        }
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
