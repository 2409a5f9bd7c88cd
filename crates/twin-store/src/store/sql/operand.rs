//! Values as SQL: of every type that an expression can have, a piece that is NULL when it has another.

use serde_json::Value;
use twin::query::ast::{ArithmeticOp, Attribute, Expr, Function, Literal, Path, Root};

use super::condition::{self, Scope};
use super::document::{Base, Place};
use super::fragment::{Builder, Dialect, Document, Residual};
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
    fn of_text(text: String) -> Operand {
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

    fn of_boolean(boolean: String) -> Operand {
        Operand {
            boolean: Some(boolean),
            ..Operand::default()
        }
    }

    fn of_instant(instant: Instant) -> Operand {
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
        Expr::Call { function, args } => call(*function, args, scope, sql),
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
        (Root::Attribute(attribute), keys) => attribute_operand(*attribute, keys, sql),
        (Root::Desired, [key]) if key == "$version" => in_body(&["desired", "version"], sql)
            .map(|version| Operand::of_number(version.number())),
        (Root::Reported, [key]) if key == "$version" => in_body(&["reported", "version"], sql)
            .map(|version| Operand::of_number(version.number())),
        (
            Root::Tags | Root::Desired | Root::Reported | Root::Posture | Root::Variable { .. },
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

fn attribute_operand(
    attribute: Attribute,
    keys: &[String],
    sql: &mut Builder,
) -> Result<Operand, Residual> {
    if !keys.is_empty() && attribute != Attribute::Capabilities {
        return Err(Residual);
    }
    let text_in_body =
        |key: &str, sql: &mut Builder| Ok(Operand::of_text(in_body(&[key], sql)?.text()));
    let instant = |instant: Instant| Ok(Operand::of_instant(instant));
    match attribute {
        Attribute::DeviceId => Ok(Operand::of_text("t.device_id".to_owned())),
        Attribute::ModuleId => Ok(Operand::of_text("nullif(t.module_id, '')".to_owned())),
        Attribute::Status => Ok(Operand::of_text(status(sql.dialect).to_owned())),
        Attribute::Version => Ok(Operand::of_number(in_body(&["version"], sql)?.number())),
        Attribute::StatusReason => text_in_body("status_reason", sql),
        Attribute::ModelId => text_in_body("model_id", sql),
        Attribute::GenerationId => text_in_body("generation", sql),
        Attribute::CloudToDeviceMessageCount => Ok(Operand::of_number(sql.number(0.0))),
        Attribute::ConnectionState => {
            let connected = in_posture(&["agent", "connected"], sql)?.boolean();
            Ok(Operand::of_text(format!(
                "CASE WHEN {connected} THEN 'Connected' ELSE 'Disconnected' END"
            )))
        }
        Attribute::AuthenticationType => {
            let sas = in_body(&["authentication", "sas"], sql)?.is_defined();
            let own = in_body(&["authentication", "self_signed"], sql)?.is_defined();
            let word = in_body(&["authentication"], sql)?.text();
            Ok(Operand::of_text(format!(
                "CASE WHEN {sas} THEN 'sas' WHEN {own} THEN 'selfSigned' \
                 WHEN {word} = 'certificate_authority' THEN 'certificateAuthority' \
                 ELSE 'none' END"
            )))
        }
        Attribute::Capabilities if keys == ["iotEdge"] => {
            let edge = in_body(&["iot_edge"], sql)?.boolean();
            Ok(Operand::of_boolean(format!("coalesce({edge}, FALSE)")))
        }
        Attribute::StatusUpdateTime => instant(Instant::in_body("status_updated_at", sql)?),
        Attribute::CreateTime => instant(Instant::in_body("created_at", sql)?),
        Attribute::UpdateTime => instant(Instant::in_body("updated_at", sql)?),
        Attribute::LastActivityTime => instant(Instant::last_activity(sql)?),
        // What is rarely searched for, or made of more than one value.
        Attribute::Etag
        | Attribute::DeviceEtag
        | Attribute::X509Thumbprint
        | Attribute::DeviceScope
        | Attribute::ParentScopes
        | Attribute::Capabilities
        | Attribute::Configurations => Err(Residual),
    }
}

const fn status(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "t.status",
        Dialect::Postgres => "t.status COLLATE \"C\"",
    }
}

fn call(
    function: Function,
    args: &[Expr],
    scope: &Scope<'_>,
    sql: &mut Builder,
) -> Result<Operand, Residual> {
    let mut arg = |index: usize| operand(args.get(index).ok_or(Residual)?, scope, sql);
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
