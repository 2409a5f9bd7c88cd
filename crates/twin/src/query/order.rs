//! The order of rows, and the place of a row in it.
//!
//! Any two values can be ordered, so that a page can always say where the next one begins:
//! undefined < null < false < true < numbers < texts < arrays < objects. Numbers are ordered by
//! size, texts by their code points, dates as the texts they are shown as. Arrays are not told
//! apart, nor are objects: the ids of the twins decide, as they do between equal values.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::datum::{Datum, instant_text};
use crate::id::IdentityKey;

/// Which of two values comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The smaller one.
    Ascending,
    /// The greater one.
    Descending,
}

/// A value as far as order is concerned.
#[derive(Debug, Clone)]
pub enum SortValue {
    /// There is no value.
    Undefined,
    /// `null`
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number; finite.
    Number(f64),
    /// A text or a date.
    Text(String),
    /// Any array.
    Array,
    /// Any object.
    Object,
}

impl SortValue {
    /// The place of a value in the order.
    pub fn of(value: &Datum<'_>) -> SortValue {
        match value {
            Datum::Undefined => SortValue::Undefined,
            Datum::Null => SortValue::Null,
            Datum::Bool(truth) => SortValue::Bool(*truth),
            // Adding zero makes 0 of −0, which is equal to it.
            Datum::Number(number) => SortValue::Number(*number + 0.0),
            Datum::Text(text) => SortValue::Text(text.clone().into_owned()),
            Datum::Instant(at) => SortValue::Text(instant_text(*at)),
            Datum::Array(_) => SortValue::Array,
            Datum::Object(_) => SortValue::Object,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            SortValue::Undefined => 0,
            SortValue::Null => 1,
            SortValue::Bool(_) => 2,
            SortValue::Number(_) => 3,
            SortValue::Text(_) => 4,
            SortValue::Array => 5,
            SortValue::Object => 6,
        }
    }

    /// A number is written as its bits, so that a token does not lean on how a reader reads digits.
    pub(super) fn to_json(&self) -> Value {
        match self {
            SortValue::Undefined => json!([]),
            SortValue::Null => Value::Null,
            SortValue::Bool(truth) => json!(truth),
            SortValue::Number(number) => json!(number.to_bits()),
            SortValue::Text(text) => json!(text),
            SortValue::Array => json!(["a"]),
            SortValue::Object => json!(["o"]),
        }
    }

    pub(super) fn from_json(json: Value) -> Option<SortValue> {
        Some(match json {
            Value::Null => SortValue::Null,
            Value::Bool(truth) => SortValue::Bool(truth),
            Value::Number(bits) => {
                let number = f64::from_bits(bits.as_u64()?);
                return number.is_finite().then_some(SortValue::Number(number));
            }
            Value::String(text) => SortValue::Text(text),
            Value::Array(tag) => match tag.as_slice() {
                [] => SortValue::Undefined,
                [tag] if tag == "a" => SortValue::Array,
                [tag] if tag == "o" => SortValue::Object,
                _ => return None,
            },
            Value::Object(_) => return None,
        })
    }
}

impl Ord for SortValue {
    fn cmp(&self, other: &SortValue) -> Ordering {
        match (self, other) {
            (SortValue::Bool(a), SortValue::Bool(b)) => a.cmp(b),
            (SortValue::Number(a), SortValue::Number(b)) => a.total_cmp(b),
            (SortValue::Text(a), SortValue::Text(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for SortValue {
    fn partial_cmp(&self, other: &SortValue) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SortValue {
    fn eq(&self, other: &SortValue) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SortValue {}

/// Where the row of a twin stands in an answer. No two twins stand at the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    values: Vec<(SortValue, Direction)>,
    identity: IdentityKey,
}

impl Position {
    /// The place of a twin with these values, in the order of the keys of `ORDER BY`.
    pub fn new(values: Vec<(SortValue, Direction)>, identity: IdentityKey) -> Position {
        Position { values, identity }
    }

    /// Whose row it is.
    pub fn identity(&self) -> &IdentityKey {
        &self.identity
    }

    /// The values that it is ordered by.
    pub fn values(&self) -> impl Iterator<Item = &SortValue> {
        self.values.iter().map(|(value, _)| value)
    }

    /// As a text for a page token. It holds the values; the token's maker has to protect them if
    /// the one who carries it may not read or change them.
    pub fn encode(&self) -> String {
        let values: Vec<_> = self.values().map(SortValue::to_json).collect();
        json!([values, self.identity.to_string()]).to_string()
    }

    /// Reads what [`Position::encode`] wrote, for an answer ordered in these directions.
    pub fn decode(text: &str, directions: &[Direction]) -> Result<Position, PositionError> {
        let (values, identity): (Vec<Value>, String) = match serde_json::from_str(text) {
            Ok(Value::Array(parts)) => match <[Value; 2]>::try_from(parts) {
                Ok([Value::Array(values), Value::String(identity)]) => (values, identity),
                _ => return Err(PositionError),
            },
            _ => return Err(PositionError),
        };
        if values.len() != directions.len() {
            return Err(PositionError);
        }
        let values: Option<Vec<_>> = values.into_iter().map(SortValue::from_json).collect();
        let values = values.ok_or(PositionError)?;
        Ok(Position {
            values: values.into_iter().zip(directions.iter().copied()).collect(),
            identity: IdentityKey::parse_path(&identity).map_err(|_| PositionError)?,
        })
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Position) -> Ordering {
        for ((value, direction), (other, _)) in self.values.iter().zip(&other.values) {
            let order = directed(value.cmp(other), *direction);
            if order.is_ne() {
                return order;
            }
        }
        self.identity.cmp(&other.identity)
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Position) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An order, turned round if the greater one comes first.
pub(super) fn directed(order: Ordering, direction: Direction) -> Ordering {
    match direction {
        Direction::Ascending => order,
        Direction::Descending => order.reverse(),
    }
}

/// A text that is no position in this answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page token belongs to another query, or was damaged: begin again without one")]
pub struct PositionError;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sort_value() -> impl Strategy<Value = SortValue> {
        prop_oneof![
            Just(SortValue::Undefined),
            Just(SortValue::Null),
            any::<bool>().prop_map(SortValue::Bool),
            any::<f64>()
                .prop_filter("finite", |n| n.is_finite())
                .prop_map(|n| SortValue::of(&Datum::Number(n))),
            (0..3_u32).prop_map(|n| SortValue::Number(f64::from(n))),
            any::<String>().prop_map(SortValue::Text),
            Just(SortValue::Array),
            Just(SortValue::Object),
        ]
    }

    fn direction() -> impl Strategy<Value = Direction> {
        prop_oneof![Just(Direction::Ascending), Just(Direction::Descending)]
    }

    fn position() -> impl Strategy<Value = Position> {
        let values = prop::collection::vec((sort_value(), direction()), 0..4);
        (values, "[a-z]{1,4}(/[a-z]{1,4})?").prop_map(|(values, identity)| {
            Position::new(values, IdentityKey::parse_path(&identity).unwrap())
        })
    }

    #[test]
    fn zeros_are_equal_and_dates_are_texts() {
        let zero = |number| SortValue::of(&Datum::Number(number));
        assert_eq!(zero(0.0), zero(-0.0));
        let at = "2026-01-01T00:00:00.5Z".parse().unwrap();
        assert_eq!(
            SortValue::of(&Datum::Instant(at)),
            SortValue::Text("2026-01-01T00:00:00.5000000Z".into())
        );
    }

    #[test]
    fn what_is_no_token_of_this_answer_is_refused() {
        let up = Direction::Ascending;
        for text in [
            "",
            "[]",
            "null",
            r#"[[],"d"]"#,
            r#"[["x"],"d d"]"#,
            r#"[["x",1],"d"]"#,
            r#"[[1.5],"d"]"#,
            r#"[[["b"]],"d"]"#,
            r#"[[{}],"d"]"#,
            r#"[[9218868437227405312],"d"]"#,
            r#"[["x"]]"#,
        ] {
            assert_eq!(Position::decode(text, &[up]), Err(PositionError), "{text}");
        }
        assert!(Position::decode(r#"[["x"],"d/m"]"#, &[up]).is_ok());
    }

    proptest! {
        #[test]
        fn a_position_survives_its_text(position in position()) {
            let directions: Vec<_> = position.values.iter().map(|(_, d)| *d).collect();
            prop_assert_eq!(Position::decode(&position.encode(), &directions), Ok(position));
        }

        #[test]
        fn the_order_of_values_is_total(a in sort_value(), b in sort_value(), c in sort_value()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
            prop_assert_eq!(a == b, a.cmp(&b).is_eq());
        }

        #[test]
        fn a_text_is_no_position_or_one(text: String) {
            if let Ok(position) = Position::decode(&text, &[]) {
                prop_assert_eq!(Position::decode(&position.encode(), &[]), Ok(position));
            }
        }
    }
}
