//! Values as SQL: of every type that an expression can have, a piece that is NULL when it has another.

use serde_json::Value;
use twin::query::ast::{ArithmeticOp, Expr, Literal, Path, Root};

use super::attribute;
use super::condition::{self, Scope};
use super::document::{Base, Place};
use super::fragment::{Builder, Document, Residual};
use super::function;
use super::instant::Instant;

/// An expression's value. What it can never be is none.
#[derive(Debug, Clone, Default)]
pub(super) struct Operand {
    /// The text, or NULL.
    pub(super) text: Option<String>,
    /// The number, or NULL.
    pub(super) number: Option<String>,
    /// The truth, or NULL.
    pub(super) boolean: Option<String>,
    /// Whether it is `null`; never NULL.
    pub(super) null: Option<String>,
    /// An instant; then it is nothing else.
    pub(super) instant: Option<Instant>,
    /// Set for a text of the query itself: it may show a date.
    pub(super) literal: Option<String>,
    /// Where it lies in a document, if it does.
    pub(super) place: Option<Place>,
}

impl Operand {
    pub(super) fn of_text(text: String) -> Operand {
        Operand {
            text: Some(text),
            ..Operand::default()
        }
    }

    pub(super) fn of_number(number: String) -> Operand {
        Operand {
            number: Some(number),
            ..Operand::default()
        }
    }

    pub(super) fn of_boolean(boolean: String) -> Operand {
        Operand {
            boolean: Some(boolean),
            ..Operand::default()
        }
    }

    pub(super) fn of_instant(instant: Instant) -> Operand {
        Operand {
            instant: Some(instant),
            ..Operand::default()
        }
    }

    fn of_place(place: Place) -> Operand {
        Operand {
            text: Some(place.text()),
            number: Some(place.number()),
            boolean: Some(place.boolean()),
            null: Some(place.is_null()),
            place: Some(place),
            ..Operand::default()
        }
    }

    /// Whether it is anything; never NULL.
    pub(super) fn is_defined(&self) -> String {
        match &self.place {
            Some(place) => place.is_defined(),
            None => self.is_primitive(),
        }
    }

    /// Whether it is a text, number, boolean or `null`; never NULL.
    pub(super) fn is_primitive(&self) -> String {
        if let Some(place) = &self.place {
            return place.is_primitive();
        }
        let values = [&self.text, &self.number, &self.boolean];
        let instant = self.instant.as_ref().map(Instant::sql);
        let values = values.into_iter().flatten().map(String::as_str);
        let mut parts: Vec<_> = values
            .chain(instant)
            .map(|value| format!("({value}) IS NOT NULL"))
            .collect();
        parts.extend(self.null.clone());
        either(&parts)
    }
}

/// A disjunction of what is never NULL.
pub(super) fn either(parts: &[String]) -> String {
    match parts {
        [] => "FALSE".to_owned(),
        [part] => part.clone(),
        _ => format!("({})", parts.join(" OR ")),
    }
}

/// The value of an expression.
pub(super) fn operand(
    expr: &Expr,
    scope: &Scope<'_>,
    sql: &mut Builder,
) -> Result<Operand, Residual> {
    if let Some(number) = constant(expr) {
        return Ok(Operand::of_number(sql.number(number)));
    }
    if let Some(at) = Instant::constant(expr, scope.now) {
        return Ok(Operand::of_instant(at));
    }
    match expr {
        Expr::Literal(literal) => literal_operand(literal, sql),
        Expr::Path(path) => path_operand(path, scope, sql),
        Expr::Negate(inner) => {
            let number = operand(inner, scope, sql)?.number;
            Ok(number.map_or_else(Operand::default, |number| {
                Operand::of_number(format!("-({number})"))
            }))
        }
        Expr::Call { function, args } => function::call(*function, args, scope, sql),
        Expr::Any(_)
        | Expr::All(_)
        | Expr::Not(_)
        | Expr::Compare { .. }
        | Expr::Member { .. }
        | Expr::Exists { .. } => Ok(Operand::of_boolean(condition::truth(expr, scope, sql)?)),
        // A sum may leave what a number can be: undefined to the evaluator, an error or an infinity
        // to a store.
        Expr::Chain { .. } => Err(Residual),
    }
}

/// The value of an expression of numbers alone.
pub(super) fn constant(expr: &Expr) -> Option<f64> {
    let number = match expr {
        Expr::Literal(Literal::Number(number)) => *number,
        Expr::Negate(inner) => -constant(inner)?,
        Expr::Chain { first, rest } => {
            let mut result = constant(first)?;
            for (op, expr) in rest {
                let right = constant(expr)?;
                result = match op {
                    ArithmeticOp::Add => result + right,
                    ArithmeticOp::Subtract => result - right,
                    ArithmeticOp::Multiply => result * right,
                    ArithmeticOp::Divide => result / right,
                    ArithmeticOp::Remainder => result % right,
                };
                if !result.is_finite() {
                    return None;
                }
            }
            result
        }
        Expr::Literal(_)
        | Expr::Path(_)
        | Expr::Any(_)
        | Expr::All(_)
        | Expr::Not(_)
        | Expr::Compare { .. }
        | Expr::Member { .. }
        | Expr::Call { .. }
        | Expr::Exists { .. } => return None,
    };
    Some(number)
}

pub(super) fn literal_operand(literal: &Literal, sql: &mut Builder) -> Result<Operand, Residual> {
    Ok(match literal {
        Literal::Undefined => Operand::default(),
        Literal::Null => Operand {
            null: Some("TRUE".to_owned()),
            ..Operand::default()
        },
        Literal::Bool(truth) => Operand::of_boolean(truth_word(*truth).to_owned()),
        Literal::Number(number) => Operand::of_number(sql.number(*number)),
        Literal::Text(text) => Operand {
            literal: Some(text.clone()),
            ..Operand::of_text(sql.text(text)?)
        },
    })
}

pub(super) const fn truth_word(truth: bool) -> &'static str {
    if truth { "TRUE" } else { "FALSE" }
}

/// A member of an array, as a value.
pub(super) fn member(alias: &str, sql: &mut Builder) -> Result<Operand, Residual> {
    let place = Place::new(&Base::Member(alias.to_owned()), &[], sql)?;
    Ok(Operand::of_place(place))
}

/// The place in a document that a path leads to.
pub(super) fn place(
    path: &Path,
    scope: &Scope<'_>,
    sql: &mut Builder,
) -> Result<Option<Place>, Residual> {
    let section = |document| match path.keys.first() {
        // Version and metadata are beside the document.
        Some(key) if key.starts_with('$') => None,
        _ => Some(Base::Column(document)),
    };
    let base = match &path.root {
        Root::Attribute(_) => None,
        Root::Tags => section(Document::Tags),
        Root::Desired => section(Document::Desired),
        Root::Reported => section(Document::Reported),
        Root::Posture => Some(Base::Column(Document::Posture)),
        Root::DeviceTags => {
            let keys = path.keys.iter().map(String::as_str);
            let keys: Vec<_> = std::iter::once("device_tags").chain(keys).collect();
            return in_body(&keys, sql).map(Some);
        }
        Root::Variable { level, .. } => {
            let alias = scope.members.get(*level).ok_or(Residual)?;
            Some(Base::Member(alias.clone()))
        }
    };
    base.map(|base| Place::new(&base, &path.keys, sql))
        .transpose()
}

fn path_operand(path: &Path, scope: &Scope<'_>, sql: &mut Builder) -> Result<Operand, Residual> {
    if let Some(place) = place(path, scope, sql)? {
        return Ok(Operand::of_place(place));
    }
    match (&path.root, path.keys.as_slice()) {
        (Root::Attribute(attribute), keys) => attribute::operand(*attribute, keys, sql),
        (Root::Desired, [key]) if key == "$version" => in_body(&["desired", "version"], sql)
            .map(|version| Operand::of_number(version.number())),
        (Root::Reported, [key]) if key == "$version" => in_body(&["reported", "version"], sql)
            .map(|version| Operand::of_number(version.number())),
        (
            Root::Tags
            | Root::Desired
            | Root::Reported
            | Root::Posture
            | Root::DeviceTags
            | Root::Variable { .. },
            _,
        ) => Err(Residual),
    }
}

/// A value of `row::RowBody`, whose names are frozen.
pub(super) fn in_body(keys: &[&str], sql: &mut Builder) -> Result<Place, Residual> {
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    Place::new(&Base::Column(Document::Body), &keys, sql)
}

/// A value of a posture.
pub(super) fn in_posture(keys: &[&str], sql: &mut Builder) -> Result<Place, Residual> {
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    Place::new(&Base::Column(Document::Posture), &keys, sql)
}

/// The JSON of a literal that an index can have; none of what it never has.
pub(super) fn json(expr: &Expr) -> Option<Value> {
    if let Some(number) = constant(expr) {
        return serde_json::Number::from_f64(number).map(Value::Number);
    }
    match expr {
        Expr::Literal(literal) => literal_json(literal),
        _ => None,
    }
}

/// As [`json`], of a literal.
pub(super) fn literal_json(literal: &Literal) -> Option<Value> {
    match literal {
        Literal::Undefined | Literal::Null => None,
        Literal::Bool(truth) => Some(Value::Bool(*truth)),
        Literal::Number(number) => serde_json::Number::from_f64(*number).map(Value::Number),
        Literal::Text(text) => Some(Value::String(text.clone())),
    }
}
