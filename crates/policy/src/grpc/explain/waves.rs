//! The waves that a draft would spread in, planned as they would be after an apply (`planning`).

use wire::policy::v1 as proto;

use crate::evaluate::{ActivePolicy, Side};
use crate::membership::{Membership, membership};
use crate::policies::Policies;
use crate::rollout::{
    CANARY_LEAST, Candidate, Finding, Guarded, Numbers, StrategySpec, WaveSpec, draw, labels,
    plan_with, waves,
};
use crate::store::{Applied, Outcome};
use crate::touch::Touch;
use crate::twin_document::TwinDocument;
use twin::Condition;

/// The twins of a rollout that does not exist, as they are counted.
pub(super) struct Waves {
    new: ActivePolicy,
    /// What twins would have until their wave begins.
    before: Option<ActivePolicy>,
    revision: u64,
    strategy: StrategySpec,
    labels: Vec<(usize, Condition)>,
    guarded: Option<Guarded>,
    candidates: Vec<Candidate>,
}

impl Waves {
    /// Of a draft that would spread in waves: it says so, or the guard does.
    pub(super) fn of(
        policies: &Policies,
        applied: &Applied,
        guarded: Option<Guarded>,
    ) -> Option<Waves> {
        let stored = &applied.stored;
        let is_news =
            applied.outcome() != Outcome::Unchanged && stored.effective_revision == stored.revision;
        let own = stored.policy.strategy();
        let own = own.map(|strategy| strategy.spec().clone());
        let strategy = own.or_else(|| guarded.is_some().then(waves));
        let strategy = strategy.filter(|_| is_news)?;
        let present = policies.get(stored.policy.id());
        let before = present.into_iter().flat_map(|present| present.in_force());
        let mut before = before.filter(|active| {
            let stage = active.stage.as_ref();
            stage.is_none_or(|stage| stage.side == Side::Before)
        });
        let everywhere = |active: ActivePolicy| ActivePolicy {
            stage: None,
            ..active
        };
        Some(Waves {
            new: stored.active(),
            before: before.next().map(everywhere),
            revision: stored.revision,
            labels: labels(&strategy),
            strategy,
            guarded,
            candidates: Vec::new(),
        })
    }

    /// Counts a twin.
    pub(super) fn count(&mut self, twin: &TwinDocument) {
        if self.new.policy.scope() != twin.scope() {
            return;
        }
        let member = membership(&self.new, self.before.as_ref(), twin);
        if !member.is_some_and(Membership::is_changed) {
            return;
        }
        let view = twin.view();
        let mut labels = self.labels.iter();
        let labelled = labels.find(|(_, condition)| condition.matches(&view));
        self.candidates.push(Candidate {
            changed: true,
            draw: draw(self.new.policy.id(), self.revision, twin.key()),
            labelled: labelled.map(|(wave, _)| *wave),
            flagged: false,
            numbers: Numbers::new(&self.strategy.change).of(twin),
        });
    }

    /// The waves, and what the guard has to say.
    pub(super) async fn plan(self, touch: &Touch) -> (Vec<proto::WavePreview>, String) {
        let touched = u64::try_from(self.candidates.len()).unwrap_or(u64::MAX);
        if let Some(guarded) = &self.guarded
            && !guarded.counted
            && touch.judge(touched, &self.new).await == Finding::Fine
        {
            // Nobody could count before; now it is known that they are few.
            return Default::default();
        }
        let least = if self.guarded.is_some() {
            CANARY_LEAST
        } else {
            1
        };
        let planned = plan_with(&self.strategy, &self.candidates, least);
        let planned = planned
            .iter()
            .enumerate()
            .map(|(index, wave)| proto::WavePreview {
                takes: takes(self.strategy.waves.get(index)),
                twins: wave.twins,
            });
        let guard = self.guarded.map(|guarded| guarded.reason);
        (planned.collect(), guard.unwrap_or_default())
    }
}

/// Whom a wave takes, for people.
fn takes(wave: Option<&WaveSpec>) -> String {
    match wave {
        Some(WaveSpec::Count(count)) => format!("up to {count} twins"),
        Some(WaveSpec::Percent(share)) => format!("up to {share} %"),
        Some(WaveSpec::Where(condition)) => format!("where {condition}"),
        None => "the rest".to_owned(),
    }
}
