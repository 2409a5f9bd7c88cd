//! The content of a revision as it is kept: JSON. Fields are only added, never renamed.

use serde::{Deserialize, Serialize};
use twin::Map;

use crate::policy_doc::{ActionsSpec, Labels, PolicySpec, Scope};
use crate::rollout::StrategySpec;
use crate::schedule::ScheduleSpec;
use crate::store::Error;

#[derive(Serialize, Deserialize)]
struct Content {
    description: String,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    scope: String,
    target: String,
    when: String,
    priority: i32,
    settings: Map,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rollout: Option<StrategySpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule: Option<ScheduleSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actions: Option<ActionsSpec>,
}

/// Prints everything but the id.
pub(super) fn print(spec: &PolicySpec) -> Result<String, Error> {
    let content = Content {
        description: spec.description.clone(),
        labels: spec.labels.clone(),
        scope: spec.scope.as_str().to_owned(),
        target: spec.target.clone(),
        when: spec.when.clone(),
        priority: spec.priority,
        settings: spec.settings.clone(),
        rollout: spec.rollout.clone(),
        schedule: spec.schedule.clone(),
        actions: spec.actions.clone(),
    };
    serde_json::to_string(&content).map_err(|error| damaged(&spec.id, &error.to_string()))
}

/// Reads what [`print`] wrote.
pub(super) fn read(id: &str, text: &str) -> Result<PolicySpec, Error> {
    let content: Content =
        serde_json::from_str(text).map_err(|error| damaged(id, &error.to_string()))?;
    let scope = Scope::parse(&content.scope)
        .ok_or_else(|| damaged(id, &format!("unknown scope {:?}", content.scope)))?;
    Ok(PolicySpec {
        id: id.to_owned(),
        description: content.description,
        labels: content.labels,
        scope,
        target: content.target,
        when: content.when,
        priority: content.priority,
        settings: content.settings,
        rollout: content.rollout,
        schedule: content.schedule,
        actions: content.actions,
    })
}

fn damaged(id: &str, problem: &str) -> Error {
    Error::Damaged {
        what: format!("the content of policy {id}: {problem}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_content_stays_readable() {
        let old = r#"{"description":"d","scope":"modules","target":"*","when":"","priority":3,
                      "settings":{"a":{"b":1.5}}}"#;
        let spec = read("p", old).unwrap();
        assert_eq!(
            (spec.id.as_str(), spec.scope, spec.priority),
            ("p", Scope::Modules, 3)
        );
        assert_eq!(read("p", &print(&spec).unwrap()).unwrap(), spec);
    }
}
