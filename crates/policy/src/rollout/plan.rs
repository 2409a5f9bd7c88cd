//! Which twin comes in which wave. Pure.
//!
//! Every twin draws a number that depends on the policy, the revision and its own name alone: the
//! same one ever again, and another one for the next revision, so that it is not always the same
//! devices that go first. A plan says up to which number each wave goes. So no list of devices is
//! kept, and a device that joins later finds its wave like all others.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use twin::{Condition, IdentityKey};
use xxhash_rust::xxh3::xxh3_64;

use super::numbers::{Mean, Numbers};
use super::strategy::{StrategySpec, WaveSpec};
use crate::policy_doc::PolicyId;
use crate::twin_document::TwinDocument;

/// What a twin drew in the rollout of a revision.
pub(crate) fn draw(policy: &PolicyId, revision: u64, twin: &IdentityKey) -> u64 {
    let module = twin.module.as_ref().map_or("", twin::ModuleId::as_str);
    let lot = format!("{policy}\n{revision}\n{}\n{module}", twin.device.as_str());
    xxh3_64(lot.as_bytes())
}

/// Which twins a wave takes, of those that no wave before it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Border {
    /// Those that drew at most this.
    Draw(u64),
    /// Those for which this holds.
    Where(String),
    /// All.
    All,
}

/// What is known of a wave before it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlannedWave {
    /// Whom it takes.
    pub border: Border,
    /// How many that were when it was planned.
    pub twins: u64,
    /// How many of them came under `failIf` even then: they are not the rollout's fault.
    pub flagged: u64,
    /// The numbers that the strategy looks at, when the wave began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<Mean>,
}

/// A twin that the revision changes, or might, as a plan looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Whether the revision changes it now. If not, it is looked at for `flagged` alone.
    pub changed: bool,
    /// What it drew.
    pub draw: u64,
    /// The first of the waves with a condition that takes it.
    pub labelled: Option<usize>,
    /// Whether it comes under `failIf` now.
    pub flagged: bool,
    /// What it has of the numbers that the strategy looks at.
    pub numbers: Vec<Option<i64>>,
}

/// As [`plan_with`], whatever the share is.
#[cfg(test)]
pub(crate) fn plan(strategy: &StrategySpec, candidates: &[Candidate]) -> Vec<PlannedWave> {
    plan_with(strategy, candidates, 1)
}

/// Plans the waves for the twins that the revision changes now, with so many of them at least in a wave by percent,
/// as far as that is no more than a tenth. There is always a last wave for everybody.
pub(crate) fn plan_with(
    strategy: &StrategySpec,
    candidates: &[Candidate],
    least: usize,
) -> Vec<PlannedWave> {
    let changed = candidates.iter().filter(|candidate| candidate.changed);
    let all = changed.clone().count();
    let least = least.min(all / 10).max(1);
    // Of those that waves by condition have not taken before.
    let sorted = |waves_before: usize| -> Vec<u64> {
        let is_taken = |wave: Option<usize>| wave.is_some_and(|wave| wave < waves_before);
        let others = changed.clone().filter(|one| !is_taken(one.labelled));
        let mut draws: Vec<u64> = others.map(|candidate| candidate.draw).collect();
        draws.sort_unstable();
        draws
    };
    let mut draws = sorted(0);
    // A count includes whom waves by condition took before, who drew anything.
    let up_to = |count: usize, draws: &[u64]| match count.checked_sub(all - draws.len()) {
        _ if count >= all => Border::All,
        Some(0) | None => Border::Draw(0),
        Some(more) => draws
            .get(more - 1)
            .copied()
            .map_or(Border::All, Border::Draw),
    };
    let empty = |border| PlannedWave {
        border,
        twins: 0,
        flagged: 0,
        numbers: vec![Mean::default(); strategy.change.len()],
    };
    let mut waves: Vec<PlannedWave> = Vec::new();
    for (index, wave) in strategy.waves.iter().enumerate() {
        let border = match wave {
            WaveSpec::Count(count) => up_to(usize::try_from(*count).unwrap_or(usize::MAX), &draws),
            WaveSpec::Percent(share) => {
                let count = (all * usize::from(*share)).div_ceil(100);
                up_to(count.max(least), &draws)
            }
            WaveSpec::Where(text) => {
                draws = sorted(index + 1);
                Border::Where(text.clone())
            }
        };
        waves.push(empty(border));
    }
    waves.push(empty(Border::All));
    // Waves behind the first that takes everybody would be empty for ever.
    if let Some(end) = waves.iter().position(|wave| wave.border == Border::All) {
        waves.truncate(end + 1);
    }
    for candidate in candidates {
        let taken = waves
            .iter_mut()
            .enumerate()
            .find(|(index, wave)| match &wave.border {
                Border::Draw(draw) => candidate.draw <= *draw,
                Border::Where(_) => candidate.labelled == Some(*index),
                Border::All => true,
            });
        if let Some((_, wave)) = taken {
            wave.flagged += u64::from(candidate.flagged);
            if !candidate.changed {
                continue;
            }
            wave.twins += 1;
            for (mean, value) in wave.numbers.iter_mut().zip(&candidate.numbers) {
                *mean = mean.with(*value);
            }
        }
    }
    waves
}

/// How far a rollout is, as decisions ask for it: which twins have the new revision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Course {
    policy: PolicyId,
    revision: u64,
    waves: Vec<Gathering>,
    released: usize,
    fail_if: Option<Condition>,
    numbers: Numbers,
    /// When the rollout began.
    began: Timestamp,
    /// If it was taken back: what twins have instead, with which all newer revisions went.
    back_to: Option<u64>,
}

/// What no twin should come to; it was checked with the policy.
pub(crate) fn flag(fail_if: &str) -> Option<Condition> {
    let text = Some(fail_if).filter(|text| !text.trim().is_empty());
    text.and_then(|text| Condition::parse(text).ok())
}

/// The waves that take twins by a condition.
pub(crate) fn labels(strategy: &StrategySpec) -> Vec<(usize, Condition)> {
    let waves = strategy.waves.iter().enumerate();
    let label = waves.filter_map(|(index, wave)| match wave {
        WaveSpec::Where(text) => Some((index, Condition::parse(text).ok()?)),
        WaveSpec::Count(_) | WaveSpec::Percent(_) => None,
    });
    label.collect()
}

/// A wave whose condition is parsed.
#[derive(Debug, Clone, PartialEq)]
enum Gathering {
    Draw(u64),
    Where(Condition),
    All,
    /// A condition that this version cannot read any more takes nobody; the last wave does.
    Nobody,
}

impl Course {
    /// The first `released` of these waves have the new revision.
    pub(crate) fn new(
        policy: PolicyId,
        revision: u64,
        waves: &[PlannedWave],
        released: usize,
        strategy: &StrategySpec,
    ) -> Course {
        let gathering = |wave: &PlannedWave| match &wave.border {
            Border::Draw(draw) => Gathering::Draw(*draw),
            Border::Where(text) => {
                Condition::parse(text).map_or(Gathering::Nobody, Gathering::Where)
            }
            Border::All => Gathering::All,
        };
        Course {
            policy,
            revision,
            waves: waves.iter().map(gathering).collect(),
            released,
            fail_if: flag(&strategy.fail_if),
            numbers: Numbers::new(&strategy.change),
            began: Timestamp::UNIX_EPOCH,
            back_to: None,
        }
    }

    /// The course of a rollout that began then.
    #[must_use]
    pub(crate) fn begun(self, began: Timestamp) -> Course {
        Course { began, ..self }
    }

    /// The course of a rollout after which twins have this revision again (0: none).
    #[must_use]
    pub(crate) fn back_to(self, revision: u64) -> Course {
        Course {
            back_to: Some(revision),
            ..self
        }
    }

    /// When the rollout began.
    pub(crate) fn began(&self) -> Timestamp {
        self.began
    }

    /// Whether `failIf` is looked at on the twins of any wave.
    pub(crate) fn watches(&self) -> bool {
        self.released > 0 && self.fail_if.is_some()
    }

    /// What `failIf` looks at.
    pub(crate) fn fail_if(&self) -> Option<&Condition> {
        self.fail_if.as_ref()
    }

    /// Whether a revision that a twin may have was taken back: that of the rollout, as long as no wave has
    /// it, and once it is taken back those that it had superseded, which no good twin has.
    pub(crate) fn takes_back(&self, revision: u64) -> bool {
        let superseded = |from: u64| from < revision && revision < self.revision;
        self.released == 0 && (revision == self.revision || self.back_to.is_some_and(superseded))
    }

    /// Whether a twin comes under `failIf`.
    pub(crate) fn flags(&self, twin: &TwinDocument) -> bool {
        let condition = self.fail_if.as_ref();
        condition.is_some_and(|condition| condition.matches(&twin.view()))
    }

    /// The numbers that the strategy looks at.
    pub(crate) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// The new revision.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// How many waves have the new revision.
    pub(crate) fn released(&self) -> usize {
        self.released
    }

    /// How many waves there are.
    pub(crate) fn waves(&self) -> usize {
        self.waves.len()
    }

    /// The wave of a twin, from 0; none: nothing is planned yet.
    pub(crate) fn wave_of(&self, twin: &TwinDocument) -> Option<usize> {
        let mut drawn = None;
        self.waves.iter().position(|wave| match wave {
            Gathering::Draw(draw) => {
                let policy = &self.policy;
                *drawn.get_or_insert_with(|| self::draw(policy, self.revision, twin.key())) <= *draw
            }
            Gathering::Where(condition) => condition.matches(&twin.view()),
            Gathering::All => true,
            Gathering::Nobody => false,
        })
    }

    /// Whether a twin has the new revision.
    pub(crate) fn has_released(&self, twin: &TwinDocument) -> bool {
        self.released > 0 && self.wave_of(twin).is_some_and(|wave| wave < self.released)
    }

    /// The conditions of the waves.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.waves.iter().filter_map(|wave| match wave {
            Gathering::Where(condition) => Some(condition),
            Gathering::Draw(_) | Gathering::All | Gathering::Nobody => None,
        })
    }
}
