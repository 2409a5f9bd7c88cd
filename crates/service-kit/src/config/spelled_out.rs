//! Parts of a configuration that several services share and that stand among a service's own keys:
//! `nats_url`, not `url` of a table `[nats]`.
//!
//! Serde could flatten them, but then it neither refuses unknown keys nor says which key is wrong.
//! So the struct has tables, and the names are changed on the way in and on the way out.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use super::Validate;
use super::problems::Problem;

/// A field of a configuration and what its keys begin with when they are spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpelledOut {
    /// What stands before the keys: `nats_`.
    pub prefix: &'static str,
    /// The field that holds them: `nats`.
    pub field: &'static str,
}

impl SpelledOut {
    /// The part of a key that is the field's own.
    fn own(self, key: &str) -> Option<&str> {
        key.strip_prefix(self.prefix).filter(|own| !own.is_empty())
    }
}

/// Puts the keys of a file into the tables they belong to.
pub(super) fn into_tables(file: Table, parts: &[SpelledOut]) -> Table {
    let mut tables = Table::new();
    for (key, value) in file {
        let found = parts.iter().find_map(|part| Some((part, part.own(&key)?)));
        match found {
            Some((part, own)) => {
                let table = tables
                    .entry(part.field)
                    .or_insert_with(|| Value::Table(Table::new()));
                // Something else by that name is reported when the file is read.
                if let Value::Table(table) = table {
                    table.insert(own.to_owned(), value);
                }
            }
            None => match (tables.get_mut(&key), value) {
                (Some(Value::Table(known)), Value::Table(more)) => known.extend(more),
                (_, value) => {
                    tables.insert(key, value);
                }
            },
        }
    }
    tables
}

/// The path of a variable or flag, inside the table it belongs to.
pub(super) fn path(path: Vec<String>, parts: &[SpelledOut]) -> Vec<String> {
    let Some(first) = path.first() else {
        return path;
    };
    let found = parts.iter().find_map(|part| Some((part, part.own(first)?)));
    let Some((part, own)) = found else {
        return path;
    };
    let mut inside = vec![part.field.to_owned(), own.to_owned()];
    inside.extend(path.into_iter().skip(1));
    inside
}

/// Names the key of a problem as the operator wrote it.
pub(super) fn name(problem: &mut Problem, parts: &[SpelledOut]) {
    let Some((field, own)) = problem.key.split_once('.') else {
        return;
    };
    let Some(part) = parts.iter().find(|part| part.field == field) else {
        return;
    };
    // Serde lists the keys that there are, by their own names.
    if problem.message.starts_with("unknown field `") {
        problem.message = spell(&problem.message, part.prefix);
    }
    problem.key = format!("{}{own}", part.prefix);
}

/// Puts the prefix before everything that stands in backticks.
fn spell(message: &str, prefix: &str) -> String {
    let mut spelled = String::new();
    for (index, piece) in message.split('`').enumerate() {
        match index {
            0 => {}
            odd if odd % 2 == 1 => {
                spelled.push('`');
                spelled.push_str(prefix);
            }
            _ => spelled.push('`'),
        }
        spelled.push_str(piece);
    }
    spelled
}

/// A configuration as a document, spelled out and without what is unset (TOML has no word for
/// that). Secrets are redacted.
pub fn document<T: Serialize + Validate>(config: &T) -> Result<Json, serde_json::Error> {
    let mut value = serde_json::to_value(config)?;
    drop_unset(&mut value);
    let Json::Object(members) = value else {
        return Ok(value);
    };
    let mut flat = Map::new();
    for (key, value) in members {
        let part = T::SPELLED_OUT.iter().find(|part| part.field == key);
        match (part, value) {
            (Some(part), Json::Object(own)) => {
                let prefix = part.prefix;
                flat.extend(
                    own.into_iter()
                        .map(|(key, it)| (format!("{prefix}{key}"), it)),
                );
            }
            (_, value) => {
                flat.insert(key, value);
            }
        }
    }
    Ok(Json::Object(flat))
}

fn drop_unset(value: &mut Json) {
    if let Json::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(drop_unset);
    }
}
