//! The functions of the language: names, number of arguments, and what these have to be.

use std::ops::RangeInclusive;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

use crate::limits::QUERY_ARGUMENTS_MAX;

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// `IS_DEFINED(path)`
    IsDefined,
    /// `IS_NULL(value)`
    IsNull,
    /// `IS_STRING(value)`
    IsString,
    /// `IS_NUMBER(value)`
    IsNumber,
    /// `IS_BOOL(value)`
    IsBool,
    /// `IS_ARRAY(value)`
    IsArray,
    /// `IS_OBJECT(value)`
    IsObject,
    /// `IS_PRIMITIVE(value)`: a text, number, boolean or null.
    IsPrimitive,
    /// `STARTSWITH(text, text)`
    StartsWith,
    /// `ENDSWITH(text, text)`
    EndsWith,
    /// `CONTAINS(text, text)`
    Contains,
    /// `INDEX_OF(text, text)`: characters before the first occurrence, or −1.
    IndexOf,
    /// `LENGTH(text)`, in characters.
    Length,
    /// `LOWER(text)`
    Lower,
    /// `UPPER(text)`
    Upper,
    /// `CONCAT(text, text, …)`
    Concat,
    /// `SUBSTRING(text, start [, length])`, in characters, the first being 0.
    Substring,
    /// `AS_NUMBER(value)`: a number, or the number that a text shows.
    AsNumber,
    /// `ABS(number)`
    Abs,
    /// `EXP(number)`: e to that power.
    Exp,
    /// `POWER(number, exponent)`
    Power,
    /// `SQUARE(number)`
    Square,
    /// `CEILING(number)`
    Ceiling,
    /// `FLOOR(number)`
    Floor,
    /// `SIGN(number)`: −1, 0 or 1.
    Sign,
    /// `SQRT(number)`
    Sqrt,
    /// `ARRAY_CONTAINS(path, value)`
    ArrayContains,
    /// `ARRAY_LENGTH(path)`
    ArrayLength,
    /// `NOW()`: the instant that the caller evaluates at.
    Now,
    /// `AS_DATE(text)`: the instant that a text shows.
    AsDate,
    /// `DATE_ADD(unit, number, date)`
    DateAdd,
    /// `DATE_DIFF(unit, from, to)`: how many units lie between; negative if `to` is earlier.
    DateDiff,
}

impl Function {
    /// All functions with their canonical names. Other spellings differ in underscores only.
    pub(in crate::query) const NAMES: [(&'static str, Function); 32] = [
        ("IS_DEFINED", Function::IsDefined),
        ("IS_NULL", Function::IsNull),
        ("IS_STRING", Function::IsString),
        ("IS_NUMBER", Function::IsNumber),
        ("IS_BOOL", Function::IsBool),
        ("IS_ARRAY", Function::IsArray),
        ("IS_OBJECT", Function::IsObject),
        ("IS_PRIMITIVE", Function::IsPrimitive),
        ("STARTSWITH", Function::StartsWith),
        ("ENDSWITH", Function::EndsWith),
        ("CONTAINS", Function::Contains),
        ("INDEX_OF", Function::IndexOf),
        ("LENGTH", Function::Length),
        ("LOWER", Function::Lower),
        ("UPPER", Function::Upper),
        ("CONCAT", Function::Concat),
        ("SUBSTRING", Function::Substring),
        ("AS_NUMBER", Function::AsNumber),
        ("ABS", Function::Abs),
        ("EXP", Function::Exp),
        ("POWER", Function::Power),
        ("SQUARE", Function::Square),
        ("CEILING", Function::Ceiling),
        ("FLOOR", Function::Floor),
        ("SIGN", Function::Sign),
        ("SQRT", Function::Sqrt),
        ("ARRAY_CONTAINS", Function::ArrayContains),
        ("ARRAY_LENGTH", Function::ArrayLength),
        ("NOW", Function::Now),
        ("AS_DATE", Function::AsDate),
        ("DATE_ADD", Function::DateAdd),
        ("DATE_DIFF", Function::DateDiff),
    ];

    /// The function of that name, in any case, with or without underscores: users meet
    /// `STARTSWITH` in queries and `STARTS_WITH` in routes, and cannot remember which is where.
    pub fn by_name(name: &str) -> Option<Function> {
        let letters = |name: &str| -> String {
            let letters = name.chars().filter(|c| *c != '_');
            letters.map(|c| c.to_ascii_uppercase()).collect()
        };
        let wanted = letters(name);
        let found = Function::NAMES
            .iter()
            .find(|(known, _)| letters(known) == wanted);
        found.map(|(_, function)| *function)
    }

    /// Its canonical name.
    pub fn name(self) -> &'static str {
        let found = Function::NAMES
            .iter()
            .find(|(_, function)| *function == self);
        found
            .expect("every function is in the table, as a test checks")
            .0
    }

    /// How many arguments it takes.
    pub fn arity(self) -> RangeInclusive<usize> {
        match self {
            Function::Now => 0..=0,
            Function::IsDefined
            | Function::IsNull
            | Function::IsString
            | Function::IsNumber
            | Function::IsBool
            | Function::IsArray
            | Function::IsObject
            | Function::IsPrimitive
            | Function::Length
            | Function::Lower
            | Function::Upper
            | Function::AsNumber
            | Function::Abs
            | Function::Exp
            | Function::Square
            | Function::Ceiling
            | Function::Floor
            | Function::Sign
            | Function::Sqrt
            | Function::ArrayLength
            | Function::AsDate => 1..=1,
            Function::StartsWith
            | Function::EndsWith
            | Function::Contains
            | Function::IndexOf
            | Function::Power
            | Function::ArrayContains => 2..=2,
            Function::Substring => 2..=3,
            Function::DateAdd | Function::DateDiff => 3..=3,
            Function::Concat => 2..=QUERY_ARGUMENTS_MAX,
        }
    }

    /// Whether its first argument has to be a path: only a path can be undefined or an array.
    pub fn takes_path(self) -> bool {
        matches!(
            self,
            Function::IsDefined | Function::ArrayContains | Function::ArrayLength
        )
    }

    /// Whether its first argument has to be a unit of time, written as a text.
    pub fn takes_unit(self) -> bool {
        matches!(self, Function::DateAdd | Function::DateDiff)
    }
}

/// A unit of time, as `DATE_ADD` takes it. `DATE_DIFF` takes those of fixed length: how many months
/// lie between two dates depends on which one is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// `'second'`
    Second,
    /// `'minute'`
    Minute,
    /// `'hour'`
    Hour,
    /// `'day'`: 24 hours.
    Day,
    /// `'week'`: seven days.
    Week,
    /// `'month'` of the calendar in UTC; where a month has no such day, its last one.
    Month,
    /// `'year'`: twelve months.
    Year,
}

impl TimeUnit {
    /// All units with their names.
    pub(in crate::query) const NAMES: [(&'static str, TimeUnit); 7] = [
        ("second", TimeUnit::Second),
        ("minute", TimeUnit::Minute),
        ("hour", TimeUnit::Hour),
        ("day", TimeUnit::Day),
        ("week", TimeUnit::Week),
        ("month", TimeUnit::Month),
        ("year", TimeUnit::Year),
    ];

    /// The unit of that name, in any case.
    pub fn by_name(name: &str) -> Option<TimeUnit> {
        let mut names = TimeUnit::NAMES.iter();
        let found = names.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, unit)| *unit)
    }

    /// Its length in seconds; none if it has different ones.
    pub fn seconds(self) -> Option<u32> {
        match self {
            TimeUnit::Second => Some(1),
            TimeUnit::Minute => Some(60),
            TimeUnit::Hour => Some(3_600),
            TimeUnit::Day => Some(86_400),
            TimeUnit::Week => Some(604_800),
            TimeUnit::Month | TimeUnit::Year => None,
        }
    }

    /// The instant that many units later. Months and years are added whole, or not at all; none as
    /// well if there is no such instant.
    pub fn add(self, number: f64, at: Timestamp) -> Option<Timestamp> {
        if let Some(seconds) = self.seconds() {
            let span = SignedDuration::try_from_secs_f64(number * f64::from(seconds)).ok()?;
            return at.checked_add(span).ok();
        }
        if number.fract() != 0.0 {
            return None;
        }
        let count: i64 = format!("{number:.0}").parse().ok()?;
        let span = match self {
            TimeUnit::Year => Span::new().try_years(count),
            _ => Span::new().try_months(count),
        };
        let later = at.to_zoned(TimeZone::UTC).checked_add(span.ok()?).ok()?;
        Some(later.timestamp())
    }
}
