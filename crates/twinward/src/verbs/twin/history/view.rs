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
/// Columns of a terminal that has room for causes, which hold UUIDs.
const WIDE: u16 = 120;

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
    actor: &'a str,
    cause: &'a str,
    changes: Vec<&'static str>,
    patch: &'a Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_parent: &'a str,
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
                actor: &message.actor,
                cause: &message.cause,
                changes: changes::names(message.changes()),
                patch,
                trace_parent: &message.trace_parent,
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
            let mut words = changes::of_patch(patch);
            if words.is_empty() {
                words.push(changes::names(message.changes()).join("+"));
            }
            let mut row = vec![
                revision(message),
                time::short(message.commit_time),
                message.actor.clone(),
                shorten(&words),
            ];
            if causes {
                row.insert(3, message.cause.clone());
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

fn shorten(words: &[String]) -> String {
    let mut shown: Vec<_> = words.iter().take(LEAVES_MAX).cloned().collect();
    if words.len() > LEAVES_MAX {
        shown.push(format!("and {} more", words.len() - LEAVES_MAX));
    }
    shown.join("  ")
}

#[cfg(test)]
mod tests;
