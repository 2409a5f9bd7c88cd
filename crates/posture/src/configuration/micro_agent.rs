//! The micro agent's answer to its configuration, in what it reports: `latest_state` and
//! `latest_invalid_fields`. It names no version; whoever told the agent knows it. Pure.

use serde_json::{Map, Value};

use super::AckOutcome;

/// Whether the newest configuration is in force.
const STATE: &str = "latest_state";
/// The keys that were refused.
const INVALID_FIELDS: &str = "latest_invalid_fields";

/// The answer in a reported patch, if there is one.
pub fn answer(patch: &Map<String, Value>) -> Option<AckOutcome> {
    let state = patch.get(STATE)?.as_str()?;
    if state.eq_ignore_ascii_case("success") {
        return Some(AckOutcome::Applied);
    }
    if !state.eq_ignore_ascii_case("failed") {
        return None;
    }
    let invalid_fields = invalid_fields(patch.get(INVALID_FIELDS));
    let reason = if invalid_fields.is_empty() {
        "the agent reports that it failed".to_owned()
    } else {
        format!(
            "the agent reports as invalid: {}",
            invalid_fields.join(", ")
        )
    };
    Some(AckOutcome::Rejected {
        reason,
        invalid_fields,
    })
}

/// A list, or a text with commas: the documents do not say which.
fn invalid_fields(value: Option<&Value>) -> Vec<String> {
    let names: Vec<&str> = match value {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(text)) => text.split(',').collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            Vec::new()
        }
    };
    let names = names.into_iter().map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_read_in_every_form_that_is_known() {
        let rejected = |fields: &[&str], reason: &str| {
            Some(AckOutcome::Rejected {
                reason: reason.to_owned(),
                invalid_fields: fields.iter().map(|field| (*field).to_owned()).collect(),
            })
        };
        let failed = "the agent reports that it failed";
        let invalid = "the agent reports as invalid: A, B";
        for (patch, expected) in [
            (json!({}), None),
            (json!({"latest_invalid_fields": ["A"]}), None),
            (json!({"latest_state": 1}), None),
            (json!({"latest_state": "busy"}), None),
            (
                json!({"latest_state": "success"}),
                Some(AckOutcome::Applied),
            ),
            (
                json!({"latest_state": "Success", "latest_invalid_fields": null}),
                Some(AckOutcome::Applied),
            ),
            (json!({"latest_state": "failed"}), rejected(&[], failed)),
            (
                json!({"latest_state": "failed", "latest_invalid_fields": {"A": 1}}),
                rejected(&[], failed),
            ),
            (
                json!({"latest_state": "failed", "latest_invalid_fields": ["A", 5, "B"]}),
                rejected(&["A", "B"], invalid),
            ),
            (
                json!({"latest_state": "failed", "latest_invalid_fields": "A, B,"}),
                rejected(&["A", "B"], invalid),
            ),
        ] {
            let found = answer(patch.as_object().expect("an object"));
            assert_eq!(found, expected, "{patch}");
        }
    }
}
