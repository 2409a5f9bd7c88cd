//! Functions. An argument of a type that a function does not take makes it undefined, as does a
//! result that is no finite number or a text of more than 32 KiB; nothing here can fail.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Number;

use super::steps::weight;
use super::{Facts, contains, value};
use crate::limits::QUERY_TEXT_BYTES_MAX;
use crate::query::ast::{Expr, Function, TimeUnit};
use crate::query::datum::Datum;

/// What a function makes of its arguments.
pub(super) fn call<'e>(function: Function, args: &'e [Expr], facts: &Facts<'e>) -> Datum<'e> {
    let evaluate = |expr| {
        let value = value(expr, facts);
        facts.step(weight(&value));
        value
    };
    let arg = |index: usize| args.get(index).map_or(Datum::Undefined, evaluate);
    match function {
        Function::IsDefined
        | Function::IsNull
        | Function::IsString
        | Function::IsNumber
        | Function::IsBool
        | Function::IsArray
        | Function::IsObject
        | Function::IsPrimitive => Datum::Bool(is(function, &arg(0))),
        Function::StartsWith | Function::EndsWith | Function::Contains | Function::IndexOf => {
            let (text, part) = (arg(0).into_text(), arg(1).into_text());
            text.zip(part).map_or(Datum::Undefined, |(text, part)| {
                search(function, &text, &part)
            })
        }
        Function::Length | Function::Lower | Function::Upper => arg(0)
            .into_text()
            .map_or(Datum::Undefined, |text| of_text(function, &text)),
        Function::Concat => concat(args.iter().map(evaluate)),
        Function::Substring => {
            let length = if args.len() > 2 { Some(arg(2)) } else { None };
            substring(arg(0), &arg(1), length.as_ref()).unwrap_or(Datum::Undefined)
        }
        Function::AsNumber => as_number(arg(0)),
        Function::Abs
        | Function::Exp
        | Function::Square
        | Function::Ceiling
        | Function::Floor
        | Function::Sign
        | Function::Sqrt => match arg(0) {
            Datum::Number(number) => of_number(function, number),
            _ => Datum::Undefined,
        },
        Function::Power => match (arg(0), arg(1)) {
            (Datum::Number(base), Datum::Number(exponent)) => Datum::finite(base.powf(exponent)),
            _ => Datum::Undefined,
        },
        Function::ArrayContains => match (arg(0), arg(1)) {
            (Datum::Array(elements), wanted) if wanted.is_primitive() => {
                Datum::from_truth(contains(&elements, &wanted, facts))
            }
            _ => Datum::Undefined,
        },
        Function::ArrayLength => match arg(0) {
            Datum::Array(elements) => count(elements.len()),
            _ => Datum::Undefined,
        },
        Function::Now => facts.now.map_or(Datum::Undefined, Datum::Instant),
        Function::AsDate => arg(0).instant().map_or(Datum::Undefined, Datum::Instant),
        Function::DateAdd => date_add(&arg(0), &arg(1), &arg(2)).unwrap_or(Datum::Undefined),
        Function::DateDiff => date_diff(&arg(0), &arg(1), &arg(2)).unwrap_or(Datum::Undefined),
    }
}

fn is(function: Function, value: &Datum<'_>) -> bool {
    let is_text = matches!(value, Datum::Text(_) | Datum::Instant(_));
    match function {
        Function::IsDefined => !matches!(value, Datum::Undefined),
        Function::IsNull => matches!(value, Datum::Null),
        Function::IsString => is_text,
        Function::IsNumber => matches!(value, Datum::Number(_)),
        Function::IsBool => matches!(value, Datum::Bool(_)),
        Function::IsArray => matches!(value, Datum::Array(_)),
        Function::IsObject => matches!(value, Datum::Object(_)),
        _ => value.is_primitive(),
    }
}

fn search(function: Function, text: &str, part: &str) -> Datum<'static> {
    match function {
        Function::StartsWith => Datum::Bool(text.starts_with(part)),
        Function::EndsWith => Datum::Bool(text.ends_with(part)),
        Function::Contains => Datum::Bool(text.contains(part)),
        _ => match text.find(part) {
            Some(bytes) => count(text[..bytes].chars().count()),
            None => Datum::Number(-1.0),
        },
    }
}

fn of_text(function: Function, text: &str) -> Datum<'static> {
    match function {
        Function::Length => count(text.chars().count()),
        Function::Lower => made(text.to_lowercase()),
        _ => made(text.to_uppercase()),
    }
}

fn of_number(function: Function, number: f64) -> Datum<'static> {
    Datum::finite(match function {
        Function::Abs => number.abs(),
        Function::Exp => number.exp(),
        Function::Square => number * number,
        Function::Ceiling => number.ceil(),
        Function::Floor => number.floor(),
        Function::Sign if number == 0.0 => 0.0,
        Function::Sign => number.signum(),
        _ => number.sqrt(),
    })
}

/// A text that a function made, unless it is too long.
fn made(text: String) -> Datum<'static> {
    if text.len() > QUERY_TEXT_BYTES_MAX {
        return Datum::Undefined;
    }
    Datum::Text(Cow::Owned(text))
}

fn concat<'e>(parts: impl Iterator<Item = Datum<'e>>) -> Datum<'e> {
    let mut joined = String::new();
    for part in parts {
        let Some(part) = part.into_text() else {
            return Datum::Undefined;
        };
        if joined.len() + part.len() > QUERY_TEXT_BYTES_MAX {
            return Datum::Undefined;
        }
        joined.push_str(&part);
    }
    Datum::Text(Cow::Owned(joined))
}

/// Beyond the end there is nothing, which is a text; a place that is no whole number is none.
fn substring<'e>(
    text: Datum<'e>,
    start: &Datum<'_>,
    length: Option<&Datum<'_>>,
) -> Option<Datum<'e>> {
    let start = whole(start)?;
    let length = match length {
        Some(length) => whole(length)?,
        None => usize::MAX,
    };
    let text = text.into_text()?;
    let place = |text: &str, chars: usize| {
        text.char_indices()
            .nth(chars)
            .map_or(text.len(), |(byte, _)| byte)
    };
    let from = place(&text, start);
    let to = from + place(&text[from..], length);
    Some(Datum::Text(match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[from..to]),
        Cow::Owned(text) => Cow::Owned(text[from..to].to_owned()),
    }))
}

/// A number of characters: no fraction, no sign.
fn whole(value: &Datum<'_>) -> Option<usize> {
    match value {
        Datum::Number(number) if number.fract() == 0.0 && *number >= 0.0 => {
            // Beyond any text, which a place may be, a number need not fit.
            Some(format!("{number:.0}").parse().unwrap_or(usize::MAX))
        }
        _ => None,
    }
}

fn as_number(value: Datum<'_>) -> Datum<'_> {
    match value {
        Datum::Number(number) => Datum::Number(number),
        Datum::Text(text) => {
            // Words such as `inf` are numbers to the parser, but to nobody who keeps texts.
            let digits = text
                .bytes()
                .all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
            let number = text.parse().ok().filter(|_| digits);
            number.map_or(Datum::Undefined, Datum::finite)
        }
        _ => Datum::Undefined,
    }
}

fn date_add(unit: &Datum<'_>, number: &Datum<'_>, date: &Datum<'_>) -> Option<Datum<'static>> {
    let Datum::Number(number) = number else {
        return None;
    };
    let later = unit_of(unit)?.add(*number, date.instant()?)?;
    Some(Datum::Instant(later))
}

fn date_diff(unit: &Datum<'_>, from: &Datum<'_>, to: &Datum<'_>) -> Option<Datum<'static>> {
    let span = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64();
    let seconds = span(from.instant()?, to.instant()?);
    Some(Datum::finite(
        seconds / f64::from(unit_of(unit)?.seconds()?),
    ))
}

fn unit_of(unit: &Datum<'_>) -> Option<TimeUnit> {
    match unit {
        Datum::Text(text) => TimeUnit::by_name(text),
        _ => None,
    }
}

fn count(length: usize) -> Datum<'static> {
    let number = Number::from(length).as_f64();
    number.map_or(Datum::Undefined, Datum::Number)
}
