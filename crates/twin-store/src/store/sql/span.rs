//! Ranges of searched values: texts that begin alike, and what lies on one side of a value or between
//! two. Nothing here decides what a condition means; a range that may hold more is said to be inexact.
//!
//! Texts lie in the index in the order of their code points, which is the evaluator's. One that was
//! cut (`index`) has a `#` in the place of what follows, and may lie a little before or behind its
//! place: bounds are chosen so that it is found all the same.

use std::fmt;
use std::ops::Bound;

use jiff::Timestamp;
use twin::query::ast::{Attribute, CompareOp, Expr, Function, Literal, Path, Root};

use super::fragment::{Builder, Dialect};
use super::{instant, operand};
use crate::index;

/// Texts with at most this many bytes are cut in no entry that begins with them.
const PLAIN_MAX: usize = index::TEXT_MAX - 4;
/// What follows a text that was cut.
const CUT: u8 = b'#';
/// Before every text.
const TEXTS: &str = "s:";
/// Behind every text.
const TEXTS_END: &str = "s;";
/// SQLite misses the last bit of numbers with large exponents. Numbers of these sizes are read
/// exactly, and all that are not are far away from them.
const EXACT: std::ops::RangeInclusive<f64> = 1e-50..=1e50;
/// By how much a bound of another size is moved away.
const WIDER: f64 = 1e-12;

/// A range of entries under one path.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Span {
    /// Entries of texts, as they are written.
    Texts {
        from: Bound<String>,
        to: Bound<String>,
    },
    /// Entries of numbers, by what they are.
    Numbers { from: Bound<f64>, to: Bound<f64> },
}

/// What entries a condition asks for.
pub(super) struct Found<'e> {
    /// The path that is compared.
    pub(super) path: &'e Path,
    pub(super) span: Span,
    /// Whether an entry there means that the condition holds.
    pub(super) exact: bool,
}

impl Span {
    /// `STARTSWITH(tag, text)`, and comparisons of a tag with a text or number or of the last activity
    /// with an instant.
    pub(super) fn of(expr: &Expr, now: Timestamp) -> Option<Found<'_>> {
        match expr {
            Expr::Call {
                function: Function::StartsWith,
                args,
            } => match args.as_slice() {
                [Expr::Path(path), Expr::Literal(Literal::Text(text))] if is_tag(path) => {
                    let (span, exact) = beginning(text)?;
                    Some(Found { path, span, exact })
                }
                _ => None,
            },
            Expr::Compare { op, left, right } => match (&**left, &**right) {
                (Expr::Path(path), value) => compared(path, *op, value, now),
                (value, Expr::Path(path)) => compared(path, instant::turned(*op), value, now),
                _ => None,
            },
            _ => None,
        }
    }

    /// What lies in both; none if no value can.
    pub(super) fn meet(&self, other: &Span) -> Option<Span> {
        match (self, other) {
            (Span::Texts { from, to }, Span::Texts { from: f, to: t }) => Some(Span::Texts {
                from: later(from, f),
                to: earlier(to, t),
            }),
            (Span::Numbers { from, to }, Span::Numbers { from: f, to: t }) => Some(Span::Numbers {
                from: later(from, f),
                to: earlier(to, t),
            }),
            (Span::Texts { .. }, Span::Numbers { .. })
            | (Span::Numbers { .. }, Span::Texts { .. }) => None,
        }
    }

    /// Entries under this name lie in it.
    pub(super) fn condition(&self, alias: &str, path: &str, sql: &mut Builder) -> String {
        let mut parts = vec![format!("{alias}.path = {}", sql.plain_text(path))];
        match self {
            Span::Texts { from, to } => {
                let value = format!("{alias}.value");
                parts.extend(side(&value, [">=", ">"], from, |text| sql.plain_text(text)));
                parts.extend(side(&value, ["<=", "<"], to, |text| sql.plain_text(text)));
            }
            Span::Numbers { from, to } => {
                // Word for word as the index has it, so that it serves.
                parts.push(format!("{alias}.value >= 'n:' AND {alias}.value < 'n;'"));
                let value = match sql.dialect {
                    Dialect::Sqlite => format!("CAST(substr({alias}.value, 3) AS REAL)"),
                    Dialect::Postgres => format!(
                        "(CASE WHEN {alias}.value >= 'n:' AND {alias}.value < 'n;' \
                         THEN substr({alias}.value, 3)::float8 END)"
                    ),
                };
                parts.extend(side(&value, [">=", ">"], from, |number| {
                    sql.number(*number)
                }));
                parts.extend(side(&value, ["<=", "<"], to, |number| sql.number(*number)));
            }
        }
        parts.join(" AND ")
    }

    /// The table of entries, with the index that SQLite would not choose by itself.
    pub(super) fn table(&self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Span::Numbers { .. }, Dialect::Sqlite) => {
                "twin_index AS x INDEXED BY twin_index_numbers"
            }
            _ => "twin_index AS x",
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &String| format!("{:?}", text.strip_prefix(TEXTS).unwrap_or(text));
        let number = f64::to_string;
        let mut parts: Vec<String> = Vec::new();
        match self {
            Span::Texts { from, to } => {
                let to = match to {
                    Bound::Excluded(end) if end == TEXTS_END => &Bound::Unbounded,
                    to => to,
                };
                parts.extend(side("", [">=", ">"], from, text));
                parts.extend(side("", ["<=", "<"], to, text));
            }
            Span::Numbers { from, to } => {
                parts.extend(side("", [">=", ">"], from, number));
                parts.extend(side("", ["<=", "<"], to, number));
            }
        }
        let parts: Vec<_> = parts.iter().map(|part| part.trim_start()).collect();
        f.write_str(&parts.join(" AND "))
    }
}

fn side<T>(
    value: &str,
    [closed, open]: [&str; 2],
    bound: &Bound<T>,
    show: impl FnOnce(&T) -> String,
) -> Option<String> {
    match bound {
        Bound::Included(at) => Some(format!("{value} {closed} {}", show(at))),
        Bound::Excluded(at) => Some(format!("{value} {open} {}", show(at))),
        Bound::Unbounded => None,
    }
}

fn is_tag(path: &Path) -> bool {
    path.root == Root::Tags && path.keys.first().is_some_and(|key| !key.starts_with('$'))
}

fn compared<'e>(path: &'e Path, op: CompareOp, value: &Expr, now: Timestamp) -> Option<Found<'e>> {
    let (span, exact) = if *path == Path::attribute(Attribute::LastActivityTime) {
        (hours(op, instant::date_of(value, now)?)?, false)
    } else if !is_tag(path) {
        return None;
    } else if let Expr::Literal(Literal::Text(text)) = value {
        texts(op, text)?
    } else {
        numbers(op, operand::constant(value)?)?
    };
    Some(Found { path, span, exact })
}

fn hours(op: CompareOp, at: Timestamp) -> Option<Span> {
    let hour = index::hour(Some(at));
    let (first, last) = (
        Bound::Included(TEXTS.to_owned()),
        Bound::Excluded(TEXTS_END.to_owned()),
    );
    let (from, to) = match op {
        CompareOp::Equal => (Bound::Included(hour.clone()), Bound::Included(hour)),
        CompareOp::Less | CompareOp::LessOrEqual => (first, Bound::Included(hour)),
        CompareOp::Greater | CompareOp::GreaterOrEqual => (Bound::Included(hour), last),
        CompareOp::NotEqual => return None,
    };
    Some(Span::Texts { from, to })
}

/// Whether entries show a text whole wherever it stands at their beginning.
fn is_plain(text: &str) -> bool {
    text.len() <= PLAIN_MAX && !text.contains('\0')
}

fn beginning(text: &str) -> Option<(Span, bool)> {
    if !is_plain(text) {
        return None;
    }
    let first = format!("{TEXTS}{text}");
    let end = successor(&first);
    let span = Span::Texts {
        from: Bound::Included(first),
        to: Bound::Excluded(end),
    };
    Some((span, !text.as_bytes().contains(&CUT)))
}

/// The first text behind all that begin so.
fn successor(text: &str) -> String {
    let mut end = text.to_owned();
    while let Some(last) = end.pop() {
        // No character stands between these two.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            end.push(next);
            break;
        }
    }
    end
}

fn texts(op: CompareOp, text: &str) -> Option<(Span, bool)> {
    if !is_plain(text) {
        return None;
    }
    // Where a cut text may lie on the other side of this one.
    let doubt = text.bytes().position(|byte| byte <= CUT);
    let entry = format!("{TEXTS}{text}");
    let last = match doubt.and_then(|at| text.get(..at)) {
        // Behind the `#` of what was cut there.
        Some(common) => Bound::Excluded(format!("{TEXTS}{common}$")),
        None if op == CompareOp::Less => Bound::Excluded(entry.clone()),
        None => Bound::Included(entry.clone()),
    };
    let (from, to) = match op {
        CompareOp::Less | CompareOp::LessOrEqual => (Bound::Included(TEXTS.to_owned()), last),
        CompareOp::Greater => (
            Bound::Excluded(entry),
            Bound::Excluded(TEXTS_END.to_owned()),
        ),
        CompareOp::GreaterOrEqual => (
            Bound::Included(entry),
            Bound::Excluded(TEXTS_END.to_owned()),
        ),
        // Equal values are looked for as such.
        CompareOp::Equal | CompareOp::NotEqual => return None,
    };
    Some((Span::Texts { from, to }, doubt.is_none()))
}

fn numbers(op: CompareOp, number: f64) -> Option<(Span, bool)> {
    // Zero, whatever its sign, is one number.
    let number = number + 0.0;
    let exact = number == 0.0 || EXACT.contains(&number.abs());
    let moved = |by: f64| {
        let moved = if exact {
            number
        } else {
            number + number.abs() * by
        };
        if moved.is_finite() { Some(moved) } else { None }
    };
    let bound = |by: f64, open: bool| match moved(by) {
        None => Bound::Unbounded,
        Some(at) if open && exact => Bound::Excluded(at),
        Some(at) => Bound::Included(at),
    };
    let (from, to) = match op {
        CompareOp::Less => (Bound::Unbounded, bound(WIDER, true)),
        CompareOp::LessOrEqual => (Bound::Unbounded, bound(WIDER, false)),
        CompareOp::Greater => (bound(-WIDER, true), Bound::Unbounded),
        CompareOp::GreaterOrEqual => (bound(-WIDER, false), Bound::Unbounded),
        CompareOp::Equal | CompareOp::NotEqual => return None,
    };
    Some((Span::Numbers { from, to }, exact))
}

fn later<T: Clone + PartialOrd>(a: &Bound<T>, b: &Bound<T>) -> Bound<T> {
    pick(a, b, |a, b| a > b)
}

fn earlier<T: Clone + PartialOrd>(a: &Bound<T>, b: &Bound<T>) -> Bound<T> {
    pick(a, b, |a, b| a < b)
}

/// The bound that leaves less; `narrower` says so of two different places.
fn pick<T: Clone + PartialOrd>(
    a: &Bound<T>,
    b: &Bound<T>,
    narrower: impl Fn(&T, &T) -> bool,
) -> Bound<T> {
    let (Bound::Included(x) | Bound::Excluded(x)) = a else {
        return b.clone();
    };
    let (Bound::Included(y) | Bound::Excluded(y)) = b else {
        return a.clone();
    };
    if narrower(x, y) || (x == y && matches!(a, Bound::Excluded(_))) {
        a.clone()
    } else {
        b.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_beginning_comes_the_next_character_that_there_is() {
        for (text, end) in [
            ("s:par", "s:pas"),
            ("s:", "s;"),
            ("s:a\u{d7ff}", "s:a\u{e000}"),
            ("s:a\u{10ffff}", "s:b"),
        ] {
            assert_eq!(successor(text), end);
        }
    }

    #[test]
    fn a_bound_on_each_side_leaves_what_lies_between() {
        let of = |(span, _): (Span, bool)| span;
        let above = of(numbers(CompareOp::Greater, 5.0).unwrap());
        let below = of(numbers(CompareOp::LessOrEqual, 9.5).unwrap());
        assert_eq!(above.meet(&below).unwrap().to_string(), "> 5 AND <= 9.5");
        let open = of(numbers(CompareOp::GreaterOrEqual, 5.0).unwrap());
        assert_eq!(open.meet(&above), Some(above.clone()));
        let since = of(texts(CompareOp::GreaterOrEqual, "2026").unwrap());
        let until = of(texts(CompareOp::Less, "2026-05").unwrap());
        assert_eq!(
            since.meet(&until).unwrap().to_string(),
            r#">= "2026" AND < "2026-05""#
        );
        assert_eq!(since.meet(&above), None);
    }

    /// A cut text stands where its hash says: behind `a` and a space, though `a` and a zero character
    /// come before.
    #[test]
    fn a_bound_that_a_cut_text_may_have_crossed_is_moved() {
        let (span, exact) = texts(CompareOp::Less, "a b").unwrap();
        assert_eq!(
            (span.to_string(), exact),
            (r#">= "" AND < "a$""#.to_owned(), false)
        );
        let cut = index::value(&serde_json::json!("a\0z")).unwrap();
        assert!("a\0z" < "a b" && cut.as_str() > "s:a b" && cut.as_str() < "s:a$");
        assert!(texts(CompareOp::Less, &"x".repeat(PLAIN_MAX + 1)).is_none());
        assert!(beginning("a\0").is_none());
    }
}
