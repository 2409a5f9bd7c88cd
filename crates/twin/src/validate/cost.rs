//! What a document costs: by IoT Hub's rule, and what that rule leaves out.

use std::io::{self, Write};

use serde_json::Value;

use crate::Map;
use crate::limits::{BOOLEAN_BYTES, NUMBER_BYTES};
use crate::section::SectionKind;

/// What a document costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Its size by the documented rule (spec 2.1): keys and strings by their UTF-8 length without
    /// control characters, a number 8, a boolean 4, no punctuation.
    pub counted: usize,
    /// Bytes of its JSON text, which is what is stored and sent.
    pub text: usize,
    /// Members of objects and elements of arrays, at any depth.
    pub values: usize,
}

impl Cost {
    /// Measures a document.
    pub fn of(document: &Map) -> Cost {
        let mut cost = Cost {
            text: text_bytes(document),
            ..Cost::default()
        };
        cost.members(document);
        cost
    }

    /// Whether it is within what a section may cost.
    pub(super) fn fits(&self, kind: SectionKind) -> bool {
        self.counted <= kind.bytes_max()
            && self.text <= kind.text_bytes_max()
            && self.values <= kind.values_max()
    }

    fn members(&mut self, members: &Map) {
        for (key, value) in members {
            self.counted += counted_text(key);
            self.value(value);
        }
    }

    fn value(&mut self, value: &Value) {
        self.values += 1;
        match value {
            Value::Null => {}
            Value::Bool(_) => self.counted += BOOLEAN_BYTES,
            Value::Number(_) => self.counted += NUMBER_BYTES,
            Value::String(text) => self.counted += counted_text(text),
            Value::Array(elements) => {
                for element in elements {
                    self.value(element);
                }
            }
            Value::Object(members) => self.members(members),
        }
    }
}

fn counted_text(text: &str) -> usize {
    text.chars()
        .filter(|c| !c.is_control())
        .map(char::len_utf8)
        .sum()
}

fn text_bytes(document: &Map) -> usize {
    let mut counter = Counter(0);
    // Neither the counter nor the printing of a document can fail.
    let printed = serde_json::to_writer(&mut counter, document);
    debug_assert!(printed.is_ok(), "a document is printed");
    counter.0
}

/// Counts what is written to it.
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
