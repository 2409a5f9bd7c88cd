//! Conditions as SQL: true, false, or NULL where the evaluator says undefined.

use jiff::Timestamp;
use twin::query::ast::{CompareOp, Expr, Literal, MemberOp, Path, Root, Set};

use super::fragment::{Builder, Residual, joined};
use super::instant;
use super::operand::{self, Operand, either};

/// What stands around an expression.
#[derive(Debug, Clone)]
pub(super) struct Scope<'s> {
    /// Aliases of the members that the `EXISTS` around speak of, the outermost first.
    pub(super) members: &'s [String],
    /// What `NOW()` stands for.
    pub(super) now: Timestamp,
}

/// The truth of an expression.
pub(super) fn truth(expr: &Expr, scope: &Scope<'_>, sql: &mut Builder) -> Result<String, Residual> {
    match expr {
        Expr::Any(parts) => many(parts, "OR", scope, sql),
        Expr::All(parts) => many(parts, "AND", scope, sql),
        Expr::Not(inner) => Ok(format!("(NOT {})", truth(inner, scope, sql)?)),
        Expr::Compare { op, left, right } => {
            let left = operand::operand(left, scope, sql)?;
            let right = operand::operand(right, scope, sql)?;
            compare(*op, &left, &right)
        }
        Expr::Member { value, op, set } => {
            let wanted = operand::operand(value, scope, sql)?;
            let found = match set {
                Set::List(values) => in_list(&wanted, values, sql)?,
                Set::Path(path) => contains(path, &wanted, scope, sql)?,
            };
            Ok(match op {
                MemberOp::In => found,
                MemberOp::NotIn => format!("(NOT {found})"),
            })
        }
        Expr::Exists {
            array, condition, ..
        } => exists(array, condition, scope, sql),
        Expr::Literal(_)
        | Expr::Path(_)
        | Expr::Chain { .. }
        | Expr::Negate(_)
        | Expr::Call { .. } => {
            let boolean = operand::operand(expr, scope, sql)?.boolean;
            Ok(boolean.map_or_else(undefined, |boolean| format!("({boolean})")))
        }
    }
}

fn undefined() -> String {
    // With its type, which PostgreSQL would guess wrongly where nothing else tells it.
    "CAST(NULL AS BOOLEAN)".to_owned()
}

fn many(
    parts: &[Expr],
    operator: &str,
    scope: &Scope<'_>,
    sql: &mut Builder,
) -> Result<String, Residual> {
    let parts: Result<Vec<_>, _> = parts.iter().map(|part| truth(part, scope, sql)).collect();
    Ok(joined(&parts?, operator))
}

/// Two values of one type; NULL of any others.
fn compare(op: CompareOp, left: &Operand, right: &Operand) -> Result<String, Residual> {
    if left.instant.is_some() || right.instant.is_some() {
        return instant::compare(op, left, right);
    }
    match op {
        CompareOp::Equal => Ok(equal(left, right)),
        CompareOp::NotEqual => Ok(format!("(NOT {})", equal(left, right))),
        CompareOp::Less
        | CompareOp::Greater
        | CompareOp::LessOrEqual
        | CompareOp::GreaterOrEqual => Ok(first(&[
            pair(left.text.as_ref(), op, right.text.as_ref()),
            pair(left.number.as_ref(), op, right.number.as_ref()),
        ])),
    }
}

fn equal(left: &Operand, right: &Operand) -> String {
    let nulls = left.null.as_ref().zip(right.null.as_ref());
    first(&[
        pair(left.text.as_ref(), CompareOp::Equal, right.text.as_ref()),
        pair(
            left.number.as_ref(),
            CompareOp::Equal,
            right.number.as_ref(),
        ),
        pair(
            left.boolean.as_ref(),
            CompareOp::Equal,
            right.boolean.as_ref(),
        ),
        nulls.map(|(left, right)| format!("CASE WHEN {left} AND {right} THEN TRUE END")),
    ])
}

fn pair(left: Option<&String>, op: CompareOp, right: Option<&String>) -> Option<String> {
    let (left, right) = left.zip(right)?;
    Some(format!("({left}) {} ({right})", word(op)))
}

/// The operator in SQL.
pub(super) const fn word(op: CompareOp) -> &'static str {
    match op {
        CompareOp::Equal => "=",
        CompareOp::NotEqual => "<>",
        CompareOp::Less => "<",
        CompareOp::Greater => ">",
        CompareOp::LessOrEqual => "<=",
        CompareOp::GreaterOrEqual => ">=",
    }
}

/// The one that is not NULL: a value has one type, so at most one of the comparisons is.
fn first(parts: &[Option<String>]) -> String {
    let parts: Vec<_> = parts.iter().flatten().cloned().collect();
    match parts.as_slice() {
        [] => undefined(),
        [part] => format!("({part})"),
        _ => format!("coalesce({})", parts.join(", ")),
    }
}

/// Whether a primitive is one of a list; an element of another type is not the one looked for.
fn in_list(wanted: &Operand, values: &[Literal], sql: &mut Builder) -> Result<String, Residual> {
    if wanted.instant.is_some() {
        return Err(Residual);
    }
    let (mut texts, mut numbers, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for value in values {
        match value {
            Literal::Undefined => {}
            Literal::Null => found.extend(wanted.null.clone()),
            Literal::Bool(truth) => found.extend(
                wanted
                    .boolean
                    .as_ref()
                    .map(|own| format!("(({own}) = {}) IS TRUE", operand::truth_word(*truth))),
            ),
            Literal::Number(number) => numbers.push(sql.number(*number)),
            Literal::Text(text) => texts.push(sql.text(text)?),
        }
    }
    for (own, among) in [(&wanted.text, texts), (&wanted.number, numbers)] {
        if let (Some(own), false) = (own, among.is_empty()) {
            found.push(format!("(({own}) IN ({})) IS TRUE", among.join(", ")));
        }
    }
    Ok(format!(
        "(CASE WHEN {} THEN {} END)",
        wanted.is_primitive(),
        either(&found)
    ))
}

/// Whether an array has an element equal to a primitive.
pub(super) fn contains(
    path: &Path,
    wanted: &Operand,
    scope: &Scope<'_>,
    sql: &mut Builder,
) -> Result<String, Residual> {
    if wanted.instant.is_some() {
        return Err(Residual);
    }
    // A device fills what it reports: once more for each member, it would keep a store busy for
    // minutes. The evaluator counts its steps.
    if path.root == Root::Reported && !scope.members.is_empty() {
        return Err(Residual);
    }
    let Some(array) = operand::place(path, scope, sql)? else {
        return Err(Residual);
    };
    let alias = sql.alias();
    let element = operand::member(&alias, sql)?;
    Ok(format!(
        "(CASE WHEN {} AND {} THEN EXISTS (SELECT 1 FROM {} WHERE {}) END)",
        array.is_array(),
        wanted.is_primitive(),
        array.members(&alias),
        equal(&element, wanted),
    ))
}

/// Whether a condition holds for a member: true if for any, else undefined if undefined for any.
fn exists(
    path: &Path,
    condition: &Expr,
    scope: &Scope<'_>,
    sql: &mut Builder,
) -> Result<String, Residual> {
    // As above: one within another is left to the evaluator.
    if !scope.members.is_empty() {
        return Err(Residual);
    }
    let Some(array) = operand::place(path, scope, sql)? else {
        return Err(Residual);
    };
    let alias = sql.alias();
    let mut members = scope.members.to_vec();
    members.push(alias.clone());
    let scope = Scope {
        members: &members,
        now: scope.now,
    };
    let condition = truth(condition, &scope, sql)?;
    // The aggregate takes a column of its own query: of columns from outside it would be theirs.
    Ok(format!(
        "(CASE WHEN {} OR {} THEN (SELECT CASE max(s.found) \
         WHEN 2 THEN TRUE WHEN 1 THEN NULL ELSE FALSE END FROM \
         (SELECT CASE {condition} WHEN TRUE THEN 2 WHEN FALSE THEN 0 ELSE 1 END AS found FROM {}) \
         AS s) END)",
        array.is_array(),
        array.is_object(),
        array.members(&alias),
    ))
}
