//! What of a record is found by index: the slow-changing values that operators search by.
//!
//! An entry is a scalar leaf under its path: every one of the tags, `status`,
//! `posture.configuration.state`, and, of twins that are connected alone, `connectionState`. What
//! changes with each batch of events is left out on purpose: maintaining it would cost more than all
//! searches save. Of `lastActivityTime` therefore the hour is kept, which changes once in an hour.
//!
//! An index answers candidates. Two values that a condition takes for equal have the same entry;
//! whoever searches evaluates the condition again on what it finds, so the reverse need not hold.
//! Entries of texts have the order of the texts, but for those that were cut; numbers have an index
//! of their own (`twin_index_numbers`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use ring::digest;
use serde_json::{Map, Number, Value};
use twin::query::datum::NEVER;

use crate::record::{Damaged, Record};
use crate::store::IndexEntry;
use crate::{encode, hex};

/// Path of the registry's status.
pub const STATUS: &str = "status";
/// Path of where the push of the configuration stands.
pub const CONFIGURATION_STATE: &str = "posture.configuration.state";
/// Path of whether a session is open. Only twins that have one have an entry, so that the others,
/// who come and go as well, cost nothing while they are away.
pub const CONNECTION_STATE: &str = "connectionState";
/// What a twin with an open session has there.
pub const CONNECTED: &str = "Connected";
/// What the others are, without an entry.
pub const DISCONNECTED: &str = "Disconnected";
/// Path of the hour of the last activity, as [`hour`] has it.
pub const LAST_ACTIVITY: &str = "lastActivityTime";
/// What paths of tags begin with.
pub const TAGS: &str = "tags";
/// Bytes of a path or a text that are kept as they are. Longer ones are cut and a hash follows:
/// the key of an index row has to fit PostgreSQL's 2,704 bytes.
pub const TEXT_MAX: usize = 512;
/// Bytes of a date up to its hour.
const HOUR_BYTES: usize = 13;

/// The entries of a record, in order.
///
/// # Errors
/// The tags cannot be read; nothing but a damaged store causes it.
pub fn entries(record: &Record) -> Result<BTreeSet<IndexEntry>, Damaged> {
    let mut entries = tag_entries(record)?;
    entries.extend(fixed_entries(record));
    Ok(entries)
}

/// What changes in the index when a record changes: entries to remove, entries to add. Tags are
/// parsed only if their text differs.
///
/// # Errors
/// As [`entries`], of the record after. A record before that cannot be read counts as one
/// without entries: what replaces it is made of the store's own row.
pub fn changes(
    before: Option<&Record>,
    after: Option<&Record>,
) -> Result<(Vec<IndexEntry>, Vec<IndexEntry>), Damaged> {
    let (old, new) = match (before, after) {
        // Nearly always: a fold of events touches none of it.
        (Some(before), Some(after)) if same_values(before, after) => return Ok(Default::default()),
        (Some(before), Some(after)) => {
            let (mut old, mut new) = (fixed_entries(before), fixed_entries(after));
            if before.twin.tags.document != after.twin.tags.document {
                old.extend(tag_entries(before).unwrap_or_default());
                new.extend(tag_entries(after)?);
            }
            (old, new)
        }
        (Some(before), None) => (entries(before).unwrap_or_default(), BTreeSet::new()),
        (None, Some(after)) => (BTreeSet::new(), entries(after)?),
        (None, None) => Default::default(),
    };
    Ok((
        old.difference(&new).cloned().collect(),
        new.difference(&old).cloned().collect(),
    ))
}

/// The path of a tag: its keys with dots between, which no key may hold.
pub fn tag_path<'k>(keys: impl IntoIterator<Item = &'k str>) -> String {
    let mut path = TAGS.to_owned();
    for key in keys {
        path.push('.');
        path.push_str(key);
    }
    bounded(&path)
}

/// A scalar with its type: `s:paris`, `n:5`, `b:true`. None for what is no scalar.
pub fn value(json: &Value) -> Option<String> {
    match json {
        Value::String(text) => Some(format!("s:{}", bounded(text))),
        Value::Number(number) => Some(format!("n:{}", canonical(number))),
        Value::Bool(truth) => Some(format!("b:{truth}")),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The hour of an instant as its entry has it: `s:2026-11-23T13`. Hours have the order of their
/// entries, and what never was is before all others.
pub fn hour(at: Option<Timestamp>) -> String {
    let text = at.unwrap_or(NEVER).max(NEVER).to_string();
    format!("s:{}", text.get(..HOUR_BYTES).unwrap_or(&text))
}

fn same_values(before: &Record, after: &Record) -> bool {
    before.twin.tags.document == after.twin.tags.document
        && before.identity.status == after.identity.status
        && before.posture.configuration.state == after.posture.configuration.state
        && before.posture.agent.connected == after.posture.agent.connected
        && hours(before) == hours(after)
}

/// The hour of the last activity as a number, which is compared with each fold.
fn hours(record: &Record) -> Option<i64> {
    const HOUR_SECONDS: i64 = 3600;
    encode::last_activity(record).map(|at| at.as_second().div_euclid(HOUR_SECONDS))
}

fn fixed_entries(record: &Record) -> BTreeSet<IndexEntry> {
    let entry = |path: &str, text: &str| IndexEntry {
        path: path.to_owned(),
        value: format!("s:{text}"),
    };
    let agent = &record.posture.agent;
    let connected = agent.connected.then(|| entry(CONNECTION_STATE, CONNECTED));
    let others = [
        entry(STATUS, record.identity.status.as_str()),
        entry(
            CONFIGURATION_STATE,
            record.posture.configuration.state.as_str(),
        ),
        IndexEntry {
            path: LAST_ACTIVITY.to_owned(),
            value: hour(encode::last_activity(record)),
        },
    ];
    others.into_iter().chain(connected).collect()
}

fn tag_entries(record: &Record) -> Result<BTreeSet<IndexEntry>, Damaged> {
    let tags: Map<String, Value> =
        serde_json::from_str(&record.twin.tags.document).map_err(|error| Damaged {
            key: record.key.to_string(),
            part: "tags",
            problem: error.to_string(),
        })?;
    let mut entries = BTreeSet::new();
    let mut keys = Vec::new();
    collect(&tags, &mut keys, &mut entries);
    Ok(entries)
}

fn collect<'t>(
    object: &'t Map<String, Value>,
    keys: &mut Vec<&'t str>,
    entries: &mut BTreeSet<IndexEntry>,
) {
    for (key, json) in object {
        keys.push(key);
        match json {
            Value::Object(inner) => collect(inner, keys, entries),
            Value::Null
            | Value::Array(_)
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => {
                entries.extend(value(json).map(|value| IndexEntry {
                    path: tag_path(keys.iter().copied()),
                    value,
                }));
            }
        }
        keys.pop();
    }
}

/// Numbers that are equal have one form: `5`, `5.0` and `5e0` are `5`.
fn canonical(number: &Number) -> String {
    /// Below it every whole number has a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let Some(double) = number.as_f64() else {
        return number.to_string();
    };
    if double.fract() == 0.0 && double.abs() < EXACT {
        // Adding zero turns the negative one into the usual one.
        return format!("{:.0}", double + 0.0);
    }
    format!("{double:e}")
}

/// A text as an index key can hold it.
fn bounded(text: &str) -> String {
    let end = kept(text);
    if end == text.len() {
        return text.to_owned();
    }
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut bounded = text[..end].to_owned();
    bounded.push('#');
    bounded.push_str(&hex::text(hash.as_ref()));
    bounded
}

/// How many bytes of a text are kept: up to the bound, and up to a zero byte, which PostgreSQL
/// cannot store.
fn kept(text: &str) -> usize {
    let zero = text.find('\0').unwrap_or(text.len());
    text.floor_char_boundary(TEXT_MAX.min(zero))
}

#[cfg(test)]
mod tests;
