//! What the tests of this crate share: random documents, and a model of RFC 7396 that knows
//! nothing of metadata, rules or versions.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::Map;
use crate::metadata::Stamp;
use crate::writer::Writer;

/// A time, so many seconds after a fixed one.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::new(1_767_225_600 + seconds, 123_456_789).unwrap()
}

pub(crate) fn by_operator(name: &str, seconds: i64) -> Stamp {
    Stamp {
        at: at(seconds),
        by: Writer::Operator(name.into()),
    }
}

pub(crate) fn by_policy(id: &str, revision: u64, seconds: i64) -> Stamp {
    Stamp {
        at: at(seconds),
        by: Writer::Policy {
            id: id.into(),
            revision,
        },
    }
}

/// The object that `json!` made.
pub(crate) fn map(value: Value) -> Map {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// The algorithm of RFC 7396, section 2, word for word.
pub(crate) fn rfc7396(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let old = target.remove(name).unwrap_or(Value::Null);
            target.insert(name.clone(), rfc7396(old, value));
        }
    }
    Value::Object(target)
}

/// A document without what its objects hold as `null`.
pub(crate) fn without_nulls(document: &Map) -> Map {
    map(rfc7396(json!({}), &Value::Object(document.clone())))
}

/// Few keys, so that random documents meet.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("c"), Just("größe")].prop_map(str::to_owned)
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(|b| json!(b)),
        (0..3_i64).prop_map(|i| json!(i)),
        Just(json!(1.5)),
        Just(json!("x")),
        Just(json!([1, {"b": []}])),
    ]
}

fn value(leaf: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    leaf.prop_recursive(3, 12, 3, |inner| {
        proptest::collection::btree_map(key(), inner, 0..3)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    })
}

fn object(leaf: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Map> {
    proptest::collection::btree_map(key(), value(leaf), 0..4)
        .prop_map(|members| members.into_iter().collect())
}

/// A document without `null`.
pub(crate) fn document() -> impl Strategy<Value = Map> {
    object(scalar())
}

/// A merge patch: a document with a `null` here and there.
pub(crate) fn patch() -> impl Strategy<Value = Map> {
    object(prop_oneof![3 => scalar(), 2 => Just(Value::Null)])
}
