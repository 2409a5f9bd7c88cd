//! Whether a policy applies to a twin, and why not, on the wire.

use wire::policy::v1 as proto;

use crate::evaluate::{Part, Verdict};
use crate::explain::{Fact, Judged};
use crate::schedule::Gate;
use crate::standing::Standing;

/// Prints what becomes of a policy on a twin.
pub(super) fn print_judged(judged: &Judged) -> proto::JudgedPolicy {
    use proto::judged_policy::{Standing as WireStanding, Verdict as WireVerdict};
    let policy = &judged.active.policy;
    let (verdict, condition) = match judged.verdict {
        Verdict::Applies => (WireVerdict::Applies, String::new()),
        Verdict::OtherScope => (WireVerdict::OtherScope, String::new()),
        Verdict::NotTargeted => (WireVerdict::NotTargeted, policy.spec().target.clone()),
        Verdict::NotWhen => (WireVerdict::NotWhen, policy.spec().when.clone()),
        Verdict::HeldBack => (WireVerdict::HeldBack, String::new()),
        Verdict::Incomplete => (WireVerdict::Incomplete, String::new()),
        Verdict::Closed => (WireVerdict::Closed, String::new()),
        Verdict::Expired => (WireVerdict::Expired, String::new()),
        Verdict::Undecided(Part::Target) => (WireVerdict::Undecided, policy.spec().target.clone()),
        Verdict::Undecided(Part::When) => (WireVerdict::Undecided, policy.spec().when.clone()),
    };
    let reason = match judged.verdict {
        Verdict::Undecided(part) => part.to_string(),
        Verdict::Incomplete => {
            let why = judged.incomplete.as_ref();
            why.map(ToString::to_string).unwrap_or_default()
        }
        Verdict::Closed | Verdict::Expired => match &judged.active.gate {
            Gate::Open => String::new(),
            Gate::Closed(why) => why.to_string(),
            Gate::Expired(since) => format!("it ended {since}"),
        },
        Verdict::HeldBack => judged.held_back.clone(),
        Verdict::Applies | Verdict::OtherScope | Verdict::NotTargeted | Verdict::NotWhen => {
            String::new()
        }
    };
    let standing = match judged.standing {
        None => WireStanding::Unspecified,
        Some(Standing::Pending) => WireStanding::Pending,
        Some(Standing::Applied) => WireStanding::Applied,
        Some(Standing::Rejected) => WireStanding::Rejected,
        Some(Standing::Overruled) => WireStanding::Overruled,
        Some(Standing::TimedOut) => WireStanding::TimedOut,
        Some(Standing::Reverted) => WireStanding::Reverted,
    };
    let fact = |fact: &Fact| proto::ConditionFact {
        path: fact.path.clone(),
        value_json: fact.value.clone().unwrap_or_default(),
    };
    proto::JudgedPolicy {
        policy_id: policy.id().to_string(),
        policy_revision: judged.active.revision,
        priority: policy.priority(),
        verdict: verdict.into(),
        standing: standing.into(),
        condition,
        reason,
        facts: judged.facts.iter().map(fact).collect(),
    }
}
