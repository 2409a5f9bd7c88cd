//! What a policy's conditions may not look at, because it is the policy's own or nobody's.

use twin::query::Root;
use twin::{Condition, Map};

use super::template::OF_A_MODULE;
use super::{Field, Problem, Scope};

/// A policy whose own settings decide whether it applies would set and remove them without end.
pub(crate) fn check_no_self_reference(
    field: Field,
    condition: &Condition,
    settings: &Map,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for path in condition.paths() {
        let own = match path.keys.first() {
            None => true,
            Some(root) => settings.contains_key(root),
        };
        if path.root == Root::Desired && own {
            problems.push(Problem::new(
                field,
                format!(
                    "looks at {path}, which the policy itself sets: it would switch itself on and \
                     off; allowed are tags, reported, posture, and desired settings of others"
                ),
            ));
        }
    }
    problems
}

/// On a device `device.tags` are undefined: whoever writes them there means its own.
pub(crate) fn check_device_tags(
    field: Field,
    condition: &Condition,
    scope: Scope,
) -> Option<Problem> {
    let mut paths = condition.paths().into_iter();
    let wrong = scope == Scope::Devices && paths.any(|path| path.root == Root::DeviceTags);
    wrong.then(|| Problem::new(field, OF_A_MODULE))
}
