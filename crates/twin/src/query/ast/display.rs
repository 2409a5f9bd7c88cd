//! The canonical text of a tree: one blank around operators, parentheses only where the tree
//! would be another one without them. It therefore never nests deeper than what it was parsed from.

use std::fmt::{self, Display};

use super::{ArithmeticOp, CompareOp, Expr, Literal, MemberOp, Set};

/// How tightly an expression binds; a higher one needs no parentheses within a lower one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Any,
    All,
    Not,
    Compare,
    Sum,
    Product,
    Sign,
    Primary,
}

fn binding(expr: &Expr) -> Binding {
    match expr {
        Expr::Any(_) => Binding::Any,
        Expr::All(_) => Binding::All,
        Expr::Not(_) => Binding::Not,
        Expr::Compare { .. } | Expr::Member { .. } => Binding::Compare,
        Expr::Chain { rest, .. } => {
            let product = rest.first().is_some_and(|(op, _)| op.is_product());
            if product {
                Binding::Product
            } else {
                Binding::Sum
            }
        }
        Expr::Negate(_) => Binding::Sign,
        Expr::Literal(_) | Expr::Path(_) | Expr::Call { .. } | Expr::Exists { .. } => {
            Binding::Primary
        }
    }
}

/// An expression where no operator of a condition may stand outside of parentheses.
pub(in crate::query) struct Sum<'a>(pub(in crate::query) &'a Expr);

/// An operand of an operator, in parentheses if it binds less tightly than it must there.
struct Operand<'a>(&'a Expr, Binding);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operand(expr, at_least) = self;
        if binding(expr) < *at_least {
            write!(f, "({expr})")
        } else {
            expr.fmt(f)
        }
    }
}

impl fmt::Display for Sum<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Operand(self.0, Binding::Sum).fmt(f)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Literal(literal) => literal.fmt(f),
            Expr::Path(path) => path.fmt(f),
            Expr::Any(parts) => joined(f, parts, " OR ", Binding::All),
            Expr::All(parts) => joined(f, parts, " AND ", Binding::Not),
            Expr::Not(inner) => write!(f, "NOT {}", Operand(inner, Binding::Not)),
            Expr::Compare { op, left, right } => {
                let (left, right) = (Operand(left, Binding::Sum), Operand(right, Binding::Sum));
                write!(f, "{left} {op} {right}")
            }
            Expr::Member { value, op, set } => {
                write!(f, "{} {op} {set}", Operand(value, Binding::Sum))
            }
            Expr::Chain { first, rest } => {
                let at_least = match binding(self) {
                    Binding::Product => Binding::Sign,
                    _ => Binding::Product,
                };
                Operand(first, at_least).fmt(f)?;
                for (op, operand) in rest {
                    write!(f, " {op} {}", Operand(operand, at_least))?;
                }
                Ok(())
            }
            Expr::Negate(inner) => write!(f, "-{}", Operand(inner, Binding::Sign)),
            Expr::Call { function, args } => {
                write!(f, "{}(", function.name())?;
                joined(f, args, ", ", Binding::Any)?;
                f.write_str(")")
            }
            Expr::Exists {
                variable,
                array,
                condition,
            } => {
                write!(f, "EXISTS({variable} IN {array} WHERE {condition})")
            }
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    separator: &str,
    at_least: Binding,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        Operand(part, at_least).fmt(f)?;
    }
    Ok(())
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Undefined => f.write_str("undefined"),
            Literal::Null => f.write_str("null"),
            Literal::Bool(true) => f.write_str("true"),
            Literal::Bool(false) => f.write_str("false"),
            // The debug form writes 1e300 short where the display form writes 301 digits.
            Literal::Number(number) if number.abs() < 1e15 => write!(f, "{number}"),
            Literal::Number(number) => write!(f, "{number:?}"),
            Literal::Text(text) => {
                f.write_str("'")?;
                for c in text.chars() {
                    match c {
                        '\'' | '\\' => write!(f, "\\{c}")?,
                        c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                        c => write!(f, "{c}")?,
                    }
                }
                f.write_str("'")
            }
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Set::Path(path) => path.fmt(f),
            Set::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    value.fmt(f)?;
                }
                f.write_str("]")
            }
        }
    }
}

impl fmt::Display for CompareOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CompareOp::Equal => "=",
            CompareOp::NotEqual => "!=",
            CompareOp::Less => "<",
            CompareOp::Greater => ">",
            CompareOp::LessOrEqual => "<=",
            CompareOp::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for MemberOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemberOp::In => "IN",
            MemberOp::NotIn => "NIN",
        })
    }
}

impl fmt::Display for ArithmeticOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArithmeticOp::Add => "+",
            ArithmeticOp::Subtract => "-",
            ArithmeticOp::Multiply => "*",
            ArithmeticOp::Divide => "/",
            ArithmeticOp::Remainder => "%",
        })
    }
}
