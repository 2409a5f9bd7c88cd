//! A value while a query looks at it: borrowed where it can be, never a copy of a document.

use std::borrow::Cow;
use std::cmp::Ordering;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Number, Value};

use super::ast::Literal;
use crate::Map;

/// A value, or that there is none.
///
/// An instant behaves as the text of its date, except that it is compared as an instant, with
/// whatever text that shows a date.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum<'a> {
    /// There is no value, or an operation made no sense.
    Undefined,
    /// `null`
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number; finite.
    Number(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A point in time.
    Instant(Timestamp),
    /// An array.
    Array(Cow<'a, [Value]>),
    /// An object.
    Object(Cow<'a, Map>),
}

impl<'a> Datum<'a> {
    /// A text that is kept somewhere.
    pub fn text(text: &'a str) -> Datum<'a> {
        Datum::Text(Cow::Borrowed(text))
    }

    /// A text, or undefined.
    pub fn optional_text(text: Option<&'a str>) -> Datum<'a> {
        text.map_or(Datum::Undefined, Datum::text)
    }

    /// A count. Above 2^53 it is the nearest number that a 64-bit float holds.
    pub fn count(count: u64) -> Datum<'a> {
        let number = Number::from(count).as_f64();
        number.map_or(Datum::Undefined, Datum::Number)
    }

    /// An object that is kept somewhere.
    pub fn object(object: &'a Map) -> Datum<'a> {
        Datum::Object(Cow::Borrowed(object))
    }

    /// A JSON value that is kept somewhere.
    pub fn of(value: &'a Value) -> Datum<'a> {
        match value {
            Value::Null => Datum::Null,
            Value::Bool(truth) => Datum::Bool(*truth),
            Value::Number(number) => number.as_f64().map_or(Datum::Undefined, Datum::Number),
            Value::String(text) => Datum::text(text),
            Value::Array(elements) => Datum::Array(Cow::Borrowed(elements)),
            Value::Object(members) => Datum::object(members),
        }
    }

    /// A JSON value made for the occasion.
    pub fn owned(value: Value) -> Datum<'a> {
        match value {
            Value::Null => Datum::Null,
            Value::Bool(truth) => Datum::Bool(truth),
            Value::Number(number) => number.as_f64().map_or(Datum::Undefined, Datum::Number),
            Value::String(text) => Datum::Text(Cow::Owned(text)),
            Value::Array(elements) => Datum::Array(Cow::Owned(elements)),
            Value::Object(members) => Datum::Object(Cow::Owned(members)),
        }
    }

    /// As JSON; none if undefined. A whole number is written without a fraction.
    pub fn to_json(&self) -> Option<Value> {
        Some(match self {
            Datum::Undefined => return None,
            Datum::Null => Value::Null,
            Datum::Bool(truth) => Value::Bool(*truth),
            Datum::Number(number) => Value::Number(json_number(*number)?),
            Datum::Text(text) => Value::String(text.clone().into_owned()),
            Datum::Instant(at) => Value::String(instant_text(*at)),
            Datum::Array(elements) => Value::Array(elements.clone().into_owned()),
            Datum::Object(members) => Value::Object(members.clone().into_owned()),
        })
    }

    pub(super) fn literal(literal: &'a Literal) -> Datum<'a> {
        match literal {
            Literal::Undefined => Datum::Undefined,
            Literal::Null => Datum::Null,
            Literal::Bool(truth) => Datum::Bool(*truth),
            Literal::Number(number) => Datum::Number(*number),
            Literal::Text(text) => Datum::text(text),
        }
    }

    /// A number, unless it left what a number can be.
    pub(super) fn finite(number: f64) -> Datum<'a> {
        if number.is_finite() {
            Datum::Number(number)
        } else {
            Datum::Undefined
        }
    }

    pub(super) fn from_truth(truth: Option<bool>) -> Datum<'a> {
        truth.map_or(Datum::Undefined, Datum::Bool)
    }

    /// Only primitives can be compared (spec 8.3).
    pub(super) fn is_primitive(&self) -> bool {
        match self {
            Datum::Null
            | Datum::Bool(_)
            | Datum::Number(_)
            | Datum::Text(_)
            | Datum::Instant(_) => true,
            Datum::Undefined | Datum::Array(_) | Datum::Object(_) => false,
        }
    }

    /// The text that it is, or that shows its date.
    pub(super) fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Datum::Text(text) => Some(text),
            Datum::Instant(at) => Some(Cow::Owned(instant_text(at))),
            Datum::Undefined
            | Datum::Null
            | Datum::Bool(_)
            | Datum::Number(_)
            | Datum::Array(_)
            | Datum::Object(_) => None,
        }
    }

    /// The instant that it is, or that its text shows.
    pub(super) fn instant(&self) -> Option<Timestamp> {
        match self {
            Datum::Instant(at) => Some(*at),
            Datum::Text(text) => parse_instant(text),
            Datum::Undefined
            | Datum::Null
            | Datum::Bool(_)
            | Datum::Number(_)
            | Datum::Array(_)
            | Datum::Object(_) => None,
        }
    }

    /// Equality of two primitives of one type; undefined between any others.
    #[allow(clippy::float_cmp)] // Exact equality is what `=` means; there is no right margin.
    pub(super) fn equals(&self, other: &Datum<'_>) -> Option<bool> {
        match (self, other) {
            (Datum::Null, Datum::Null) => Some(true),
            (Datum::Bool(a), Datum::Bool(b)) => Some(a == b),
            (Datum::Number(a), Datum::Number(b)) => Some(a == b),
            (Datum::Text(a), Datum::Text(b)) => Some(a == b),
            (Datum::Instant(_), _) | (_, Datum::Instant(_)) => {
                Some(self.instant()? == other.instant()?)
            }
            _ => None,
        }
    }

    /// Whether it is equal to a stored value; not so if they cannot be compared.
    #[allow(clippy::float_cmp)] // As above.
    pub(super) fn is_stored(&self, value: &Value) -> bool {
        match (self, value) {
            (Datum::Number(a), Value::Number(b)) => b.as_f64() == Some(*a),
            (Datum::Text(a), Value::String(b)) => a.as_ref() == b.as_str(),
            (Datum::Null, Value::Null) => true,
            (Datum::Bool(a), Value::Bool(b)) => a == b,
            (Datum::Instant(a), Value::String(b)) => parse_instant(b) == Some(*a),
            _ => false,
        }
    }

    /// Order of two numbers, of two texts by their code points, or of an instant and a date;
    /// undefined between any others.
    pub(super) fn order(&self, other: &Datum<'_>) -> Option<Ordering> {
        match (self, other) {
            (Datum::Number(a), Datum::Number(b)) => a.partial_cmp(b),
            (Datum::Text(a), Datum::Text(b)) => Some(a.cmp(b)),
            (Datum::Instant(_), _) | (_, Datum::Instant(_)) => {
                Some(self.instant()?.cmp(&other.instant()?))
            }
            _ => None,
        }
    }
}

/// The time of what never was: `0001-01-01T00:00:00Z` (spec 1.1). Being before any other, it is found
/// by whoever looks for what is long ago.
pub const NEVER: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// The date of an instant as every answer writes it: UTC, seven digits, `Z` (spec 1.1).
pub fn instant_text(at: Timestamp) -> String {
    if at == NEVER {
        // This one date has no digits behind the point.
        return at.to_string();
    }
    format!("{at:.7}")
}

/// Reads an RFC 3339 date; without an offset it is UTC, without a time it is midnight.
pub fn parse_instant(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    let civil: DateTime = text.parse().ok()?;
    let zoned = civil.to_zoned(TimeZone::UTC).ok()?;
    Some(zoned.timestamp())
}

/// A finite number as JSON: whole numbers that a float holds exactly without a fraction.
pub(super) fn json_number(number: f64) -> Option<Number> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        let whole: i64 = format!("{number:.0}").parse().ok()?;
        return Some(Number::from(whole));
    }
    Number::from_f64(number)
}
