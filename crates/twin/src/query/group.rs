//! The place of a group in an aggregated answer.
//!
//! An answer of groups is made anew for each page, and groups come and go in between. So a page begins
//! behind the last group that was given, whether it is still there or not, and never at a number.

use std::cmp::Ordering;

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use super::aggregate::GroupKey;
use super::order::{Direction, PositionError, SortValue, directed};
use super::statement::Statement;

/// Bytes of an array's or object's text that a place holds; of a longer one it holds a hash as well.
const TEXT_BYTES: usize = 64;

/// Where the row of a group stands in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPosition {
    values: Vec<(SortValue, Direction)>,
    key: Vec<(SortValue, Option<String>)>,
}

impl GroupPosition {
    pub(super) fn new(values: Vec<(SortValue, Direction)>, key: &GroupKey) -> GroupPosition {
        let key = key.iter();
        GroupPosition {
            values,
            key: key
                .map(|(place, text)| (place.clone(), text.as_deref().map(shortened)))
                .collect(),
        }
    }

    /// As a text for a page token. It holds the values of `ORDER BY` and `GROUP BY`.
    pub fn encode(&self) -> String {
        let values: Vec<_> = self
            .values
            .iter()
            .map(|(value, _)| value.to_json())
            .collect();
        let key: Vec<_> = self
            .key
            .iter()
            .map(|(place, text)| json!([place.to_json(), text]))
            .collect();
        json!([values, key]).to_string()
    }

    /// Reads what [`GroupPosition::encode`] wrote, for the answer of this query.
    pub fn decode(text: &str, statement: &Statement) -> Result<GroupPosition, PositionError> {
        let parts: [Vec<Value>; 2] = serde_json::from_str(text).map_err(|_| PositionError)?;
        let [values, key] = parts;
        let directions = statement.directions();
        if values.len() != directions.len() || key.len() != statement.group_by().len() {
            return Err(PositionError);
        }
        let values: Option<Vec<_>> = values.into_iter().map(SortValue::from_json).collect();
        let key: Option<Vec<_>> = key.into_iter().map(key_part).collect();
        Ok(GroupPosition {
            values: values
                .ok_or(PositionError)?
                .into_iter()
                .zip(directions)
                .collect(),
            key: key.ok_or(PositionError)?,
        })
    }
}

impl Ord for GroupPosition {
    fn cmp(&self, other: &GroupPosition) -> Ordering {
        for ((value, direction), (other, _)) in self.values.iter().zip(&other.values) {
            let order = directed(value.cmp(other), *direction);
            if order.is_ne() {
                return order;
            }
        }
        self.key.cmp(&other.key)
    }
}

impl PartialOrd for GroupPosition {
    fn partial_cmp(&self, other: &GroupPosition) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn key_part(json: Value) -> Option<(SortValue, Option<String>)> {
    let Value::Array(parts) = json else {
        return None;
    };
    let [place, text] = <[Value; 2]>::try_from(parts).ok()?;
    let text = match text {
        Value::Null => None,
        Value::String(text) => Some(text),
        _ => return None,
    };
    Some((SortValue::from_json(place)?, text))
}

fn shortened(text: &str) -> String {
    if text.len() <= TEXT_BYTES {
        return text.to_owned();
    }
    let mut end = TEXT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}#{:032x}", &text[..end], xxh3_128(text.as_bytes()))
}
