//! Rollouts and their strategies on the wire.

use service_kit::units::Duration;
use wire::policy::v1 as proto;
use wire::policy::v1::rollout_strategy::{
    Answers as WireAnswers, Change, OnFailure as WireOnFailure, Wave, wave,
};
use wire::time::to_wire;

use crate::counts::Waves;
use crate::policy_doc::{Field, PolicyId, Problem};
use crate::rollout::{
    Answers, NumberSpec, OnFailure, Phase, PlannedWave, Rollout, StrategySpec, Tally, WaveSpec,
};
use crate::store::StoredRollout;

/// Prints the resource name of a rollout.
pub(crate) fn name(id: &PolicyId, revision: u64) -> String {
    format!("policies/{id}/rollouts/{revision}")
}

/// What changes with every change of a rollout but that of counts.
pub(crate) fn etag(stored: &StoredRollout) -> String {
    format!("v{}", stored.version)
}

/// Reads a strategy; what cannot be one is reported with its place.
pub(super) fn read(wire: &proto::RolloutStrategy) -> Result<StrategySpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut wrong = |place: String, message: String| {
        problems.push(Problem {
            position: Some(place),
            ..Problem::new(Field::Rollout, message)
        });
    };
    let mut waves = Vec::new();
    for (index, one) in wire.waves.iter().enumerate() {
        match &one.twins {
            Some(wave::Twins::Count(count)) => waves.push(WaveSpec::Count(*count)),
            Some(wave::Twins::Where(text)) => waves.push(WaveSpec::Where(text.clone())),
            // What does not fit is refused with all that is not allowed.
            Some(wave::Twins::Percent(share)) => {
                waves.push(WaveSpec::Percent(u8::try_from(*share).unwrap_or(u8::MAX)));
            }
            None => wrong(
                format!("waves[{index}]"),
                "says nothing; one of count, percent and where is needed".to_owned(),
            ),
        }
    }
    let mut change = Vec::new();
    for (index, one) in wire.change.iter().enumerate() {
        let mut number = |key: &str, value: Option<f64>| {
            let number = serde_json::Number::from_f64(value?);
            if number.is_none() {
                wrong(
                    format!("change[{index}].{key}"),
                    "is no finite number".to_owned(),
                );
            }
            number
        };
        change.push(NumberSpec {
            of: one.of.clone(),
            fall_at_most: number("fallAtMost", one.fall_at_most),
            rise_at_most: number("riseAtMost", one.rise_at_most),
        });
    }
    let default = StrategySpec::default();
    let mut time = |place: &str, wire: Option<prost_types::Duration>, default: Duration| {
        let Some(wire) = wire else { return default };
        let time = std::time::Duration::try_from(wire).ok();
        let millis = time.and_then(|time| u64::try_from(time.as_millis()).ok());
        millis.map_or_else(
            || {
                wrong(place.to_owned(), "is not a length of time".to_owned());
                default
            },
            Duration::millis,
        )
    };
    let within = time("within", wire.within, default.within);
    let soak = time("soak", wire.soak, default.soak);
    let on_failure = match WireOnFailure::try_from(wire.on_failure) {
        Ok(WireOnFailure::Unspecified | WireOnFailure::Rollback) => OnFailure::Rollback,
        Ok(WireOnFailure::Pause) => OnFailure::Pause,
        Err(_) => {
            let found = wire.on_failure;
            let allowed = "ON_FAILURE_ROLLBACK, ON_FAILURE_PAUSE";
            wrong(
                "onFailure".to_owned(),
                format!("is {found}; allowed are {allowed}"),
            );
            OnFailure::default()
        }
    };
    let answers = match WireAnswers::try_from(wire.answers) {
        Ok(WireAnswers::Unspecified | WireAnswers::Awaited) => Answers::Awaited,
        Ok(WireAnswers::None) => Answers::None,
        Err(_) => {
            let found = wire.answers;
            let allowed = "ANSWERS_AWAITED, ANSWERS_NONE";
            wrong(
                "answers".to_owned(),
                format!("is {found}; allowed are {allowed}"),
            );
            Answers::default()
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(StrategySpec {
        waves,
        within,
        soak,
        max_failed_percent: u8::try_from(wire.max_failed_percent).unwrap_or(u8::MAX),
        min_applied_percent: u8::try_from(wire.min_applied_percent).unwrap_or(u8::MAX),
        max_lost_percent: wire
            .max_lost_percent
            .map_or(default.max_lost_percent, |share| {
                u8::try_from(share).unwrap_or(u8::MAX)
            }),
        answers,
        fail_if: wire.fail_if.clone(),
        fail_if_at_most: wire.fail_if_at_most,
        change,
        on_failure,
        approval: wire.approval,
    })
}

/// Prints a strategy.
pub(super) fn print(spec: &StrategySpec) -> proto::RolloutStrategy {
    let wave = |wave: &WaveSpec| Wave {
        twins: Some(match wave {
            WaveSpec::Count(count) => wave::Twins::Count(*count),
            WaveSpec::Percent(share) => wave::Twins::Percent(u32::from(*share)),
            WaveSpec::Where(text) => wave::Twins::Where(text.clone()),
        }),
    };
    let time = |time: Duration| prost_types::Duration::try_from(time.get()).ok();
    let answers = match spec.answers {
        Answers::Awaited => WireAnswers::Awaited,
        Answers::None => WireAnswers::None,
    };
    let on_failure = match spec.on_failure {
        OnFailure::Rollback => WireOnFailure::Rollback,
        OnFailure::Pause => WireOnFailure::Pause,
    };
    proto::RolloutStrategy {
        waves: spec.waves.iter().map(wave).collect(),
        within: time(spec.within),
        soak: time(spec.soak),
        max_failed_percent: u32::from(spec.max_failed_percent),
        min_applied_percent: u32::from(spec.min_applied_percent),
        max_lost_percent: Some(u32::from(spec.max_lost_percent)),
        answers: answers.into(),
        fail_if: spec.fail_if.clone(),
        fail_if_at_most: spec.fail_if_at_most,
        change: spec.change.iter().map(print_change).collect(),
        on_failure: on_failure.into(),
        approval: spec.approval,
    }
}

fn print_change(spec: &NumberSpec) -> Change {
    let most = |most: &Option<serde_json::Number>| most.as_ref()?.as_f64();
    Change {
        of: spec.of.clone(),
        fall_at_most: most(&spec.fall_at_most),
        rise_at_most: most(&spec.rise_at_most),
    }
}

/// Prints a rollout with what is counted of its waves, if that is in step.
pub(crate) fn print_rollout(
    id: &PolicyId,
    stored: &StoredRollout,
    seen: Option<Waves>,
) -> proto::Rollout {
    let rollout = &stored.rollout;
    let in_force = rollout.in_force();
    let at_end = seen.is_none() && !rollout.last.is_empty();
    let in_step = seen.as_ref().map(|seen| seen.since);
    let tallies = seen.map_or_else(|| rollout.last.clone(), |seen| seen.tallies);
    let begun = in_force.max(rollout.released);
    let waves = rollout.waves.iter().enumerate().map(|(index, planned)| {
        let tally = tallies.get(index).copied().unwrap_or_default();
        proto::RolloutWave {
            twins_planned: planned.twins,
            released: index < in_force,
            twins_applied: tally.applied,
            twins_rejected: tally.rejected,
            twins_pending: tally.pending,
            twins_offline: tally.offline,
            twins_flagged: tally.flagged,
            twins_flagged_before: planned.flagged,
            twins_timed_out: tally.timed_out,
            twins_reverted: tally.reverted,
            twins_lost: tally.lost,
            twins_left: tally.left,
            twins_incomplete: tally.incomplete,
            numbers: numbers(rollout, planned, &tally),
            begun: index < begun,
        }
    });
    proto::Rollout {
        name: name(id, stored.revision),
        policy_id: id.to_string(),
        revision: stored.revision,
        from_revision: rollout.from.unwrap_or_default(),
        phase: phase(rollout.phase).into(),
        phase_time: Some(to_wire(rollout.since)),
        reason: rollout.reason.clone(),
        strategy: Some(print(&rollout.strategy)),
        create_time: Some(to_wire(rollout.began)),
        author: rollout.author.clone(),
        approver: rollout.approver.clone(),
        waves: waves.collect(),
        waves_released: u32::try_from(in_force).unwrap_or(u32::MAX),
        in_step_time: in_step.map(to_wire),
        etag: etag(stored),
        waits_for: String::new(),
        guard: rollout
            .guarded
            .as_ref()
            .map(|guarded| guarded.reason.clone())
            .unwrap_or_default(),
        counts_at_end: at_end,
    }
}

fn numbers(
    rollout: &Rollout,
    planned: &PlannedWave,
    tally: &Tally,
) -> Vec<proto::rollout_wave::Number> {
    let means = planned.numbers.iter().zip(&tally.numbers);
    let numbers = rollout.strategy.change.iter().zip(means);
    numbers
        .map(|(spec, (before, now))| proto::rollout_wave::Number {
            of: spec.of.clone(),
            before: before.value(),
            now: now.value(),
        })
        .collect()
}

fn phase(phase: Phase) -> proto::rollout::Phase {
    use proto::rollout::Phase as Wire;
    match phase {
        Phase::Planning => Wire::Planning,
        Phase::AwaitingApproval => Wire::AwaitingApproval,
        Phase::Rolling => Wire::Rolling,
        Phase::Soaking => Wire::Soaking,
        Phase::Paused => Wire::Paused,
        Phase::Completed => Wire::Completed,
        Phase::RolledBack => Wire::RolledBack,
        Phase::Superseded => Wire::Superseded,
    }
}
