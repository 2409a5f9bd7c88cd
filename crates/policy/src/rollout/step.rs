//! What a rollout does by itself: the gates.
//!
//! Devices that are not connected are not asked: they get the revision that is in force when they
//! come, and count in no share. But a wave in which not a single device answered has proved nothing,
//! and waits.

use jiff::Timestamp;

use super::numbers::{Mean, NUMBERS_MAX};
use super::plan::PlannedWave;
use super::strategy::{OnFailure, StrategySpec};
use super::{Phase, Rollout, lasting};

/// What is seen of the devices of one wave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    /// Twins that come under `failIf`.
    pub flagged: u64,
    /// The numbers that the strategy looks at, over all twins of the wave, begun or not.
    pub numbers: [Mean; NUMBERS_MAX],
}

impl Tally {
    /// Devices that have answered.
    fn answered(&self) -> u64 {
        self.applied + self.rejected + self.reverted
    }

    /// Devices that can answer or have.
    pub(crate) fn reached(&self) -> u64 {
        self.answered() + self.timed_out + self.pending
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
}

impl Rollout {
    /// What becomes of it once its devices are counted.
    pub(crate) fn planned(&self, waves: Vec<PlannedWave>, at: Timestamp) -> Rollout {
        let planned = Rollout {
            waves,
            ..self.clone()
        };
        if planned.waves.iter().all(|wave| wave.twins == 0) {
            return planned.to(Phase::Completed, "it changed no device", at);
        }
        if planned.strategy.approval && planned.approver.is_empty() {
            return planned.to(Phase::AwaitingApproval, "", at);
        }
        planned.next_wave("", at)
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
    /// force of the rollout: every twin looked at, no count from before.
    pub(crate) fn step(&self, seen: &Seen, now: Timestamp) -> Option<Rollout> {
        if !matches!(self.phase, Phase::Rolling | Phase::Soaking) {
            return None;
        }
        let current = self.released.checked_sub(1)?;
        let strategy = &self.strategy;
        let from = |began: Timestamp| seen.open_since.map_or(began, |open| open.max(began));
        let due = now.duration_since(from(self.wave_began)) >= lasting(strategy.within);
        let judged = self.waves.iter().enumerate().take(self.released);
        for (index, planned) in judged.skip(self.excused) {
            let tally = seen.waves.get(index).copied().unwrap_or_default();
            // Only the last wave has just been asked: of those before it, a device without an answer
            // is one that has just come, unless it timed out.
            let late = match (index == current, due) {
                (true, true) => tally.pending + tally.timed_out,
                // It may take as long as the strategy says, be that longer than twin-store waits.
                (true, false) => 0,
                (false, _) => tally.timed_out,
            };
            if let Some(problem) = failed(strategy, &tally, late, planned) {
                return Some(self.fail(index, &problem, now));
            }
        }
        let tally = seen.waves.get(current).copied().unwrap_or_default();
        if self.phase == Phase::Soaking {
            let soaked = now.duration_since(from(self.since)) >= lasting(strategy.soak);
            return if soaked {
                Some(self.next_wave_from(seen, now))
            } else {
                None
            };
        }
        let silent = tally.twins() > 0 && tally.answered() == 0;
        if silent || (tally.pending + tally.timed_out > 0 && !due) {
            return None;
        }
        let wanted = u64::from(strategy.min_applied_percent);
        if tally.applied * 100 < wanted * tally.reached() {
            let problem = format!(
                "{} of {} devices reached have applied it, and {wanted} % must",
                tally.applied,
                tally.reached()
            );
            return Some(self.fail(current, &problem, now));
        }
        if strategy.soak.is_zero() {
            return Some(self.next_wave_from(seen, now));
        }
        Some(self.to(Phase::Soaking, "", now))
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

/// Which gate a wave fails; `late` of its devices took too long.
fn failed(
    strategy: &StrategySpec,
    tally: &Tally,
    late: u64,
    planned: &PlannedWave,
) -> Option<String> {
    let (allowed, reached) = (strategy.max_failed_percent, tally.reached());
    let bad = tally.rejected + tally.reverted + late;
    if bad * 100 > u64::from(allowed) * reached {
        let within = strategy.within;
        let (rejected, reverted) = (tally.rejected, tally.reverted);
        return Some(format!(
            "of {reached} devices reached {rejected} rejected it, {late} did not answer in time \
             ({within}) and {reverted} went back from it, and at most {allowed} % may"
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
