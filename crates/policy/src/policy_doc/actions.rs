//! Direct actions: the methods that a policy calls, beside what it sets. Read and checked once, with the
//! policy. When they are called is `actions`' to say. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use service_kit::units::Duration;
use twin::Map;
use twin::query::{Lookup, Path};
use xxhash_rust::xxh3::xxh3_64;

use iot_hub::MethodName;
use iot_hub::method::{RESPONSE_TIMEOUT_MAX, RESPONSE_TIMEOUT_MIN};

use super::template::{Incomplete, Templates};
use super::{Field, PolicyId, Problem, Scope};

/// Actions of a policy: each may stand in memory for every twin that the policy holds for.
const CALLS_MAX: usize = 10;

/// Calls that begin within a minute: a hundred a second is more than a hub should be asked by one policy.
const PER_MINUTE_MAX: u32 = 6000;

/// Calls that wait for their answers: a sixteenth of what twin-store lets wait.
const IN_FLIGHT_MAX: u32 = 64;

/// Bytes of a payload as it is written: all policies are in memory, and templates make it longer.
const PAYLOAD_BYTES_MAX: usize = 32 * 1024;

/// Between two calls of the same twin.
const EVERY_MIN: Duration = Duration::secs(60);

/// How short a call may be due.
const EXPIRES_MIN: Duration = Duration::secs(10);

/// What waits longer has been forgotten.
const WAIT_MAX: Duration = Duration::secs(30 * 24 * 60 * 60);

/// Where the payload stands while it is read as settings are.
const PAYLOAD: &str = "payload";

/// The actions of a policy as somebody wrote them: unchecked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ActionsSpec {
    /// Calls of the whole policy that begin within any minute. Default 60.
    pub per_minute: u32,
    /// Calls of the whole policy that wait for their answers at a time. Default 8.
    pub in_flight: u32,
    /// What is called.
    pub calls: Vec<ActionSpec>,
}

impl Default for ActionsSpec {
    fn default() -> ActionsSpec {
        ActionsSpec {
            per_minute: 60,
            in_flight: 8,
            calls: Vec::new(),
        }
    }
}

/// A method that is called, as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ActionSpec {
    /// Its name within the policy.
    pub name: String,
    /// The method.
    pub method: String,
    /// What goes with it, with templates.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub payload: Value,
    /// How long after a call it is called again while the policy holds; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    /// How long the device may take for its answer. Default 30s.
    pub timeout: Duration,
    /// How long it stays due. Default 1h.
    pub expires: Duration,
    /// Whether a call is made again of which nobody knows whether it was carried out. Default false.
    pub retry: bool,
}

impl Default for ActionSpec {
    fn default() -> ActionSpec {
        ActionSpec {
            name: String::new(),
            method: String::new(),
            payload: Value::Null,
            every: None,
            timeout: Duration::secs(30),
            expires: Duration::secs(60 * 60),
            retry: false,
        }
    }
}

/// The actions of a policy, which can be called.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Actions {
    calls: Vec<Action>,
    per_minute: u32,
    in_flight: u32,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Action {
    spec: ActionSpec,
    /// The payload, in an object of its own.
    payload: Map,
    templates: Templates,
    fingerprint: u64,
}

impl Actions {
    /// Checks everything; each problem has its place.
    pub(super) fn check(spec: &ActionsSpec, scope: Scope) -> Result<Actions, Vec<Problem>> {
        let mut checker = Checker(Vec::new());
        if !(1..=CALLS_MAX).contains(&spec.calls.len()) {
            let found = spec.calls.len();
            checker.wrong(
                "calls",
                format!("are {found}; allowed are 1 to {CALLS_MAX}"),
            );
        }
        for (place, found, most) in [
            ("perMinute", spec.per_minute, PER_MINUTE_MAX),
            ("inFlight", spec.in_flight, IN_FLIGHT_MAX),
        ] {
            if !(1..=most).contains(&found) {
                checker.wrong(place, format!("is {found}; allowed are 1 to {most}"));
            }
        }
        let mut calls: Vec<Action> = Vec::new();
        for (index, call) in spec.calls.iter().enumerate() {
            let place = format!("calls[{index}]");
            if calls.iter().any(|other| other.spec.name == call.name) {
                let message = format!("is {:?}, the name of an action before it", call.name);
                checker.wrong(&format!("{place}.name"), message);
            }
            calls.extend(checker.action(&place, call, scope));
        }
        if !checker.0.is_empty() {
            return Err(checker.0);
        }
        Ok(Actions {
            calls,
            per_minute: spec.per_minute,
            in_flight: spec.in_flight,
        })
    }

    /// All of them, in the order in which they were written.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Action> {
        self.calls.iter()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// The one of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Action> {
        self.calls.iter().find(|action| action.spec.name == name)
    }

    /// Calls that may begin within any minute.
    pub(crate) fn per_minute(&self) -> usize {
        usize::try_from(self.per_minute).unwrap_or(usize::MAX)
    }

    /// Calls that may be under way.
    pub(crate) fn in_flight(&self) -> usize {
        usize::try_from(self.in_flight).unwrap_or(usize::MAX)
    }

    /// What their payloads look at.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.calls
            .iter()
            .flat_map(|action| action.templates.paths())
    }
}

impl Action {
    /// What was written.
    pub(crate) fn spec(&self) -> &ActionSpec {
        &self.spec
    }

    /// By which another call is told from this one: of its method and its payload as they are written.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The payload for a twin, as JSON.
    pub(crate) fn payload_for(&self, twin: &dyn Lookup) -> Result<String, Incomplete> {
        let filled = self.templates.fill_in(&self.payload, twin)?;
        Ok(filled
            .get(PAYLOAD)
            .map_or_else(String::new, Value::to_string))
    }
}

struct Checker(Vec<Problem>);

impl Checker {
    fn wrong(&mut self, place: &str, message: String) {
        self.0.push(Problem {
            position: Some(place.to_owned()),
            ..Problem::new(Field::Actions, message)
        });
    }

    fn action(&mut self, place: &str, spec: &ActionSpec, scope: Scope) -> Option<Action> {
        let before = self.0.len();
        if let Err(problem) = PolicyId::parse(&spec.name) {
            self.wrong(&format!("{place}.name"), problem);
        }
        if let Err(problem) = MethodName::parse(&spec.method) {
            self.wrong(&format!("{place}.method"), problem.to_string());
        }
        let (least, most) = (RESPONSE_TIMEOUT_MIN, RESPONSE_TIMEOUT_MAX);
        if !(least..=most).contains(&spec.timeout.get()) {
            let message = format!(
                "is {}; allowed are {}s to {}s",
                spec.timeout,
                least.as_secs(),
                most.as_secs()
            );
            self.wrong(&format!("{place}.timeout"), message);
        }
        for (key, found, least) in [
            ("every", spec.every, EVERY_MIN),
            ("expires", Some(spec.expires), EXPIRES_MIN),
        ] {
            if let Some(found) = found.filter(|found| !(least..=WAIT_MAX).contains(found)) {
                let message = format!("is {found}; allowed are {least} to {WAIT_MAX}");
                self.wrong(&format!("{place}.{key}"), message);
            }
        }
        let text = spec.payload.to_string();
        if text.len() > PAYLOAD_BYTES_MAX {
            let message = format!(
                "has {} bytes; at most {PAYLOAD_BYTES_MAX} are allowed",
                text.len()
            );
            self.wrong(&format!("{place}.{PAYLOAD}"), message);
        }
        let payload: Map = [(PAYLOAD.to_owned(), spec.payload.clone())]
            .into_iter()
            .collect();
        let templates = Templates::read(&payload, scope).unwrap_or_else(|found| {
            self.0.extend(found.into_iter().map(|problem| Problem {
                field: Field::Actions,
                position: problem.position.map(|inside| format!("{place}.{inside}")),
                ..problem
            }));
            Templates::default()
        });
        let fingerprint = xxh3_64(format!("{}\n{text}", spec.method).as_bytes());
        (self.0.len() == before).then(|| Action {
            spec: spec.clone(),
            payload,
            templates,
            fingerprint,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use twin::TwinView;

    use super::*;

    fn spec(value: Value) -> ActionsSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_action_needs_a_name_and_a_method_and_has_defaults_for_the_rest() {
        let spec = spec(json!({"calls": [{"name": "collect", "method": "collectNow"}]}));
        let actions = Actions::check(&spec, Scope::Modules).unwrap();
        assert_eq!((actions.per_minute(), actions.in_flight()), (60, 8));
        let action = actions.get("collect").unwrap();
        assert_eq!(action.spec().timeout, Duration::secs(30));
        assert_eq!(action.spec().expires, Duration::secs(3600));
        assert_eq!((action.spec().every, action.spec().retry), (None, false));
        assert!(actions.get("other").is_none());
        let printed = serde_json::to_value(&spec).unwrap();
        assert_eq!(
            serde_json::from_value::<ActionsSpec>(printed).unwrap(),
            spec
        );
    }

    #[test]
    fn a_payload_is_filled_in_and_its_form_is_kept() {
        let tags = json!({"site": "Lyon", "ports": [22]});
        let view = TwinView {
            device_id: "cam-1",
            module_id: Some("m"),
            status: "enabled",
            tags: tags.as_object().unwrap(),
            desired: &Map::new(),
            desired_version: 1,
            reported: &Map::new(),
            reported_version: 1,
            posture: &Value::Null,
            device_tags: None,
        };
        let payload = |payload: Value| {
            let call = json!({"name": "a", "method": "m", "payload": payload});
            let spec = spec(json!({ "calls": [call] }));
            let actions = Actions::check(&spec, Scope::Modules).unwrap();
            actions.get("a").unwrap().payload_for(&view)
        };
        for (written, filled) in [
            (Value::Null, "null"),
            (json!("{{tags.site}}"), "\"Lyon\""),
            (json!("{{tags.ports}}"), "[22]"),
            (
                json!([1, {"$key": "x-{{tags.site}}"}]),
                "[1,{\"$key\":\"x-Lyon\"}]",
            ),
        ] {
            assert_eq!(payload(written).unwrap(), filled);
        }
        let lacks = payload(json!({"a": "{{tags.none}}"})).unwrap_err();
        assert_eq!(
            lacks.to_string(),
            "payload.a needs tags.none, which this twin does not have"
        );
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let wrong = spec(json!({
            "perMinute": 0,
            "inFlight": 65,
            "calls": [
                {"name": "A", "method": "a b", "timeout": "4s", "every": "59s", "expires": "31d"},
                {"name": "x", "method": "m", "payload": {"a": ["{{tags}}"]}},
                {"name": "y", "method": "m", "payload": "x".repeat(PAYLOAD_BYTES_MAX)},
                {"name": "z", "method": "m"},
                {"name": "z", "method": "n"},
            ],
        }));
        let problems = Actions::check(&wrong, Scope::Modules).unwrap_err();
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let places = [
            "perMinute",
            "inFlight",
            "calls[0].name",
            "calls[0].method",
            "calls[0].timeout",
            "calls[0].every",
            "calls[0].expires",
            "calls[1].payload.a[0], character 3",
            "calls[2].payload",
            "calls[4].name",
        ];
        assert_eq!(told.len(), places.len(), "{told:#?}");
        for (problem, place) in told.iter().zip(places) {
            assert!(
                problem.starts_with(&format!("actions ({place}): ")),
                "{problem}"
            );
        }
        let none = Actions::check(&spec(json!({})), Scope::Modules).unwrap_err();
        assert_eq!(
            none[0].to_string(),
            "actions (calls): are 0; allowed are 1 to 10"
        );
    }

    #[test]
    fn another_method_or_payload_is_another_call_and_nothing_else_is() {
        let print = |method: &str, payload: Value, timeout: &str| {
            let call =
                json!({"name": "a", "method": method, "payload": payload, "timeout": timeout});
            let actions = Actions::check(&spec(json!({ "calls": [call] })), Scope::Modules);
            actions.unwrap().get("a").unwrap().fingerprint()
        };
        let first = print("m", json!(1), "30s");
        assert_eq!(print("m", json!(1), "60s"), first);
        assert_ne!(print("n", json!(1), "30s"), first);
        assert_ne!(print("m", json!("1"), "30s"), first);
    }
}
