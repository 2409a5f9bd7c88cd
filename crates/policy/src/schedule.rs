//! When a policy may change twins: maintenance windows, freezes and an end. Pure.
//!
//! Outside of these times nothing of the policy is changed on any twin: what it has set stays, nothing
//! is added or taken out (`evaluate`, `Verdict::Closed`). After its end a policy applies to no twin,
//! as if it were deleted. Everything here is worked out anew from the time it is given, so restarts and
//! jumps of the clock change nothing; whoever asks also learns when the answer may be another one.

use std::sync::Arc;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

mod spec;

pub use spec::{Day, FreezeSpec, Schedule, ScheduleSpec, WindowSpec};

/// How far back the beginning of an open time is looked for: a rollout waits no longer for anything.
const DAYS_BACK: i64 = 32;

/// How far ahead the next window is looked for: each of them comes once a week at least.
const DAYS_AHEAD: i64 = 8;

/// Whether a policy may change twins now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It may.
    #[default]
    Open,
    /// It may not, for this reason.
    Closed(Arc<str>),
    /// It applies to no twin any more, since then.
    Expired(Timestamp),
}

impl Gate {
    /// Whether both let a policy do the same, for whatever reason.
    pub(crate) fn is_like(&self, other: &Gate) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Whether the policy may change twins.
    pub(crate) fn is_open(&self) -> bool {
        *self == Gate::Open
    }
}

/// A time in which nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Freeze {
    /// When it begins.
    pub from: Timestamp,
    /// When it ends; none: when somebody ends it.
    pub to: Option<Timestamp>,
    /// Who says so and why, for people.
    pub what: String,
}

impl Freeze {
    fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && self.to.is_none_or(|to| at < to)
    }
}

/// A time of day on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// From Monday.
    days: [bool; 7],
    from: Time,
    /// On the next day unless it is later than `from`.
    to: Time,
}

impl Window {
    /// When it is, if it begins on that day. A time that a clock change leaves out is as much later as
    /// the clock was put forward; of one that comes twice the first is meant. One that would lose all of
    /// its length by that keeps it: who has but that hour of the week would wait for a week.
    fn on(&self, day: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let index = usize::try_from(day.weekday().to_monday_zero_offset()).ok()?;
        if !self.days.get(index).copied().unwrap_or_default() {
            return None;
        }
        let end = if self.to > self.from {
            day
        } else {
            day.tomorrow().ok()?
        };
        let instant = |day: Date, time: Time| {
            let local = day.to_datetime(time);
            zone.to_ambiguous_timestamp(local).compatible().ok()
        };
        let (from, to) = (instant(day, self.from)?, instant(end, self.to)?);
        if to > from {
            return Some((from, to));
        }
        let length = end
            .to_datetime(self.to)
            .duration_since(day.to_datetime(self.from));
        Some((from, from.checked_add(length).ok()?))
    }
}

/// All that says when a policy may change twins: its own schedule, and freezes beside it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hours<'a> {
    /// Of the policy.
    pub schedule: Option<&'a Schedule>,
    /// That somebody ordered, for this policy or for all.
    pub freezes: &'a [Freeze],
}

impl Hours<'_> {
    /// Whether the policy may change twins at a time.
    pub(crate) fn gate(&self, at: Timestamp) -> Gate {
        let over = self.expires().filter(|end| *end <= at);
        if let Some(end) = over
            && !self.is_frozen_since(end, at)
        {
            return Gate::Expired(end);
        }
        let frozen = self.all_freezes().find(|freeze| freeze.holds(at));
        let what = match frozen {
            Some(freeze) => freeze.what.clone(),
            None if self.in_window(at) => return Gate::Open,
            None => "outside of its maintenance windows".to_owned(),
        };
        let until = match self.opens(at) {
            _ if over.is_some() => format!("{what}; the policy has ended, and goes with that"),
            Some(opens) => format!("{what}; it goes on {}", self.shown(opens)),
            None => format!("{what}; until somebody ends it"),
        };
        Gate::Closed(until.into())
    }

    /// When the gate may be another one than at this time; none: never by itself.
    pub(crate) fn next_edge(&self, at: Timestamp) -> Option<Timestamp> {
        let edges = self.edges(at, -2, DAYS_AHEAD).into_iter();
        edges.filter(|edge| *edge > at).min()
    }

    /// Since when it has been open without a break; none: it is closed, or has been open for longer than
    /// anything waits.
    pub(crate) fn open_since(&self, at: Timestamp) -> Option<Timestamp> {
        if !self.is_open(at) {
            return None;
        }
        let begins = |edge: &Timestamp| {
            let before = edge.checked_sub(Span::new().nanoseconds(1)).ok();
            *edge <= at && self.is_open(*edge) && before.is_some_and(|it| !self.is_open(it))
        };
        let edges = self.edges(at, -DAYS_BACK, 1).into_iter();
        edges.filter(begins).max()
    }

    /// When it opens again after a time at which it is closed; none: not before somebody does something.
    fn opens(&self, at: Timestamp) -> Option<Timestamp> {
        let mut edges = self.edges(at, -2, DAYS_AHEAD);
        // A freeze may end far behind the windows that are looked at from here.
        for end in self.all_freezes().filter_map(|freeze| freeze.to) {
            if end > at {
                edges.extend(self.edges(end, -2, DAYS_AHEAD));
            }
        }
        edges.sort_unstable();
        edges
            .into_iter()
            .find(|edge| *edge > at && self.is_open(*edge))
    }

    fn is_open(&self, at: Timestamp) -> bool {
        let ended = self.expires().is_some_and(|end| end <= at);
        !ended && !self.all_freezes().any(|freeze| freeze.holds(at)) && self.in_window(at)
    }

    /// Whether freezes, one into the other, have held from a time to another: nothing is changed in them, also not
    /// by an end.
    fn is_frozen_since(&self, since: Timestamp, at: Timestamp) -> bool {
        let mut held = since;
        loop {
            let goes_on = |freeze: &&Freeze| freeze.holds(held);
            let Some(freeze) = self.all_freezes().find(goes_on) else {
                return false;
            };
            match freeze.to {
                // Each ends later than the one before it.
                Some(to) if to <= at => held = to,
                Some(_) | None => return true,
            }
        }
    }

    fn in_window(&self, at: Timestamp) -> bool {
        let Some(schedule) = self
            .schedule
            .filter(|schedule| !schedule.windows.is_empty())
        else {
            return true;
        };
        // One that began yesterday may reach into today.
        let mut windows = schedule.around(at, -2, 1);
        windows.any(|(from, to)| from <= at && at < to)
    }

    /// Every time near this one at which something begins or ends.
    fn edges(&self, at: Timestamp, first: i64, last: i64) -> Vec<Timestamp> {
        let mut edges: Vec<Timestamp> = self.expires().into_iter().collect();
        for freeze in self.all_freezes() {
            edges.push(freeze.from);
            edges.extend(freeze.to);
        }
        if let Some(schedule) = self.schedule {
            for (from, to) in schedule.around(at, first, last) {
                edges.extend([from, to]);
            }
        }
        edges
    }

    fn all_freezes(&self) -> impl Iterator<Item = &Freeze> {
        let own = self.schedule.map_or(&[][..], |schedule| &schedule.freezes);
        self.freezes.iter().chain(own)
    }

    fn expires(&self) -> Option<Timestamp> {
        self.schedule?.expires
    }

    /// A time as the policy's people read it.
    fn shown(&self, at: Timestamp) -> String {
        let zone = self
            .schedule
            .map_or(TimeZone::UTC, |schedule| schedule.zone.clone());
        at.to_zoned(zone).to_string()
    }
}

impl Schedule {
    /// When the policy ends; none: never.
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// The windows that begin from so many days before or after a time to so many after it.
    fn around(
        &self,
        at: Timestamp,
        first: i64,
        last: i64,
    ) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = self.zone.to_datetime(at).date();
        let days =
            (first..=last).filter_map(move |days| today.checked_add(Span::new().days(days)).ok());
        days.flat_map(move |day| {
            self.windows
                .iter()
                .filter_map(move |it| it.on(day, &self.zone))
        })
    }
}

#[cfg(test)]
mod tests;
