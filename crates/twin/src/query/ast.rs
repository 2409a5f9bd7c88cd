//! The syntax tree of a condition, and its canonical text.
//!
//! The tree is as deep as the author nested, never as long as he chained: `a OR b OR c` is one
//! node, so that walking the tree is bounded by the limit on nesting.
//! `Display` gives a text that parses to the same tree.

mod attribute;
mod display;
pub(in crate::query) use display::Sum;
mod function;

use std::collections::BTreeSet;
use std::fmt;

pub use attribute::{Attribute, Members};
pub use function::{Function, TimeUnit};

/// A condition or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// A constant.
    Literal(Literal),
    /// A value of the twin.
    Path(Path),
    /// `OR`, of two or more.
    Any(Vec<Expr>),
    /// `AND`, of two or more.
    All(Vec<Expr>),
    /// `NOT`.
    Not(Box<Expr>),
    /// `=`, `!=`, `<`, `>`, `<=`, `>=`.
    Compare {
        /// Which of them.
        op: CompareOp,
        /// The left side.
        left: Box<Expr>,
        /// The right side.
        right: Box<Expr>,
    },
    /// `IN` and `NIN`.
    Member {
        /// What is looked for.
        value: Box<Expr>,
        /// Which of them.
        op: MemberOp,
        /// Among what.
        set: Set,
    },
    /// Sums, or products, from left to right.
    Chain {
        /// The first operand.
        first: Box<Expr>,
        /// The others; at least one. All operators are of one precedence.
        rest: Vec<(ArithmeticOp, Expr)>,
    },
    /// A minus sign.
    Negate(Box<Expr>),
    /// A function of as many arguments as it takes.
    Call {
        /// Which function.
        function: Function,
        /// Its arguments.
        args: Vec<Expr>,
    },
    /// Whether a condition holds for any element of an array, or any value of an object.
    Exists {
        /// The element's name within the condition.
        variable: String,
        /// The array.
        array: Path,
        /// The condition.
        condition: Box<Expr>,
    },
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `undefined`.
    Undefined,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number; finite.
    Number(f64),
    /// A text.
    Text(String),
}

/// A comparison of two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// `=`
    Equal,
    /// `!=`, also written `<>`.
    NotEqual,
    /// `<`
    Less,
    /// `>`
    Greater,
    /// `<=`
    LessOrEqual,
    /// `>=`
    GreaterOrEqual,
}

/// A test for membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberOp {
    /// `IN`
    In,
    /// `NIN`
    NotIn,
}

/// What membership is tested in.
#[derive(Debug, Clone, PartialEq)]
pub enum Set {
    /// `[1, 2]`
    List(Vec<Literal>),
    /// An array of the twin.
    Path(Path),
}

/// An operator between numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArithmeticOp {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

/// Where a path begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// An attribute beside the sections.
    Attribute(Attribute),
    /// `tags`
    Tags,
    /// `properties.desired`; its first key may be `$version` or `$metadata`.
    Desired,
    /// `properties.reported`; its first key may be `$version` or `$metadata`.
    Reported,
    /// `posture`
    Posture,
    /// `device.tags`: on a module's twin the tags of its device; undefined on a device's own.
    DeviceTags,
    /// The element that an `EXISTS` speaks of.
    Variable {
        /// Its name.
        name: String,
        /// How many other `EXISTS` stand around its own.
        level: usize,
    },
}

/// A place in the twin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Where it begins.
    pub root: Root,
    /// The keys from there.
    pub keys: Vec<String>,
}

impl Expr {
    /// The paths of the twin that it refers to, without those of `EXISTS` variables.
    pub fn paths(&self) -> BTreeSet<Path> {
        let mut paths = BTreeSet::new();
        self.collect_paths(&mut paths);
        paths
    }

    fn collect_paths(&self, paths: &mut BTreeSet<Path>) {
        let mut add = |path: &Path| {
            if !matches!(path.root, Root::Variable { .. }) {
                paths.insert(path.clone());
            }
        };
        match self {
            Expr::Literal(_) => {}
            Expr::Path(path) => add(path),
            Expr::Any(parts) | Expr::All(parts) | Expr::Call { args: parts, .. } => {
                for part in parts {
                    part.collect_paths(paths);
                }
            }
            Expr::Not(inner) | Expr::Negate(inner) => inner.collect_paths(paths),
            Expr::Compare { left, right, .. } => {
                left.collect_paths(paths);
                right.collect_paths(paths);
            }
            Expr::Member { value, set, .. } => {
                if let Set::Path(path) = set {
                    add(path);
                }
                value.collect_paths(paths);
            }
            Expr::Chain { first, rest } => {
                first.collect_paths(paths);
                for (_, operand) in rest {
                    operand.collect_paths(paths);
                }
            }
            Expr::Exists {
                array, condition, ..
            } => {
                add(array);
                condition.collect_paths(paths);
            }
        }
    }
}

impl Path {
    /// The path of an attribute.
    pub fn attribute(attribute: Attribute) -> Path {
        Path {
            root: Root::Attribute(attribute),
            keys: Vec::new(),
        }
    }

    /// Its last name: the natural key of its value in a result (spec 8.1).
    pub fn last_name(&self) -> &str {
        match (self.keys.last(), &self.root) {
            (Some(key), _) => key,
            (None, Root::Attribute(attribute)) => attribute.name(),
            (None, Root::Tags | Root::DeviceTags) => "tags",
            (None, Root::Desired) => "desired",
            (None, Root::Reported) => "reported",
            (None, Root::Posture) => "posture",
            (None, Root::Variable { name, .. }) => name,
        }
    }
}

impl ArithmeticOp {
    /// Whether it binds as a product does.
    pub(super) fn is_product(self) -> bool {
        match self {
            ArithmeticOp::Add | ArithmeticOp::Subtract => false,
            ArithmeticOp::Multiply | ArithmeticOp::Divide | ArithmeticOp::Remainder => true,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.root {
            Root::Attribute(attribute) => attribute.name(),
            Root::Tags => "tags",
            Root::DeviceTags => "device.tags",
            Root::Desired => "properties.desired",
            Root::Reported => "properties.reported",
            Root::Posture => "posture",
            Root::Variable { name, .. } => name,
        })?;
        for key in &self.keys {
            if super::lexer::is_word(key) {
                write!(f, ".{key}")?;
            } else if key.trim_end_matches(']').contains("]]") {
                // Only what closes a quoted key cannot stand in one.
                write!(f, ".{}", Literal::Text(key.clone()))?;
            } else {
                write!(f, ".[[{key}]]")?;
            }
        }
        Ok(())
    }
}
