//! What a query is grouped and ordered by.

use super::super::ast::{Expr, Sum};
use super::super::error::QueryError;
use super::super::lexer::Token;
use super::super::order::Direction;
use super::super::statement::{Aggregate, Item, ItemValue, OrderBy, OrderKey};
use super::Parser;
use super::statement::PlacedItem;
use crate::limits::{QUERY_GROUP_KEYS_MAX, QUERY_ORDER_KEYS_MAX};

impl Parser<'_> {
    pub(super) fn group_by(&mut self, items: &[PlacedItem]) -> Result<Vec<Expr>, QueryError> {
        let mut keys = Vec::new();
        if !self.take_keyword("GROUP") {
            return Ok(keys);
        }
        self.expect_keyword("BY", "GROUP BY tags.site")?;
        loop {
            if keys.len() == QUERY_GROUP_KEYS_MAX {
                let expected = format!("at most {QUERY_GROUP_KEYS_MAX} values after GROUP BY");
                return Err(self.unexpected(&expected));
            }
            keys.push(self.group_key(items)?);
            if !self.take_sign(",") {
                return Ok(keys);
            }
        }
    }

    /// A word that is nothing else may be the name of an item.
    fn group_key(&mut self, items: &[PlacedItem]) -> Result<Expr, QueryError> {
        let name = match self.peek() {
            Token::Word(name) if !self.is_dotted() && !self.is_call() => name,
            _ => return self.sum(),
        };
        let named = items.iter().find(|placed| placed.item.name == *name);
        let Some(placed) = named.filter(|placed| placed.named && !self.is_root(name)) else {
            return self.sum();
        };
        let ItemValue::Value(expr) = &placed.item.value else {
            let error = self.unexpected("a value of each twin");
            return Err(error.with_hint("an aggregate is made of the twins of a group"));
        };
        let expr = expr.clone();
        self.advance();
        Ok(expr)
    }

    pub(super) fn order_by(
        &mut self,
        items: &[Item],
        group_by: &[Expr],
        grouped: bool,
    ) -> Result<Vec<OrderBy>, QueryError> {
        let mut keys = Vec::new();
        if !self.take_keyword("ORDER") {
            return Ok(keys);
        }
        self.expect_keyword("BY", "ORDER BY tags.site DESC")?;
        loop {
            if keys.len() == QUERY_ORDER_KEYS_MAX {
                let expected = format!("at most {QUERY_ORDER_KEYS_MAX} keys after ORDER BY");
                return Err(self.unexpected(&expected));
            }
            let key = self.order_key(items, group_by, grouped)?;
            let direction = if self.take_keyword("DESC") {
                Direction::Descending
            } else {
                self.take_keyword("ASC");
                Direction::Ascending
            };
            keys.push(OrderBy { key, direction });
            if !self.take_sign(",") {
                return Ok(keys);
            }
        }
    }

    /// The name of an item goes before a path, as in other dialects.
    fn order_key(
        &mut self,
        items: &[Item],
        group_by: &[Expr],
        grouped: bool,
    ) -> Result<OrderKey, QueryError> {
        let place = self.next;
        let named = match self.peek() {
            Token::Word(name) | Token::Quoted(name) | Token::Text(name) if !self.is_dotted() => {
                let exact = items.iter().position(|item| item.name == *name);
                // Attributes are read in any case, so a name that hides one has to be as well.
                let alike = |item: &Item| item.name.eq_ignore_ascii_case(name);
                exact.or_else(|| items.iter().position(alike))
            }
            _ => None,
        };
        if let Some(index) = named {
            self.advance();
            return Ok(match &items[index].value {
                ItemValue::Value(expr) => OrderKey::Value(expr.clone()),
                ItemValue::Count | ItemValue::Aggregate(..) => OrderKey::Item(index),
            });
        }
        let is_aggregate = match self.peek() {
            Token::Word(word) => self.is_call() && Aggregate::by_name(word).is_some(),
            _ => false,
        };
        if is_aggregate {
            let error = self.unexpected("a value, or the name of an item");
            return Err(error.with_hint("name the aggregate: SELECT COUNT() AS n … ORDER BY n"));
        }
        let expr = self.sum()?;
        if grouped && !group_by.contains(&expr) {
            let error = self.error_at(place, "a value of GROUP BY, or the name of an item");
            return Err(error.with_hint(format!("add it: GROUP BY {}", Sum(&expr))));
        }
        Ok(OrderKey::Value(expr))
    }

    fn is_dotted(&self) -> bool {
        let after = self.tokens.get(self.next + 1);
        after.is_some_and(|placed| placed.token == Token::Sign("."))
    }
}
