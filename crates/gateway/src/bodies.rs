//! IoT Hub's JSON bodies: read leniently, because SDKs send back what they read, and written with
//! every field that they look at (spec iot-hub-twins §1.1, §7). Pure.

pub(crate) mod configuration;
pub(crate) mod identity;
pub(crate) mod job;
pub(crate) mod job_query;
pub(crate) mod method;
mod object;
pub(crate) mod twin;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;

/// What stands for "never" in IoT Hub's times.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// A time as IoT Hub prints its own: UTC with seven fractional digits.
pub(crate) fn time(at: Option<&prost_types::Timestamp>) -> Value {
    let at = at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
    Value::String(match at {
        Some(at) => at.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string(),
        None => NEVER.to_owned(),
    })
}

/// Reads a body. The error says where it went wrong, and never repeats a value.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        match error.classify() {
            serde_json::error::Category::Data => {
                ApiError::argument(format!("the body is not of the form wanted: {error}"))
            }
            _ => ApiError::format(format!("the body is no JSON at {place}")),
        }
    })
}

/// Reads a body that must be a JSON object.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    read::<object::Object<T>>(body).map(|object| object.0)
}

/// As [`read_object`], for a body of which something is kept as values: of a key that stands twice in an
/// object one value would be lost without a word.
pub(crate) fn read_values<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let read = read_object(body)?;
    let text = std::str::from_utf8(body).unwrap_or_default();
    match ::twin::duplicate_key(text) {
        None => Ok(read),
        Some(path) => Err(ApiError::argument(format!(
            "{path}: the key is there a second time (an object has each key once)"
        ))),
    }
}

/// A field that may be `null`, told apart from one that is not there.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_where_values_are_kept() {
        let body = br#"{"content": {"deviceContent": {"a": {"b": 1, "b": 2}}}}"#;
        let refused = read_values::<serde_json::Map<String, Value>>(body).expect_err("twice");
        let says = "content.deviceContent.a.b: the key is there a second time";
        assert!(refused.to_string().starts_with(says), "{refused}");
        assert_eq!(refused.number(), 400_004);
        let fine = br#"{"a": {"b": 1}, "b": 2}"#;
        let read: serde_json::Map<String, Value> = read_values(fine).expect("once each");
        assert_eq!(read.len(), 2);
        let broken = read_values::<serde_json::Map<String, Value>>(b"{").expect_err("no JSON");
        assert_eq!(broken.number(), 400_006);
    }
}
