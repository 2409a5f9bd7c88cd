//! Policies on the wire: from a request to what it says, and back. The only place that knows both.

use serde_json::Value;
use twin::{Map, Rule, SectionKind};
use wire::policy::v1 as proto;
use wire::time::to_wire;

use crate::content_diff::{self, Difference};
use crate::policy_doc::{
    ActionsSpec, Field, Policy, PolicyId, PolicySpec, Problem, Problems, Scope, explain,
};
use crate::rollout::StrategySpec;
use crate::schedule::ScheduleSpec;
use crate::store::{Outcome, StoredPolicy, StoredRevision, etag};

pub(crate) mod actions;
pub(crate) mod rollout;
pub(crate) mod schedule;

/// Prints the resource name of a policy.
pub fn name(id: &PolicyId) -> String {
    format!("policies/{id}")
}

/// Reads and checks what a request says a policy shall be; every problem is reported.
pub fn check(wire: &proto::Policy) -> Result<Policy, Problems> {
    let mut problems = Vec::new();
    let id = match wire.policy_id.as_str() {
        // Either names the policy; both must not name two.
        "" => wire.name.strip_prefix("policies/").unwrap_or(&wire.name),
        id if wire.name.is_empty() || wire.name.strip_prefix("policies/") == Some(id) => id,
        id => {
            let message = format!("is {id:?}, but name is {:?}; leave one empty", wire.name);
            problems.push(Problem::new(Field::Id, message));
            id
        }
    };
    let scope = match proto::Scope::try_from(wire.scope) {
        Ok(proto::Scope::Devices) => Scope::Devices,
        Ok(proto::Scope::Modules | proto::Scope::Unspecified) => Scope::Modules,
        Err(_) => {
            let message = format!(
                "is {}; allowed are SCOPE_DEVICES, SCOPE_MODULES",
                wire.scope
            );
            problems.push(Problem::new(Field::Scope, message));
            Scope::default()
        }
    };
    let settings = match wire.settings_json.as_str() {
        "" if wire.actions.is_some() => Ok(Map::new()),
        text => read_settings(text),
    };
    let settings = settings.unwrap_or_else(|found| {
        problems.extend(found);
        Map::new()
    });
    let actions = wire.actions.as_ref().map(actions::read).transpose();
    let actions = actions.unwrap_or_else(|found| {
        problems.extend(found);
        None
    });
    let strategy = wire.rollout.as_ref().map(rollout::read).transpose();
    let strategy = strategy.unwrap_or_else(|found| {
        problems.extend(found);
        None
    });
    let schedule = wire.schedule.as_ref().map(schedule::read).transpose();
    let schedule = schedule.unwrap_or_else(|found| {
        problems.extend(found);
        None
    });
    let spec = PolicySpec {
        actions,
        schedule,
        rollout: strategy,
        id: id.to_owned(),
        description: wire.description.clone(),
        labels: wire.labels.clone().into_iter().collect(),
        scope,
        target: wire.target.clone(),
        when: wire.when.clone(),
        priority: wire.priority,
        settings,
    };
    Policy::check_after(spec, problems)
}

fn read_settings(text: &str) -> Result<Map, Vec<Problem>> {
    let violations = match twin::parse_document(text, SectionKind::Desired) {
        Ok(settings) => return Ok(settings),
        Err(violations) => violations,
    };
    let [only] = violations.list() else {
        return Err(explain(&violations));
    };
    let message = match only.rule {
        Rule::NotAnObject => {
            "is JSON, but not an object; needed is an object of what to set".to_owned()
        }
        Rule::Malformed => format!("is no JSON: {}", only.actual),
        _ => return Err(explain(&violations)),
    };
    Err(vec![Problem {
        rule: only.rule.code(),
        ..Problem::new(Field::Settings, message)
    }])
}

/// How a policy spreads, as its file has it; none: it cannot be read.
pub fn strategy(wire: &proto::RolloutStrategy) -> Option<StrategySpec> {
    rollout::read(wire).ok()
}

/// When a policy may change twins, as its file has it; none: it cannot be read.
pub fn schedule(wire: &proto::PolicySchedule) -> Option<ScheduleSpec> {
    schedule::read(wire).ok()
}

/// Which methods a policy calls, as its file has it; none: it cannot be read.
pub fn actions(wire: &proto::PolicyActions) -> Option<ActionsSpec> {
    actions::read(wire).ok()
}

/// What a file or another program wants, as a request carries it.
pub fn to_request(spec: &PolicySpec) -> proto::Policy {
    proto::Policy {
        policy_id: spec.id.clone(),
        description: spec.description.clone(),
        labels: spec.labels.clone().into_iter().collect(),
        scope: scope(spec.scope).into(),
        target: spec.target.clone(),
        when: spec.when.clone(),
        priority: spec.priority,
        settings_json: Value::Object(spec.settings.clone()).to_string(),
        rollout: spec.rollout.as_ref().map(rollout::print),
        schedule: spec.schedule.as_ref().map(schedule::print),
        actions: spec.actions.as_ref().map(actions::print),
        ..proto::Policy::default()
    }
}

/// A policy as callers see it.
pub fn to_wire_policy(stored: &StoredPolicy, evaluation: proto::Evaluation) -> proto::Policy {
    proto::Policy {
        name: name(stored.policy.id()),
        revision: stored.revision,
        etag: etag(stored.revision),
        create_time: Some(to_wire(stored.created_at)),
        update_time: Some(to_wire(stored.updated_at)),
        evaluation: Some(evaluation),
        ..to_request(stored.policy.spec())
    }
}

/// A revision as callers see it, with its content or without.
pub(crate) fn to_wire_revision(
    id: &PolicyId,
    stored: &StoredRevision,
    with_content: bool,
) -> proto::PolicyRevision {
    let before = stored.before.as_ref();
    let changed = before.map(|before| content_diff::changed_fields(before, &stored.spec));
    let policy = with_content.then(|| proto::Policy {
        name: name(id),
        revision: stored.revision,
        etag: etag(stored.revision),
        update_time: Some(to_wire(stored.created_at)),
        ..to_request(&stored.spec)
    });
    proto::PolicyRevision {
        name: name(id),
        revision: stored.revision,
        author: stored.author.clone(),
        note: stored.note.clone(),
        create_time: Some(to_wire(stored.created_at)),
        changed_fields: changed.into_iter().flatten().map(str::to_owned).collect(),
        policy,
    }
}

/// How two contents differ.
pub(crate) fn to_wire_changes(old: &PolicySpec, new: &PolicySpec) -> Vec<proto::ContentChange> {
    let text = |value: Option<Value>| value.map(|value| value.to_string()).unwrap_or_default();
    let change = |one: Difference| proto::ContentChange {
        path: one.path,
        old_json: text(one.old),
        new_json: text(one.new),
    };
    let all = content_diff::differences(old, new);
    all.into_iter().map(change).collect()
}

/// What applying did.
pub fn outcome(outcome: Outcome) -> proto::apply_policy_response::Outcome {
    match outcome {
        Outcome::Created => proto::apply_policy_response::Outcome::Created,
        Outcome::Updated => proto::apply_policy_response::Outcome::Updated,
        Outcome::Unchanged => proto::apply_policy_response::Outcome::Unchanged,
    }
}

fn scope(scope: Scope) -> proto::Scope {
    match scope {
        Scope::Devices => proto::Scope::Devices,
        Scope::Modules => proto::Scope::Modules,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_doc::ActionSpec;
    use crate::schedule::{Day, WindowSpec};

    #[test]
    fn every_problem_of_a_request_is_reported_with_its_field() {
        let request = proto::Policy {
            policy_id: "Bad Name".to_owned(),
            scope: 77,
            target: "tags.site = ".to_owned(),
            when: "posture.x >".to_owned(),
            settings_json: "[]".to_owned(),
            ..proto::Policy::default()
        };
        let problems = check(&request).unwrap_err();
        let fields: Vec<&str> = problems
            .list()
            .iter()
            .map(|problem| problem.field.wire_field())
            .collect();
        assert_eq!(
            fields,
            ["policy_id", "scope", "target", "when", "settings_json"]
        );
    }

    #[test]
    fn a_request_survives_the_way_to_the_wire() {
        let spec = PolicySpec {
            id: "p".to_owned(),
            scope: Scope::Devices,
            labels: [("team".to_owned(), "edge".to_owned())]
                .into_iter()
                .collect(),
            rollout: Some(StrategySpec::default()),
            schedule: Some(ScheduleSpec {
                windows: vec![WindowSpec {
                    days: vec![Day::Sat],
                    from: "22:00".to_owned(),
                    to: "04:00".to_owned(),
                }],
                expires: "2027-01-01".to_owned(),
                ..ScheduleSpec::default()
            }),
            actions: Some(ActionsSpec {
                in_flight: 3,
                calls: vec![
                    ActionSpec {
                        name: "a".to_owned(),
                        method: "m".to_owned(),
                        ..ActionSpec::default()
                    },
                    ActionSpec {
                        name: "b".to_owned(),
                        method: "m".to_owned(),
                        payload: serde_json::json!({"x": ["{{tags.a}}"]}),
                        every: Some(service_kit::units::Duration::secs(90)),
                        retry: true,
                        ..ActionSpec::default()
                    },
                ],
                ..ActionsSpec::default()
            }),
            target: "*".to_owned(),
            priority: -3,
            settings: serde_json::from_str(r#"{"a":1}"#).unwrap(),
            ..PolicySpec::default()
        };
        assert_eq!(check(&to_request(&spec)).unwrap().spec(), &spec);
    }

    #[test]
    fn two_names_for_one_policy_must_agree() {
        let mut request = to_request(&PolicySpec {
            id: "p".to_owned(),
            target: "*".to_owned(),
            settings: serde_json::from_str(r#"{"a":1}"#).unwrap(),
            ..PolicySpec::default()
        });
        request.name = "policies/p".to_owned();
        assert!(check(&request).is_ok());
        request.name = "policies/q".to_owned();
        assert!(
            check(&request)
                .unwrap_err()
                .to_string()
                .contains("leave one empty")
        );
        request.policy_id = String::new();
        assert_eq!(check(&request).unwrap().id().as_str(), "q");
    }
}
