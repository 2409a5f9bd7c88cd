//! Whether a condition is true of a twin.
//!
//! Logic is three-valued: true, false, and undefined where a value is missing, types differ or an
//! operation makes no sense. `AND` is false if any part is false, `OR` true if any part is true,
//! whatever the others are; `NOT undefined` is undefined.
//!
//! Numbers are compared as 64-bit floats, which hold every integer that a section may contain.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::TwinView;
use super::ast::{ArithmeticOp, CompareOp, Expr, Function, Literal, MemberOp, Path, Root, Set};
use crate::Map;

/// Whether the condition is exactly true.
pub(super) fn holds(expr: &Expr, twin: &TwinView<'_>) -> bool {
    truth(
        expr,
        &Facts {
            twin,
            elements: &[],
        },
    ) == Some(true)
}

/// What paths lead into: the twin, and the elements of the `EXISTS` around.
#[derive(Clone, Copy)]
struct Facts<'a, 'e> {
    twin: &'e TwinView<'a>,
    elements: &'e [&'a Value],
}

/// A value while a condition is evaluated.
#[derive(Debug, Clone)]
enum Val<'a> {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    Array(&'a [Value]),
    Object(&'a Map),
}

impl<'a> Val<'a> {
    fn of(value: &'a Value) -> Val<'a> {
        match value {
            Value::Null => Val::Null,
            Value::Bool(truth) => Val::Bool(*truth),
            Value::Number(number) => number.as_f64().map_or(Val::Undefined, Val::Number),
            Value::String(text) => Val::Text(Cow::Borrowed(text)),
            Value::Array(elements) => Val::Array(elements),
            Value::Object(members) => Val::Object(members),
        }
    }

    fn literal(literal: &'a Literal) -> Val<'a> {
        match literal {
            Literal::Undefined => Val::Undefined,
            Literal::Null => Val::Null,
            Literal::Bool(truth) => Val::Bool(*truth),
            Literal::Number(number) => Val::Number(*number),
            Literal::Text(text) => Val::Text(Cow::Borrowed(text)),
        }
    }

    fn of_u64(number: u64) -> Val<'a> {
        Number::from(number)
            .as_f64()
            .map_or(Val::Undefined, Val::Number)
    }

    fn finite(number: f64) -> Val<'a> {
        if number.is_finite() {
            Val::Number(number)
        } else {
            Val::Undefined
        }
    }

    fn from_truth(truth: Option<bool>) -> Val<'a> {
        truth.map_or(Val::Undefined, Val::Bool)
    }

    /// Only primitives can be compared (spec 8.3).
    fn is_primitive(&self) -> bool {
        match self {
            Val::Null | Val::Bool(_) | Val::Number(_) | Val::Text(_) => true,
            Val::Undefined | Val::Array(_) | Val::Object(_) => false,
        }
    }

    /// Equality of two primitives of one type; undefined between any others.
    #[allow(clippy::float_cmp)] // Exact equality is what `=` means; there is no right margin.
    fn equals(&self, other: &Val<'_>) -> Option<bool> {
        match (self, other) {
            (Val::Null, Val::Null) => Some(true),
            (Val::Bool(a), Val::Bool(b)) => Some(a == b),
            (Val::Number(a), Val::Number(b)) => Some(a == b),
            (Val::Text(a), Val::Text(b)) => Some(a == b),
            _ => None,
        }
    }

    /// Order of two numbers, or of two texts by their code points; undefined between any others.
    fn order(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Val::Number(a), Val::Number(b)) => a.partial_cmp(b),
            (Val::Text(a), Val::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

fn truth(expr: &Expr, facts: &Facts<'_, '_>) -> Option<bool> {
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
            Val::Bool(truth) => Some(truth),
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

fn value<'a, 'e>(expr: &'e Expr, facts: &Facts<'a, 'e>) -> Val<'e>
where
    'a: 'e,
{
    match expr {
        Expr::Literal(literal) => Val::literal(literal),
        Expr::Path(path) => lookup(path, facts),
        Expr::Chain { first, rest } => {
            let mut result = value(first, facts);
            for (op, operand) in rest {
                result = arithmetic(*op, &result, &value(operand, facts));
            }
            result
        }
        Expr::Negate(inner) => match value(inner, facts) {
            Val::Number(number) => Val::Number(-number),
            _ => Val::Undefined,
        },
        Expr::Call { function, args } => call(*function, args, facts),
        Expr::Any(_)
        | Expr::All(_)
        | Expr::Not(_)
        | Expr::Compare { .. }
        | Expr::Member { .. }
        | Expr::Exists { .. } => Val::from_truth(truth(expr, facts)),
    }
}

fn lookup<'a>(path: &Path, facts: &Facts<'a, '_>) -> Val<'a> {
    let twin = facts.twin;
    // A version is beside its section's document, not in it.
    let is_version = || path.keys.len() == 1 && path.keys[0] == "$version";
    let start = match &path.root {
        Root::DeviceId => Val::Text(Cow::Borrowed(twin.device_id)),
        Root::ModuleId => twin
            .module_id
            .map_or(Val::Undefined, |id| Val::Text(Cow::Borrowed(id))),
        Root::Status => Val::Text(Cow::Borrowed(twin.status)),
        Root::Tags => Val::Object(twin.tags),
        Root::Desired if is_version() => return Val::of_u64(twin.desired_version),
        Root::Desired => Val::Object(twin.desired),
        Root::Reported if is_version() => return Val::of_u64(twin.reported_version),
        Root::Reported => Val::Object(twin.reported),
        Root::Posture => Val::of(twin.posture),
        Root::Variable { level, .. } => facts
            .elements
            .get(*level)
            .map_or(Val::Undefined, |element| Val::of(element)),
    };
    let mut found = start;
    for key in &path.keys {
        let Val::Object(members) = found else {
            return Val::Undefined;
        };
        let Some(member) = members.get(key) else {
            return Val::Undefined;
        };
        found = Val::of(member);
    }
    found
}

fn compare(op: CompareOp, left: &Val<'_>, right: &Val<'_>) -> Option<bool> {
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
fn member(wanted: &Val<'_>, set: &Set, facts: &Facts<'_, '_>) -> Option<bool> {
    if !wanted.is_primitive() {
        return None;
    }
    match set {
        Set::List(values) => Some(
            values
                .iter()
                .any(|value| wanted.equals(&Val::literal(value)) == Some(true)),
        ),
        Set::Path(path) => match lookup(path, facts) {
            Val::Array(elements) => Some(contains(elements, wanted)),
            _ => None,
        },
    }
}

fn contains(elements: &[Value], wanted: &Val<'_>) -> bool {
    elements
        .iter()
        .any(|element| wanted.equals(&Val::of(element)) == Some(true))
}

fn exists(array: &Path, condition: &Expr, facts: &Facts<'_, '_>) -> Option<bool> {
    let level = facts.elements.len();
    let mut elements = facts.elements.to_vec();
    elements.push(&Value::Null);
    let holds = |element| {
        elements[level] = element;
        let facts = Facts {
            twin: facts.twin,
            elements: &elements,
        };
        truth(condition, &facts)
    };
    match lookup(array, facts) {
        Val::Array(elements) => any(elements.iter().map(holds)),
        Val::Object(members) => any(members.values().map(holds)),
        _ => None,
    }
}

fn arithmetic<'a>(op: ArithmeticOp, left: &Val<'_>, right: &Val<'_>) -> Val<'a> {
    let (Val::Number(left), Val::Number(right)) = (left, right) else {
        return Val::Undefined;
    };
    // Division by zero gives no finite number, and so undefined.
    Val::finite(match op {
        ArithmeticOp::Add => left + right,
        ArithmeticOp::Subtract => left - right,
        ArithmeticOp::Multiply => left * right,
        ArithmeticOp::Divide => left / right,
        ArithmeticOp::Remainder => left % right,
    })
}

fn call<'a, 'e>(function: Function, args: &'e [Expr], facts: &Facts<'a, 'e>) -> Val<'e>
where
    'a: 'e,
{
    let arg = |index: usize| {
        args.get(index)
            .map_or(Val::Undefined, |expr| value(expr, facts))
    };
    let is = |test: fn(&Val<'_>) -> bool| Val::Bool(test(&arg(0)));
    let texts = |test: fn(&str, &str) -> bool| match (arg(0), arg(1)) {
        (Val::Text(text), Val::Text(part)) => Val::Bool(test(&text, &part)),
        _ => Val::Undefined,
    };
    match function {
        Function::IsDefined => is(|v| !matches!(v, Val::Undefined)),
        Function::IsNull => is(|v| matches!(v, Val::Null)),
        Function::IsString => is(|v| matches!(v, Val::Text(_))),
        Function::IsNumber => is(|v| matches!(v, Val::Number(_))),
        Function::IsBool => is(|v| matches!(v, Val::Bool(_))),
        Function::IsArray => is(|v| matches!(v, Val::Array(_))),
        Function::IsObject => is(|v| matches!(v, Val::Object(_))),
        Function::StartsWith => texts(|text, part| text.starts_with(part)),
        Function::EndsWith => texts(|text, part| text.ends_with(part)),
        Function::Contains => texts(|text, part| text.contains(part)),
        Function::Length => match arg(0) {
            Val::Text(text) => count(text.chars().count()),
            _ => Val::Undefined,
        },
        Function::Lower => match arg(0) {
            Val::Text(text) => Val::Text(Cow::Owned(text.to_lowercase())),
            _ => Val::Undefined,
        },
        Function::Upper => match arg(0) {
            Val::Text(text) => Val::Text(Cow::Owned(text.to_uppercase())),
            _ => Val::Undefined,
        },
        Function::Abs => match arg(0) {
            Val::Number(number) => Val::Number(number.abs()),
            _ => Val::Undefined,
        },
        Function::ArrayContains => match (arg(0), arg(1)) {
            (Val::Array(elements), wanted) if wanted.is_primitive() => {
                Val::Bool(contains(elements, &wanted))
            }
            _ => Val::Undefined,
        },
        Function::ArrayLength => match arg(0) {
            Val::Array(elements) => count(elements.len()),
            _ => Val::Undefined,
        },
    }
}

fn count(length: usize) -> Val<'static> {
    u64::try_from(length).map_or(Val::Undefined, Val::of_u64)
}
