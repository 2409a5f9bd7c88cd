//! When: a revision or a time, as a person writes it. Times without a zone are UTC, as all that we
//! print are.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, civil};
use wire::twin::v1 as api;

use crate::exit::Kind;
use crate::failure::Failure;

/// What a time may look like.
const TIMES: &str = "`2h ago`, `7d`, `2026-11-23`, `2026-11-23 05:30` (UTC) or \
                     `2026-11-23T05:30:00+01:00`";

/// A time, absolute or counted back from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// At this instant.
    At(Timestamp),
    /// So long ago.
    Ago(SignedDuration),
}

/// A moment in the life of a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// At a revision.
    Revision(u64),
    /// At a time.
    Time(Time),
}

impl Time {
    /// Reads a time; the error says what is allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "now" {
            return Ok(Self::Ago(SignedDuration::ZERO));
        }
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at));
        }
        if let Ok(at) = text.parse::<civil::DateTime>() {
            let zoned = at.to_zoned(TimeZone::UTC);
            return zoned
                .map(|zoned| Self::At(zoned.timestamp()))
                .map_err(|error| format!("is no time: {error}"));
        }
        let length = text.strip_suffix("ago").unwrap_or(text).trim();
        match length.parse::<Span>() {
            Ok(span) => ago(span),
            Err(_) => Err(format!("is no time; allowed are {TIMES}")),
        }
    }

    /// As [`Time::parse`], but who writes a date as an end means all of that day.
    pub(crate) fn parse_end(text: &str) -> Result<Self, String> {
        let is_date = text.trim().len() == "2026-11-23".len();
        let day = text.trim().parse::<civil::Date>().ok().filter(|_| is_date);
        match day.and_then(|day| day.tomorrow().ok()) {
            Some(next) => Self::parse(&next.to_string()),
            None => Self::parse(text),
        }
    }

    /// The instant that is meant.
    pub(crate) fn resolve(self, now: Timestamp) -> Result<Timestamp, Failure> {
        match self {
            Self::At(at) => Ok(at),
            Self::Ago(length) => now
                .checked_sub(length)
                .map_err(|error| Failure::new(Kind::Usage, "that is too long ago").because(error)),
        }
    }

    /// As a message has it.
    pub(crate) fn to_wire(self, now: Timestamp) -> Result<prost_types::Timestamp, Failure> {
        Ok(wire::time::to_wire(self.resolve(now)?))
    }
}

/// A day has 24 hours in UTC; months and years have no length that everybody agrees on.
fn ago(span: Span) -> Result<Time, String> {
    if span.is_negative() {
        return Err("lies in the future; give how long ago it was, for instance `2h`".to_owned());
    }
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err("years and months differ in length; count in days".to_owned());
    }
    span.to_duration(SpanRelativeTo::days_are_24_hours())
        .map(Time::Ago)
        .map_err(|error| format!("is no length of time: {error}"))
}

impl Moment {
    /// Reads a revision (digits) or a time; the error says what is allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text
                .parse()
                .map(Self::Revision)
                .map_err(|_| format!("is above the largest revision, {}", u64::MAX));
        }
        Time::parse(text).map(Self::Time).map_err(|_| {
            format!("is neither a revision (a number, see `twin history`) nor a time: {TIMES}")
        })
    }

    /// As a message has it.
    pub(crate) fn to_wire(self, now: Timestamp) -> Result<api::Moment, Failure> {
        let at = match self {
            Self::Revision(revision) => api::moment::At::Revision(revision),
            Self::Time(time) => api::moment::At::Time(time.to_wire(now)?),
        };
        Ok(api::Moment { at: Some(at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23T05:00:00Z
    const NOW: i64 = 1_795_410_000;

    fn at(text: &str) -> String {
        let now = Timestamp::from_second(NOW).unwrap();
        Time::parse(text).unwrap().resolve(now).unwrap().to_string()
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("now", "2026-11-23T05:00:00Z"),
            ("2h ago", "2026-11-23T03:00:00Z"),
            ("2h", "2026-11-23T03:00:00Z"),
            ("90 minutes ago", "2026-11-23T03:30:00Z"),
            ("1d 4h ago", "2026-11-22T01:00:00Z"),
            ("1w", "2026-11-16T05:00:00Z"),
            ("PT30M", "2026-11-23T04:30:00Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026-11-20 12:30", "2026-11-20T12:30:00Z"),
            ("2026-11-20T12:30:00.5", "2026-11-20T12:30:00.5Z"),
            ("2026-11-20T12:30:00Z", "2026-11-20T12:30:00Z"),
            ("2026-11-20T12:30:00+02:00", "2026-11-20T10:30:00Z"),
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
    }

    #[test]
    fn a_date_as_an_end_is_the_end_of_that_day() {
        let day = Time::parse("2027-01-04").unwrap();
        assert_eq!(Time::parse_end("2027-01-03"), Ok(day));
        for other in ["2027-01-03T18:00", "2027-01-03T18:00:00Z", "2h ago"] {
            assert_eq!(Time::parse_end(other), Time::parse(other));
        }
        assert_eq!(Time::parse_end("soon"), Time::parse("soon"));
    }

    #[test]
    fn what_is_no_time_says_what_is_one() {
        for (text, words) in [
            ("yesterday", "2h ago"),
            ("", "2h ago"),
            ("2026-13-01", "2026-11-23"),
            ("1mo ago", "count in days"),
            ("-2h", "future"),
        ] {
            let error = Time::parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_number_is_a_revision() {
        assert_eq!(Moment::parse("17"), Ok(Moment::Revision(17)));
        assert!(matches!(Moment::parse("2h ago"), Ok(Moment::Time(_))));
        assert!(Moment::parse("r17").unwrap_err().contains("revision"));
        assert!(
            Moment::parse("99999999999999999999")
                .unwrap_err()
                .contains("largest")
        );
    }
}
