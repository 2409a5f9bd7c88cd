//! Entries that other services of the hub add: one log holds what people did, wherever they did it.
//!
//! A service says who its caller was; it may speak of its own resources alone, so that it can
//! forge no entry of ours.

use jiff::Timestamp;
use serde_json::Value;
use wire::InvalidField;
use wire::names::{parse_configuration, parse_identity, parse_policy};
use wire::registry::v1 as proto;
use wire::time::optional;

use super::super::Api;
use super::super::caller::Caller;
use super::super::repeatable::Repeatable;
use crate::apply::AuditEvent;
use crate::error::Error;

/// What other services let people do.
const ACTIONS: [&str; 18] = [
    "policy.create",
    "policy.update",
    "policy.delete",
    "configuration.create",
    "configuration.update",
    "configuration.delete",
    "rollout.approve",
    "rollout.pause",
    "rollout.resume",
    "rollout.skip",
    "rollout.abort",
    "rollout.retry",
    STEP,
    "freeze.create",
    "freeze.end",
    THAW,
    "reevaluation.start",
    "reevaluation.cancel",
];
/// What is done to a twin, and not to a policy.
const THAW: &str = "path.thaw";
/// What a rollout does by itself: nobody said so, so nobody is named.
const STEP: &str = "rollout.step";
const ITSELF: &str = "twinward";
/// How the name of a person begins.
const OPERATOR: &str = "operator:";
/// Longest name of an actor, as of a principal.
const ACTOR_BYTES_MAX: usize = OPERATOR.len() + 256;
/// Longest detail: a policy with room to spare.
const DETAIL_BYTES_MAX: usize = 64 * 1024;
/// Longest trace context; the standard's has 55 characters.
const TRACE_BYTES_MAX: usize = 128;

impl Api {
    pub(super) async fn record(
        &self,
        caller: &Caller,
        request: proto::RecordAuditEntryRequest,
    ) -> Result<proto::RecordAuditEntryResponse, Error> {
        let repeatable =
            Repeatable::read("RecordAuditEntry", caller, &request.request_id, &request)?;
        let Some(repeatable) = repeatable else {
            return Err(InvalidField::new("request_id", "is required: a UUID").into());
        };
        let event = event(request, self.clock.now())?;
        // Any partition's chain will do.
        self.decide_once(Some(repeatable), Vec::new(), move |overlay, _| {
            overlay.audit(event);
            Ok(proto::RecordAuditEntryResponse {})
        })
        .await
    }
}

/// Reads an entry.
fn event(request: proto::RecordAuditEntryRequest, now: Timestamp) -> Result<AuditEvent, Error> {
    let action = ACTIONS.into_iter().find(|known| *known == request.action);
    let action = action.ok_or_else(|| {
        let problem = format!(
            "is {:?}; allowed are {}",
            request.action,
            ACTIONS.join(", ")
        );
        InvalidField::new("action", problem)
    })?;
    if action.starts_with("configuration.") {
        parse_configuration("resource", &request.resource)?;
    } else if action.starts_with("freeze.") {
        parse_numbered("freezes/", &request.resource)?;
    } else if action.starts_with("reevaluation.") {
        parse_numbered("reevaluations/", &request.resource)?;
    } else if action == THAW {
        parse_identity("resource", &request.resource)?;
    } else {
        parse_policy("resource", &request.resource)?;
    }
    let actor = request.actor;
    let named = actor
        .strip_prefix(OPERATOR)
        .is_some_and(|name| !name.is_empty());
    let by_itself = action == STEP && actor == ITSELF;
    if !(named || by_itself) || actor.len() > ACTOR_BYTES_MAX {
        let problem = format!("must be `{OPERATOR}<name>` of at most {ACTOR_BYTES_MAX} bytes");
        return Err(InvalidField::new("actor", problem).into());
    }
    if request.detail_json.len() > DETAIL_BYTES_MAX {
        let problem = format!("has more than {DETAIL_BYTES_MAX} bytes, which is the most");
        return Err(InvalidField::new("detail_json", problem).into());
    }
    let Ok(Value::Object(mut detail)) = serde_json::from_str(&request.detail_json) else {
        return Err(InvalidField::new("detail_json", "must be a JSON object").into());
    };
    if request.trace_parent.len() > TRACE_BYTES_MAX {
        let problem = format!("has more than {TRACE_BYTES_MAX} bytes, which is the most");
        return Err(InvalidField::new("trace_parent", problem).into());
    }
    let changed = optional("change_time", request.change_time)?.unwrap_or(now);
    detail.insert("changeTime".to_owned(), changed.to_string().into());
    Ok(AuditEvent {
        device: None,
        actor,
        action,
        resource: request.resource,
        detail: Value::Object(detail),
        trace_parent: Some(request.trace_parent).filter(|trace| !trace.is_empty()),
    })
}

/// Freezes and re-evaluations have numbers.
fn parse_numbered(collection: &str, name: &str) -> Result<(), InvalidField> {
    let number = name.strip_prefix(collection);
    let number = number.and_then(|number| number.parse::<u64>().ok());
    number.map(|_| ()).ok_or_else(|| {
        let problem = format!("must be `{collection}` and a number");
        InvalidField::new("resource", problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;

    fn request() -> proto::RecordAuditEntryRequest {
        proto::RecordAuditEntryRequest {
            request_id: String::new(),
            actor: "operator:alice".to_owned(),
            action: "policy.create".to_owned(),
            resource: "policies/p".to_owned(),
            change_time: None,
            detail_json: "{}".to_owned(),
            trace_parent: String::new(),
        }
    }

    type Change = fn(&mut proto::RecordAuditEntryRequest);

    #[test]
    fn a_service_speaks_of_its_own_resources_alone() {
        let taken = event(request(), now()).expect("it is good");
        assert_eq!(
            (taken.action, &*taken.actor),
            ("policy.create", "operator:alice")
        );
        for (action, resource) in [
            ("freeze.create", "freezes/12"),
            ("freeze.end", "freezes/12"),
            ("path.thaw", "devices/d/modules/m"),
            ("reevaluation.start", "reevaluations/3"),
            ("configuration.delete", "configurations/c"),
        ] {
            let mut other = request();
            (other.action, other.resource) = (action.to_owned(), resource.to_owned());
            assert_eq!(event(other, now()).expect("it is good").action, action);
        }
        let changes: [(&str, Change); 11] = [
            ("resource", |it| it.action = "freeze.end".to_owned()),
            ("resource", |it| it.action = "path.thaw".to_owned()),
            ("action", |it| it.action = "device.delete".to_owned()),
            ("resource", |it| it.resource = "devices/d".to_owned()),
            ("actor", |it| it.actor = "twinward".to_owned()),
            ("actor", |it| it.actor = "operator:".to_owned()),
            ("actor", |it| it.actor.push_str(&"x".repeat(260))),
            ("detail_json", |it| it.detail_json = "[]".to_owned()),
            ("detail_json", |it| it.detail_json = "{".to_owned()),
            ("detail_json", |it| it.detail_json = " ".repeat(70_000)),
            ("trace_parent", |it| it.trace_parent = "0".repeat(200)),
        ];
        for (field, change) in changes {
            let mut wrong = request();
            change(&mut wrong);
            match event(wrong, now()) {
                Err(Error::Field(problem)) => assert_eq!(problem.field, field),
                other => panic!("{field} is not refused: {other:?}"),
            }
        }
    }
}
