//! Schedules and freezes on the wire.

use jiff::Timestamp;
use wire::policy::v1 as proto;
use wire::time::to_wire;

use crate::policy_doc::{Field, Problem, Problems};
use crate::schedule::{Day, FreezeSpec, Gate, Schedule, ScheduleSpec, WindowSpec};
use crate::store::{Applied, StoredFreeze};

/// Reads a schedule; what cannot be one is reported with its place.
pub(super) fn read(wire: &proto::PolicySchedule) -> Result<ScheduleSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut windows = Vec::new();
    for (index, window) in wire.windows.iter().enumerate() {
        let mut days = Vec::new();
        for name in &window.days {
            match Day::ALL.iter().find(|(_, known)| known == name) {
                Some((day, _)) => days.push(*day),
                None => problems.push(Problem {
                    position: Some(format!("windows[{index}].days")),
                    ..Problem::new(
                        Field::Schedule,
                        format!("has {name:?}; allowed are mon, tue, wed, thu, fri, sat, sun"),
                    )
                }),
            }
        }
        windows.push(WindowSpec {
            days,
            from: window.from.clone(),
            to: window.to.clone(),
        });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let freezes = wire.freezes.iter().map(|freeze| FreezeSpec {
        from: freeze.from.clone(),
        to: freeze.to.clone(),
        reason: freeze.reason.clone(),
    });
    let default = ScheduleSpec::default();
    Ok(ScheduleSpec {
        time_zone: match wire.time_zone.as_str() {
            "" => default.time_zone,
            zone => zone.to_owned(),
        },
        windows,
        freezes: freezes.collect(),
        expires: wire.expires.clone(),
    })
}

/// Refuses an end that has passed and is new: nobody means to take a policy out of every twin by that, and a
/// slip of a year would. One that came while the policy had it is no news, so that applying the same again
/// stays harmless.
pub(crate) fn check_end(applied: &Applied, now: Timestamp) -> Result<(), Problems> {
    let expires = |spec: Option<&ScheduleSpec>| {
        spec.map(|spec| (spec.time_zone.clone(), spec.expires.clone()))
    };
    let policy = &applied.stored.policy;
    let end = policy.schedule().and_then(Schedule::expires);
    let Some(end) = end.filter(|end| *end <= now) else {
        return Ok(());
    };
    let before = applied.before.as_ref();
    let before = before.and_then(|spec| expires(spec.schedule.as_ref()));
    if before == expires(policy.spec().schedule.as_ref()) {
        return Ok(());
    }
    let message = format!(
        "was {end}, and it is {now}: that would take the policy out of every twin; to do that, delete it"
    );
    Err(Problems::new(vec![Problem {
        position: Some("expires".to_owned()),
        ..Problem::new(Field::Schedule, message)
    }]))
}

/// Prints a schedule.
pub(super) fn print(spec: &ScheduleSpec) -> proto::PolicySchedule {
    let day = |day: &Day| {
        let mut all = Day::ALL.iter();
        let found = all.find(|(known, _)| known == day);
        found.map_or_else(String::new, |(_, name)| (*name).to_owned())
    };
    let windows = spec.windows.iter().map(|window| proto::MaintenanceWindow {
        days: window.days.iter().map(day).collect(),
        from: window.from.clone(),
        to: window.to.clone(),
    });
    let freezes = spec.freezes.iter().map(|freeze| proto::FreezePeriod {
        from: freeze.from.clone(),
        to: freeze.to.clone(),
        reason: freeze.reason.clone(),
    });
    proto::PolicySchedule {
        time_zone: spec.time_zone.clone(),
        windows: windows.collect(),
        freezes: freezes.collect(),
        expires: spec.expires.clone(),
    }
}

/// Prints whether a policy may change twins; none: it always may.
pub(crate) fn print_state(gate: &Gate, next: Option<Timestamp>) -> Option<proto::ScheduleState> {
    use proto::schedule_state::State;
    let (state, reason) = match gate {
        Gate::Open if next.is_none() => return None,
        Gate::Open => (State::Open, String::new()),
        Gate::Closed(why) => (State::Closed, why.to_string()),
        Gate::Expired(since) => (State::Expired, format!("it ended {since}")),
    };
    Some(proto::ScheduleState {
        state: state.into(),
        reason,
        next_time: next.map(to_wire),
    })
}

/// Prints a freeze.
pub(crate) fn print_freeze(stored: &StoredFreeze, now: Timestamp) -> proto::Freeze {
    let policies = stored.policies.iter();
    proto::Freeze {
        name: format!("freezes/{}", stored.number),
        policies: policies.map(super::name).collect(),
        start_time: Some(to_wire(stored.from)),
        end_time: stored.to.map(to_wire),
        reason: stored.reason.clone(),
        author: stored.author.clone(),
        create_time: Some(to_wire(stored.created_at)),
        active: stored.holds(now),
    }
}
