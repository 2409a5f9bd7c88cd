//! Functions as SQL, as far as both stores have them with the evaluator's meaning.

use twin::query::ast::{Expr, Function};

use super::condition::{self, Scope};
use super::document::Place;
use super::fragment::{Builder, Dialect, Residual};
use super::operand::{self, Operand};

/// What a function makes of its arguments.
pub(super) fn call(
    function: Function,
    args: &[Expr],
    scope: &Scope<'_>,
    sql: &mut Builder,
) -> Result<Operand, Residual> {
    let mut arg = |index: usize| operand::operand(args.get(index).ok_or(Residual)?, scope, sql);
    match function {
        Function::IsDefined
        | Function::IsNull
        | Function::IsString
        | Function::IsNumber
        | Function::IsBool
        | Function::IsArray
        | Function::IsObject
        | Function::IsPrimitive => Ok(Operand::of_boolean(is(function, &arg(0)?))),
        Function::StartsWith
        | Function::EndsWith
        | Function::Contains
        | Function::IndexOf
        | Function::Length => {
            let mut texts = Vec::with_capacity(args.len());
            for index in 0..args.len() {
                let operand = arg(index)?;
                if operand.instant.is_some() {
                    return Err(Residual);
                }
                texts.push(operand.text);
            }
            let texts: Option<Vec<String>> = texts.into_iter().collect();
            // No text can be there: undefined.
            texts.map_or_else(
                || Ok(Operand::default()),
                |texts| of_texts(function, &texts, sql.dialect),
            )
        }
        Function::Abs | Function::Sign => {
            let name = if function == Function::Abs {
                "abs"
            } else {
                "sign"
            };
            let number = arg(0)?.number;
            Ok(number.map_or_else(Operand::default, |number| {
                Operand::of_number(format!("{name}({number})"))
            }))
        }
        Function::ArrayContains => {
            let Some(Expr::Path(path)) = args.first() else {
                return Err(Residual);
            };
            let wanted = arg(1)?;
            condition::contains(path, &wanted, scope, sql).map(Operand::of_boolean)
        }
        Function::ArrayLength => match arg(0)?.place {
            Some(place) => Ok(Operand::of_number(place.array_length())),
            None => Err(Residual),
        },
        // Letters beyond ASCII, rounding, limits of length: not the same in every store. Dates are
        // compiled where they are constants (see `instant`).
        Function::Lower
        | Function::Upper
        | Function::Concat
        | Function::Substring
        | Function::AsNumber
        | Function::Exp
        | Function::Power
        | Function::Square
        | Function::Ceiling
        | Function::Floor
        | Function::Sqrt
        | Function::Now
        | Function::AsDate
        | Function::DateAdd
        | Function::DateDiff => Err(Residual),
    }
}

fn is(function: Function, operand: &Operand) -> String {
    let there = |value: &Option<String>| match value {
        Some(value) => format!("({value}) IS NOT NULL"),
        None => "FALSE".to_owned(),
    };
    let false_word = || "FALSE".to_owned();
    let place = operand.place.as_ref();
    match function {
        Function::IsDefined => operand.is_defined(),
        Function::IsNull => operand.null.clone().unwrap_or_else(false_word),
        Function::IsString => match &operand.instant {
            Some(instant) => format!("({}) IS NOT NULL", instant.sql()),
            None => there(&operand.text),
        },
        Function::IsNumber => there(&operand.number),
        Function::IsBool => there(&operand.boolean),
        Function::IsArray => place.map_or_else(false_word, Place::is_array),
        Function::IsObject => place.map_or_else(false_word, Place::is_object),
        _ => operand.is_primitive(),
    }
}

fn of_texts(function: Function, texts: &[String], dialect: Dialect) -> Result<Operand, Residual> {
    let place_of = match dialect {
        Dialect::Sqlite => "instr",
        Dialect::Postgres => "strpos",
    };
    let number = |number: String| {
        Operand::of_number(match dialect {
            Dialect::Sqlite => format!("CAST({number} AS REAL)"),
            Dialect::Postgres => format!("({number})::float8"),
        })
    };
    Ok(match (function, texts) {
        (Function::StartsWith, [text, part]) => Operand::of_boolean(match dialect {
            Dialect::Sqlite => format!("substr({text}, 1, length({part})) = {part}"),
            Dialect::Postgres => format!("starts_with({text}, {part})"),
        }),
        (Function::EndsWith, [text, part]) => Operand::of_boolean(match dialect {
            Dialect::Sqlite => format!(
                "(length({text}) >= length({part}) \
                 AND substr({text}, length({text}) - length({part}) + 1) = {part})"
            ),
            Dialect::Postgres => format!("right({text}, length({part})) = {part}"),
        }),
        (Function::Contains, [text, part]) => {
            Operand::of_boolean(format!("{place_of}({text}, {part}) > 0"))
        }
        (Function::IndexOf, [text, part]) => number(format!("{place_of}({text}, {part}) - 1")),
        (Function::Length, [text]) => number(format!("length({text})")),
        _ => return Err(Residual),
    })
}
