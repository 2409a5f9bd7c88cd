//! Merging the layers and reading the result, with every problem found on the way.
//!
//! Serde stops at the first problem. So whatever it complains about is noted and taken out of the
//! layer it came from, and the rest is read again, until nothing is left to complain about.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use toml::{Table, Value};

use super::problems::{ConfigError, Problem};
use crate::secret::REDACTED;

/// A key set by text: a variable or a flag. Text has no type, so it is tried as each of its
/// readings in turn; as plain text first, so that a password of digits stays a password.
#[derive(Debug)]
pub(super) struct Setting {
    path: Vec<String>,
    readings: Vec<Value>,
    origin: String,
}

impl Setting {
    pub(super) fn new(path: Vec<String>, text: &str, origin: String) -> Self {
        // Last reading first: they are popped.
        let mut readings = Vec::new();
        if text.contains(',') {
            let items = text
                .split(',')
                .map(|item| Value::String(item.trim().to_owned()));
            readings.push(Value::Array(items.collect()));
        }
        if let Ok(mut parsed) = toml::from_str::<Table>(&format!("value = {text}"))
            && let Some(value) = parsed.remove("value")
            && parsed.is_empty()
        {
            readings.push(value);
        }
        readings.push(Value::String(text.to_owned()));
        Self {
            path,
            readings,
            origin,
        }
    }

    pub(super) fn path(&self) -> &[String] {
        &self.path
    }
}

/// The defaults as a layer. Secrets serialize as a placeholder, which must not come back as one.
pub(super) fn defaults<T: Default + Serialize>() -> Result<Table, ConfigError> {
    let mut table = Table::try_from(T::default()).map_err(|error| {
        ConfigError::new(vec![Problem {
            key: "defaults".to_owned(),
            message: error.to_string(),
            origin: None,
        }])
    })?;
    drop_redacted(&mut table);
    Ok(table)
}

fn drop_redacted(table: &mut Table) {
    table.retain(|_, value| value.as_str() != Some(REDACTED));
    for (_, value) in table.iter_mut() {
        if let Value::Table(inner) = value {
            drop_redacted(inner);
        }
    }
}

/// The layers of one configuration.
pub(super) struct Layers {
    defaults: Table,
    file: Table,
    file_origin: String,
    settings: Vec<Setting>,
}

impl Layers {
    pub(super) fn new(
        defaults: Table,
        file: Table,
        file_origin: String,
        settings: Vec<Setting>,
    ) -> Self {
        Self {
            defaults,
            file,
            file_origin,
            settings,
        }
    }

    /// Reads the merged layers. There is no value only if what is wrong cannot be taken out.
    pub(super) fn resolve<T: DeserializeOwned>(mut self) -> (Option<T>, Vec<Problem>) {
        let mut problems = Vec::new();
        loop {
            let merged = Value::Table(self.merged());
            let error = match serde_path_to_error::deserialize(merged) {
                Ok(value) => return (Some(value), problems),
                Err(error) => error,
            };
            let message = error.inner().message().to_owned();
            let path = offending_key(error.path(), &message);
            match self.take_out(&path, &message) {
                TakenOut::TryNextReading => {}
                TakenOut::From(origin) => problems.push(problem(&path, message, Some(origin))),
                TakenOut::NotFound => {
                    problems.push(problem(&path, message, None));
                    return (None, problems);
                }
            }
        }
    }

    fn merged(&self) -> Table {
        let mut merged = self.defaults.clone();
        merge(&mut merged, &self.file);
        for setting in &self.settings {
            if let Some(value) = setting.readings.last() {
                insert(&mut merged, &setting.path, value.clone());
            }
        }
        merged
    }

    /// Takes what is at `path` out of the highest layer that has it. Each call makes the layers
    /// smaller, so the loop above ends.
    fn take_out(&mut self, path: &[String], message: &str) -> TakenOut {
        let set_here =
            |setting: &Setting| path.starts_with(&setting.path) || setting.path.starts_with(path);
        if let Some(index) = self.settings.iter().rposition(set_here) {
            let setting = &mut self.settings[index];
            if setting.readings.len() > 1 && unknown_field(message).is_none() {
                setting.readings.pop();
                return TakenOut::TryNextReading;
            }
            return TakenOut::From(self.settings.remove(index).origin);
        }
        if remove(&mut self.file, path) {
            return TakenOut::From(self.file_origin.clone());
        }
        TakenOut::NotFound
    }
}

enum TakenOut {
    TryNextReading,
    From(String),
    NotFound,
}

fn problem(path: &[String], message: String, origin: Option<String>) -> Problem {
    let key = if path.is_empty() {
        "configuration".to_owned()
    } else {
        path.join(".")
    };
    Problem {
        key,
        message,
        origin,
    }
}

/// The key that is at fault. Inside a list it is the list: its items have no keys of their own.
fn offending_key(path: &Path, message: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for segment in path {
        match segment {
            Segment::Map { key } => keys.push(key.clone()),
            Segment::Enum { variant } => keys.push(variant.clone()),
            Segment::Seq { .. } | Segment::Unknown => return keys,
        }
    }
    if let Some(name) = unknown_field(message)
        && keys.last().map(String::as_str) != Some(name)
    {
        keys.push(name.to_owned());
    }
    keys
}

/// The name in serde's message about a field that does not exist.
fn unknown_field(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

fn merge(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut table = table;
    for key in parents {
        let entry = table
            .entry(key.clone())
            .or_insert_with(|| Value::Table(Table::new()));
        if !entry.is_table() {
            *entry = Value::Table(Table::new());
        }
        let Value::Table(inner) = entry else { return };
        table = inner;
    }
    match (table.get_mut(last), value) {
        (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, &value),
        (_, value) => {
            table.insert(last.clone(), value);
        }
    }
}

fn remove(table: &mut Table, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    let mut table = table;
    for key in parents {
        // A value further up that is not a table at all is what is at fault.
        if table.get(key).is_some_and(|value| !value.is_table()) {
            return table.remove(key).is_some();
        }
        let Some(Value::Table(inner)) = table.get_mut(key) else {
            return false;
        };
        table = inner;
    }
    table.remove(last).is_some()
}
