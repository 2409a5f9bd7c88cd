//! Rollouts: a revision of a policy that spreads over its twins wave by wave, as long as its gates
//! hold, and is taken back from the devices that have it when one does not. Pure.
//!
//! A rollout changes nothing by itself. It says how many waves have the new revision (`Course`);
//! every decision on a twin asks that and takes the new revision or the one before
//! (`evaluate::ActivePolicy`). So rolling back is no special work: no wave has the new revision any
//! more, and each twin is made what it was by the rule that always holds, whatever happened to it in
//! between.
//!
//! `Rollout::step` decides by what is seen of the devices, `Rollout::order` by what people say.
//! Whoever calls them keeps the answer durably before anything follows from it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

mod guard;
mod numbers;
mod order;
mod plan;
mod step;
mod strategy;

pub(crate) use guard::{CANARY_LEAST, Finding, waves};
pub use guard::{Guard, OfConfigurations};
pub(crate) use numbers::{Mean, Numbers};
pub use numbers::{NUMBERS_MAX, NumberSpec};
pub(crate) use order::{Order, Refusal};
#[cfg(test)]
pub(crate) use plan::Border;
#[cfg(test)]
pub(crate) use plan::plan;
pub(crate) use plan::{Candidate, Course, PlannedWave, draw, flag, labels, plan_with};
pub(crate) use step::{Seen, Step, Tally};
pub use strategy::{Answers, OnFailure, Strategy, StrategySpec, WAVES_MAX, WaveSpec};

use crate::policy_doc::PolicyId;

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Phase {
    /// The devices that it changes are being counted; none has the new revision.
    Planning,
    /// Somebody else than the author must approve; no device has the new revision.
    AwaitingApproval,
    /// The devices of the last wave that was begun are to answer.
    Rolling,
    /// They have; they are watched for a while.
    Soaking,
    /// Nothing goes on until somebody decides.
    Paused,
    /// Every device has the new revision or gets it when it is there.
    Completed,
    /// No device has the new revision any more, or gets back what it had when it is there.
    RolledBack,
    /// A newer revision took its place, or the policy is gone.
    Superseded,
}

impl Phase {
    /// In their order.
    pub(crate) const ALL: [Phase; 8] = [
        Phase::Planning,
        Phase::AwaitingApproval,
        Phase::Rolling,
        Phase::Soaking,
        Phase::Paused,
        Phase::Completed,
        Phase::RolledBack,
        Phase::Superseded,
    ];

    /// Whether nothing will change any more by itself.
    pub(crate) fn has_ended(self) -> bool {
        match self {
            Phase::Completed | Phase::RolledBack | Phase::Superseded => true,
            Phase::Planning
            | Phase::AwaitingApproval
            | Phase::Rolling
            | Phase::Soaking
            | Phase::Paused => false,
        }
    }

    /// As logs and metrics spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Phase::Planning => "planning",
            Phase::AwaitingApproval => "awaiting-approval",
            Phase::Rolling => "rolling",
            Phase::Soaking => "soaking",
            Phase::Paused => "paused",
            Phase::Completed => "completed",
            Phase::RolledBack => "rolled-back",
            Phase::Superseded => "superseded",
        }
    }
}

/// One revision on its way to its twins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rollout {
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    #[serde(with = "instant")]
    pub since: Timestamp,
    /// Why it stands there, for people; empty: nothing special.
    pub reason: String,
    /// How it spreads, as it was said when it began.
    pub strategy: StrategySpec,
    /// The revision that twins have that do not have the new one; none: the policy is new.
    pub from: Option<u64>,
    /// The waves; empty until they are planned.
    pub waves: Vec<PlannedWave>,
    /// How many of them have the new revision, or had it when it ended.
    pub released: usize,
    /// When the last of these began.
    #[serde(with = "instant")]
    pub wave_began: Timestamp,
    /// When the rollout began.
    #[serde(with = "instant")]
    pub began: Timestamp,
    /// So many waves are not judged any more: somebody went on in spite of them.
    #[serde(default)]
    pub excused: usize,
    /// Who made the revision.
    pub author: String,
    /// Who approved; empty: nobody yet.
    pub approver: String,
    /// It was taken back and is begun anew: what twins still have of it is to go first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// Why it is there without a strategy of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarded: Option<Guarded>,
    /// What was seen of its waves when it ended; empty: it has not, or nobody counted then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last: Vec<Tally>,
}

/// What made the mass-change guard begin a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Guarded {
    /// For people.
    pub reason: String,
    /// Whether the twins were counted; if not, they are when the waves are planned.
    pub counted: bool,
}

impl Rollout {
    /// A rollout of a revision that was just made.
    pub(crate) fn begin(
        strategy: StrategySpec,
        from: Option<u64>,
        author: String,
        at: Timestamp,
    ) -> Rollout {
        Rollout {
            phase: Phase::Planning,
            since: at,
            reason: String::new(),
            strategy,
            from,
            waves: Vec::new(),
            released: 0,
            wave_began: at,
            began: at,
            excused: 0,
            author,
            approver: String::new(),
            again: false,
            guarded: None,
            last: Vec::new(),
        }
    }

    /// A rollout that the mass-change guard begins.
    pub(crate) fn begin_guarded(
        guarded: Guarded,
        from: Option<u64>,
        author: String,
        at: Timestamp,
    ) -> Rollout {
        Rollout {
            guarded: Some(guarded),
            ..Rollout::begin(waves(), from, author, at)
        }
    }

    /// How many waves have the new revision now.
    pub(crate) fn in_force(&self) -> usize {
        match self.phase {
            Phase::Planning | Phase::AwaitingApproval | Phase::RolledBack | Phase::Superseded => 0,
            Phase::Rolling | Phase::Soaking | Phase::Paused => self.released,
            Phase::Completed => self.waves.len(),
        }
    }

    /// Which twins have the new revision; none: all of them.
    pub(crate) fn course(&self, policy: &PolicyId, revision: u64) -> Option<Course> {
        let waves = &self.waves;
        (self.phase != Phase::Completed).then(|| {
            let course = Course::new(
                policy.clone(),
                revision,
                waves,
                self.in_force(),
                &self.strategy,
            );
            let course = course.begun(self.began);
            if self.phase == Phase::RolledBack {
                course.back_to(self.from.unwrap_or_default())
            } else {
                course
            }
        })
    }

    /// It goes from where it stands to another phase.
    #[must_use]
    fn to(&self, phase: Phase, reason: impl Into<String>, at: Timestamp) -> Rollout {
        Rollout {
            phase,
            since: at,
            reason: reason.into(),
            ..self.clone()
        }
    }

    /// The next wave begins; after the last, it is complete.
    #[must_use]
    fn next_wave(&self, reason: impl Into<String>, at: Timestamp) -> Rollout {
        if self.released >= self.waves.len() {
            return self.to(Phase::Completed, reason, at);
        }
        Rollout {
            released: self.released + 1,
            wave_began: at,
            ..self.to(Phase::Rolling, reason, at)
        }
    }

    /// As `next_wave`, with the numbers of that wave as they are now: from there they may move.
    #[must_use]
    fn next_wave_from(&self, seen: &Seen, at: Timestamp) -> Rollout {
        let mut next = self.next_wave("", at);
        let began = next.waves.get_mut(self.released);
        let now = seen.waves.get(self.released);
        if let (Some(began), Some(now)) = (began, now) {
            let numbers = began.numbers.iter_mut().zip(now.numbers);
            // If nothing can be seen, what was planned stays.
            for (before, now) in numbers.filter(|(_, now)| now.count > 0) {
                *before = now;
            }
        }
        next
    }

    /// Its end, because the policy has ended and so is on no twin any more. It may be begun anew if the
    /// policy is given a later end.
    #[must_use]
    pub(crate) fn expired(&self, since: Timestamp, at: Timestamp) -> Rollout {
        let reason = format!("the policy ended {since}, and was taken out of every device");
        self.to(Phase::RolledBack, reason, at)
    }

    /// Keeps what was seen of its waves if it has just ended: soon after there is nothing more to be seen.
    #[must_use]
    pub(crate) fn ending_with(self, before: &Rollout, waves: &[Tally]) -> Rollout {
        if before.phase.has_ended() || !self.phase.has_ended() {
            return self;
        }
        Rollout {
            last: waves.to_vec(),
            ..self
        }
    }

    /// Its end, because something newer is in force.
    #[must_use]
    pub(crate) fn superseded(&self, reason: impl Into<String>, at: Timestamp) -> Rollout {
        self.to(Phase::Superseded, reason, at)
    }
}

/// How long something lasts that was written in a strategy.
fn lasting(time: service_kit::units::Duration) -> SignedDuration {
    // A strategy is checked; what is longer would be waited for for ever anyway.
    SignedDuration::try_from(time.get()).unwrap_or(SignedDuration::MAX)
}

/// Times as they are kept: RFC 3339.
mod instant {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(at)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
