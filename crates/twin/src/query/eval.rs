//! Whether a condition is true of a twin, and what a path leads to.
//!
//! Logic is three-valued: true, false, and undefined where a value is missing, types differ or an
//! operation makes no sense. `AND` is false if any part is false, `OR` true if any part is true,
//! whatever the others are; `NOT undefined` is undefined.
//!
//! Numbers are compared as 64-bit floats, which hold every integer that a section may contain.
//!
//! Whoever writes an array decides how long an `EXISTS` over it takes, and a query may hold several
//! within each other. So steps are counted, and too many leave the twin undecided: it does not match,
//! and it is told ([`Lookup::give_up`]).

mod call;
mod path;
mod steps;

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::Value;

use super::Judgement;
use super::ast::{ArithmeticOp, CompareOp, Expr, MemberOp, Path, Set};
use super::datum::Datum;
use super::lookup::Lookup;
use call::call;
use steps::{Steps, weight};

pub(super) use path::{resolve, resolve_json};

/// Whether the condition is exactly true of a twin.
pub(super) fn holds(expr: &Expr, twin: &dyn Lookup, now: Option<Timestamp>) -> bool {
    match judge(expr, twin, now) {
        Judgement::Holds => true,
        Judgement::HoldsNot => false,
        Judgement::Undecided => {
            twin.give_up();
            false
        }
    }
}

/// What there is to say of the condition on a twin.
pub(super) fn judge(expr: &Expr, twin: &dyn Lookup, now: Option<Timestamp>) -> Judgement {
    let steps = Steps::default();
    let facts = Facts {
        steps: Some(&steps),
        ..Facts::new(twin, now)
    };
    let truth = truth(expr, &facts);
    if steps.are_used_up() {
        // What was not looked at any more was undefined, of which `NOT IS_DEFINED` makes a truth.
        return Judgement::Undecided;
    }
    if truth == Some(true) {
        Judgement::Holds
    } else {
        Judgement::HoldsNot
    }
}

/// Works on a twin with no more steps than it may take. If they are not enough, the twin is told, and
/// what was made of it must not be taken for the truth.
pub(super) fn bounded<T>(
    twin: &dyn Lookup,
    now: Option<Timestamp>,
    work: impl FnOnce(&Facts<'_>) -> T,
) -> T {
    let steps = Steps::default();
    let facts = Facts {
        steps: Some(&steps),
        ..Facts::new(twin, now)
    };
    let made = work(&facts);
    if steps.are_used_up() {
        twin.give_up();
    }
    made
}

/// An expression's value as JSON: of a path as it is stored there.
pub(super) fn json(expr: &Expr, facts: &Facts<'_>) -> Option<Value> {
    match expr {
        Expr::Path(path) => resolve_json(path, facts),
        _ => value(expr, facts).to_json(),
    }
}

/// What an expression is evaluated over: the twin, the elements of the `EXISTS` around, and the
/// time that `NOW()` means.
#[derive(Clone, Copy)]
pub(super) struct Facts<'e> {
    twin: &'e dyn Lookup,
    elements: &'e [&'e Value],
    now: Option<Timestamp>,
    /// None where nothing but paths is resolved, which are as many as a query names.
    steps: Option<&'e Steps>,
}

impl<'e> Facts<'e> {
    pub(super) fn new(twin: &'e dyn Lookup, now: Option<Timestamp>) -> Facts<'e> {
        Facts {
            twin,
            elements: &[],
            now,
            steps: None,
        }
    }

    /// Counts steps; false once there are too many, and then nothing needs to be evaluated.
    fn step(&self, count: usize) -> bool {
        self.steps.is_none_or(|steps| steps.take(count))
    }
}

fn truth(expr: &Expr, facts: &Facts<'_>) -> Option<bool> {
    if !facts.step(1) {
        return None;
    }
    match expr {
        Expr::Any(parts) => any(parts.iter().map(|part| truth(part, facts))),
        Expr::All(parts) => {
            any(parts.iter().map(|part| truth(part, facts).map(|t| !t))).map(|t| !t)
        }
        Expr::Not(inner) => truth(inner, facts).map(|truth| !truth),
        Expr::Compare { op, left, right } => {
            let (left, right) = (value(left, facts), value(right, facts));
            facts.step(weight(&left).max(weight(&right)));
            compare(*op, &left, &right)
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

/// An expression's value.
pub(super) fn value<'e>(expr: &'e Expr, facts: &Facts<'e>) -> Datum<'e> {
    if !facts.step(1) {
        return Datum::Undefined;
    }
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
        Set::List(values) => {
            if !facts.step(values.len() * (1 + weight(wanted))) {
                return None;
            }
            let mut values = values.iter();
            Some(values.any(|value| wanted.equals(&Datum::literal(value)) == Some(true)))
        }
        Set::Path(path) => match resolve(path, facts) {
            Datum::Array(elements) => contains(&elements, wanted, facts),
            _ => None,
        },
    }
}

fn contains(elements: &[Value], wanted: &Datum<'_>, facts: &Facts<'_>) -> Option<bool> {
    if !facts.step(elements.len() * (1 + weight(wanted))) {
        return None;
    }
    Some(elements.iter().any(|element| wanted.is_stored(element)))
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
            elements: &elements,
            ..*facts
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
