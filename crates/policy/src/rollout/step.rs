//! What a rollout does by itself: the gates.
//!
//! Devices that are not connected are not asked: they get the revision that is in force when they
//! come, and count in no share. But a wave in which not a single device answered has proved nothing,
//! and waits. So does one of whose planned twins none is left. A device that says that it applied the
//! settings and is gone then has not proved them either.
//!
//! What is judged by facts alone, that something failed, is judged at any time, also while the policy is closed;
//! what has to do with time, and whether the next wave begins, only once every twin was looked at.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::guard::{CANARY_LEAST, FAILED_FREE};
use super::numbers::{Mean, NUMBERS_MAX};
use super::plan::PlannedWave;
use super::strategy::{Answers, OnFailure, StrategySpec};
use super::{Phase, Rollout, lasting};

/// What is seen of the devices of one wave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Tally {
    /// The device runs with what the revision sets (or operators and other policies hold all of it).
    pub applied: u64,
    /// The device refused it, or it cannot be on the twin.
    pub rejected: u64,
    /// The device was there and did not answer within the time that twin-store gives.
    pub timed_out: u64,
    /// The device had applied it and went back to an older configuration by itself.
    pub reverted: u64,
    /// The device is connected and has not answered.
    pub pending: u64,
    /// The device is not connected.
    pub offline: u64,
    /// The device applied it and went away soon after: nobody knows whether it came through.
    pub lost: u64,
    /// The revision does not apply any more where the one before did, and the device runs without it.
    pub left: u64,
    /// As `left`, but because what it is to have cannot be worked out.
    pub incomplete: u64,
    /// Twins that come under `failIf`.
    pub flagged: u64,
    /// The numbers that the strategy looks at, over all twins of the wave, begun or not.
    pub numbers: [Mean; NUMBERS_MAX],
}

impl Tally {
    /// Devices that have answered, and of which it is known what came of it.
    fn answered(&self) -> u64 {
        self.applied + self.rejected + self.reverted + self.left
    }

    /// Devices that can answer or have.
    pub(crate) fn reached(&self) -> u64 {
        self.answered() + self.timed_out + self.pending + self.lost + self.incomplete
    }

    /// All of them.
    pub(crate) fn twins(&self) -> u64 {
        self.reached() + self.offline
    }
}

/// What is seen of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Of each wave, from the first.
    pub waves: Vec<Tally>,
    /// Since when the policy may change twins without a break; none: for long. Times run from there.
    pub open_since: Option<Timestamp>,
    /// Since when every twin has been looked at with what is in force. Nobody was asked before it for certain.
    pub looked_since: Option<Timestamp>,
    /// Not every twin was looked at with what is in force, or the policy is closed: only what has failed by
    /// now can be told.
    pub partly: bool,
}

/// What comes of what is seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// It goes on, or back.
    Goes(Box<Rollout>),
    /// It stands still, for this reason, and may do so for ever.
    Waits(String),
    /// It takes its time.
    Stays,
}

impl Rollout {
    /// What becomes of it once its devices are counted.
    pub(crate) fn planned(&self, waves: Vec<PlannedWave>, at: Timestamp) -> Rollout {
        let planned = Rollout {
            waves,
            again: false,
            ..self.clone()
        };
        let is_idle = planned.waves.iter().all(|wave| wave.twins == 0);
        // First of all: those that it changes may come later.
        if planned.strategy.approval && planned.approver.is_empty() {
            let reason = if is_idle {
                "it changes no device now"
            } else {
                ""
            };
            return planned.to(Phase::AwaitingApproval, reason, at);
        }
        if is_idle {
            return planned.to(Phase::Completed, "it changed no device", at);
        }
        planned.next_wave("", at)
    }

    /// The same rollout for a fleet that has never answered for anything: nobody waits for answers.
    #[must_use]
    pub(crate) fn unanswered(&self) -> Rollout {
        Rollout {
            strategy: StrategySpec {
                answers: Answers::None,
                ..self.strategy.clone()
            },
            ..self.clone()
        }
    }

    /// What becomes of one that the guard began because nobody could count: few enough were touched.
    pub(crate) fn small_after_all(&self, waves: Vec<PlannedWave>, at: Timestamp) -> Rollout {
        let planned = Rollout {
            waves,
            ..self.clone()
        };
        let few = "it changes few enough devices to be everywhere at once";
        planned.to(Phase::Completed, few, at)
    }

    /// What becomes of it by what was seen while it was `seen_as`. If somebody has directed it since, that
    /// says nothing of it as it is now: of a wave that began meanwhile nobody has been counted.
    pub(crate) fn step_as(&self, seen_as: &Rollout, seen: &Seen, now: Timestamp) -> Rollout {
        let same = self == seen_as;
        let next = same.then(|| self.step(seen, now)).flatten();
        next.unwrap_or_else(|| self.clone())
    }

    /// What becomes of it by what is seen; none: it stays as it is. It must be seen with what is now in
    /// force of the rollout: no count from before.
    pub(crate) fn step(&self, seen: &Seen, now: Timestamp) -> Option<Rollout> {
        match self.judge(seen, now) {
            Step::Goes(next) => Some(*next),
            Step::Waits(_) | Step::Stays => None,
        }
    }

    /// As [`Rollout::step`], and why it stands still if it does.
    pub(crate) fn judge(&self, seen: &Seen, now: Timestamp) -> Step {
        if !matches!(self.phase, Phase::Rolling | Phase::Soaking) {
            return Step::Stays;
        }
        let Some(current) = self.released.checked_sub(1) else {
            return Step::Stays;
        };
        let strategy = &self.strategy;
        let from = |began: Timestamp| seen.open_since.map_or(began, |open| open.max(began));
        // While nobody carried it out, nobody was late.
        let asked = seen.looked_since.max(Some(from(self.wave_began)));
        let passed = now.duration_since(asked.unwrap_or(now));
        let due = !seen.partly && passed >= lasting(strategy.within);
        let soaking = self.phase == Phase::Soaking;
        let soaked = now.duration_since(from(self.since)) >= lasting(strategy.soak);
        let judged = self.waves.iter().enumerate().take(self.released);
        for (index, planned) in judged.skip(self.excused) {
            let tally = seen.waves.get(index).copied().unwrap_or_default();
            let wave = match (index == current, soaking) {
                (false, _) => Turn::Over,
                (true, true) => Turn::Soaks(soaked),
                (true, false) => Turn::Rolls,
            };
            let late = late(strategy, &tally, wave, due);
            let free = self.failed_free(&tally);
            if let Some(problem) = failed(strategy, &tally, (late, free), planned) {
                return Step::Goes(Box::new(self.fail(index, &problem, now)));
            }
        }
        if seen.partly {
            return Step::Stays;
        }
        let tally = seen.waves.get(current).copied().unwrap_or_default();
        if let Some(why) = self.unproven(current, &tally, due) {
            return why;
        }
        if soaking {
            return if soaked {
                Step::Goes(Box::new(self.next_wave_from(seen, now)))
            } else {
                Step::Stays
            };
        }
        let awaited = strategy.answers == Answers::Awaited;
        if awaited && tally.pending + tally.timed_out > 0 && !due {
            return Step::Stays;
        }
        let wanted = u64::from(strategy.min_applied_percent);
        // Whoever is lost has applied it; how many may be is a gate of its own.
        let applied = tally.applied + tally.lost;
        if applied * 100 < wanted * tally.reached() {
            let mut problem = format!(
                "{applied} of {} devices reached have applied it, and {wanted} % must",
                tally.reached()
            );
            if tally.left > 0 {
                let left = tally.left;
                problem =
                    format!("{problem}; {left} lost what they had, the revision is not for them");
            }
            return Step::Goes(Box::new(self.fail(current, &problem, now)));
        }
        Step::Goes(Box::new(if strategy.soak.is_zero() {
            self.next_wave_from(seen, now)
        } else {
            self.to(Phase::Soaking, "", now)
        }))
    }

    /// Whether the last wave has proved too little for the next one to begin.
    fn unproven(&self, current: usize, tally: &Tally, due: bool) -> Option<Step> {
        let (strategy, wave) = (&self.strategy, current + 1);
        let planned = self.waves.get(current).map_or(0, |wave| wave.twins);
        if planned > 0 && tally.twins() == 0 {
            return Some(Step::Waits(format!(
                "none of the {planned} twins of wave {wave} that were planned is one of the policy's \
                 any more, so that nothing is proved; skip the wave, or abort"
            )));
        }
        if strategy.answers == Answers::None {
            return None;
        }
        if tally.twins() > 0 && tally.answered() + tally.incomplete == 0 {
            let away = tally.offline + tally.lost;
            // Those that are there have their time; then they are judged.
            return Some(if tally.pending + tally.timed_out > 0 && !due {
                Step::Stays
            } else {
                Step::Waits(format!(
                    "none of the {} devices of wave {wave} has proved it, {away} of them are not \
                     connected; if they never answer, say `answers: none`, or skip the wave",
                    tally.twins()
                ))
            });
        }
        // Once it is due this fails.
        (is_lost(strategy, tally) && !due).then(|| {
            Step::Waits(format!(
                "{} of {} devices of wave {wave} applied it and are gone since; they have {} to come back",
                tally.lost,
                tally.reached(),
                strategy.within
            ))
        })
    }

    /// How many devices of a wave may fail whatever share they are. Of a few that are there at all, none: the only
    /// witness may be the one that refuses.
    fn failed_free(&self, tally: &Tally) -> u64 {
        let is_enough = usize::try_from(tally.reached()).is_ok_and(|twins| twins >= CANARY_LEAST);
        if self.guarded.is_some() && is_enough {
            FAILED_FREE
        } else {
            0
        }
    }

    fn fail(&self, wave: usize, problem: &str, now: Timestamp) -> Rollout {
        let reason = format!("wave {}: {problem}", wave + 1);
        let phase = match self.strategy.on_failure {
            OnFailure::Rollback => Phase::RolledBack,
            OnFailure::Pause => Phase::Paused,
        };
        self.to(phase, reason, now)
    }
}

/// Where a wave that has begun stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The last one, whose devices have just been asked.
    Rolls,
    /// The last one, whose devices have answered; whether it has soaked.
    Soaks(bool),
    /// There is a later one.
    Over,
}

/// How many devices took too long.
fn late(strategy: &StrategySpec, tally: &Tally, wave: Turn, due: bool) -> Late {
    if strategy.answers == Answers::None {
        return Late::default();
    }
    // Only the last wave has just been asked: of those before it, and of one that soaks, a device without an
    // answer is one that has just come, unless it timed out.
    match (wave, due) {
        (Turn::Rolls, true) => Late {
            silent: tally.pending + tally.timed_out,
            lost: is_lost(strategy, tally),
        },
        // It may take as long as the strategy says, be that longer than twin-store waits.
        (Turn::Rolls, false) => Late::default(),
        (Turn::Soaks(soaked), _) => Late {
            silent: tally.timed_out,
            // It may come back until then.
            lost: soaked && due && is_lost(strategy, tally),
        },
        (Turn::Over, _) => Late {
            silent: tally.timed_out,
            // Who comes late and goes again is one that sleeps.
            lost: false,
        },
    }
}

/// What of a wave took too long.
#[derive(Debug, Clone, Copy, Default)]
struct Late {
    /// So many did not answer.
    silent: u64,
    /// Too many went away and did not come back.
    lost: bool,
}

/// Whether more devices than may be are gone since they applied it.
fn is_lost(strategy: &StrategySpec, tally: &Tally) -> bool {
    tally.lost * 100 > u64::from(strategy.max_lost_percent) * tally.reached()
}

/// Which gate a wave fails.
fn failed(
    strategy: &StrategySpec,
    tally: &Tally,
    (late, free): (Late, u64),
    planned: &PlannedWave,
) -> Option<String> {
    let (allowed, reached) = (strategy.max_failed_percent, tally.reached());
    let (within, silent) = (strategy.within, late.silent);
    let bad = tally.rejected + tally.reverted + tally.incomplete + silent;
    if bad > free && bad * 100 > u64::from(allowed) * reached {
        let (rejected, reverted) = (tally.rejected, tally.reverted);
        let incomplete = match tally.incomplete {
            0 => String::new(),
            twins => format!("; {twins} lack what its templates name and lose what they had"),
        };
        return Some(format!(
            "of {reached} devices reached {rejected} rejected it, {silent} did not answer in time \
             ({within}) and {reverted} went back from it, and at most {allowed} % may{incomplete}"
        ));
    }
    if late.lost {
        let (lost, allowed) = (tally.lost, strategy.max_lost_percent);
        return Some(format!(
            "of {reached} devices reached {lost} applied it, were gone soon after and did not come back \
             in time ({within}), and at most {allowed} % may"
        ));
    }
    let allowed = planned.flagged.saturating_add(strategy.fail_if_at_most);
    if !strategy.fail_if.trim().is_empty() && tally.flagged > allowed {
        return Some(format!(
            "of {} twins, `{}` holds on {}, and on {} before it began; {} more may",
            tally.twins(),
            strategy.fail_if,
            tally.flagged,
            planned.flagged,
            strategy.fail_if_at_most
        ));
    }
    let numbers = planned.numbers.iter().zip(&tally.numbers);
    let mut gates = strategy.change.iter().zip(numbers);
    gates.find_map(|(gate, (before, now))| gate.failed(*before, *now))
}
