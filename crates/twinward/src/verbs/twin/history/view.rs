//! What people and programs see of revisions.

use serde::Serialize;
use serde_json::Value;
use wire::twin::v1 as api;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Paper, View, table, time};
use crate::verbs::twin::changes;

/// Changed leaves named on a line.
const LEAVES_MAX: usize = 8;
/// Columns of a terminal that has room for causes.
const WIDE: u16 = 100;
/// Digits of an id that people see.
const ID_DIGITS: usize = 8;

/// Several revisions, newest first.
pub(super) struct Revisions(Vec<Revision>);

/// A revision whose patch has been read.
struct Revision {
    message: api::TwinRevision,
    patch: Value,
}

impl Revisions {
    /// Reads the patches of answers.
    pub(super) fn read(messages: Vec<api::TwinRevision>) -> Result<Self, Failure> {
        let mut revisions = Vec::new();
        for message in messages {
            let patch = match message.patch_json.as_str() {
                "" => Value::Null,
                text => serde_json::from_str(text).map_err(|error| {
                    let what = format!("revision {} is damaged", message.revision);
                    Failure::new(Kind::Internal, what).because(format!("patch_json: {error}"))
                })?,
            };
            revisions.push(Revision { message, patch });
        }
        Ok(Self(revisions))
    }
}

/// A revision as programs see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RevisionData<'a> {
    name: &'a str,
    revision: u64,
    first_revision: u64,
    commit_time: Option<String>,
    /// Of the first of those that are kept together.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_commit_time: Option<String>,
    actor: &'a str,
    cause: &'a str,
    changes: Vec<&'static str>,
    patch: &'a Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_parent: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    problem: &'a str,
}

impl View for Revisions {
    fn data(&self) -> impl Serialize {
        let revisions = self
            .0
            .iter()
            .map(|Revision { message, patch }| RevisionData {
                name: &message.name,
                revision: message.revision,
                first_revision: message.first_revision,
                commit_time: time::precise(message.commit_time),
                first_commit_time: time::precise(message.first_commit_time)
                    .filter(|_| message.first_revision != message.revision),
                actor: &message.actor,
                cause: &message.cause,
                changes: changes::names(message.changes()),
                patch,
                trace_parent: &message.trace_parent,
                problem: &message.problem,
            });
        revisions.collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no revisions\n".to_owned();
        }
        // A narrow terminal has no room for what caused it beside what it did.
        let causes = paper.width.is_none_or(|width| width >= WIDE);
        let mut header = vec!["REVISION", "TIME", "BY", "WHAT"];
        if causes {
            header.insert(3, "BECAUSE OF");
        }
        let rows = self.0.iter().map(|Revision { message, patch }| {
            let names = changes::names(message.changes());
            let mut words = changes::of_patch(patch);
            if !message.problem.is_empty() {
                words = vec![format!("cannot be read: {}", message.problem)];
            } else if names.contains(&"created") {
                // What everything begins with says nothing.
                words.retain(|word| word.starts_with("tags.") || word.starts_with("desired."));
                words.insert(0, "created".to_owned());
            } else if words.is_empty() && !names.is_empty() {
                words.push(names.join("+"));
            } else if words.is_empty() {
                // A secret sealed anew, for instance.
                words.push("nothing that twins show".to_owned());
            }
            let mut row = vec![
                revision(message),
                time::short(message.commit_time),
                message.actor.clone(),
                shorten(&words),
            ];
            if causes {
                row.insert(3, cause(paper, &message.cause));
            }
            row
        });
        table::table(paper, &header, rows.collect())
    }
}

/// The number, or from where to where several are kept together.
fn revision(message: &api::TwinRevision) -> String {
    if message.first_revision == message.revision || message.first_revision == 0 {
        message.revision.to_string()
    } else {
        format!("{}-{}", message.first_revision, message.revision)
    }
}

/// The cause; on a terminal an id's first digits, which tell causes apart.
fn cause(paper: &Paper, cause: &str) -> String {
    match (paper.width, cause.split_once(':')) {
        (Some(_), Some((kind, id))) if id.chars().count() > ID_DIGITS + 1 && !id.contains('/') => {
            let start: String = id.chars().take(ID_DIGITS).collect();
            format!("{kind}:{start}…")
        }
        (Some(_) | None, _) => cause.to_owned(),
    }
}

fn shorten(words: &[String]) -> String {
    let mut shown: Vec<_> = words.iter().take(LEAVES_MAX).cloned().collect();
    if words.len() > LEAVES_MAX {
        shown.push(format!("and {} more", words.len() - LEAVES_MAX));
    }
    shown.join("  ")
}

#[cfg(test)]
mod tests;
