//! Counts the twins that a new revision changes, and plans the waves of its rollout.
//!
//! It reads every twin that the revision or the one before applies to, which may take long, so that
//! `rollouts` has several under way and goes on with the others meanwhile. It keeps a number for each
//! twin, and writes nothing.

use prost_types::FieldMask;
use wire::twin::v1::ListTwinsRequest;

use crate::evaluate::{ActivePolicy, PolicySet, Side};
use crate::membership::membership;
use crate::rollout::{
    CANARY_LEAST, Candidate, Numbers, PlannedWave, draw, flag, labels, plan_with,
};
use crate::store::{StoredPolicy, StoredRollout};
use crate::sweep::TWIN_FIELDS;
use crate::twin_document::TwinDocument;
use crate::twin_store::{Failure, TwinStore};

/// Twins of one page; halved when a page of the largest twins does not fit a message.
const PAGE_TWINS: i32 = 1000;

/// What comes of counting the twins of a rollout.
#[derive(Debug)]
pub(crate) struct Planned {
    /// Its waves.
    pub(crate) waves: Vec<PlannedWave>,
    /// Whether any of the devices has ever answered for a configuration.
    pub(crate) answers: bool,
}

/// Plans the waves of a rollout; none once nobody waits for them any more. `counted` is told how many twins it
/// has looked at.
pub(crate) async fn waves(
    twins: &TwinStore,
    policy: &StoredPolicy,
    stored: &StoredRollout,
    is_wanted: impl Fn() -> bool,
    counted: impl Fn(u64),
) -> Result<Option<Planned>, Failure> {
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
    let both = PolicySet::new(before.iter().chain([&new]).cloned());
    let strategy = &stored.rollout.strategy;
    let fail_if = flag(&strategy.fail_if);
    let mut request = ListTwinsRequest {
        page_size: PAGE_TWINS,
        // Who comes under `failIf` and is in no `when` may come under it still, which is no fault of ours.
        filter: if fail_if.is_some() {
            both.takes()
        } else {
            both.targets()
        },
        read_mask: Some(FieldMask {
            paths: TWIN_FIELDS.map(str::to_owned).to_vec(),
        }),
        ..ListTwinsRequest::default()
    };
    let labels = labels(strategy);
    let numbers = Numbers::new(&strategy.change);
    let mut candidates = Vec::new();
    let (mut looked_at, mut answers) = (0_u64, false);
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
            looked_at += 1;
            let Some(member) = membership(&new, before.as_ref(), &twin) else {
                continue;
            };
            let changed = member.is_changed();
            let view = twin.view();
            let flagged = fail_if
                .as_ref()
                .is_some_and(|condition| condition.matches(&view));
            if !changed && !flagged {
                continue;
            }
            answers |= changed && twin.has_ever_answered();
            candidates.push(Candidate {
                changed,
                draw: draw(policy.policy.id(), stored.revision, twin.key()),
                labelled: labels
                    .iter()
                    .find(|(_, condition)| condition.matches(&view))
                    .map(|(wave, _)| *wave),
                flagged,
                numbers: numbers.of(&twin),
            });
        }
        counted(looked_at);
        if page.next_page_token.is_empty() {
            let is_guarded = stored.rollout.guarded.is_some();
            let least = if is_guarded { CANARY_LEAST } else { 1 };
            let waves = plan_with(strategy, &candidates, least);
            return Ok(Some(Planned { waves, answers }));
        }
        request.page_token = page.next_page_token;
    }
}
