//! Queries: what stands around the condition.

use super::super::Vocabulary;
use super::super::ast::{Expr, Function, Sum};
use super::super::error::{QueryError, QueryErrorKind};
use super::super::hint::nearest;
use super::super::lexer::Token;
use super::super::statement::{Aggregate, Item, ItemValue, Select, Source, Statement};
use super::Parser;
use super::primary::is_reserved;
use crate::limits::{QUERY_ITEMS_MAX, QUERY_TOP_MAX};

/// Reads a whole query.
pub(in crate::query) fn parse(text: &str) -> Result<Statement, QueryError> {
    let mut parser = Parser::new(text, "query", Vocabulary::Query)?;
    parser.statement()
}

/// An item and where it stands, to point at it later.
pub(super) struct PlacedItem {
    pub(super) item: Item,
    place: usize,
    /// Its name is the author's, and not that of its value.
    pub(super) named: bool,
}

impl Parser<'_> {
    fn statement(&mut self) -> Result<Statement, QueryError> {
        self.expect_keyword(
            "SELECT",
            "SELECT tags.site FROM devices WHERE tags.floor = 2",
        )?;
        let top = self.top()?;
        let list = self.next;
        let items = self.select_list()?;
        self.expect_keyword(
            "FROM",
            "an item is a value, or COUNT(), AVG, SUM, MIN, MAX of a value",
        )?;
        let source = self.source()?;
        let condition = if self.take_keyword("WHERE") {
            Some(self.any()?)
        } else {
            None
        };
        let group_by = self.group_by(&items)?;
        self.check_items(list, &items, &group_by)?;
        let grouped = !group_by.is_empty() || items.iter().any(|i| is_aggregate(&i.item));
        let items: Vec<Item> = items.into_iter().map(|placed| placed.item).collect();
        let order_by = self.order_by(&items, &group_by, grouped)?;
        let expected = match (&condition, order_by.is_empty(), grouped) {
            (_, false, _) => "`,` or the end",
            (None, true, false) => "WHERE, GROUP BY, ORDER BY or the end",
            (Some(_), true, false) => "AND, OR, GROUP BY, ORDER BY or the end",
            (_, true, true) => "ORDER BY or the end",
        };
        self.expect_end(expected)?;
        let select = if items.is_empty() {
            Select::All
        } else {
            Select::Items(items)
        };
        Ok(Statement {
            text: self.text.to_owned(),
            top,
            select,
            source,
            condition,
            group_by,
            order_by,
        })
    }

    pub(super) fn expect_keyword(&mut self, keyword: &str, hint: &str) -> Result<(), QueryError> {
        if self.take_keyword(keyword) {
            return Ok(());
        }
        let error = self.unexpected(keyword);
        let misspelled = match self.peek() {
            Token::Word(word) => nearest(word, [keyword]).is_some(),
            Token::Quoted(_) | Token::Number(_) | Token::Text(_) | Token::Sign(_) | Token::End => {
                false
            }
        };
        if misspelled {
            return Err(error.with_hint(format!("did you mean {keyword}?")));
        }
        Err(error.with_hint(hint))
    }

    fn top(&mut self) -> Result<Option<u64>, QueryError> {
        if !self.take_keyword("TOP") {
            return Ok(None);
        }
        let Token::Number(number) = *self.peek() else {
            return Err(self
                .unexpected("how many rows")
                .with_hint("SELECT TOP 10 *"));
        };
        let top = format!("{number}").parse().ok();
        let Some(top) = top.filter(|top| (1..=QUERY_TOP_MAX).contains(top)) else {
            let expected = format!("a whole number from 1 to {QUERY_TOP_MAX}");
            return Err(self.unexpected(&expected));
        };
        self.advance();
        Ok(Some(top))
    }

    /// No items stand for `*`.
    fn select_list(&mut self) -> Result<Vec<PlacedItem>, QueryError> {
        if self.take_sign("*") {
            return Ok(Vec::new());
        }
        if self.is_keyword("DISTINCT") {
            let error = self.unexpected("`*`, a path or an aggregate");
            return Err(error.with_hint("there is no DISTINCT: group by the same path"));
        }
        let mut items: Vec<PlacedItem> = Vec::new();
        loop {
            if items.len() == QUERY_ITEMS_MAX {
                let expected = format!("at most {QUERY_ITEMS_MAX} items after SELECT");
                return Err(self.unexpected(&expected));
            }
            let placed = self.item()?;
            let clashes = |other: &PlacedItem| {
                other.item.name == placed.item.name && (other.named || placed.named)
            };
            if items.iter().any(clashes) {
                let found = &placed.item.name;
                let error = self.error_at(placed.place, "items of different names");
                return Err(
                    error.with_hint(format!("two items are named {found}: name one with AS"))
                );
            }
            items.push(placed);
            if !self.take_sign(",") {
                number_names(&mut items);
                return Ok(items);
            }
        }
    }

    fn item(&mut self) -> Result<PlacedItem, QueryError> {
        let place = self.next;
        let value = self.item_value()?;
        let named = self.take_keyword("AS");
        let name = if named {
            self.name()?
        } else {
            value.natural_name()
        };
        let item = Item { value, name };
        Ok(PlacedItem { item, place, named })
    }

    fn item_value(&mut self) -> Result<ItemValue, QueryError> {
        let Token::Word(word) = self.peek().clone() else {
            if matches!(self.peek(), Token::End) {
                return Err(self.unexpected("`*`, a value or an aggregate"));
            }
            return Ok(ItemValue::Value(self.sum()?));
        };
        if !self.is_call() {
            let is_literal = ["null", "true", "false"]
                .iter()
                .any(|literal| literal.eq_ignore_ascii_case(&word));
            if is_reserved(&word) && !is_literal {
                return Err(self.unexpected("`*`, a value or an aggregate"));
            }
            return Ok(ItemValue::Value(self.sum()?));
        }
        let Some(aggregate) = Aggregate::by_name(&word) else {
            return self.item_call(&word);
        };
        self.advance();
        self.advance();
        let value = if aggregate == Aggregate::Count {
            ItemValue::Count
        } else {
            ItemValue::Aggregate(aggregate, self.sum()?)
        };
        let closed = self.take_sign(")");
        match value {
            ItemValue::Count if !closed => {
                let error = self.unexpected("`)`: COUNT takes no argument");
                Err(error.with_hint("to count what has a value: WHERE IS_DEFINED(path)"))
            }
            _ if !closed => {
                Err(self.unexpected(&format!("`)`: {} takes one value", aggregate.name())))
            }
            value => Ok(value),
        }
    }

    /// A function, or a misspelled aggregate.
    fn item_call(&mut self, word: &str) -> Result<ItemValue, QueryError> {
        if Function::by_name(word).is_some() || word.eq_ignore_ascii_case("EXISTS") {
            return Ok(ItemValue::Value(self.sum()?));
        }
        let error = self.unexpected("a value or an aggregate");
        let aggregates = Aggregate::NAMES.iter().map(|(name, _)| *name);
        let functions = Function::NAMES.iter().map(|(name, _)| *name);
        Err(match nearest(word, aggregates.chain(functions)) {
            Some(meant) => error.with_hint(format!("did you mean {meant}?")),
            None => error.with_hint(
                "there are COUNT(), AVG, SUM, MIN, MAX of a value, and the functions of conditions",
            ),
        })
    }

    /// A name after `AS`.
    fn name(&mut self) -> Result<String, QueryError> {
        let name = match self.peek() {
            Token::Word(word) if !is_reserved(word) => word.clone(),
            Token::Quoted(name) => name.clone(),
            Token::Text(name) if !name.is_empty() => name.clone(),
            Token::Word(word) => {
                let hint = format!("this word is a keyword; as a name it is written [[{word}]]");
                return Err(self.unexpected("a name").with_hint(hint));
            }
            Token::Number(_) | Token::Text(_) | Token::Sign(_) | Token::End => {
                return Err(self.unexpected("a name").with_hint("tags.site AS site"));
            }
        };
        self.advance();
        Ok(name)
    }

    fn source(&mut self) -> Result<Source, QueryError> {
        let place = self.next;
        let hint = "there are devices and devices.modules";
        if !self.take_keyword("devices") {
            return Err(self.unexpected("a collection").with_hint(hint));
        }
        if !self.take_sign(".") {
            return Ok(Source::Devices);
        }
        if self.take_keyword("modules") {
            return Ok(Source::Modules);
        }
        if self.is_keyword("jobs") {
            let error = self.error_at(place, "devices or devices.modules");
            return Err(error
                .of_kind(QueryErrorKind::Unsupported)
                .with_hint("the REST API answers queries of devices.jobs"));
        }
        Err(self.unexpected("modules").with_hint(hint))
    }

    /// Items of a grouped answer are aggregates or what it is grouped by.
    fn check_items(
        &self,
        list: usize,
        items: &[PlacedItem],
        group_by: &[Expr],
    ) -> Result<(), QueryError> {
        let aggregated = items.iter().any(|placed| is_aggregate(&placed.item));
        if !aggregated && group_by.is_empty() {
            return Ok(());
        }
        if items.is_empty() {
            let error = self.error_at(list, "a list of items, because the answer is grouped");
            return Err(
                error.with_hint("SELECT tags.site, COUNT() AS n FROM devices GROUP BY tags.site")
            );
        }
        for PlacedItem { item, place, .. } in items {
            let ItemValue::Value(expr) = &item.value else {
                continue;
            };
            if !group_by.contains(expr) {
                let error = self.error_at(*place, "an aggregate, or a value of GROUP BY");
                return Err(error.with_hint(format!("add it: GROUP BY {}", Sum(expr))));
            }
        }
        Ok(())
    }
}

/// Items to which nobody gave a name, and whose values have the same one, get a number behind it:
/// `a`, `a_2`, `a_3`.
fn number_names(items: &mut [PlacedItem]) {
    for index in 1..items.len() {
        let (before, rest) = items.split_at(index);
        let Some(own) = rest.first().map(|placed| &placed.item.name) else {
            return;
        };
        if before.iter().all(|other| other.item.name != *own) {
            continue;
        }
        let is_free = |name: &String| items.iter().all(|other| other.item.name != *name);
        // Of so many numbers one is free, because there are fewer items.
        let mut numbered = (2..=QUERY_ITEMS_MAX + 1).map(|number| format!("{own}_{number}"));
        if let Some(name) = numbered.find(is_free) {
            items[index].item.name = name;
        }
    }
}

fn is_aggregate(item: &Item) -> bool {
    !matches!(item.value, ItemValue::Value(_))
}
