//! Counts the twins that a new revision changes, and plans the waves of its rollout.
//!
//! It reads every twin that the revision or the one before applies to, which may take long, so that
//! `rollouts` has several under way and goes on with the others meanwhile. It keeps a number for each
//! twin, and writes nothing.

use prost_types::FieldMask;
use wire::twin::v1::ListTwinsRequest;

use crate::evaluate::{ActivePolicy, PolicySet, Side, Verdict};
use crate::rollout::{Candidate, Numbers, PlannedWave, draw, flag, labels, plan};
use crate::store::{StoredPolicy, StoredRollout};
use crate::sweep::TWIN_FIELDS;
use crate::twin_document::TwinDocument;
use crate::twin_store::{Failure, TwinStore};

/// Twins of one page; halved when a page of the largest twins does not fit a message.
const PAGE_TWINS: i32 = 1000;

/// Plans the waves of a rollout; none once nobody waits for them any more.
pub(crate) async fn waves(
    twins: &TwinStore,
    policy: &StoredPolicy,
    stored: &StoredRollout,
    is_wanted: impl Fn() -> bool,
) -> Result<Option<Vec<PlannedWave>>, Failure> {
    let everywhere = |active: ActivePolicy| ActivePolicy {
        stage: None,
        ..active
    };
    let new = policy.active();
    let before = policy.in_force().into_iter().filter(|active| {
        let stage = active.stage.as_ref();
        stage.is_some_and(|stage| stage.side == Side::Before)
    });
    let before: Option<ActivePolicy> = before.map(everywhere).next();
    let both = before.iter().chain([&new]).cloned();
    let mut request = ListTwinsRequest {
        page_size: PAGE_TWINS,
        filter: PolicySet::new(both).targets(),
        read_mask: Some(FieldMask {
            paths: TWIN_FIELDS.map(str::to_owned).to_vec(),
        }),
        ..ListTwinsRequest::default()
    };
    let strategy = &stored.rollout.strategy;
    let fail_if = flag(&strategy.fail_if);
    let labels = labels(strategy);
    let numbers = Numbers::new(&strategy.change);
    let mut candidates = Vec::new();
    loop {
        if !is_wanted() {
            return Ok(None);
        }
        let page = match twins.list(&request).await {
            Err(Failure::Refused(_)) if request.page_size > 1 => {
                request.page_size /= 2;
                continue;
            }
            other => other?,
        };
        let twins = page.twins.iter();
        // One that cannot be read is rejected by whoever decides on it.
        for twin in twins.filter_map(|twin| TwinDocument::from_wire(twin).ok()) {
            let applies = |active: &ActivePolicy| active.verdict(&twin) == Verdict::Applies;
            if !applies(&new) && !before.as_ref().is_some_and(applies) {
                continue;
            }
            let view = twin.view();
            candidates.push(Candidate {
                draw: draw(policy.policy.id(), stored.revision, twin.key()),
                labelled: labels
                    .iter()
                    .find(|(_, condition)| condition.matches(&view))
                    .map(|(wave, _)| *wave),
                flagged: fail_if
                    .as_ref()
                    .is_some_and(|condition| condition.matches(&view)),
                numbers: numbers.of(&twin),
            });
        }
        if page.next_page_token.is_empty() {
            return Ok(Some(plan(strategy, &candidates)));
        }
        request.page_token = page.next_page_token;
    }
}
