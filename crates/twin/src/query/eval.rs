//! Whether a condition is true of a twin, and what a path leads to.
//!
//! Logic is three-valued: true, false, and undefined where a value is missing, types differ or an
//! operation makes no sense. `AND` is false if any part is false, `OR` true if any part is true,
//! whatever the others are; `NOT undefined` is undefined.
//!
//! Numbers are compared as 64-bit floats, which hold every integer that a section may contain.

mod call;
mod path;

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::Value;

use super::ast::{ArithmeticOp, CompareOp, Expr, MemberOp, Path, Set};
use super::datum::Datum;
use super::lookup::Lookup;
use call::call;

pub(super) use path::{resolve, resolve_json};

/// Whether the condition is exactly true.
pub(super) fn holds(expr: &Expr, facts: &Facts<'_>) -> bool {
    truth(expr, facts) == Some(true)
}

/// What an expression is evaluated over: the twin, the elements of the `EXISTS` around, and the
/// time that `NOW()` means.
#[derive(Clone, Copy)]
pub(super) struct Facts<'e> {
    twin: &'e dyn Lookup,
    elements: &'e [&'e Value],
    now: Option<Timestamp>,
}

impl<'e> Facts<'e> {
    pub(super) fn new(twin: &'e dyn Lookup, now: Option<Timestamp>) -> Facts<'e> {
        Facts {
            twin,
            elements: &[],
            now,
        }
    }
}

fn truth(expr: &Expr, facts: &Facts<'_>) -> Option<bool> {
    match expr {
        Expr::Any(parts) => any(parts.iter().map(|part| truth(part, facts))),
        Expr::All(parts) => {
            any(parts.iter().map(|part| truth(part, facts).map(|t| !t))).map(|t| !t)
        }
        Expr::Not(inner) => truth(inner, facts).map(|truth| !truth),
        Expr::Compare { op, left, right } => {
            compare(*op, &value(left, facts), &value(right, facts))
        }
        Expr::Member {
            value: wanted,
            op,
            set,
        } => {
            let found = member(&value(wanted, facts), set, facts);
            match op {
                MemberOp::In => found,
                MemberOp::NotIn => found.map(|found| !found),
            }
        }
        Expr::Exists {
            array, condition, ..
        } => exists(array, condition, facts),
        Expr::Literal(_)
        | Expr::Path(_)
        | Expr::Chain { .. }
        | Expr::Negate(_)
        | Expr::Call { .. } => match value(expr, facts) {
            Datum::Bool(truth) => Some(truth),
            _ => None,
        },
    }
}

/// True if any is true; else undefined if any is undefined; else false.
fn any(truths: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut result = Some(false);
    for truth in truths {
        match truth {
            Some(true) => return Some(true),
            Some(false) => {}
            None => result = None,
        }
    }
    result
}

fn value<'e>(expr: &'e Expr, facts: &Facts<'e>) -> Datum<'e> {
    match expr {
        Expr::Literal(literal) => Datum::literal(literal),
        Expr::Path(path) => resolve(path, facts),
        Expr::Chain { first, rest } => {
            let mut result = value(first, facts);
            for (op, operand) in rest {
                result = arithmetic(*op, &result, &value(operand, facts));
            }
            result
        }
        Expr::Negate(inner) => match value(inner, facts) {
            Datum::Number(number) => Datum::Number(-number),
            _ => Datum::Undefined,
        },
        Expr::Call { function, args } => call(*function, args, facts),
        Expr::Any(_)
        | Expr::All(_)
        | Expr::Not(_)
        | Expr::Compare { .. }
        | Expr::Member { .. }
        | Expr::Exists { .. } => Datum::from_truth(truth(expr, facts)),
    }
}

fn compare(op: CompareOp, left: &Datum<'_>, right: &Datum<'_>) -> Option<bool> {
    match op {
        CompareOp::Equal => left.equals(right),
        CompareOp::NotEqual => left.equals(right).map(|equal| !equal),
        CompareOp::Less => left.order(right).map(Ordering::is_lt),
        CompareOp::Greater => left.order(right).map(Ordering::is_gt),
        CompareOp::LessOrEqual => left.order(right).map(Ordering::is_le),
        CompareOp::GreaterOrEqual => left.order(right).map(Ordering::is_ge),
    }
}

/// An element of another type is not the one looked for: a list of numbers and texts is no error.
fn member(wanted: &Datum<'_>, set: &Set, facts: &Facts<'_>) -> Option<bool> {
    if !wanted.is_primitive() {
        return None;
    }
    match set {
        Set::List(values) => Some(
            values
                .iter()
                .any(|value| wanted.equals(&Datum::literal(value)) == Some(true)),
        ),
        Set::Path(path) => match resolve(path, facts) {
            Datum::Array(elements) => Some(contains(&elements, wanted)),
            _ => None,
        },
    }
}

fn contains(elements: &[Value], wanted: &Datum<'_>) -> bool {
    elements.iter().any(|element| wanted.is_stored(element))
}

fn exists(array: &Path, condition: &Expr, facts: &Facts<'_>) -> Option<bool> {
    // What is looked through may have been made for the occasion; it lives until the end.
    let members = resolve(array, facts);
    let level = facts.elements.len();
    let mut elements = facts.elements.to_vec();
    elements.push(&Value::Null);
    let mut holds = |element| {
        elements[level] = element;
        let facts = Facts {
            twin: facts.twin,
            elements: &elements,
            now: facts.now,
        };
        truth(condition, &facts)
    };
    match &members {
        Datum::Array(members) => any(members.iter().map(&mut holds)),
        Datum::Object(members) => any(members.values().map(&mut holds)),
        Datum::Undefined
        | Datum::Null
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::Text(_)
        | Datum::Instant(_) => None,
    }
}

fn arithmetic<'a>(op: ArithmeticOp, left: &Datum<'_>, right: &Datum<'_>) -> Datum<'a> {
    let (Datum::Number(left), Datum::Number(right)) = (left, right) else {
        return Datum::Undefined;
    };
    // Division by zero gives no finite number, and so undefined.
    Datum::finite(match op {
        ArithmeticOp::Add => left + right,
        ArithmeticOp::Subtract => left - right,
        ArithmeticOp::Multiply => left * right,
        ArithmeticOp::Divide => left / right,
        ArithmeticOp::Remainder => left % right,
    })
}

#[cfg(test)]
mod tests;
