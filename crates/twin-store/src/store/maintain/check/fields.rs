//! The values of a row by column, and what each kind of value must be.

use twin::IdentityKey;

use super::super::{Kind, Row, Value};
use crate::record::{Damaged, Record};
use crate::store::row;

/// The values of a row whose kinds were checked.
pub(super) struct Fields<'r>(pub(super) &'r [Value]);

impl<'r> Fields<'r> {
    pub(super) fn integer(&self, column: usize) -> i64 {
        match self.0.get(column) {
            Some(Value::Integer(number)) => *number,
            Some(Value::Null | Value::Text(_) | Value::Bytes(_)) | None => 0,
        }
    }

    pub(super) fn optional_integer(&self, column: usize) -> Option<i64> {
        match self.0.get(column) {
            Some(Value::Integer(number)) => Some(*number),
            Some(Value::Null | Value::Text(_) | Value::Bytes(_)) | None => None,
        }
    }

    pub(super) fn number(&self, column: usize) -> u64 {
        self.integer(column).cast_unsigned()
    }

    pub(super) fn truth(&self, column: usize) -> bool {
        self.integer(column) != 0
    }

    pub(super) fn checksum(&self, column: usize) -> Result<u32, String> {
        u32::try_from(self.integer(column)).map_err(|_| "its checksum is none".to_owned())
    }

    pub(super) fn text(&self, column: usize) -> &'r str {
        match self.0.get(column) {
            Some(Value::Text(text)) => text,
            Some(Value::Null | Value::Integer(_) | Value::Bytes(_)) | None => "",
        }
    }

    pub(super) fn optional(&self, column: usize) -> Option<String> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Some(text.clone()),
            Some(Value::Null | Value::Integer(_) | Value::Bytes(_)) | None => None,
        }
    }

    pub(super) fn bytes(&self, column: usize) -> &'r [u8] {
        match self.0.get(column) {
            Some(Value::Bytes(bytes)) => bytes,
            Some(Value::Null | Value::Integer(_) | Value::Text(_)) | None => &[],
        }
    }
}

/// The record of a twin's row.
pub(super) fn record(row: &Fields<'_>) -> Result<Record, String> {
    let key = key(row.text(0), row.text(1))?;
    let stored = row::Row {
        revision: row.number(2),
        status: row.text(3).into(),
        tags: row.text(4).into(),
        desired: row.text(5).into(),
        reported: row.text(6).into(),
        posture: row.text(7).into(),
        body: row.text(8).into(),
        opaque: row.truth(9),
        checksum: row.checksum(10)?,
    };
    row::decode(key, &stored).map_err(|damaged| told(&damaged))
}

/// The record of values of a twin's row that were found sound.
pub(in super::super) fn twin_of(values: &[Value]) -> Result<Record, String> {
    record(&Fields(values))
}

/// The key of a row, as an operator finds it again.
pub(in super::super) fn key_text(row: &Row) -> String {
    let parts = row.values.iter().take(row.table.key_columns());
    let parts: Vec<_> = parts.map(Value::to_string).collect();
    parts.join("/")
}

pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer | Kind::OptionalInteger => "number",
        Kind::Truth => "0 or 1",
        Kind::Text | Kind::OptionalText => "text",
        Kind::Bytes => "bytes",
    }
}

pub(super) fn told(damaged: &Damaged) -> String {
    format!("{}: {}", damaged.part, damaged.problem)
}

pub(super) fn key(device: &str, module: &str) -> Result<IdentityKey, String> {
    row::parse_key(device, module).map_err(|damaged| told(&damaged))
}

pub(super) fn device_or_any(device: &str) -> Result<(), String> {
    match device {
        "" => Ok(()),
        device => key(device, "").map(drop),
    }
}

pub(super) fn hash(bytes: &[u8], column: &str) -> Result<[u8; 32], String> {
    bytes
        .try_into()
        .map_err(|_| format!("{column} has {} bytes instead of 32", bytes.len()))
}

pub(super) fn json(text: &str, column: &str) -> Result<(), String> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(drop)
        .map_err(|error| format!("{column} is no JSON: {error}"))
}
