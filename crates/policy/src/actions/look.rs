//! What the policies in force make of a twin, as far as actions are concerned. Pure.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use twin::IdentityKey;

use super::book::{Book, Found};
use super::place::Terms;
use crate::evaluate::{ActivePolicy, PolicySet, Side, Verdict};
use crate::policy_doc::{Action, PolicyId};
use crate::twin_document::TwinDocument;

impl Terms {
    /// Of an action.
    pub(crate) fn of(action: &Action) -> Terms {
        let spec = action.spec();
        let signed = |time: service_kit::units::Duration| {
            SignedDuration::try_from(time.get()).unwrap_or(SignedDuration::MAX)
        };
        Terms {
            expires: signed(spec.expires),
            every: spec.every.map(signed),
            retry: spec.retry,
        }
    }
}

/// Whether a policy has actions, in any of its revisions that are in force.
pub(crate) fn acts(active: &ActivePolicy) -> bool {
    !active.policy.actions().is_empty()
}

/// What is found of each policy on a twin: of those that have actions, and of those that had.
pub(crate) fn found<'a>(
    set: &'a PolicySet,
    twin: &TwinDocument,
    book: &Book,
) -> BTreeMap<PolicyId, Found<'a>> {
    let mut found = BTreeMap::<PolicyId, Found<'a>>::new();
    for active in set.in_scope(twin.scope()) {
        let id = active.policy.id();
        let is_known = || book.policies_of(twin.key()).any(|other| other == id);
        // Either side of a rollout may have what the other has not.
        let any_acts = || {
            set.in_scope(twin.scope())
                .any(|one| one.policy.id() == id && acts(one))
        };
        if !acts(active) && !is_known() && !any_acts() {
            continue;
        }
        let here = match active.verdict(twin) {
            Verdict::Applies => Found::Holds {
                revision: active.revision,
                actions: active.policy.actions(),
            },
            Verdict::Undecided(_) | Verdict::Incomplete | Verdict::Closed | Verdict::HeldBack => {
                Found::Unsure
            }
            Verdict::OtherScope | Verdict::NotTargeted | Verdict::NotWhen | Verdict::Expired => {
                Found::HoldsNot
            }
        };
        let both = match (found.get(id), here) {
            (Some(Found::Holds { .. }), _) | (Some(Found::Unsure), Found::HoldsNot) => continue,
            (None | Some(Found::HoldsNot | Found::Unsure), here) => here,
        };
        found.insert(id.clone(), both);
    }
    found
}

/// The action as the newest revision has it.
pub(crate) fn newest<'a>(
    set: &'a PolicySet,
    policy: &PolicyId,
    action: &str,
) -> Option<&'a Action> {
    let mut newest = set.policies().filter(|active| {
        let stage = active.stage.as_ref();
        active.policy.id() == policy && stage.is_none_or(|stage| stage.side == Side::New)
    });
    newest.next()?.policy.actions().get(action)
}

/// Whether a draft of a policy would call this action of a twin to which it applies.
pub(crate) fn would_call(
    book: &Book,
    twin: &IdentityKey,
    (policy, revision): (&PolicyId, u64),
    action: &Action,
) -> bool {
    let mut known = book.of(twin).filter(|(id, _)| id.policy == *policy);
    let known = known.find(|(id, _)| id.action == action.spec().name);
    known.is_none_or(|(_, place)| {
        let is_other = place.fingerprint != action.fingerprint();
        !place.holds || (revision > place.revision && is_other)
    })
}
