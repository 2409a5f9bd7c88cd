//! Actions on the wire.

use service_kit::units::Duration;
use wire::policy::v1 as proto;

use crate::policy_doc::{ActionSpec, ActionsSpec, Field, Problem};

/// Reads actions; what cannot be one is reported with its place.
pub(super) fn read(wire: &proto::PolicyActions) -> Result<ActionsSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut calls = Vec::new();
    for (index, call) in wire.calls.iter().enumerate() {
        let mut wrong = |key: &str, message: String| {
            problems.push(Problem {
                position: Some(format!("calls[{index}].{key}")),
                ..Problem::new(Field::Actions, message)
            });
        };
        let payload = match call.payload_json.as_str() {
            "" => serde_json::Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|error| {
                wrong("payload", format!("is no JSON: {error}"));
                serde_json::Value::Null
            }),
        };
        let mut time = |key: &str, wire: Option<prost_types::Duration>| {
            let time = std::time::Duration::try_from(wire?).ok();
            let millis = time.and_then(|time| u64::try_from(time.as_millis()).ok());
            if millis.is_none() {
                wrong(key, "is not a length of time".to_owned());
            }
            millis.map(Duration::millis)
        };
        let default = ActionSpec::default();
        calls.push(ActionSpec {
            name: call.name.clone(),
            method: call.method.clone(),
            payload,
            every: time("every", call.every),
            timeout: time("timeout", call.timeout).unwrap_or(default.timeout),
            expires: time("expires", call.expires).unwrap_or(default.expires),
            retry: call.retry,
        });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let default = ActionsSpec::default();
    let or = |given: u32, default| if given == 0 { default } else { given };
    Ok(ActionsSpec {
        per_minute: or(wire.per_minute, default.per_minute),
        in_flight: or(wire.in_flight, default.in_flight),
        calls,
    })
}

/// Prints actions.
pub(super) fn print(spec: &ActionsSpec) -> proto::PolicyActions {
    let time = |time: Duration| prost_types::Duration::try_from(time.get()).ok();
    let calls = spec.calls.iter().map(|call| proto::PolicyAction {
        name: call.name.clone(),
        method: call.method.clone(),
        payload_json: if call.payload.is_null() {
            String::new()
        } else {
            call.payload.to_string()
        },
        every: call.every.and_then(time),
        timeout: time(call.timeout),
        expires: time(call.expires),
        retry: call.retry,
    });
    proto::PolicyActions {
        per_minute: spec.per_minute,
        in_flight: spec.in_flight,
        calls: calls.collect(),
    }
}
