//! What of the wanted settings a twin can take, if it cannot take all of them. Pure.
//!
//! Whoever comes first in the order of precedence is never kept out by one that comes later: what the later one wants
//! is left out, and it keeps what it has where that fits.

use std::collections::BTreeSet;

use jiff::Timestamp;
use twin::{PolicyWrite, Violations};

use super::{PolicySet, Wanted};
use crate::active::kept;
use crate::twin_document::TwinDocument;

/// What a limit of the twin has left out.
#[derive(Debug)]
pub(crate) struct TooMuch {
    /// Which limits all of it would break.
    pub violations: Violations,
    /// The policies that are left out, by their ids.
    pub left_out: BTreeSet<String>,
}

/// Takes out of what is wanted whatever does not fit beside that which comes before it.
pub(super) fn leave_out(
    policies: &PolicySet,
    wanted: &mut Wanted,
    violations: Violations,
    (twin, at): (&TwinDocument, Timestamp),
) -> TooMuch {
    let wants: BTreeSet<&str> = wanted
        .applicable
        .iter()
        .map(|active| active.policy.id().as_str())
        .collect();
    // What nobody may change now is there, and stays.
    let is_asked = |write: &PolicyWrite| wants.contains(write.policy.as_str());
    let asked = wanted.writes.iter().filter(|write| is_asked(write)).count();
    let mut taken: Vec<Vec<PolicyWrite>> = Vec::with_capacity(asked);
    let mut left_out = BTreeSet::new();
    let all = |taken: &[Vec<PolicyWrite>], next: Vec<PolicyWrite>| -> Vec<PolicyWrite> {
        let mut asked = taken.iter().cloned().chain([next]);
        let writes = wanted.writes.iter().flat_map(|write| {
            if is_asked(write) {
                asked.next().unwrap_or_default()
            } else {
                vec![write.clone()]
            }
        });
        writes.collect()
    };
    let fits =
        |writes: &[PolicyWrite]| twin::apply_policy_settings(twin.desired(), writes, at).is_ok();
    for write in wanted.writes.iter().filter(|write| is_asked(write)) {
        if fits(&all(&taken, vec![write.clone()])) {
            taken.push(vec![write.clone()]);
            continue;
        }
        left_out.insert(write.policy.clone());
        let active = wanted
            .applicable
            .iter()
            .find(|active| active.policy.id().as_str() == write.policy);
        let had = active.map_or_else(Vec::new, |active| kept(active.policy.id(), twin.desired()));
        let had = if fits(&all(&taken, had.clone())) {
            had
        } else {
            Vec::new()
        };
        taken.push(had);
    }
    let mut writes = all(&taken, Vec::new());
    policies.hold(twin, &wanted.held, &mut writes);
    wanted.writes = writes;
    TooMuch {
        violations,
        left_out,
    }
}
