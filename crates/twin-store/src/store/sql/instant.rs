//! Instants as SQL: the times beside a twin's documents, compared with constants.
//!
//! Stored times are RFC 3339 in UTC. Without the `Z` their texts have the order of the instants, if
//! digits of fractions are written by one rule, and each place has its own: a constant is written by
//! the rule of what it is compared with.

use jiff::Timestamp;
use twin::query::ast::{CompareOp, Expr, Function, Literal, TimeUnit};
use twin::query::datum::{NEVER, parse_instant};

use super::condition::word;
use super::fragment::{Builder, Dialect, Residual};
use super::operand::{self, Operand};

/// An instant, or none.
#[derive(Debug, Clone)]
pub(super) struct Instant(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// Known beforehand.
    Constant(Timestamp),
    /// Stored: its text without the `Z`, or NULL.
    Stored { sql: String, form: Form },
}

/// How the digits of fractions of a second are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As few as are exact (`row::RowBody`).
    Fewest,
    /// None less than three, in groups of three (`posture::time`).
    Groups,
}

impl Instant {
    /// The instant that an expression without a path is.
    pub(super) fn constant(expr: &Expr, now: Timestamp) -> Option<Instant> {
        constant(expr, now).map(|at| Instant(Kind::Constant(at)))
    }

    /// A time of `row::RowBody`.
    pub(super) fn in_body(key: &str, sql: &mut Builder) -> Result<Instant, Residual> {
        let text = operand::in_body(&[key], sql)?.text();
        Ok(Instant(Kind::Stored {
            sql: format!("rtrim({text}, 'Z')"),
            form: Form::Fewest,
        }))
    }

    /// `lastActivityTime`, as `encode::last_activity` has it.
    pub(super) fn last_activity(sql: &mut Builder) -> Result<Instant, Residual> {
        let mut times = Vec::new();
        for key in ["connectedAt", "disconnectedAt", "lastSeenAt"] {
            let text = operand::in_posture(&["agent", key], sql)?.text();
            times.push(format!("rtrim({text}, 'Z')"));
        }
        let latest = match sql.dialect {
            // Its `max` is NULL if any of them is.
            Dialect::Sqlite => {
                let times: Vec<_> = times
                    .iter()
                    .map(|time| format!("coalesce({time}, '')"))
                    .collect();
                format!("nullif(max({}), '')", times.join(", "))
            }
            Dialect::Postgres => format!("greatest({})", times.join(", ")),
        };
        Ok(Instant(Kind::Stored {
            sql: latest,
            form: Form::Groups,
        }))
    }

    /// The instant, or that of what never was.
    pub(super) fn or_never(self) -> Instant {
        match self.0 {
            Kind::Stored { sql, form } => {
                let never = form.text(NEVER);
                let sql = format!("coalesce({sql}, '{never}')");
                Instant(Kind::Stored { sql, form })
            }
            Kind::Constant(_) => self,
        }
    }

    /// SQL that is NULL if there is none.
    pub(super) fn sql(&self) -> &str {
        match &self.0 {
            Kind::Constant(_) => "TRUE",
            Kind::Stored { sql, .. } => sql,
        }
    }
}

/// A comparison of which at least one side is an instant.
pub(super) fn compare(op: CompareOp, left: &Operand, right: &Operand) -> Result<String, Residual> {
    let (stored, form, at, op) = match (stored(left), stored(right)) {
        (Some((sql, form)), None) => (sql, form, known(right)?, op),
        (None, Some((sql, form))) => (sql, form, known(left)?, turned(op)),
        // Two constants, or two times of different forms.
        (None, None) | (Some(_), Some(_)) => return Err(Residual),
    };
    let text = form.text(at);
    // Digits, dashes, colons, `T` and dots: made here, never by the author of a query.
    Ok(format!("({stored} {} '{text}')", word(op)))
}

fn stored(operand: &Operand) -> Option<(&str, Form)> {
    match &operand.instant.as_ref()?.0 {
        Kind::Stored { sql, form } => Some((sql, *form)),
        Kind::Constant(_) => None,
    }
}

/// The instant that a side is known to be. A date that is none is left to the evaluator.
fn known(operand: &Operand) -> Result<Timestamp, Residual> {
    if let Some(Instant(Kind::Constant(at))) = &operand.instant {
        return Ok(*at);
    }
    let text = operand.literal.as_deref().ok_or(Residual)?;
    parse_instant(text).ok_or(Residual)
}

/// The operator with its sides changed.
pub(super) const fn turned(op: CompareOp) -> CompareOp {
    match op {
        CompareOp::Equal => CompareOp::Equal,
        CompareOp::NotEqual => CompareOp::NotEqual,
        CompareOp::Less => CompareOp::Greater,
        CompareOp::Greater => CompareOp::Less,
        CompareOp::LessOrEqual => CompareOp::GreaterOrEqual,
        CompareOp::GreaterOrEqual => CompareOp::LessOrEqual,
    }
}

impl Form {
    fn text(self, at: Timestamp) -> String {
        let nanoseconds = at.subsec_nanosecond();
        let text = match self {
            Form::Fewest => at.to_string(),
            Form::Groups if nanoseconds % 1_000_000 == 0 => format!("{at:.3}"),
            Form::Groups if nanoseconds % 1_000 == 0 => format!("{at:.6}"),
            Form::Groups => format!("{at:.9}"),
        };
        text.trim_end_matches('Z').to_owned()
    }
}

fn constant(expr: &Expr, now: Timestamp) -> Option<Timestamp> {
    let Expr::Call { function, args } = expr else {
        return None;
    };
    match (function, args.as_slice()) {
        (Function::Now, []) => Some(now),
        (Function::AsDate, [date]) => date_of(date, now),
        (Function::DateAdd, [Expr::Literal(Literal::Text(unit)), number, date]) => {
            let unit = TimeUnit::by_name(unit)?;
            unit.add(operand::constant(number)?, date_of(date, now)?)
        }
        _ => None,
    }
}

/// The instant that an expression is, or that its text shows, whatever twin is looked at.
pub(super) fn date_of(expr: &Expr, now: Timestamp) -> Option<Timestamp> {
    match expr {
        Expr::Literal(Literal::Text(text)) => parse_instant(text),
        _ => constant(expr, now),
    }
}
