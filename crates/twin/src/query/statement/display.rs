//! The canonical text of a query, which parses to the same query.

use std::fmt::{self, Display};

use super::{Direction, Item, ItemValue, OrderBy, OrderKey, Select, Source, Statement};
use crate::query::ast::{Literal, Sum};
use crate::query::lexer::is_word;
use crate::query::parser::is_reserved;

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT ")?;
        if let Some(top) = self.top {
            write!(f, "TOP {top} ")?;
        }
        match &self.select {
            Select::All => f.write_str("*")?,
            Select::Items(items) => joined(f, items)?,
        }
        write!(f, " FROM {}", self.source)?;
        if let Some(condition) = &self.condition {
            write!(f, " WHERE {condition}")?;
        }
        if !self.group_by.is_empty() {
            f.write_str(" GROUP BY ")?;
            let keys: Vec<_> = self.group_by.iter().map(Sum).collect();
            joined(f, &keys)?;
        }
        for (index, order) in self.order_by.iter().enumerate() {
            f.write_str(if index == 0 { " ORDER BY " } else { ", " })?;
            self.order(f, order)?;
        }
        Ok(())
    }
}

impl Statement {
    fn order(&self, f: &mut fmt::Formatter<'_>, order: &OrderBy) -> fmt::Result {
        match (&order.key, &self.select) {
            (OrderKey::Value(expr), Select::Items(items)) => {
                // Another item may have taken the name that the path would be read as.
                let own = |item: &&Item| matches!(&item.value, ItemValue::Value(e) if e == expr);
                match items.iter().find(own) {
                    Some(item) => name(f, &item.name)?,
                    None => Sum(expr).fmt(f)?,
                }
            }
            (OrderKey::Value(expr), Select::All) => Sum(expr).fmt(f)?,
            (OrderKey::Item(index), Select::Items(items)) => {
                if let Some(item) = items.get(*index) {
                    name(f, &item.name)?;
                }
            }
            (OrderKey::Item(_), Select::All) => {}
        }
        match order.direction {
            Direction::Ascending => Ok(()),
            Direction::Descending => f.write_str(" DESC"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            ItemValue::Value(expr) => Sum(expr).fmt(f)?,
            ItemValue::Count => f.write_str("COUNT()")?,
            ItemValue::Aggregate(aggregate, expr) => {
                write!(f, "{}({})", aggregate.name(), Sum(expr))?;
            }
        }
        if self.name == self.value.natural_name() {
            return Ok(());
        }
        f.write_str(" AS ")?;
        name(f, &self.name)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Devices => "devices",
            Source::Modules => "devices.modules",
        })
    }
}

fn name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if is_word(name) && !is_reserved(name) {
        f.write_str(name)
    } else if name.trim_end_matches(']').contains("]]") {
        // Only what closes a quoted name cannot stand in one.
        Literal::Text(name.to_owned()).fmt(f)
    } else {
        write!(f, "[[{name}]]")
    }
}

fn joined<T: fmt::Display>(f: &mut fmt::Formatter<'_>, parts: &[T]) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        part.fmt(f)?;
    }
    Ok(())
}
