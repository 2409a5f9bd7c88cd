//! How a device of IoT Plug and Play answers for its desired properties, in what it reports. Pure.
//!
//! For each writable property it reports `{"value": …, "ac": 200, "av": 7, "ad": "…"}`: `av` is the version
//! of the desired section that it answers, `ac` what became of it (as of HTTP; 202: not yet), `ad` why. A
//! property may be inside a component, an object that says `"__t": "c"`.
//!
//! Each property is judged by itself, by the version in which it was last written: a device that refuses
//! one may have applied the others.

use serde_json::Value;

use crate::metadata::NodeMeta;
use crate::{Map, Section};

/// What marks a component.
const MARKER: &str = "__t";
/// What a component says there.
const COMPONENT: &str = "c";
/// What became of the property.
const CODE: &str = "ac";
/// The version of the desired section that is answered.
const VERSION: &str = "av";
/// Why, for people.
const DESCRIPTION: &str = "ad";
/// What the device has now.
const VALUE: &str = "value";
/// The device has taken the property on and is not done.
const IN_PROGRESS: i64 = 202;
/// The device has a value of its own there, by its own wish: it does not follow the desired one.
const OWN_VALUE: i64 = 203;

/// What a device says of one desired property.
#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    /// Nothing for the version in which it was last written.
    Nothing,
    /// It is working on it.
    InProgress,
    /// It is in force.
    Applied,
    /// It was in force, and the device reports another value by now.
    Differs,
    /// It is not, and will not be.
    Rejected {
        /// As of HTTP.
        code: i64,
        /// Why, in the device's words; may be empty.
        description: String,
    },
}

/// A desired property and what the device says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// `name`, or `component.name`.
    pub path: String,
    /// The version in which it, or anything in it, was last written.
    pub version: u64,
    /// What the device says.
    pub says: Says,
}

/// What a device says of its desired section as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// Each desired property.
    pub properties: Vec<Property>,
    /// The version up to which everything is in force; none: nothing was answered.
    pub applied_through: Option<u64>,
    /// The newest version that any answer is for.
    pub newest: u64,
}

impl Answers {
    /// The properties of which the device says this.
    pub fn of(&self, holds: impl Fn(&Says) -> bool) -> impl Iterator<Item = &Property> {
        let properties = self.properties.iter();
        properties.filter(move |property| holds(&property.says))
    }

    /// What is wrong with the properties that it refuses, in one text; none: nothing is.
    pub fn refusal(&self) -> Option<String> {
        let mut reasons = self.properties.iter().filter_map(|property| {
            let Says::Rejected { code, description } = &property.says else {
                return None;
            };
            let path = &property.path;
            Some(match description.as_str() {
                "" => format!("{path}: {code}"),
                why => format!("{path}: {code} {why}"),
            })
        });
        let first = reasons.next()?;
        Some(reasons.fold(first, |text, more| format!("{text}; {more}")))
    }
}

/// Whether something reported holds an answer, so that devices that know nothing of it are left alone.
pub fn gives_answers(reported: &Map) -> bool {
    reported.values().any(|value| match value {
        Value::Object(object) if is_component(object) => {
            object.values().any(|value| ack(value).is_some())
        }
        // A patch need not repeat the marker.
        Value::Object(object) => {
            ack(value).is_some() || object.values().any(|value| ack(value).is_some())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            false
        }
    })
}

/// The place of a leaf's property: `name`, or `component.name`.
pub fn property_of(desired: &Map, keys: &[&str]) -> String {
    match keys {
        [] => String::new(),
        [component, name, ..] if component_in(desired, component) => format!("{component}.{name}"),
        [name, ..] => (*name).to_owned(),
    }
}

/// What a device says, by what it reports, of the desired section.
pub fn answers(desired: &Section, reported: &Map) -> Answers {
    let present = desired.version().get();
    let mut properties = Vec::new();
    for (name, value) in desired.document() {
        let Some(meta) = desired.metadata().children.get(name) else {
            continue;
        };
        let said = reported.get(name);
        match value {
            Value::Object(component) if is_component(component) => {
                for (inner, value) in component.iter().filter(|(key, _)| *key != MARKER) {
                    if let Some(meta) = meta.children.get(inner) {
                        let path = format!("{name}.{inner}");
                        let said = said.and_then(|said| said.get(inner));
                        properties.push(judge(path, value, meta, said, present));
                    }
                }
            }
            _ => properties.push(judge(name.clone(), value, meta, said, present)),
        }
    }
    let newest = newest(reported, present);
    let in_force = |says: &Says| matches!(says, Says::Applied | Says::Differs);
    let missing = properties.iter().filter(|one| !in_force(&one.says));
    let before_missing = missing.map(|one| one.version.saturating_sub(1)).min();
    // What was only taken out leaves no property behind: an answer for that version or a later one
    // must tell.
    let written = properties.iter().map(|one| one.version).max();
    let through = before_missing.unwrap_or(present).min(match written {
        Some(written) => newest.max(written),
        None => newest,
    });
    let applied_through = Some(through).filter(|through| newest > 0 && *through > 0);
    Answers {
        properties,
        applied_through,
        newest,
    }
}

/// An answer: its code and its version.
fn ack(value: &Value) -> Option<(i64, u64)> {
    let object = value.as_object()?;
    Some((object.get(CODE)?.as_i64()?, object.get(VERSION)?.as_u64()?))
}

fn is_component(object: &Map) -> bool {
    object.get(MARKER).and_then(Value::as_str) == Some(COMPONENT)
}

fn component_in(desired: &Map, name: &str) -> bool {
    let object = desired.get(name).and_then(Value::as_object);
    object.is_some_and(is_component)
}

/// The newest version that is answered; one that there has never been is of another twin's time.
fn newest(reported: &Map, present: u64) -> u64 {
    let top = reported.values();
    let inner = reported.values().filter_map(Value::as_object);
    let inner = inner.flat_map(|object| object.values());
    let versions = top.chain(inner).filter_map(ack).map(|(_, version)| version);
    versions
        .filter(|version| *version <= present)
        .max()
        .unwrap_or(0)
}

fn judge(
    path: String,
    desired: &Value,
    meta: &NodeMeta,
    said: Option<&Value>,
    present: u64,
) -> Property {
    let version = newest_below(meta);
    let answered = said.and_then(|said| Some((said, ack(said)?)));
    let says = match answered {
        Some((said, (code, of))) if of >= version && of <= present => match code {
            IN_PROGRESS => Says::InProgress,
            200..=299 => {
                let value = said.get(VALUE);
                let differs = value.is_some_and(|value| !same(value, desired));
                if differs && code != OWN_VALUE {
                    Says::Differs
                } else {
                    Says::Applied
                }
            }
            code => Says::Rejected {
                code,
                description: said
                    .get(DESCRIPTION)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
            },
        },
        Some(_) | None => Says::Nothing,
    };
    Property {
        path,
        version,
        says,
    }
}

fn newest_below(meta: &NodeMeta) -> u64 {
    let below = meta.children.values().map(newest_below).max();
    below.unwrap_or(0).max(meta.version.get())
}

/// Whether two values mean the same: `20` and `20.0` do.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests;
