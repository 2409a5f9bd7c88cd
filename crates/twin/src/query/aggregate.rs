//! The rows of a query that is aggregated: groups of twins, and what is made of each.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::datum::{Datum, json_number};
use super::eval::{self, Facts};
use super::group::GroupPosition;
use super::lookup::Lookup;
use super::order::SortValue;
use super::statement::{Aggregate, Item, ItemValue, OrderKey, Select, Statement};
use super::window::Page;
use crate::Map;
use crate::limits::{QUERY_GROUPS_BYTES_MAX, QUERY_GROUPS_MAX};

/// Gathers the twins that a query takes, one after the other, and then gives its rows. It keeps
/// one tally for each group, and refuses to keep more than 10,000 groups or 16 MiB of them.
#[derive(Debug)]
pub struct Aggregator<'s> {
    statement: &'s Statement,
    items: &'s [Item],
    now: Timestamp,
    groups: BTreeMap<GroupKey, Group>,
    bytes: usize,
}

/// More groups than an answer may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the answer has more than {QUERY_GROUPS_MAX} groups, or more than {QUERY_GROUPS_BYTES_MAX} \
     bytes of them: group by what has fewer values, or take fewer twins with WHERE"
)]
pub struct TooManyGroups;

/// The values of `GROUP BY`, in the order of rows; arrays and objects are told apart by their text.
pub(super) type GroupKey = Vec<(SortValue, Option<String>)>;

#[derive(Debug, Clone)]
struct Group {
    /// The values of `GROUP BY` as they are shown.
    key: Vec<Option<Value>>,
    tallies: Vec<Tally>,
}

/// What is known of one item of one group so far.
#[derive(Debug, Clone)]
enum Tally {
    Key(usize),
    Count(u64),
    Sum(Mean),
    Average(Mean),
    Least(Option<Extreme>),
    Greatest(Option<Extreme>),
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

#[derive(Debug, Clone)]
struct Extreme {
    place: SortValue,
    value: Value,
}

impl<'s> Aggregator<'s> {
    /// For a query that is aggregated; of any other it gives the rows without duplicates. `now` is
    /// what `NOW()` means.
    pub fn new(statement: &'s Statement, now: Timestamp) -> Aggregator<'s> {
        let items = match statement.select() {
            Select::All => &[],
            Select::Items(items) => items.as_slice(),
        };
        Aggregator {
            statement,
            items,
            now,
            groups: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Counts in a twin that the query takes.
    pub fn add(&mut self, twin: &dyn Lookup) -> Result<(), TooManyGroups> {
        let now = self.now;
        eval::bounded(twin, Some(now), |facts| self.add_facts(facts))
    }

    fn add_facts(&mut self, facts: &Facts<'_>) -> Result<(), TooManyGroups> {
        let mut key = GroupKey::new();
        for expr in self.statement.group_by() {
            let value = eval::value(expr, facts);
            let text = match value {
                Datum::Array(_) | Datum::Object(_) => value.to_json().map(|json| json.to_string()),
                _ => None,
            };
            key.push((SortValue::of(&value), text));
        }
        if !self.groups.contains_key(&key) {
            let group = self.new_group(&key, facts)?;
            self.groups.insert(key.clone(), group);
        }
        let mut grown = 0;
        if let Some(group) = self.groups.get_mut(&key) {
            for (tally, item) in group.tallies.iter_mut().zip(self.items) {
                grown += match &item.value {
                    ItemValue::Aggregate(_, expr) => tally.add(&eval::value(expr, facts)),
                    ItemValue::Count | ItemValue::Value(_) => tally.add(&Datum::Undefined),
                };
            }
        }
        self.grow(grown)
    }

    /// The rows in their order, at most as many as `TOP` says.
    pub fn into_rows(self) -> Vec<Map> {
        let top = self
            .statement
            .top()
            .and_then(|top| usize::try_from(top).ok());
        let page = self.into_page(top.unwrap_or(usize::MAX), None);
        page.rows.into_iter().map(|(_, row)| row).collect()
    }

    /// The first rows behind a place, or from the beginning.
    pub fn into_page(mut self, size: usize, after: Option<&GroupPosition>) -> Page<GroupPosition> {
        if self.groups.is_empty() && self.statement.group_by().is_empty() {
            // A count of nothing is a row with 0.
            let tallies = self.items.iter().map(|item| self.tally(item)).collect();
            let key = Vec::new();
            self.groups.insert(GroupKey::new(), Group { key, tallies });
        }
        let mut rows = Vec::with_capacity(self.groups.len());
        for (key, group) in &self.groups {
            let shown: Vec<_> = group
                .tallies
                .iter()
                .map(|tally| tally.show(&group.key))
                .collect();
            let position = self.position(key, &shown);
            if after.is_some_and(|after| position <= *after) {
                continue;
            }
            let mut row = Map::new();
            for (item, value) in self.items.iter().zip(shown) {
                if let Some(value) = value {
                    row.insert(item.name.clone(), value);
                }
            }
            rows.push((position, row));
        }
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        let more = rows.len() > size;
        rows.truncate(size);
        Page { rows, more }
    }

    fn position(&self, key: &GroupKey, shown: &[Option<Value>]) -> GroupPosition {
        let orders = self.statement.order_by().iter().map(|order| {
            let value = match &order.key {
                OrderKey::Item(index) => place(shown.get(*index)),
                OrderKey::Value(expr) => {
                    let mut keys = self.statement.group_by().iter().zip(key);
                    let found = keys.find(|(own, _)| *own == expr);
                    found.map_or(SortValue::Undefined, |(_, (place, _))| place.clone())
                }
            };
            (value, order.direction)
        });
        GroupPosition::new(orders.collect(), key)
    }

    fn new_group(&mut self, key: &GroupKey, facts: &Facts<'_>) -> Result<Group, TooManyGroups> {
        if self.groups.len() == QUERY_GROUPS_MAX {
            return Err(TooManyGroups);
        }
        let key_bytes = |(place, text): &(SortValue, Option<String>)| {
            let text = text.as_ref().map_or(0, String::len);
            text + if let SortValue::Text(text) = place {
                text.len()
            } else {
                0
            }
        };
        // Twice: once to find the group, once to show its key.
        self.grow(2 * key.iter().map(key_bytes).sum::<usize>())?;
        let exprs = self.statement.group_by().iter();
        Ok(Group {
            key: exprs.map(|expr| eval::json(expr, facts)).collect(),
            tallies: self.items.iter().map(|item| self.tally(item)).collect(),
        })
    }

    fn grow(&mut self, bytes: usize) -> Result<(), TooManyGroups> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > QUERY_GROUPS_BYTES_MAX {
            return Err(TooManyGroups);
        }
        Ok(())
    }

    fn tally(&self, item: &Item) -> Tally {
        match &item.value {
            ItemValue::Value(expr) => {
                let place = self.statement.group_by().iter().position(|own| own == expr);
                Tally::Key(place.unwrap_or(usize::MAX))
            }
            ItemValue::Count | ItemValue::Aggregate(Aggregate::Count, _) => Tally::Count(0),
            ItemValue::Aggregate(Aggregate::Average, _) => Tally::Average(Mean::default()),
            ItemValue::Aggregate(Aggregate::Sum, _) => Tally::Sum(Mean::default()),
            ItemValue::Aggregate(Aggregate::Least, _) => Tally::Least(None),
            ItemValue::Aggregate(Aggregate::Greatest, _) => Tally::Greatest(None),
        }
    }
}

impl Tally {
    /// Counts in a value; tells how many bytes more it keeps.
    fn add(&mut self, value: &Datum<'_>) -> usize {
        match self {
            Tally::Key(_) => 0,
            Tally::Count(count) => {
                *count += 1;
                0
            }
            Tally::Sum(mean) | Tally::Average(mean) => {
                if let Datum::Number(number) = value {
                    mean.sum += number;
                    mean.count += 1;
                }
                0
            }
            Tally::Least(extreme) => keep(extreme, value, Ordering::Less),
            Tally::Greatest(extreme) => keep(extreme, value, Ordering::Greater),
        }
    }

    fn show(&self, key: &[Option<Value>]) -> Option<Value> {
        match self {
            Tally::Key(index) => key.get(*index).cloned().flatten(),
            Tally::Count(count) => Some(json!(count)),
            Tally::Sum(mean) if mean.count > 0 => json_number(mean.sum).map(Value::Number),
            Tally::Average(mean) if mean.count > 0 => {
                let count = serde_json::Number::from(mean.count).as_f64()?;
                json_number(mean.sum / count).map(Value::Number)
            }
            Tally::Sum(_) | Tally::Average(_) => None,
            Tally::Least(extreme) | Tally::Greatest(extreme) => {
                extreme.as_ref().map(|extreme| extreme.value.clone())
            }
        }
    }
}

/// Keeps a number or a text if it is the first one, or lies on that side of the one kept.
fn keep(extreme: &mut Option<Extreme>, value: &Datum<'_>, side: Ordering) -> usize {
    let comparable = matches!(value, Datum::Number(_) | Datum::Text(_) | Datum::Instant(_));
    if !comparable {
        return 0;
    }
    let place = SortValue::of(value);
    let better = extreme
        .as_ref()
        .is_none_or(|kept| place.cmp(&kept.place) == side);
    let Some(value) = value.to_json().filter(|_| better) else {
        return 0;
    };
    let bytes = |extreme: &Extreme| extreme.value.as_str().map_or(0, |text| 2 * text.len());
    let before = extreme.as_ref().map_or(0, bytes);
    let new = Extreme { place, value };
    let grown = bytes(&new).saturating_sub(before);
    *extreme = Some(new);
    grown
}

fn place(shown: Option<&Option<Value>>) -> SortValue {
    let value = shown.and_then(Option::as_ref);
    value.map_or(SortValue::Undefined, |value| {
        SortValue::of(&Datum::of(value))
    })
}
