//! Walks a document before it is written, and notes every rule that it breaks.

use serde_json::{Number, Value};

use super::{Cost, Rule, Violation, ViolationKind, Violations, quote};
use crate::Map;
use crate::limits::{
    DEPTH_MAX, INTEGER_MAX, INTEGER_MIN, KEY_BYTES_MAX, QUOTE_CHARS_MAX, STRING_BYTES_MAX,
    VIOLATIONS_LISTED_MAX,
};
use crate::section::SectionKind;

/// What a document is going to be used as. It decides what `null` and `$version` mean in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteForm {
    /// A merge patch: `null` deletes.
    Patch,
    /// A whole section: `null` is left out.
    Whole,
    /// A policy's settings: `null` has no meaning.
    Settings,
}

/// Whether a key at the root of a document is passed over. Service SDKs send a whole twin back,
/// with the two keys that we added to it (spec 2.2); a device that does so is told (spec 3.3).
pub(crate) fn is_ignored(key: &str, kind: SectionKind, form: WriteForm) -> bool {
    let by_service = match kind {
        SectionKind::Tags | SectionKind::Desired => true,
        SectionKind::Reported => false,
    };
    by_service && form != WriteForm::Settings && (key == "$version" || key == "$metadata")
}

/// Judges a document before it is used, and afterwards the section that came of it.
pub(crate) struct Judge<'a> {
    kind: SectionKind,
    form: WriteForm,
    path: Vec<Step<'a>>,
    listed: Vec<Violation>,
    more: usize,
    wrong: bool,
    too_deep: bool,
}

/// One step of a path into a document.
pub(crate) enum Step<'a> {
    /// To a member of an object.
    Key(&'a str),
    /// To an element of an array.
    Index(usize),
}

/// Where a value stands: `null` is judged by it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Objects,
    Array,
}

impl<'a> Judge<'a> {
    /// Walks the document and notes every breach.
    pub(crate) fn of(document: &'a Map, kind: SectionKind, form: WriteForm) -> Judge<'a> {
        let mut judge = Judge {
            kind,
            form,
            path: Vec::new(),
            listed: Vec::new(),
            more: 0,
            wrong: false,
            too_deep: false,
        };
        for (key, value) in document {
            if !is_ignored(key, kind, form) {
                judge.member(key, value, 0, Within::Objects);
            }
        }
        judge
    }

    /// Whether the document nests too deep to be walked by anything else.
    pub(crate) fn too_deep(&self) -> bool {
        self.too_deep
    }

    /// Judges what the section costs before and after. Only growth is refused (spec 2.1), so that an
    /// operator can shrink a section which a later, smaller limit found too large.
    pub(crate) fn size(&mut self, before: &Map, after: &Map) {
        let (kind, after) = (self.kind, Cost::of(after));
        if after.fits(kind) {
            return;
        }
        let before = Cost::of(before);
        self.path.clear();
        let mut judge = |rule, limit: usize, before: usize, after: usize, what: &str| {
            if after > limit && after > before {
                self.breach(rule, format!("{after} {what} after the write"));
            }
        };
        judge(
            Rule::SectionSize,
            kind.bytes_max(),
            before.counted,
            after.counted,
            "bytes",
        );
        judge(
            Rule::SectionText,
            kind.text_bytes_max(),
            before.text,
            after.text,
            "bytes of JSON text",
        );
        judge(
            Rule::SectionValues,
            kind.values_max(),
            before.values,
            after.values,
            "values",
        );
    }

    /// Notes that the section has no next version.
    pub(crate) fn write_count(&mut self) {
        self.path.clear();
        self.breach(
            Rule::WriteCount,
            "its version is the largest possible".into(),
        );
    }

    /// Everything noted, as an error; or that there is nothing.
    pub(crate) fn verdict(self) -> Result<(), Violations> {
        if self.listed.is_empty() {
            return Ok(());
        }
        let kind = if self.wrong {
            ViolationKind::Invalid
        } else {
            ViolationKind::TooLarge
        };
        Err(Violations {
            listed: self.listed,
            more: self.more,
            kind,
        })
    }

    fn member(&mut self, key: &'a str, value: &'a Value, depth: usize, within: Within) {
        self.path.push(Step::Key(key));
        self.key(key);
        self.value(value, depth, within);
        self.path.pop();
    }

    /// `depth` is that of the object or array around the value; the section's root is at 0.
    fn value(&mut self, value: &'a Value, depth: usize, within: Within) {
        match value {
            Value::Null => self.null(within),
            Value::Bool(_) => {}
            Value::Number(number) => self.number(number),
            Value::String(text) => {
                if text.len() > STRING_BYTES_MAX {
                    let found = format!("a string of {} bytes, {}", text.len(), quote(text));
                    self.breach(Rule::StringLength, found);
                }
            }
            Value::Array(_) | Value::Object(_) if depth == DEPTH_MAX => {
                self.too_deep = true;
                self.breach(Rule::Depth, format!("{} levels of nesting", depth + 1));
            }
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    self.value(element, depth + 1, Within::Array);
                    self.path.pop();
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    self.member(key, member, depth + 1, within);
                }
            }
        }
    }

    fn null(&mut self, within: Within) {
        match (within, self.form) {
            (Within::Array, _) => self.breach(Rule::NullInArray, "null".into()),
            (Within::Objects, WriteForm::Settings) => {
                self.breach(Rule::NullInSettings, "null".into());
            }
            (Within::Objects, WriteForm::Patch | WriteForm::Whole) => {}
        }
    }

    fn number(&mut self, number: &Number) {
        // A float is not range-checked (spec 2.3). An integer beyond 64 bits would arrive here as a
        // float; `parse_document` refuses it before.
        let in_range = match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => (INTEGER_MIN..=INTEGER_MAX).contains(&integer),
            (None, Some(_above_i64)) => false,
            (None, None) => true,
        };
        if !in_range {
            self.breach(Rule::IntegerRange, format!("the integer {number}"));
        }
    }

    fn key(&mut self, key: &str) {
        if key.is_empty() {
            self.breach(Rule::KeyEmpty, "an empty key".into());
        }
        if key.len() > KEY_BYTES_MAX {
            self.breach(Rule::KeyLength, format!("a key of {} bytes", key.len()));
        }
        let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '.' | '$' | '#');
        if let Some((index, found)) = key.chars().enumerate().find(|(_, c)| bad(*c)) {
            let place = index + 1;
            self.breach(
                Rule::KeyCharacters,
                format!("a key with {found:?} at character {place}"),
            );
        }
    }

    fn breach(&mut self, rule: Rule, actual: String) {
        self.wrong |= rule.kind() == ViolationKind::Invalid;
        if self.listed.len() == VIOLATIONS_LISTED_MAX {
            self.more += 1;
            return;
        }
        self.listed
            .push(Violation::new(rule, self.kind, &self.path, actual));
    }
}

/// A path from the twin's root: `properties.desired.net.ports[2]`.
pub(super) fn path_text(kind: SectionKind, path: &[Step<'_>]) -> String {
    let mut text = kind.path().to_owned();
    push_steps(&mut text, path);
    text
}

/// A path from the root of a text that is no section.
pub(crate) fn path_below(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    push_steps(&mut text, path);
    match text.strip_prefix('.') {
        Some(below) => below.to_owned(),
        None => text,
    }
}

fn push_steps(text: &mut String, path: &[Step<'_>]) {
    for step in path {
        match step {
            Step::Key(key) if is_plain(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Key(key) => {
                let quoted = quote(key);
                text.extend([".[[", &quoted[1..quoted.len() - 1], "]]"]);
            }
            Step::Index(index) => text.extend(["[", &index.to_string(), "]"]),
        }
    }
}

/// Whether a key can stand in a path as it is.
fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= QUOTE_CHARS_MAX
        && key
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '$')
}
