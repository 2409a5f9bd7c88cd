//! Where configurations of IoT Hub are to stand on a twin. Pure.
//!
//! One is applied while something of what it wants is there, by itself or because somebody else set
//! the same; it is only targeted while others hold all of it, or while a limit of the twin keeps it out
//! (spec iot-hub-twins §9.6).

use twin::settings::PolicyOutcome;
use twin::{ConfigurationStates, ConfigurationStatus, Map, Section, Violations, Writer};

use crate::evaluate::{ActivePolicy, TooMuch, Wanted};
use crate::explain::leaves_of;
use crate::twin_document::TwinDocument;

/// Where they are to stand once `outcome` is there.
pub(crate) fn states(
    wanted: &Wanted,
    (outcome, too_much): (&Result<PolicyOutcome, Violations>, Option<&TooMuch>),
    twin: &TwinDocument,
) -> ConfigurationStates {
    let mut states = ConfigurationStates::new();
    for active in &wanted.applicable {
        let Some(id) = configuration(active) else {
            continue;
        };
        let name = active.policy.id().as_str();
        let is_left_out = too_much.is_some_and(|too_much| too_much.left_out.contains(name));
        let is_there = match outcome {
            Ok(outcome) if !is_left_out => {
                let lost = outcome.lost.iter();
                let lost = lost.filter(|lost| lost.writer.is_of(name) && !lost.same_value);
                lost.count() < leaf_count(active.policy.settings())
            }
            // Nothing is written; what it has set before stays.
            Ok(_) | Err(_) => has_set(name, twin.desired()),
        };
        states.insert(id.to_owned(), status(is_there));
    }
    for id in &wanted.held {
        let id = id.as_str().strip_prefix(Writer::CONFIGURATION);
        let state = id.and_then(|id| Some((id.to_owned(), *twin.configurations().get(id)?)));
        states.extend(state);
    }
    // What nobody knows of, and what may not change now, stays as it is.
    let undecided = wanted.undecided.iter().map(|(active, _)| active);
    for active in undecided.chain(&wanted.closed) {
        states.extend(known_state(active, twin).map(|(id, state)| (id.to_owned(), state)));
    }
    states
}

/// Where a twin says that a configuration stands, with its id.
pub(crate) fn known_state<'p>(
    active: &'p ActivePolicy,
    twin: &TwinDocument,
) -> Option<(&'p str, ConfigurationStatus)> {
    let id = configuration(active)?;
    Some((id, *twin.configurations().get(id)?))
}

/// Whether a twin says that a configuration is applied.
pub(crate) fn is_applied(active: &ActivePolicy, twin: &TwinDocument) -> bool {
    let state = known_state(active, twin);
    state.is_some_and(|(_, state)| state == ConfigurationStatus::Applied)
}

/// The id of a configuration among policies.
fn configuration(active: &ActivePolicy) -> Option<&str> {
    let id = active.policy.id().as_str();
    id.strip_prefix(Writer::CONFIGURATION)
}

fn status(is_there: bool) -> ConfigurationStatus {
    if is_there {
        ConfigurationStatus::Applied
    } else {
        ConfigurationStatus::Targeted
    }
}

fn has_set(name: &str, section: &Section) -> bool {
    leaves_of(section)
        .iter()
        .any(|leaf| leaf.writer.is_of(name))
}

/// Leaves as evaluation counts what is lost: arrays and empty objects are leaves.
fn leaf_count(settings: &Map) -> usize {
    let leaves = |value: &serde_json::Value| match value {
        serde_json::Value::Object(object) if !object.is_empty() => leaf_count(object),
        _ => 1,
    };
    settings.values().map(leaves).sum()
}

#[cfg(test)]
mod tests;
