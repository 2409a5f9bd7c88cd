//! The values of a policy file, one function for each kind of field. An error says what was found and
//! what is needed; its place is the reader's.

use serde_json::Value;
use twin::Map;

use super::KIND;
use crate::policy_doc::{ActionsSpec, Labels, Scope};
use crate::rollout::StrategySpec;
use crate::schedule::ScheduleSpec;

pub(super) fn read_kind(value: &Value) -> Result<(), String> {
    if value.as_str() == Some(KIND) {
        return Ok(());
    }
    Err(format!("is {value}; allowed is {KIND:?}"))
}

pub(super) fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!(
            "is {}; a text is needed, put it in quotes",
            describe(&other)
        )),
    }
}

pub(super) fn read_scope(value: &Value) -> Result<Scope, String> {
    value
        .as_str()
        .and_then(Scope::parse)
        .ok_or_else(|| format!("is {value}; allowed are {}", Scope::NAMES.join(", ")))
}

pub(super) fn read_priority(value: &Value) -> Result<i32, String> {
    value
        .as_i64()
        .and_then(|number| i32::try_from(number).ok())
        .ok_or_else(|| {
            format!(
                "is {value}; a whole number from {} to {} is needed",
                i32::MIN,
                i32::MAX
            )
        })
}

/// Only texts: `yes` and `1.10` would be another label than they look like.
pub(super) fn read_labels(value: Value) -> Result<Labels, String> {
    let Value::Object(labels) = value else {
        return Err(format!(
            "is {}; a mapping of texts is needed",
            describe(&value)
        ));
    };
    let one = |(key, value): (String, Value)| match text(value) {
        Ok(value) => Ok((key, value)),
        Err(problem) => Err(format!("{key:?} {problem}")),
    };
    labels.into_iter().map(one).collect()
}

pub(super) fn read_settings(value: Value) -> Result<Map, String> {
    match value {
        Value::Object(settings) => Ok(settings),
        other => Err(format!(
            "is {}; a mapping of what to set is needed",
            describe(&other)
        )),
    }
}

/// A strategy; `rollout:` with nothing behind it is one of a single wave with the default gates.
pub(super) fn read_rollout(value: Value) -> Result<Option<StrategySpec>, String> {
    match value {
        Value::Null => Ok(Some(StrategySpec::default())),
        Value::Object(_) => serde_json::from_value(value)
            .map(Some)
            .map_err(|error| format!("is not a strategy: {error}")),
        other => Err(format!(
            "is {}; a mapping with waves and gates is needed",
            describe(&other)
        )),
    }
}

/// A schedule; `schedule:` with nothing behind it is always.
pub(super) fn read_schedule(value: Value) -> Result<Option<ScheduleSpec>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Object(_) => serde_json::from_value(value)
            .map(Some)
            .map_err(|error| format!("is not a schedule: {error}")),
        other => Err(format!(
            "is {}; a mapping with windows, freezes or expires is needed",
            describe(&other)
        )),
    }
}

/// Actions; `actions:` with nothing behind it is none.
pub(super) fn read_actions(value: Value) -> Result<Option<ActionsSpec>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Object(_) => serde_json::from_value(value)
            .map(Some)
            .map_err(|error| format!("are no actions: {error}")),
        other => Err(format!(
            "is {}; a mapping with calls, and perhaps perMinute and inFlight, is needed",
            describe(&other)
        )),
    }
}

pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}
