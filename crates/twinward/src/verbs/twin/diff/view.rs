//! What people and programs see of a comparison: a line with `-` for what was, one with `+` for what
//! is, each with its path.

use serde::Serialize;
use serde_json::Value;
use wire::twin::v1 as api;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Paper, View, plural, table, time};

/// One of two states that are compared.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs::twin) enum Side {
    /// As it was after this revision.
    Revision(u64),
    /// As it would be, had it been written.
    Proposed,
}

/// A comparison.
pub(in crate::verbs::twin) struct DiffView {
    pub(in crate::verbs::twin) name: String,
    pub(in crate::verbs::twin) from: Side,
    pub(in crate::verbs::twin) to: Side,
    pub(in crate::verbs::twin) differences: Vec<Difference>,
}

/// A leaf that differs.
#[derive(Debug)]
pub(in crate::verbs::twin) struct Difference {
    pub(in crate::verbs::twin) path: String,
    pub(in crate::verbs::twin) before: Option<Value>,
    pub(in crate::verbs::twin) after: Option<Value>,
    pub(in crate::verbs::twin) by: Option<By>,
}

/// Who made a difference.
#[derive(Debug)]
pub(in crate::verbs::twin) struct By {
    pub(in crate::verbs::twin) actor: String,
    pub(in crate::verbs::twin) revision: u64,
    pub(in crate::verbs::twin) commit_time: Option<prost_types::Timestamp>,
}

impl Difference {
    /// Reads the values of an answer.
    pub(super) fn read(message: api::Difference) -> Result<Self, Failure> {
        let read = |text: &str| match text {
            "" => Ok(None),
            text => serde_json::from_str(text).map(Some).map_err(|error| {
                let what = format!("the answer about {} is damaged", message.path);
                Failure::new(Kind::Internal, what).because(error)
            }),
        };
        Ok(Self {
            before: read(&message.before_json)?,
            after: read(&message.after_json)?,
            path: message.path,
            by: None,
        })
    }
}

/// Compares two documents leaf by leaf, in the order of the paths.
pub(in crate::verbs::twin) fn compare(
    path: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    differences: &mut Vec<Difference>,
) {
    if before == after {
        return;
    }
    let members = |side: Option<&Value>| match side {
        Some(Value::Object(members)) if !members.is_empty() => Some(members.clone()),
        Some(_) | None => None,
    };
    let (old, new) = (members(before), members(after));
    if old.is_none() && new.is_none() {
        differences.push(Difference {
            path: path.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
            by: None,
        });
        return;
    }
    // What was a leaf and became an object, or the other way round, is gone as a leaf; an empty
    // object is as good as nothing beside members.
    let leaf = |side: Option<&Value>| side.filter(|value| !value.is_object()).cloned();
    let (gone, new_leaf) = (leaf(before), leaf(after));
    if gone.is_some() || new_leaf.is_some() {
        differences.push(Difference {
            path: path.to_owned(),
            before: gone,
            after: new_leaf,
            by: None,
        });
    }
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let below = format!("{path}.{key}");
        compare(&below, old.get(key), new.get(key), differences);
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiffData<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_revision: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    dry_run: bool,
    differences: Vec<DifferenceData<'a>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DifferenceData<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit_time: Option<String>,
}

impl View for DiffView {
    fn data(&self) -> impl Serialize {
        let differences = self.differences.iter().map(|difference| {
            let by = difference.by.as_ref();
            DifferenceData {
                path: &difference.path,
                before: difference.before.as_ref(),
                after: difference.after.as_ref(),
                actor: by.map(|by| by.actor.as_str()),
                revision: by.map(|by| by.revision),
                commit_time: by.and_then(|by| time::precise(by.commit_time)),
            }
        });
        DiffData {
            name: &self.name,
            from_revision: self.from.revision(),
            to_revision: self.to.revision(),
            dry_run: matches!(self.to, Side::Proposed),
            differences: differences.collect(),
        }
    }

    fn text(&self, paper: &Paper) -> String {
        let title = format!("{}  {} → {}", self.name, self.from.words(), self.to.words());
        let mut text = paper.bold(&title) + "\n";
        if self.differences.is_empty() {
            text.push_str("no differences\n");
            return text;
        }
        let mut rows = Vec::new();
        for difference in &self.differences {
            add(&mut rows, difference, paper);
        }
        // Colour goes over the finished lines, where it cannot disturb the columns.
        for line in table::rows(paper, rows).lines() {
            let painted = match line.as_bytes().first() {
                Some(b'-') => paper.red(line),
                Some(b'+') => paper.green(line),
                Some(_) | None => line.to_owned(),
            };
            text.push_str(&painted);
            text.push('\n');
        }
        let count = u64::try_from(self.differences.len()).unwrap_or(u64::MAX);
        text.push_str(&paper.dim(&plural(count, "difference", "differences")));
        text.push('\n');
        text
    }
}

/// The lines of a difference. Of two lists the items that differ are told: a list of thirty ports
/// of which one is new says nothing as a whole.
fn add(rows: &mut Vec<Vec<String>>, difference: &Difference, paper: &Paper) {
    let by = difference.by.as_ref().map(|by| {
        format!(
            "{} at revision {}, {} ago",
            by.actor,
            by.revision,
            time::age(paper.now, by.commit_time)
        )
    });
    let mut found: Vec<(&str, String, String)> = Vec::new();
    let path = &difference.path;
    match (&difference.before, &difference.after) {
        (Some(Value::Array(old)), Some(Value::Array(new))) if is_about_items(old, new) => {
            let path = format!("{path}[]");
            let gone = old.iter().filter(|item| !new.contains(item));
            found.extend(gone.map(|item| ("-", path.clone(), item.to_string())));
            let added = new.iter().filter(|item| !old.contains(item));
            found.extend(added.map(|item| ("+", path.clone(), item.to_string())));
        }
        (before, after) => {
            let old = before.iter();
            found.extend(old.map(|value| ("-", path.clone(), value.to_string())));
            let new = after.iter();
            found.extend(new.map(|value| ("+", path.clone(), value.to_string())));
        }
    }
    let last = found.len().saturating_sub(1);
    for (index, (sign, path, value)) in found.into_iter().enumerate() {
        let by = by.clone().filter(|_| index == last).unwrap_or_default();
        rows.push(vec![format!("{sign} {path}"), value, by]);
    }
}

/// Whether the items tell what differs; they do not when only their order does, or how often one
/// is there.
fn is_about_items(old: &[Value], new: &[Value]) -> bool {
    old.iter().any(|item| !new.contains(item)) || new.iter().any(|item| !old.contains(item))
}

impl Side {
    fn revision(self) -> Option<u64> {
        match self {
            Side::Revision(revision) => Some(revision),
            Side::Proposed => None,
        }
    }

    fn words(self) -> String {
        match self {
            Side::Revision(revision) => format!("revision {revision}"),
            Side::Proposed => "as it would be".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
