//! What people and programs see of the audit log.

use serde::Serialize;
use serde_json::Value;
use wire::registry::v1 as api;

use crate::output::leaves::compact;
use crate::output::{Paper, View, plural, table, time};

/// Digits of a hash that people compare.
const HASH_DIGITS: usize = 16;

/// One entry.
pub(super) struct EntryView(pub(super) api::AuditEntry);

/// An entry as programs see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryData<'a> {
    partition: u32,
    sequence: u64,
    time: Option<String>,
    actor: &'a str,
    action: &'a str,
    resource: &'a str,
    detail: Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_parent: &'a str,
    hash: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    problem: &'a str,
}

fn detail(entry: &api::AuditEntry) -> Value {
    // Text that is no JSON is shown as the text it is: an audit log hides nothing.
    serde_json::from_str(&entry.detail_json)
        .unwrap_or_else(|_| Value::String(entry.detail_json.clone()))
}

impl View for EntryView {
    fn data(&self) -> impl Serialize {
        let entry = &self.0;
        EntryData {
            partition: entry.partition,
            sequence: entry.sequence,
            time: time::precise(entry.time),
            actor: &entry.actor,
            action: &entry.action,
            resource: &entry.resource,
            detail: detail(entry),
            trace_parent: &entry.trace_parent,
            hash: &entry.hash,
            problem: &entry.problem,
        }
    }

    fn text(&self, paper: &Paper) -> String {
        table::rows(paper, vec![row(&self.0)])
    }
}

fn row(entry: &api::AuditEntry) -> Vec<String> {
    if !entry.problem.is_empty() {
        let place = format!("entry {} of chain {}", entry.sequence, entry.partition);
        let what = "cannot be read".to_owned();
        return vec![
            String::new(),
            String::new(),
            what,
            place,
            entry.problem.clone(),
        ];
    }
    vec![
        time::short(entry.time),
        entry.actor.clone(),
        entry.action.clone(),
        entry.resource.clone(),
        compact(&detail(entry)),
    ]
}

/// Several entries.
pub(super) struct Entries(pub(super) Vec<api::AuditEntry>);

impl View for Entries {
    fn data(&self) -> impl Serialize {
        let entries = self.0.iter().cloned().map(EntryView);
        let data: Vec<_> = entries
            .map(|view| serde_json::to_value(view.data()).unwrap_or(Value::Null))
            .collect();
        data
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no entries\n".to_owned();
        }
        table::table(
            paper,
            &["TIME", "BY", "ACTION", "RESOURCE", "DETAIL"],
            self.0.iter().map(row).collect(),
        )
    }
}

/// What a walk over all chains found.
pub(super) struct Verified(pub(super) api::VerifyAuditResponse);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VerifiedData<'a> {
    whole: bool,
    chains: Vec<ChainData<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChainData<'a> {
    partition: u32,
    entries: u64,
    head_sequence: u64,
    head_hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_at: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    problem: &'a str,
}

impl View for Verified {
    fn data(&self) -> impl Serialize {
        let chains = self.0.chains.iter().map(|chain| ChainData {
            partition: chain.partition,
            entries: chain.entries,
            head_sequence: chain.head_sequence,
            head_hash: &chain.head_hash,
            broken_at: Some(chain.broken_at).filter(|sequence| *sequence != 0),
            problem: &chain.problem,
        });
        VerifiedData {
            whole: self.0.whole,
            chains: chains.collect(),
        }
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.chains.is_empty() {
            return "the audit log is empty\n".to_owned();
        }
        let rows = self.0.chains.iter().map(|chain| {
            let state = match (chain.broken_at, chain.problem.as_str()) {
                (0, "") => "whole".to_owned(),
                (0, problem) => problem.to_owned(),
                (sequence, problem) => format!("broken at entry {sequence}: {problem}"),
            };
            vec![
                chain.partition.to_string(),
                chain.entries.to_string(),
                chain.head_hash.chars().take(HASH_DIGITS).collect(),
                state,
            ]
        });
        let header = ["PARTITION", "ENTRIES", "HEAD", "STATE"];
        let mut text = table::table(paper, &header, rows.collect());
        let entries = self.0.chains.iter().map(|chain| chain.entries).sum();
        let entries = plural(entries, "entry", "entries");
        text.push_str(&if self.0.whole {
            paper.green(&format!("whole, {entries}"))
        } else {
            paper.red(&format!("not whole, {entries}"))
        });
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests;
