//! From the JSON text of a write to a document.
//!
//! JSON readers turn an integer beyond 64 bits into a float, and so into another number, without a
//! word. Whoever takes documents from outside reads them here: such an integer is refused with its
//! path, like every other one out of range.

use serde_json::Value;

use crate::Map;
use crate::section::SectionKind;
use crate::validate::{Rule, Step, Violation, Violations};

/// Brackets within each other at which a text is refused unread. The exact limit of a document is
/// judged later, with the path; this one only keeps the reader's stack safe.
const BRACKETS_MAX: usize = 100;

/// Reads what is to become of, or be merged into, a section. Rules of the document are judged when
/// it is written.
pub fn parse_document(text: &str, kind: SectionKind) -> Result<Map, Violations> {
    let refuse =
        |rule: Rule, actual: String| Violations::of(vec![Violation::new(rule, kind, &[], actual)]);
    let scan = Scan::of(text);
    if scan.depth > BRACKETS_MAX {
        let found = format!("more than {BRACKETS_MAX} levels of nesting");
        return Err(refuse(Rule::Depth, found));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(document)) if scan.too_large.is_empty() => Ok(document),
        Ok(Value::Object(_)) => Err(too_large(text, kind, &scan.too_large)),
        Ok(other) => Err(refuse(Rule::NotAnObject, name_of(&other).to_owned())),
        // An integer of hundreds of digits is not even a float.
        Err(error) if !scan.too_large.is_empty() && is_out_of_range(&error) => {
            Err(too_large(text, kind, &scan.too_large))
        }
        Err(error) => Err(refuse(Rule::Malformed, error.to_string())),
    }
}

fn is_out_of_range(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("number out of range")
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// What a text holds that a reader would pass over, found without reading it.
struct Scan {
    /// Brackets within each other at most.
    depth: usize,
    /// Where integers begin that do not fit 64 bits.
    too_large: Vec<usize>,
}

impl Scan {
    fn of(text: &str) -> Scan {
        let mut scan = Scan {
            depth: 0,
            too_large: Vec::new(),
        };
        let mut depth = 0_usize;
        let pieces = Pieces { text, next: 0 };
        for (offset, piece) in pieces {
            match piece {
                Piece::Open(_) => depth += 1,
                Piece::Close => depth = depth.saturating_sub(1),
                Piece::Number(number) if is_beyond_64_bits(number) => scan.too_large.push(offset),
                Piece::Number(_) | Piece::Text(_) | Piece::Comma => {}
            }
            scan.depth = scan.depth.max(depth);
        }
        scan
    }
}

fn is_beyond_64_bits(number: &str) -> bool {
    let is_integer = !number.contains(['.', 'e', 'E']);
    is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

/// The integers, each with its path.
fn too_large(text: &str, kind: SectionKind, places: &[usize]) -> Violations {
    enum Level {
        Object { key: String, expects_key: bool },
        Array { index: usize },
    }
    let mut levels: Vec<Level> = Vec::new();
    let mut found = Vec::new();
    let pieces = Pieces { text, next: 0 };
    for (offset, piece) in pieces {
        match piece {
            Piece::Open('{') => levels.push(Level::Object {
                key: String::new(),
                expects_key: true,
            }),
            Piece::Open(_) => levels.push(Level::Array { index: 0 }),
            Piece::Close => {
                levels.pop();
            }
            Piece::Comma => match levels.last_mut() {
                Some(Level::Object { expects_key, .. }) => *expects_key = true,
                Some(Level::Array { index }) => *index += 1,
                None => {}
            },
            Piece::Text(quoted) => {
                if let Some(Level::Object { key, expects_key }) = levels.last_mut()
                    && std::mem::take(expects_key)
                {
                    *key = serde_json::from_str(quoted).unwrap_or_default();
                }
            }
            Piece::Number(number) if places.contains(&offset) => {
                let steps: Vec<_> = levels
                    .iter()
                    .map(|level| match level {
                        Level::Object { key, .. } => Step::Key(key),
                        Level::Array { index } => Step::Index(*index),
                    })
                    .collect();
                let shown = crate::validate::quote(number);
                let actual = format!("the integer {}", shown.trim_matches('"'));
                found.push(Violation::new(Rule::IntegerRange, kind, &steps, actual));
            }
            Piece::Number(_) => {}
        }
    }
    Violations::of(found)
}

/// A piece of a JSON text, as far as it matters here. Words, blanks and colons are passed over;
/// whether the text is JSON at all is for the reader to say.
enum Piece<'t> {
    Open(char),
    Close,
    Comma,
    /// A string with its quotes.
    Text(&'t str),
    Number(&'t str),
}

struct Pieces<'t> {
    text: &'t str,
    next: usize,
}

impl<'t> Iterator for Pieces<'t> {
    type Item = (usize, Piece<'t>);

    fn next(&mut self) -> Option<(usize, Piece<'t>)> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.next) {
            let offset = self.next;
            self.next += 1;
            let piece = match byte {
                b'{' => Piece::Open('{'),
                b'[' => Piece::Open('['),
                b'}' | b']' => Piece::Close,
                b',' => Piece::Comma,
                b'"' => {
                    self.skip_string();
                    // All bytes at which it is cut are ASCII, so the cuts are between characters.
                    Piece::Text(&self.text[offset..self.next])
                }
                b'-' | b'0'..=b'9' => {
                    let belongs =
                        |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                    let more = bytes[self.next..].iter().take_while(|b| belongs(b)).count();
                    self.next += more;
                    Piece::Number(&self.text[offset..self.next])
                }
                _ => continue,
            };
            return Some((offset, piece));
        }
        None
    }
}

impl Pieces<'_> {
    /// Goes behind the closing quote, or to the end if there is none.
    fn skip_string(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.next) {
            self.next += 1;
            match byte {
                b'"' => return,
                b'\\' => {
                    // The sign behind it may be one of several bytes in a text that is no JSON.
                    let rest = &self.text[self.next..];
                    self.next += rest.chars().next().map_or(0, char::len_utf8);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{document, map};

    fn read(text: &str) -> Result<Map, Violations> {
        parse_document(text, SectionKind::Desired)
    }

    #[track_caller]
    fn refusal(text: &str) -> (Vec<(String, Rule)>, String) {
        let violations = read(text).expect_err(text);
        let listed = violations.list().iter();
        (
            listed.map(|v| (v.path.clone(), v.rule)).collect(),
            violations.to_string(),
        )
    }

    #[test]
    fn an_integer_beyond_64_bits_is_refused_with_its_path() {
        let text = r#"{"a": {"b\"": [1, {"c": 18446744073709551616}]}, "1": -9223372036854775809,
            "fine": [18446744073709551615, -9223372036854775808, 1e300, 12345678901234567890123.5],
            "text": "99999999999999999999999"}"#;
        let (listed, message) = refusal(text);
        assert_eq!(
            listed,
            [
                (
                    "properties.desired.a.[[b\\\"]][1].c".to_owned(),
                    Rule::IntegerRange
                ),
                ("properties.desired.1".to_owned(), Rule::IntegerRange),
            ]
        );
        assert!(
            message.contains("the integer 18446744073709551616 (an integer lies from"),
            "{message}"
        );
        let (listed, message) = refusal(&format!(r#"{{"a": {}}}"#, "9".repeat(400)));
        assert_eq!(
            listed,
            [("properties.desired.a".to_owned(), Rule::IntegerRange)]
        );
        assert!(message.len() < 250, "{message}");
    }

    #[test]
    fn what_is_no_document_is_told() {
        for (text, rule, says) in [
            (
                "",
                Rule::Malformed,
                "EOF while parsing a value at line 1 column 0",
            ),
            (
                "{\"a\": }",
                Rule::Malformed,
                "expected value at line 1 column 7",
            ),
            (
                "{\"a\": 1e999}",
                Rule::Malformed,
                "number out of range at line 1 column 11",
            ),
            (
                "{\"a\": \"\\",
                Rule::Malformed,
                "EOF while parsing a string",
            ),
            ("{\"a\": \"\\ü\"}", Rule::Malformed, "invalid escape"),
            ("[1]", Rule::NotAnObject, "an array"),
            ("null", Rule::NotAnObject, "null"),
            (&"{\"a\":".repeat(5000), Rule::Depth, "more than 100 levels"),
            (&"[".repeat(5000), Rule::Depth, "more than 100 levels"),
        ] {
            let (listed, message) = refusal(text);
            assert_eq!(listed, [("properties.desired".to_owned(), rule)], "{text}");
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn a_document_is_read_as_it_was_written(document in document()) {
            let text = Value::Object(document.clone()).to_string();
            prop_assert_eq!(read(&text), Ok(document));
        }

        /// Without the feature `float_roundtrip` of `serde_json` one of ten is another number.
        #[test]
        fn a_float_is_the_number_that_its_digits_say(bits: u64) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            for text in [format!("{number:?}"), format!("{number:e}"), format!("{number:.16e}")] {
                let document = read(&format!(r#"{{"k":[{text}]}}"#)).unwrap();
                let read = document["k"][0].as_f64().map(f64::to_bits);
                prop_assert_eq!(read, Some(text.parse::<f64>().unwrap().to_bits()), "{}", text);
                let printed = Value::Object(document.clone()).to_string();
                prop_assert_eq!(super::tests::read(&printed), Ok(document), "{}", printed);
            }
        }

        #[test]
        fn any_text_is_read_as_json_is_or_refused(text: String) {
            let expected = serde_json::from_str::<Value>(&text).ok().and_then(|v| v.as_object().cloned());
            prop_assert_eq!(read(&text).ok(), expected);
        }

        #[test]
        fn exactly_the_integers_of_64_bits_are_read(digits in "-?[1-9][0-9]{16,21}") {
            let fits = digits.parse::<i128>().is_ok_and(|n| {
                i128::from(i64::MIN) <= n && n <= i128::from(u64::MAX)
            });
            let text = format!(r#"{{"k": [{digits}]}}"#);
            prop_assert_eq!(read(&text).is_ok(), fits, "{}", text);
            if fits {
                prop_assert_eq!(Value::Object(read(&text).unwrap()).to_string(), text.replace(' ', ""));
            }
        }
    }

    #[test]
    fn a_document_keeps_what_json_can_say() {
        let text = r#"{"a":[true,null,{"b":"\u00e4\n"}],"c":-0.5}"#;
        assert_eq!(
            read(text),
            Ok(map(json!({"a": [true, null, {"b": "ä\n"}], "c": -0.5})))
        );
    }
}
