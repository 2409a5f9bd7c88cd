//! A whole query: `SELECT … FROM … WHERE … GROUP BY … ORDER BY …` (spec 8.1, with `ORDER BY`
//! added).
//!
//! ```text
//! statement = SELECT [TOP n] ("*" | item {"," item}) FROM source
//!             [WHERE condition] [GROUP BY group {"," group}] [ORDER BY key {"," key}]
//! item      = sum [AS name] | COUNT "(" ")" [AS name] | (AVG|SUM|MIN|MAX) "(" sum ")" [AS name]
//! source    = devices | devices.modules
//! group     = sum | name of an item
//! key       = (sum | name of an item) [ASC | DESC]
//! ```
//!
//! A `sum` is a path, or any other expression of conditions: functions, dates, arithmetic, and a
//! condition in parentheses.
//!
//! What IoT Hub leaves open is decided so:
//! - An item without `AS` is named by the last name of its path, an attribute by its canonical
//!   name, an aggregate or a function by its name in lower case (`count`), any other expression
//!   `value`. Of several with the same name the
//!   second is `a_2`, and so on; a name given twice with `AS` is refused.
//! - A value that is missing is left out of its row. So is an average, sum, least or greatest of
//!   nothing; a count of nothing is 0.
//! - `GROUP BY` makes a group of the twins that lack the value; its rows lack the key. An array or
//!   an object is a group key like any other value.
//! - `AVG` and `SUM` take the numbers, `MIN` and `MAX` the numbers and texts; other values count
//!   as missing. A text is greater than any number.
//! - Aggregates and `GROUP BY` work on `devices.modules` too.
//! - What `NOW()` means stays the same from page to page of an answer.
//! - The name of an item goes before an attribute in `ORDER BY`, and behind it in `GROUP BY`.
//! - Without `ORDER BY`, twins come in the order of their ids, groups in that of their keys.

mod display;

use std::collections::BTreeSet;
use std::str::FromStr;

use jiff::Timestamp;

use super::ast::{Attribute, Expr, Path};
use super::error::QueryError;
use super::eval::{self, Facts};
use super::lookup::Lookup;
use super::order::{Direction, Position, SortValue};
use super::parser;
use super::row;
use crate::Map;
use crate::id::IdentityKey;

/// A parsed query.
///
/// ```
/// use twin::query::Statement;
///
/// let text = "SELECT tags.site, COUNT() AS n FROM devices GROUP BY tags.site ORDER BY n DESC";
/// let statement = Statement::parse(text).expect("it is well-formed");
/// assert!(statement.is_aggregated());
/// assert_eq!(statement.to_string(), text);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub(super) text: String,
    pub(super) top: Option<u64>,
    pub(super) select: Select,
    pub(super) source: Source,
    pub(super) condition: Option<Expr>,
    pub(super) group_by: Vec<Expr>,
    pub(super) order_by: Vec<OrderBy>,
}

/// What a query answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Select {
    /// `*`: whole twins.
    All,
    /// A list of values; never empty.
    Items(Vec<Item>),
}

/// One value of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Where it comes from.
    pub value: ItemValue,
    /// Its key in a row.
    pub name: String,
}

/// Where a value of an answer comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ItemValue {
    /// Each twin.
    Value(Expr),
    /// `COUNT()`
    Count,
    /// Another aggregate of the values of many twins.
    Aggregate(Aggregate, Expr),
}

/// What is made of the values of many twins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aggregate {
    /// `AVG(path)`
    Average,
    /// `SUM(path)`
    Sum,
    /// `MIN(path)`
    Least,
    /// `MAX(path)`
    Greatest,
    /// `COUNT()`, which takes no path.
    Count,
}

/// Which twins a query is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `devices`: the twins of devices.
    Devices,
    /// `devices.modules`: the twins of modules.
    Modules,
}

/// One key of the order of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderBy {
    /// What is compared.
    pub key: OrderKey,
    /// Which comes first.
    pub direction: Direction,
}

/// What rows are ordered by.
#[derive(Debug, Clone, PartialEq)]
pub enum OrderKey {
    /// A value of the twin; of a grouped answer, one of its `GROUP BY`.
    Value(Expr),
    /// An item of a grouped answer, by its place in the list.
    Item(usize),
}

impl Aggregate {
    pub(super) const NAMES: [(&'static str, Aggregate); 5] = [
        ("COUNT", Aggregate::Count),
        ("AVG", Aggregate::Average),
        ("SUM", Aggregate::Sum),
        ("MIN", Aggregate::Least),
        ("MAX", Aggregate::Greatest),
    ];

    pub(super) fn by_name(name: &str) -> Option<Aggregate> {
        let mut names = Aggregate::NAMES.iter();
        let found = names.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, aggregate)| *aggregate)
    }

    /// Its name in a query.
    pub fn name(self) -> &'static str {
        match self {
            Aggregate::Count => "COUNT",
            Aggregate::Average => "AVG",
            Aggregate::Sum => "SUM",
            Aggregate::Least => "MIN",
            Aggregate::Greatest => "MAX",
        }
    }
}

impl ItemValue {
    /// The name it has in a row if the query gives it none.
    pub(super) fn natural_name(&self) -> String {
        match self {
            ItemValue::Value(Expr::Path(path)) => path.last_name().to_owned(),
            ItemValue::Value(Expr::Call { function, .. }) => function.name().to_lowercase(),
            ItemValue::Value(_) => "value".to_owned(),
            ItemValue::Count => Aggregate::Count.name().to_lowercase(),
            ItemValue::Aggregate(aggregate, _) => aggregate.name().to_lowercase(),
        }
    }

    /// What of a twin it is made of.
    pub fn expr(&self) -> Option<&Expr> {
        match self {
            ItemValue::Value(expr) | ItemValue::Aggregate(_, expr) => Some(expr),
            ItemValue::Count => None,
        }
    }
}

impl Statement {
    /// Reads a query of at most 8192 characters.
    pub fn parse(text: &str) -> Result<Statement, QueryError> {
        parser::parse_statement(text)
    }

    /// How many rows it asks for at most.
    pub fn top(&self) -> Option<u64> {
        self.top
    }

    /// What it answers.
    pub fn select(&self) -> &Select {
        &self.select
    }

    /// Which twins it is about.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Which of them it takes; none if all.
    pub fn condition(&self) -> Option<&Expr> {
        self.condition.as_ref()
    }

    /// What makes a group.
    pub fn group_by(&self) -> &[Expr] {
        &self.group_by
    }

    /// In which order its rows come.
    pub fn order_by(&self) -> &[OrderBy] {
        &self.order_by
    }

    /// The text as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a row is made of many twins: [`super::Aggregator`] answers it.
    pub fn is_aggregated(&self) -> bool {
        let aggregate = |item: &Item| !matches!(item.value, ItemValue::Value(_));
        let by_item = match &self.select {
            Select::All => false,
            Select::Items(items) => items.iter().any(aggregate),
        };
        by_item || !self.group_by.is_empty()
    }

    /// Every place in the twin that it looks at, to judge it and to answer. `SELECT *` answers
    /// with the rest as well.
    pub fn paths(&self) -> BTreeSet<Path> {
        let mut paths = self.condition.as_ref().map(Expr::paths).unwrap_or_default();
        if let Select::Items(items) = &self.select {
            let exprs = items.iter().filter_map(|item| item.value.expr());
            paths.extend(exprs.flat_map(Expr::paths));
        }
        paths.extend(self.group_by.iter().flat_map(Expr::paths));
        for order in &self.order_by {
            if let OrderKey::Value(expr) = &order.key {
                paths.extend(expr.paths());
            }
        }
        paths
    }

    /// Whether it is about this twin and takes it. `now` is what `NOW()` means.
    pub fn matches(&self, twin: &dyn Lookup, now: Timestamp) -> bool {
        let facts = Facts::new(twin, Some(now));
        let module = eval::resolve(&Path::attribute(Attribute::ModuleId), &facts);
        let source = match module.to_json() {
            Some(_) => Source::Modules,
            None => Source::Devices,
        };
        source == self.source
            && self
                .condition
                .as_ref()
                .is_none_or(|condition| eval::holds(condition, twin, Some(now)))
    }

    /// The row of a twin, of a query that is not aggregated. `now` is what `NOW()` means.
    pub fn project(&self, twin: &dyn Lookup, now: Timestamp) -> Map {
        match &self.select {
            Select::All => row::whole(twin),
            Select::Items(items) => row::of_items(items, twin, now),
        }
    }

    /// Where the row of a twin stands in the answer of a query that is not aggregated. `now` is what
    /// `NOW()` means.
    pub fn position(&self, twin: &dyn Lookup, identity: IdentityKey, now: Timestamp) -> Position {
        let values = eval::bounded(twin, Some(now), |facts| {
            let values = self.order_by.iter().map(|order| {
                let value = match &order.key {
                    OrderKey::Value(expr) => SortValue::of(&eval::value(expr, facts)),
                    OrderKey::Item(_) => SortValue::Undefined,
                };
                (value, order.direction)
            });
            values.collect()
        });
        Position::new(values, identity)
    }

    /// The directions of its order, in which a position of its answer has values.
    pub fn directions(&self) -> Vec<Direction> {
        self.order_by.iter().map(|order| order.direction).collect()
    }
}

impl FromStr for Statement {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Statement, QueryError> {
        Statement::parse(text)
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
