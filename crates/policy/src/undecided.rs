//! Twins on which a policy could not be decided, because judging them by its conditions takes more
//! steps than a twin may take, or to which it does not apply because they lack what its templates
//! name. Here it is remembered, so that it is told. In memory alone: after a start the first look at a twin finds it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;
use twin::IdentityKey;
use twin::limits::QUERY_STEPS_MAX;
use wire::names::identity_name;

use crate::evaluate::{ActivePolicy, Part};
use crate::policy_doc::PolicyId;

/// Twins that are remembered for each policy. With more of them the number is no longer what matters.
const TWINS_MAX: usize = 1000;
/// Policies that are remembered: as many as there can be, and those that were deleted meanwhile.
const POLICIES_MAX: usize = 400;
/// Twins that are named in the status of a policy.
const NAMED_MAX: usize = 10;

/// The handle. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Undecided(Arc<Known>);

#[derive(Debug)]
struct Known {
    /// What the log says of the first of a revision.
    what: &'static str,
    /// Nearly always nothing ever was, and then nobody waits for the lock.
    any: AtomicBool,
    policies: Mutex<BTreeMap<PolicyId, OfPolicy>>,
}

/// Kept when no twin is left, so that the log does not say the same again.
#[derive(Debug, Default)]
struct OfPolicy {
    revision: u64,
    twins: BTreeSet<IdentityKey>,
}

/// What is told of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Twins, a thousand at most.
    pub count: u64,
    /// The first of them.
    pub names: Vec<String>,
}

impl Undecided {
    /// Remembers twins on which a policy is undecided.
    pub(crate) fn of_conditions() -> Undecided {
        Undecided::new("a policy is undecided on a twin; what it has set there stays")
    }

    /// Remembers twins that lack what a policy's templates name.
    pub(crate) fn of_templates() -> Undecided {
        Undecided::new("a twin lacks what a policy's settings name; it does not apply there")
    }

    fn new(what: &'static str) -> Undecided {
        Undecided(Arc::new(Known {
            what,
            any: AtomicBool::new(false),
            policies: Mutex::default(),
        }))
    }

    /// Notes the policies that are undecided on a twin now; of all others it is forgotten.
    pub(crate) fn note(&self, twin: &IdentityKey, policies: &[(Arc<ActivePolicy>, impl Display)]) {
        if policies.is_empty() && !self.0.any.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.known();
        for (id, one) in known.iter_mut() {
            if policies.iter().all(|(active, _)| active.policy.id() != id) {
                one.twins.remove(twin);
            }
        }
        for (active, why) in policies {
            note_one(&mut known, twin, active, (self.0.what, why));
        }
        self.0.any.store(!known.is_empty(), Ordering::Relaxed);
    }

    /// Whether there is anything to tell of a twin.
    pub(crate) fn knows(&self, twin: &IdentityKey) -> bool {
        let is_any = self.0.any.load(Ordering::Relaxed);
        is_any && self.known().values().any(|one| one.twins.contains(twin))
    }

    /// What there is to tell of a policy under this revision.
    pub(crate) fn of(&self, id: &PolicyId, revision: u64) -> Told {
        let known = self.known();
        let Some(one) = known.get(id).filter(|one| one.revision == revision) else {
            return Told::default();
        };
        Told {
            count: u64::try_from(one.twins.len()).unwrap_or(u64::MAX),
            names: one
                .twins
                .iter()
                .take(NAMED_MAX)
                .map(identity_name)
                .collect(),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<PolicyId, OfPolicy>> {
        let policies = &self.0.policies;
        policies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note_one(
    known: &mut BTreeMap<PolicyId, OfPolicy>,
    twin: &IdentityKey,
    active: &ActivePolicy,
    (what, why): (&'static str, &impl Display),
) {
    let id = active.policy.id();
    let is_new = known
        .get(id)
        .is_none_or(|one| one.revision != active.revision);
    if is_new {
        if known.len() >= POLICIES_MAX && !known.contains_key(id) {
            known.retain(|_, one| !one.twins.is_empty());
        }
        if known.len() >= POLICIES_MAX && !known.contains_key(id) {
            return;
        }
        // Once for each revision: its author has to know, and a fleet may be of many such twins.
        warn!(
            policy = %id,
            revision = active.revision,
            twin = %twin,
            reason = %why,
            "{what}"
        );
        let of_policy = OfPolicy {
            revision: active.revision,
            twins: BTreeSet::new(),
        };
        known.insert(id.clone(), of_policy);
    }
    if let Some(one) = known.get_mut(id).filter(|one| one.twins.len() < TWINS_MAX) {
        one.twins.insert(twin.clone());
    }
}

/// Why a policy is undecided.
impl Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "judging the twin by {} takes more than {QUERY_STEPS_MAX} steps; shorten the lists that \
             it goes through, or the condition",
            self.as_str()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_doc::{Policy, PolicySpec};

    fn active(id: &str, revision: u64) -> Arc<ActivePolicy> {
        let spec = PolicySpec {
            id: id.to_owned(),
            target: "*".to_owned(),
            settings: [("x".to_owned(), 1.into())].into_iter().collect(),
            ..PolicySpec::default()
        };
        Arc::new(ActivePolicy {
            stage: None,
            gate: crate::schedule::Gate::Open,
            policy: Policy::check(spec).unwrap(),
            revision,
            created_order: 1,
        })
    }

    #[test]
    fn a_twin_is_told_of_until_it_is_decided_or_the_policy_is_another() {
        let undecided = Undecided::of_conditions();
        let [a, b] = ["a", "b/m"].map(|key| IdentityKey::parse_path(key).unwrap());
        let (p, q) = (active("p", 3), active("q", 1));
        undecided.note(&a, &[] as &[(Arc<ActivePolicy>, Part)]);
        undecided.note(&a, &[(p.clone(), Part::When), (q.clone(), Part::Target)]);
        undecided.note(&b, &[(p.clone(), Part::When)]);
        undecided.note(&b, &[(p.clone(), Part::When)]);
        let told = undecided.of(p.policy.id(), 3);
        assert_eq!(told.count, 2);
        assert_eq!(told.names, ["devices/a", "devices/b/modules/m"]);
        assert_eq!(undecided.of(p.policy.id(), 4), Told::default());
        undecided.note(&a, &[(p.clone(), Part::When)]);
        assert_eq!(undecided.of(q.policy.id(), 1), Told::default());
        undecided.note(&b, &[(active("p", 4), Part::When)]);
        assert_eq!(
            undecided.of(p.policy.id(), 4).names,
            ["devices/b/modules/m"]
        );
        undecided.note(&b, &[] as &[(Arc<ActivePolicy>, Part)]);
        assert_eq!(undecided.of(p.policy.id(), 4), Told::default());
    }
}
