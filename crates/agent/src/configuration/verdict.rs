//! What a desired section means for the agent, and what it reports of it. Pure.

use posture::AgentConfiguration;
use serde_json::{Map, Value};

use super::{Decision, Outcome};

/// What to do about a desired section that arrived.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Put it into force.
    Apply {
        configuration: Box<AgentConfiguration>,
        document: Map<String, Value>,
    },
    /// Keep what is in force and say why.
    Reject(Outcome),
    /// It was decided before; say so again.
    Repeat,
    /// It is older than what was decided; say so, and keep nothing of it.
    Stale(Outcome),
}

/// Says what a desired section means, given the last decision.
pub(crate) fn decide(last: Option<&Decision>, version: u64, document_json: &str) -> Verdict {
    match last {
        Some(last) if version == last.version => return Verdict::Repeat,
        Some(last) if version < last.version => {
            return Verdict::Stale(Outcome::Rejected {
                reason: format!(
                    "version {version} is older than {}, decided before",
                    last.version
                ),
                invalid_fields: Vec::new(),
            });
        }
        Some(_) | None => {}
    }
    let document: Map<String, Value> = match serde_json::from_str(document_json) {
        Ok(document) => document,
        Err(error) => {
            return Verdict::Reject(Outcome::Rejected {
                reason: format!("the desired section is no JSON object: {error}"),
                invalid_fields: Vec::new(),
            });
        }
    };
    match AgentConfiguration::parse(&document) {
        Ok(configuration) => Verdict::Apply {
            configuration: Box::new(configuration),
            document,
        },
        Err(invalid) => {
            let reasons: Vec<String> = invalid.iter().map(ToString::to_string).collect();
            Verdict::Reject(Outcome::Rejected {
                reason: reasons.join("; "),
                invalid_fields: invalid.into_iter().map(|field| field.name).collect(),
            })
        }
    }
}

/// The reported properties of a decision: the micro agent's own, and the agent's version.
pub(crate) fn reported(decision: &Decision, agent_version: &str) -> Value {
    let (state, invalid_fields) = match &decision.outcome {
        Outcome::Applied => ("success", Value::Null),
        Outcome::Rejected { invalid_fields, .. } => ("failed", invalid_fields.clone().into()),
        Outcome::Reverted { .. } => ("failed", Value::Null),
    };
    serde_json::json!({
        "latest_state": state,
        "latest_invalid_fields": invalid_fields,
        "agent_version": agent_version,
    })
}
