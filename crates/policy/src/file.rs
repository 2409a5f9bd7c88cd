//! Policy files: how people write policies, as YAML or JSON, several in a file.
//!
//! For the command line, which checks a file before it asks anybody. It needs no running service
//! and performs no I/O. Every problem of every document is reported, with line and column.
//!
//! ```yaml
//! kind: Policy
//! name: unexpected-listener
//! target: "*"
//! settings:
//!   CollectorsCore_PriorityIntervals: "1,2,5"
//! ```

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

use crate::policy_doc::{Field, Policy, PolicySpec, Problem};
use read::{
    read_actions, read_kind, read_labels, read_priority, read_rollout, read_schedule, read_scope,
    read_settings, text,
};

mod read;

/// What `kind` must say.
pub const KIND: &str = "Policy";

/// Keys of a document, in the order in which we print them.
const KEYS: [&str; 12] = [
    "kind",
    "name",
    "description",
    "labels",
    "scope",
    "target",
    "when",
    "priority",
    "settings",
    "rollout",
    "schedule",
    "actions",
];

/// What `twinward policy get -o yaml` adds: the service's own findings, not the author's words. It
/// is passed over, so that what was read can be edited and applied again.
pub const STATE_KEY: &str = "state";

/// Bytes of a policy file: a thousand policies of a few KB; a larger one is not a policy file.
pub const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// Line, from 1; 0 when the whole file is meant.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What was found and what is allowed.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}, column {}: {}", self.column, self.message),
        }
    }
}

/// Everything that is wrong with a file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblems(Vec<FileProblem>);

impl FileProblems {
    /// The problems in the order of the file.
    pub fn list(&self) -> &[FileProblem] {
        &self.0
    }
}

impl std::error::Error for FileProblems {}

impl fmt::Display for FileProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Reads a file of policies, YAML or JSON, and checks each as the service would.
///
/// All policies are good, or none is returned: applying half a file is worse than applying none.
pub fn parse(text: &str) -> Result<Vec<PolicySpec>, FileProblems> {
    let whole = |message| {
        FileProblems(vec![FileProblem {
            line: 0,
            column: 0,
            message,
        }])
    };
    if text.len() > FILE_BYTES_MAX {
        let size = text.len();
        return Err(whole(format!(
            "the file has {size} bytes; at most {FILE_BYTES_MAX} are read"
        )));
    }
    let documents: Vec<Option<Spanned<Document>>> =
        serde_saphyr::from_multiple(text).map_err(|error| FileProblems(vec![syntax(&error)]))?;
    let mut specs = Vec::new();
    let mut problems = Vec::new();
    let mut seen = BTreeMap::new();
    for document in documents.into_iter().flatten() {
        let at = document.referenced;
        match read(document) {
            Ok(spec) => {
                if let Some(first) = seen.insert(spec.id.clone(), at.line()) {
                    let message = format!(
                        "a policy named {:?} stands at line {first} already",
                        spec.id
                    );
                    problems.push(problem(at, message));
                }
                specs.push(spec);
            }
            Err(found) => problems.extend(found),
        }
    }
    if specs.is_empty() && problems.is_empty() {
        return Err(whole(format!(
            "the file holds no policy; one starts with `kind: {KIND}`"
        )));
    }
    if !problems.is_empty() {
        return Err(FileProblems(problems));
    }
    Ok(specs)
}

/// A mapping with the place of every key and value, in the order of the file.
struct Document(Vec<(Spanned<String>, Spanned<Value>)>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a policy: a mapping with the keys {}", KEYS.join(", "))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Document(entries))
            }
        }

        deserializer.deserialize_any(Entries)
    }
}

/// Turns one document into a policy, or tells everything that is wrong with it.
fn read(document: Spanned<Document>) -> Result<PolicySpec, Vec<FileProblem>> {
    let start = document.referenced;
    let mut reader = Reader::default();
    let mut spec = PolicySpec::default();
    for (key, value) in document.value.0 {
        reader.take(&mut spec, &key, value);
    }
    for key in ["kind", "name", "target", "settings"] {
        let is_enough = key == "settings" && spec.actions.is_some();
        if !is_enough && !reader.places.contains_key(key) {
            let hint = match key {
                "kind" => format!("`kind: {KIND}`"),
                "name" => "the policy's id, for instance `name: unexpected-listener`".to_owned(),
                "target" => "which twins, for instance `target: \"*\"`".to_owned(),
                _ => "a mapping of what to set, unless there are `actions`".to_owned(),
            };
            reader
                .problems
                .push(problem(start, format!("`{key}` is missing: {hint}")));
            reader.unusable.extend(field_of(key));
        }
    }
    // A field that could not be read is reported already; `check_after` skips it.
    let unusable: Vec<Problem> = reader
        .unusable
        .iter()
        .map(|field| Problem::new(*field, String::new()))
        .collect();
    if let Err(found) = Policy::check_after(spec.clone(), unusable) {
        for one in found.list().iter().filter(|one| !one.message.is_empty()) {
            let at = reader
                .places
                .get(one.field.file_key())
                .copied()
                .unwrap_or(start);
            reader.problems.push(problem(at, one.to_string()));
        }
    }
    if reader.problems.is_empty() {
        return Ok(spec);
    }
    reader
        .problems
        .sort_by_key(|found| (found.line, found.column));
    Err(reader.problems)
}

#[derive(Default)]
struct Reader {
    /// Where the value of each known key stands.
    places: BTreeMap<&'static str, Location>,
    /// Fields without a usable value.
    unusable: Vec<Field>,
    problems: Vec<FileProblem>,
}

impl Reader {
    fn take(&mut self, spec: &mut PolicySpec, key: &Spanned<String>, value: Spanned<Value>) {
        if key.value == STATE_KEY {
            return;
        }
        let Some(known) = KEYS.iter().find(|known| **known == key.value) else {
            let message = format!(
                "unknown key `{}`; allowed are {}",
                key.value,
                KEYS.join(", ")
            );
            self.problems.push(problem(key.referenced, message));
            return;
        };
        let at = value.referenced;
        self.places.insert(known, at);
        let read = match *known {
            "kind" => read_kind(&value.value),
            "name" => text(value.value).map(|text| spec.id = text),
            "description" => text(value.value).map(|text| spec.description = text),
            "labels" => read_labels(value.value).map(|labels| spec.labels = labels),
            "scope" => read_scope(&value.value).map(|scope| spec.scope = scope),
            "target" => text(value.value).map(|text| spec.target = text),
            "when" => text(value.value).map(|text| spec.when = text),
            "priority" => read_priority(&value.value).map(|priority| spec.priority = priority),
            "rollout" => read_rollout(value.value).map(|rollout| spec.rollout = rollout),
            "schedule" => read_schedule(value.value).map(|schedule| spec.schedule = schedule),
            "actions" => read_actions(value.value).map(|actions| spec.actions = actions),
            _ => read_settings(value.value).map(|settings| spec.settings = settings),
        };
        if let Err(message) = read {
            self.problems
                .push(problem(at, format!("{known}: {message}")));
            self.unusable.extend(field_of(known));
        }
    }
}

fn field_of(key: &str) -> Option<Field> {
    [
        Field::Id,
        Field::Description,
        Field::Labels,
        Field::Scope,
        Field::Target,
        Field::When,
        Field::Settings,
        Field::Rollout,
        Field::Schedule,
        Field::Actions,
    ]
    .into_iter()
    .find(|field| field.file_key() == key)
}

fn problem(at: Location, message: String) -> FileProblem {
    FileProblem {
        line: at.line(),
        column: at.column(),
        message,
    }
}

fn syntax(error: &serde_saphyr::Error) -> FileProblem {
    let (line, column) = error
        .location()
        .map_or((0, 0), |location| (location.line(), location.column()));
    FileProblem {
        line,
        column,
        message: error.without_snippet().to_string(),
    }
}

#[cfg(test)]
mod tests;
