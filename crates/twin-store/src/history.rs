//! What a revision of a twin keeps: the change from the document before, and the way back.
//!
//! A twin as it was is its present document with the undo patches of the newer revisions applied,
//! newest first: no snapshot is needed, and forgetting old revisions breaks nothing. Revisions in which
//! only counters and times moved may be put together ([`merge`]). All pure; no secret gets in.

use std::collections::BTreeMap;

use jiff::Timestamp;
use posture::Posture;
use serde::Serialize;
use serde_json::{Map, Value, json};
use twin::{ConfigurationStates, ConfigurationStatus, Etag, IdentityKey, Revision, Version};

use crate::apply::Touch;
use crate::record::{Damaged, Record, SectionText, TwinText};
use crate::store::HistoryEntry;

mod delta;
mod merge;
mod registry;

use delta::{Delta, apply, without_nulls};
pub use merge::{follows, may_merge, merge, merge_all};
pub use registry::{Registry, forget as forget_registry};

/// The patch of a deletion.
pub const GONE: &str = "null";

/// An entry of a history that cannot be read; nothing but a damaged store causes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("revision {revision} in the history of {key} is damaged: {problem}")]
pub struct Unreadable {
    /// Whose history.
    pub key: String,
    /// Which entry.
    pub revision: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// Everything of a record that its history follows, as JSON: `status`, `statusReason`, `tags`,
/// `desired`, `reported` with their metadata (as stored) and versions, `posture`, `version`,
/// `etag` (its counter), `generation`, `configurations` by their ids if there are any, and the members
/// of [`Registry`]. No keys.
///
/// # Errors
/// A section cannot be read; nothing but a damaged store causes it.
pub fn document(record: &Record) -> Result<Value, Damaged> {
    let mut document = Map::new();
    for section in SECTIONS {
        let text = section.of(record);
        document.insert(section.name.into(), section.parse(record, &text.document)?);
        document.insert(
            section.metadata.into(),
            section.parse(record, &text.metadata)?,
        );
        document.insert(section.version.into(), json!(text.version.get()));
    }
    document.insert("posture".into(), printed(record, &record.posture)?);
    document.extend(scalars(record));
    document.extend(configurations_member(record));
    document.extend(registry_members(record)?);
    Ok(Value::Object(document))
}

/// The revision that a commit makes of a change of `key`. Each makes one, also if nothing of the
/// document changed: that a key was made anew is told by who did it and when.
///
/// Only sections whose text differs are parsed, and only members of the posture that differ are
/// printed: most commits fold events into a posture, and documents are most of the cost.
///
/// # Errors
/// A section that changed cannot be read; nothing but a damaged store causes it.
pub fn entry(
    key: &IdentityKey,
    [before, after]: [Option<&Record>; 2],
    touch: &Touch,
    revision: Revision,
    now: Timestamp,
) -> Result<HistoryEntry, Damaged> {
    let delta = match (before, after) {
        (Some(before), Some(after)) => changes(before, after)?,
        (None, Some(after)) => Delta::between(&Value::Null, &document(after)?),
        // A record that cannot be read may be deleted; what it was is lost.
        (before, None) => {
            let was = before.and_then(|before| document(before).ok());
            Delta::between(&was.unwrap_or(json!({})), &Value::Null)
        }
    };
    let delta = delta.unwrap_or_else(Delta::nothing);
    Ok(HistoryEntry {
        key: key.clone(),
        notification: touch_notification(touch, &delta),
        revision,
        first_revision: revision,
        at: now,
        first_at: now,
        actor: touch.cause.actor.to_string(),
        cause: touch.cause.cause.clone(),
        changes: touch.changes.clone(),
        patch: delta.patch.to_string(),
        undo: delta.undo.to_string(),
        has_registry: true,
        routine: touch.is_routine() && before.is_some() && after.is_some(),
        previous: match (before, after) {
            (Some(before), _) => Some(before.revision),
            // What begins a life leads back to nothing.
            (None, Some(_)) => Some(Revision::ZERO),
            (None, None) => None,
        },
        trace_parent: touch.cause.trace_parent.clone(),
    })
}

/// What the device is to be told, if the patch does not say just that. Of several writes in one
/// revision, which no device can tell apart, the patch says it all.
fn touch_notification(touch: &Touch, delta: &Delta) -> Option<String> {
    let [notification] = &touch.notifications[..] else {
        return None;
    };
    let says_as_much = serde_json::from_str::<Value>(notification)
        .is_ok_and(|notification| notification == desired_change(&delta.patch));
    (!says_as_much).then(|| notification.clone())
}

/// What a patch of a revision does to the desired section; nothing, if what was written was there.
fn desired_change(patch: &Value) -> Value {
    let change = patch.get("desired").filter(|change| change.is_object());
    change.cloned().unwrap_or_else(|| json!({}))
}

/// The version that a revision made of the desired section, and what devices are told of it; `None`
/// if it made none.
pub fn notification(entry: &HistoryEntry) -> Option<(u64, String)> {
    let patch: Value = serde_json::from_str(&entry.patch).ok()?;
    let version = patch.get("desiredVersion")?.as_u64()?;
    let kept = entry.notification.clone();
    Some((
        version,
        kept.unwrap_or_else(|| desired_change(&patch).to_string()),
    ))
}

/// The document as it was before these entries, which are the newest of the identity, newest
/// first. `null` stands for an identity that is not there: pass it for a deleted one, and read it
/// as "did not exist".
///
/// # Errors
/// A patch cannot be read; nothing but a damaged store causes it.
pub fn rewind<'e>(
    mut document: Value,
    entries: impl IntoIterator<Item = &'e HistoryEntry>,
) -> Result<Value, Unreadable> {
    for entry in entries {
        let undo = parse(entry, "undo", &entry.undo)?;
        apply(&mut document, &undo);
    }
    Ok(document)
}

/// The sections and counters of a document that [`rewind`] answered.
///
/// # Errors
/// A part is missing or of another kind; nothing but a damaged history causes it.
pub fn twin_text(key: &IdentityKey, document: &Value) -> Result<TwinText, Damaged> {
    let damaged = |part: &'static str| Damaged {
        key: key.to_string(),
        part,
        problem: "it is not in the document that the history leads to".to_owned(),
    };
    let number = |part: &'static str| {
        document
            .get(part)
            .and_then(Value::as_u64)
            .ok_or_else(|| damaged(part))
    };
    let version = |part| Version::new(number(part)?).map_err(|_| damaged(part));
    let section = |names: &SectionNames| {
        let text = |part: &'static str| document.get(part).ok_or_else(|| damaged(part));
        Ok(SectionText {
            document: text(names.name)?.to_string(),
            metadata: text(names.metadata)?.to_string(),
            version: version(names.version)?,
        })
    };
    let [tags, desired, reported] = &SECTIONS;
    Ok(TwinText {
        tags: section(tags)?,
        desired: section(desired)?,
        reported: section(reported)?,
        version: version("version")?,
        etag: Etag::from_counter(number("etag")?),
    })
}

fn parse(entry: &HistoryEntry, what: &str, text: &str) -> Result<Value, Unreadable> {
    serde_json::from_str(text).map_err(|error| Unreadable {
        key: entry.key.to_string(),
        revision: entry.revision.get(),
        problem: format!("its {what} patch is not JSON: {error}"),
    })
}

/// Where a section stands in a document.
struct SectionNames {
    name: &'static str,
    metadata: &'static str,
    version: &'static str,
}

const SECTIONS: [SectionNames; 3] = [
    SectionNames {
        name: "tags",
        metadata: "tagsMetadata",
        version: "tagsVersion",
    },
    SectionNames {
        name: "desired",
        metadata: "desiredMetadata",
        version: "desiredVersion",
    },
    SectionNames {
        name: "reported",
        metadata: "reportedMetadata",
        version: "reportedVersion",
    },
];

impl SectionNames {
    fn of<'r>(&self, record: &'r Record) -> &'r SectionText {
        match self.name {
            "tags" => &record.twin.tags,
            "desired" => &record.twin.desired,
            _ => &record.twin.reported,
        }
    }

    fn parse(&self, record: &Record, text: &str) -> Result<Value, Damaged> {
        serde_json::from_str(text)
            .map(without_nulls)
            .map_err(|error| Damaged {
                key: record.key.to_string(),
                part: self.name,
                problem: error.to_string(),
            })
    }
}

/// What differs between two states of one record: sparse documents are compared, which hold only
/// what may differ.
fn changes(before: &Record, after: &Record) -> Result<Option<Delta>, Damaged> {
    let (mut old, mut new) = (Map::new(), Map::new());
    for section in SECTIONS {
        let (was, is) = (section.of(before), section.of(after));
        if was.document != is.document {
            old.insert(section.name.into(), section.parse(before, &was.document)?);
            new.insert(section.name.into(), section.parse(after, &is.document)?);
        }
        if was.metadata != is.metadata {
            let name = section.metadata;
            old.insert(name.into(), section.parse(before, &was.metadata)?);
            new.insert(name.into(), section.parse(after, &is.metadata)?);
        }
        old.insert(section.version.into(), json!(was.version.get()));
        new.insert(section.version.into(), json!(is.version.get()));
    }
    let (was, is) = posture_changes(before, after)?;
    old.insert("posture".into(), was);
    new.insert("posture".into(), is);
    old.extend(scalars(before));
    new.extend(scalars(after));
    old.extend(configurations_member(before));
    new.extend(configurations_member(after));
    // Most commits leave the identity alone.
    if before.identity != after.identity {
        old.extend(registry_members(before)?);
        new.extend(registry_members(after)?);
    }
    Ok(Delta::between(&Value::Object(old), &Value::Object(new)))
}

fn scalars(record: &Record) -> [(String, Value); 5] {
    [
        ("status".into(), json!(record.identity.status.as_str())),
        ("statusReason".into(), json!(record.identity.status_reason)),
        ("version".into(), json!(record.twin.version.get())),
        ("etag".into(), json!(record.twin.etag.counter())),
        ("generation".into(), json!(record.identity.generation_id)),
    ]
}

/// Where configurations stand. Absent if there are none, as on nearly all twins.
const CONFIGURATIONS: &str = "configurations";

fn configurations_member(record: &Record) -> Option<(String, Value)> {
    if record.configurations.is_empty() {
        return None;
    }
    let states = record.configurations.iter();
    let states: Map<_, _> = states
        .map(|(id, at)| (id.clone(), json!(at.as_str())))
        .collect();
    Some((CONFIGURATIONS.to_owned(), Value::Object(states)))
}

/// Where configurations stood in a document.
///
/// # Errors
/// It cannot be read; nothing but a damaged history causes it.
pub fn configurations(key: &IdentityKey, document: &Value) -> Result<ConfigurationStates, Damaged> {
    let damaged = |problem: String| Damaged {
        key: key.to_string(),
        part: CONFIGURATIONS,
        problem,
    };
    let states = match document.get(CONFIGURATIONS) {
        None | Some(Value::Null) => return Ok(ConfigurationStates::new()),
        Some(Value::Object(states)) => states,
        Some(other) => return Err(damaged(format!("{other} is no object"))),
    };
    let states = states.iter().map(|(id, at)| {
        let read = at.as_str().and_then(ConfigurationStatus::parse);
        let read = read.ok_or_else(|| damaged(format!("{at} is no status")))?;
        Ok((id.clone(), read))
    });
    states.collect()
}

fn registry_members(record: &Record) -> Result<Map<String, Value>, Damaged> {
    registry::members(&record.identity).map_err(|error| Damaged {
        key: record.key.to_string(),
        part: "identity",
        problem: error.to_string(),
    })
}

/// The members of two postures that differ.
fn posture_changes(before: &Record, after: &Record) -> Result<(Value, Value), Damaged> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    let instant = |at: &Option<Timestamp>| json!(at.map(posture::time::format));
    macro_rules! compare {
        ($($field:ident => $name:literal),+; $($time:ident => $time_name:literal),+ $(,)?) => {{
            // Every field is named, so that the compiler asks for a new one.
            let Posture { $($field,)+ $($time),+ } = &after.posture;
            $(
                let was = &before.posture.$field;
                if was != $field {
                    old.insert($name, printed(before, was)?);
                    new.insert($name, printed(after, $field)?);
                }
            )+
            $(
                let was = &before.posture.$time;
                if was != $time {
                    old.insert($time_name, instant(was));
                    new.insert($time_name, instant($time));
                }
            )+
        }};
    }
    compare! {
        version => "version",
        agent => "agent",
        delivery => "delivery",
        configuration => "configuration",
        recommendations => "recommendations",
        event_count => "eventCount",
        events_by_kind => "eventsByKind",
        system => "system",
        listening_ports => "listeningPorts",
        listening_ports_snapshot => "listeningPortsSnapshot",
        users => "users",
        users_snapshot => "usersSnapshot",
        logins => "logins",
        processes => "processes",
        connections => "connections",
        files => "files";
        updated_at => "updatedAt",
        system_observed_at => "systemObservedAt",
    }
    let object = |members: BTreeMap<&str, Value>| {
        let members = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        without_nulls(Value::Object(members.collect()))
    };
    Ok((object(old), object(new)))
}

fn printed(record: &Record, part: &impl Serialize) -> Result<Value, Damaged> {
    serde_json::to_value(part)
        .map(without_nulls)
        .map_err(|error| Damaged {
            key: record.key.to_string(),
            part: "posture",
            problem: error.to_string(),
        })
}

#[cfg(test)]
mod tests;
