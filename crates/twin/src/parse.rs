//! From the JSON text of a write to a document.
//!
//! JSON readers turn an integer beyond 64 bits into a float, and so into another number, without a
//! word, and keep one value of a key that stands twice in an object. Whoever takes documents from
//! outside reads them here: such an integer is refused with its path, like every other one out of
//! range, and so is such a key.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::Value;

use crate::Map;
use crate::section::SectionKind;
use crate::validate::{Rule, Step, Violation, Violations, path_below};

/// Brackets within each other at which a text is refused unread. The exact limit of a document is
/// judged later, with the path; this one only keeps the reader's stack safe.
const BRACKETS_MAX: usize = 100;

/// Breaches that are noted in one text: more than are ever told, and a bound on what a text of nothing else
/// costs.
const FOUND_MAX: usize = 1000;

/// Reads what is to become of, or be merged into, a section. Rules of the document are judged when
/// it is written.
pub fn parse_document(text: &str, kind: SectionKind) -> Result<Map, Violations> {
    let refuse =
        |rule: Rule, actual: String| Violations::of(vec![Violation::new(rule, kind, &[], actual)]);
    let scan = Scan::of(text, kind);
    if scan.depth > BRACKETS_MAX {
        let found = format!("more than {BRACKETS_MAX} levels of nesting");
        return Err(refuse(Rule::Depth, found));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(document)) if scan.found.is_empty() => Ok(document),
        Ok(Value::Object(_)) => Err(Violations::of(scan.found)),
        Ok(other) => Err(refuse(Rule::NotAnObject, name_of(&other).to_owned())),
        // An integer of hundreds of digits is not even a float.
        Err(error) if scan.is_too_large && is_out_of_range(&error) => {
            Err(Violations::of(scan.found))
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

/// The first key that one object of a JSON text holds twice, as a path from the text's root. Readers keep
/// one of the two values without a word. For texts that are no section of a twin; those are judged by
/// [`parse_document`].
pub fn duplicate_key(text: &str) -> Option<String> {
    let mut walk = Walk::default();
    let pieces = Pieces { text, next: 0 };
    for (_, piece) in pieces {
        if walk.take(&piece) == Seen::Again {
            let path = path_below(&walk.steps());
            return Some(path);
        }
    }
    None
}

/// What a text holds that a reader would pass over, found without reading it.
struct Scan {
    /// Brackets within each other at most.
    depth: usize,
    /// Whether an integer does not fit 64 bits.
    is_too_large: bool,
    /// What is wrong; empty if the brackets are too many to look further.
    found: Vec<Violation>,
}

impl Scan {
    fn of(text: &str, kind: SectionKind) -> Scan {
        let mut scan = Scan {
            depth: 0,
            is_too_large: false,
            found: Vec::new(),
        };
        let mut walk = Walk::default();
        let pieces = Pieces { text, next: 0 };
        for (_, piece) in pieces {
            let seen = walk.take(&piece);
            scan.depth = scan.depth.max(walk.levels.len());
            if scan.depth > BRACKETS_MAX {
                return scan;
            }
            let breach = match piece {
                Piece::Number(number) if is_beyond_64_bits(number) => {
                    scan.is_too_large = true;
                    let shown = crate::validate::quote(number);
                    let actual = format!("the integer {}", shown.trim_matches('"'));
                    Some((Rule::IntegerRange, actual))
                }
                _ if seen == Seen::Again => {
                    let actual = "the key is there a second time".to_owned();
                    Some((Rule::DuplicateKey, actual))
                }
                _ => None,
            };
            if let Some((rule, actual)) = breach
                && scan.found.len() < FOUND_MAX
            {
                let violation = Violation::new(rule, kind, &walk.steps(), actual);
                scan.found.push(violation);
            }
        }
        scan
    }
}

fn is_beyond_64_bits(number: &str) -> bool {
    let is_integer = !number.contains(['.', 'e', 'E']);
    is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

/// Where in a text one is.
#[derive(Default)]
struct Walk<'t> {
    levels: Vec<Level<'t>>,
}

enum Level<'t> {
    Object {
        keys: HashSet<Cow<'t, str>>,
        key: Cow<'t, str>,
        expects_key: bool,
    },
    Array {
        index: usize,
    },
}

/// What a piece is to its place.
#[derive(PartialEq, Eq)]
enum Seen {
    /// A key that its object has already.
    Again,
    /// Anything else.
    Other,
}

impl<'t> Walk<'t> {
    fn take(&mut self, piece: &Piece<'t>) -> Seen {
        match piece {
            Piece::Open('{') => self.levels.push(Level::Object {
                keys: HashSet::new(),
                key: Cow::Borrowed(""),
                expects_key: true,
            }),
            Piece::Open(_) => self.levels.push(Level::Array { index: 0 }),
            Piece::Close => {
                self.levels.pop();
            }
            Piece::Comma => match self.levels.last_mut() {
                Some(Level::Object { expects_key, .. }) => *expects_key = true,
                Some(Level::Array { index }) => *index += 1,
                None => {}
            },
            Piece::Text(quoted) => {
                if let Some(Level::Object {
                    keys,
                    key,
                    expects_key,
                }) = self.levels.last_mut()
                    && std::mem::take(expects_key)
                {
                    *key = unquoted(quoted);
                    if !keys.insert(key.clone()) {
                        return Seen::Again;
                    }
                }
            }
            Piece::Number(_) => {}
        }
        Seen::Other
    }

    fn steps(&self) -> Vec<Step<'_>> {
        let mut steps = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            steps.push(match level {
                Level::Object { key, .. } => Step::Key(key),
                Level::Array { index } => Step::Index(*index),
            });
        }
        steps
    }
}

/// What a key says: the same one may be written with escapes and without.
fn unquoted(quoted: &str) -> Cow<'_, str> {
    let plain = quoted.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    match plain.filter(|plain| !plain.contains('\\')) {
        Some(plain) => Cow::Borrowed(plain),
        // What is no JSON is refused whatever its keys are.
        None => Cow::Owned(serde_json::from_str(quoted).unwrap_or_default()),
    }
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
    fn a_key_that_stands_twice_is_refused_with_its_path_however_it_is_written() {
        let text = r#"{"x": 1, "a": [{"b": {"k": 1, "l": 2, "k": 1}}], "x": {"y": 2},
            "fine": {"x": 1, "k": ["k", "k"]}, "a b": 1, "\u0061 b": null}"#;
        let (listed, message) = refusal(text);
        let twice = |path: &str| (format!("properties.desired.{path}"), Rule::DuplicateKey);
        assert_eq!(listed, [twice("a[0].b.k"), twice("x"), twice("[[a b]]")]);
        let says = "properties.desired.x: the key is there a second time (an object has each key \
                    once)";
        assert!(message.contains(says), "{message}");
        let (listed, _) = refusal(r#"{"k": 1, "k": 18446744073709551616}"#);
        let both = [Rule::DuplicateKey, Rule::IntegerRange];
        assert_eq!(
            listed,
            both.map(|rule| ("properties.desired.k".to_owned(), rule))
        );
        let many = format!("{{{}\"k\":1}}", "\"k\":1,".repeat(100_000));
        let violations = read(&many).expect_err("twice");
        assert_eq!(violations.count(), FOUND_MAX);
        let (listed, _) = refusal(r#"{"k": 1, "k": }"#);
        assert_eq!(listed, [("properties.desired".to_owned(), Rule::Malformed)]);
    }

    #[test]
    fn the_first_key_that_stands_twice_is_found_in_any_text() {
        let twice = |text| duplicate_key(text);
        assert_eq!(twice(r#"{"a":{"b":[{"c":1},{"c":1}]},"b":"a"}"#), None);
        assert_eq!(
            twice(r#"[{"a":{"b":1,"b":2,"a":1}},{"a":1,"a":2}]"#).as_deref(),
            Some("[0].a.b")
        );
        assert_eq!(twice(r#"{"a":1,"a":2}"#).as_deref(), Some("a"));
        for text in ["", "]]}}", "{\"a", "{{{{", "{,,,:\"\\"] {
            assert_eq!(twice(text), None, "{text}");
        }
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
            prop_assume!(duplicate_key(&text).is_none());
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
