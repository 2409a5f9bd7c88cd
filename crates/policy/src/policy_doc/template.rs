//! Templates: texts in settings that name values of the twin, `{{tags.site}}`. Pure.
//!
//! They are read once, with the policy, and filled in for each twin anew. A value that is one
//! template and nothing else becomes what it names, whatever kind of JSON that is; within a longer
//! text only texts, numbers and booleans can stand. `{{{{` stands for a literal `{{`. If a twin lacks
//! what a template names, the policy does not apply to it as a whole: half of it would be a policy
//! that nobody wrote.

use std::fmt::{self, Write as _};

use serde_json::Value;
use twin::query::{Attribute, Lookup, Path, Root};
use twin::{Map, Violations};

use super::{Field, Problem, Scope};

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
/// What stands for [`OPEN`] itself.
const LITERAL: &str = "{{{{";

const ALLOWED: &str =
    "allowed are paths of tags and reported, deviceId and moduleId, and of device.tags on modules";

/// What is said of `device.tags` on a device.
pub(super) const OF_A_MODULE: &str =
    "device.tags are those of a module's device; the device's own are tags, as in tags.site";

/// All templates of a policy's settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Templates(Vec<Templated>);

/// One text in which there are templates.
#[derive(Debug, Clone, PartialEq)]
struct Templated {
    place: Vec<Step>,
    pieces: Vec<Piece>,
}

/// A step on the way to a text in settings.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Value(Path),
}

/// Why settings cannot be filled in for a twin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incomplete {
    /// The twin has nothing there.
    Absent {
        /// Of which setting.
        setting: String,
        /// Where.
        path: String,
    },
    /// An object or a list cannot stand within a text.
    NoText {
        /// Of which setting.
        setting: String,
        /// Where.
        path: String,
    },
    /// What comes out cannot be settings of any twin.
    Breaks(Violations),
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Incomplete::Absent { setting, path } => {
                write!(f, "{setting} needs {path}, which this twin does not have")
            }
            Incomplete::NoText { setting, path } => write!(
                f,
                "{setting} needs {path} within a text, and it is an object or a list here"
            ),
            Incomplete::Breaks(violations) => {
                write!(
                    f,
                    "with the values of this twin the settings break a rule: {violations}"
                )
            }
        }
    }
}

impl Templates {
    /// Finds and reads the templates of settings.
    pub(crate) fn read(settings: &Map, scope: Scope) -> Result<Templates, Vec<Problem>> {
        let mut reader = Reader {
            scope,
            found: Vec::new(),
            problems: Vec::new(),
        };
        reader.object(settings, &mut Vec::new());
        if reader.problems.is_empty() {
            Ok(Templates(reader.found))
        } else {
            Err(reader.problems)
        }
    }

    /// What they look at.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let pieces = self.0.iter().flat_map(|one| &one.pieces);
        pieces.filter_map(|piece| match piece {
            Piece::Value(path) => Some(path),
            Piece::Text(_) => None,
        })
    }

    /// The settings as they are for a twin; `settings` are those that the templates were read from.
    pub(crate) fn fill(&self, settings: &Map, twin: &dyn Lookup) -> Result<Map, Incomplete> {
        let filled = self.fill_in(settings, twin)?;
        if !self.0.is_empty() {
            twin::validate_settings(&filled).map_err(Incomplete::Breaks)?;
        }
        Ok(filled)
    }

    /// [`Templates::fill`] of what need not be settings.
    pub(super) fn fill_in(&self, object: &Map, twin: &dyn Lookup) -> Result<Map, Incomplete> {
        let mut filled = object.clone();
        for one in &self.0 {
            let value = one.value(twin)?;
            if let Some(place) = at(&mut filled, &one.place) {
                *place = value;
            }
        }
        Ok(filled)
    }
}

impl Templated {
    fn value(&self, twin: &dyn Lookup) -> Result<Value, Incomplete> {
        let resolve = |path: &Path| {
            let setting = setting(&self.place);
            path.value(twin).ok_or_else(|| Incomplete::Absent {
                setting,
                path: path.to_string(),
            })
        };
        if let [Piece::Value(path)] = self.pieces.as_slice() {
            return resolve(path);
        }
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Value(path) => match resolve(path)? {
                    Value::String(value) => text.push_str(&value),
                    value @ (Value::Number(_) | Value::Bool(_)) => {
                        text.push_str(&value.to_string());
                    }
                    Value::Null | Value::Array(_) | Value::Object(_) => {
                        return Err(Incomplete::NoText {
                            setting: setting(&self.place),
                            path: path.to_string(),
                        });
                    }
                },
            }
        }
        Ok(Value::String(text))
    }
}

/// A place as explanations name it: `hosts.dns[0]`.
fn setting(place: &[Step]) -> String {
    let mut text = String::new();
    for step in place {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => {
                let _ = write!(text, "[{index}]");
            }
        }
    }
    text
}

fn at<'m>(settings: &'m mut Map, place: &[Step]) -> Option<&'m mut Value> {
    let (Step::Key(first), rest) = place.split_first()? else {
        return None;
    };
    let first = settings.get_mut(first)?;
    rest.iter().try_fold(first, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

struct Reader {
    scope: Scope,
    found: Vec<Templated>,
    problems: Vec<Problem>,
}

impl Reader {
    fn object(&mut self, object: &Map, place: &mut Vec<Step>) {
        for (key, value) in object {
            place.push(Step::Key(key.clone()));
            if key.contains(OPEN) {
                let message = "a template cannot stand in a key; only values are filled in";
                self.wrong(place, None, message.to_owned());
            }
            self.value(value, place);
            place.pop();
        }
    }

    fn value(&mut self, value: &Value, place: &mut Vec<Step>) {
        match value {
            Value::String(text) => self.text(text, place),
            Value::Object(object) => self.object(object, place),
            Value::Array(list) => {
                for (index, element) in list.iter().enumerate() {
                    place.push(Step::Index(index));
                    self.value(element, place);
                    place.pop();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&mut self, text: &str, place: &[Step]) {
        if !text.contains(OPEN) {
            return;
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find(OPEN) {
            literal.push_str(&rest[..open]);
            rest = &rest[open..];
            if let Some(after) = rest.strip_prefix(LITERAL) {
                literal.push_str(OPEN);
                rest = after;
                continue;
            }
            let begins = text.len() - rest.len();
            let inside = &rest[OPEN.len()..];
            let Some(close) = inside.find(CLOSE) else {
                let message = format!(
                    "`{OPEN}` is not closed by `{CLOSE}`; a literal `{OPEN}` is written `{LITERAL}`"
                );
                return self.wrong(place, Some((text, begins)), message);
            };
            let Some(path) = self.path(&inside[..close], (text, begins), place) else {
                return;
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Value(path));
            rest = &inside[close + CLOSE.len()..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        self.found.push(Templated {
            place: place.to_vec(),
            pieces,
        });
    }

    /// Reads what stands between the braces that begin at a byte of a text.
    fn path(
        &mut self,
        inside: &str,
        (text, begins): (&str, usize),
        place: &[Step],
    ) -> Option<Path> {
        let trimmed = inside.trim_start();
        let begins = begins + OPEN.len() + inside.len() - trimmed.len();
        let path = match Path::parse(trimmed.trim_end()) {
            Ok(path) => path,
            Err(error) => {
                let hint = error
                    .hint
                    .map(|hint| format!(" ({hint})"))
                    .unwrap_or_default();
                let message = format!("found {}, expected {}{hint}", error.found, error.expected);
                let at = (text, begins + error.offset);
                self.wrong(place, Some(at), message);
                return None;
            }
        };
        let dollar = path.keys.iter().any(|key| key.starts_with('$'));
        let problem = match &path.root {
            Root::Tags | Root::Reported | Root::DeviceTags if path.keys.is_empty() => {
                Some("a whole section cannot be named; name a key in it".to_owned())
            }
            // It moves with every report, so each write would be the cause of the next.
            Root::Reported if dollar => Some(format!("{path} changes by itself; {ALLOWED}")),
            Root::Tags | Root::Reported | Root::Attribute(Attribute::DeviceId) => None,
            Root::DeviceTags => match self.scope {
                Scope::Modules => None,
                Scope::Devices => Some(OF_A_MODULE.to_owned()),
            },
            Root::Attribute(Attribute::ModuleId) => match self.scope {
                Scope::Modules => None,
                Scope::Devices => Some("the twin of a device has no moduleId".to_owned()),
            },
            Root::Attribute(_) | Root::Desired | Root::Posture | Root::Variable { .. } => {
                Some(format!("{path} cannot stand in a template; {ALLOWED}"))
            }
        };
        let Some(problem) = problem else {
            return Some(path);
        };
        self.wrong(place, Some((text, begins)), problem);
        None
    }

    fn wrong(&mut self, place: &[Step], at: Option<(&str, usize)>, message: String) {
        let setting = setting(place);
        let position = match at.and_then(|(text, byte)| text.get(..byte)) {
            Some(before) => format!("{setting}, character {}", before.chars().count() + 1),
            None => setting,
        };
        self.problems.push(Problem {
            position: Some(position),
            ..Problem::new(Field::Settings, message)
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use twin::TwinView;

    use super::*;

    fn map(value: Value) -> Map {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is no object"),
        }
    }

    fn fill(settings: Value) -> Result<Value, Incomplete> {
        let tags = map(json!({"site": "Lyon", "ports": [22], "a": {"b": 1.5}, "on": true}));
        let reported = map(json!({"version": "2.1", "my-key": 7}));
        let view = TwinView {
            device_id: "cam-1",
            module_id: Some("m"),
            status: "enabled",
            tags: &tags,
            desired: &Map::new(),
            desired_version: 1,
            reported: &reported,
            reported_version: 1,
            posture: &Value::Null,
            device_tags: None,
        };
        let settings = map(settings);
        let templates = Templates::read(&settings, Scope::Modules).unwrap();
        templates.fill(&settings, &view).map(Value::Object)
    }

    #[test]
    fn a_value_that_is_one_template_keeps_its_kind_and_within_a_text_it_becomes_text() {
        let filled = fill(json!({
            "site": "{{tags.site}}",
            "ports": "{{ tags.ports }}",
            "deep": {"list": ["{{tags.a}}", "x{{tags.a.b}}y", 1]},
            "id": "{{deviceId}}/{{moduleId}}",
            "on": "{{tags.on}}!",
            "own": "{{reported.[[my-key]]}}",
            "same": "{{properties.reported.version}}",
        }));
        let expected = json!({
            "site": "Lyon",
            "ports": [22],
            "deep": {"list": [{"b": 1.5}, "x1.5y", 1]},
            "id": "cam-1/m",
            "on": "true!",
            "own": 7,
            "same": "2.1",
        });
        assert_eq!(filled.unwrap(), expected);
    }

    #[test]
    fn four_braces_are_two() {
        let filled = fill(json!({"a": "{{{{", "b": "{{{{tags.site}} {{tags.site}}", "c": "}} {"}));
        let expected = json!({"a": "{{", "b": "{{tags.site}} Lyon", "c": "}} {"});
        assert_eq!(filled.unwrap(), expected);
    }

    #[test]
    fn what_a_twin_lacks_is_named() {
        for (settings, said) in [
            (
                json!({"a": [{"b": "{{tags.none.x}}"}]}),
                "a[0].b needs tags.none.x, which this twin does not have",
            ),
            (
                json!({"a": "x{{tags.ports}}"}),
                "a needs tags.ports within a text, and it is an object or a list here",
            ),
        ] {
            assert_eq!(fill(settings).unwrap_err().to_string(), said);
        }
        let long = "x{{tags.site}}".to_owned() + &"y".repeat(twin::limits::STRING_BYTES_MAX);
        let error = fill(json!({"a": long})).unwrap_err().to_string();
        assert!(error.contains("break a rule"), "{error}");
    }

    #[test]
    fn a_wrong_template_is_told_with_its_place() {
        let told = |settings: Value, scope| {
            let problems = Templates::read(&map(settings), scope).unwrap_err();
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            told.join("\n")
        };
        for (settings, said) in [
            (
                json!({"a": "é {{tags.site"}),
                "settings (a, character 3): `{{` is not closed",
            ),
            (
                json!({"a": {"b": ["{{}}"]}}),
                "settings (a.b[0], character 3): found the end",
            ),
            (
                json!({"a": "{{tags.my-key}}"}),
                "settings (a, character 10): found `-`",
            ),
            (json!({"a": "{{tagz.x}}"}), "did you mean tags?"),
            (json!({"a": "{{tags}}"}), "a whole section cannot be named"),
            (
                json!({"a": "{{posture.x}}"}),
                "posture.x cannot stand in a template; allowed are",
            ),
            (
                json!({"a": "{{desired.x}}"}),
                "properties.desired.x cannot stand",
            ),
            (json!({"a": "{{status}}"}), "status cannot stand"),
            (json!({"a": "{{reported.$version}}"}), "changes by itself"),
            (json!({"{{tags.x}}": 1}), "a template cannot stand in a key"),
        ] {
            let told = told(settings, Scope::Modules);
            assert!(told.contains(said), "{told} lacks {said}");
        }
        let told = told(json!({"a": "{{moduleId}}"}), Scope::Devices);
        assert!(told.contains("has no moduleId"), "{told}");
    }

    proptest! {
        /// Any text is either refused or filled in, and one without two opening braces is kept.
        #[test]
        fn any_text_is_read(text in "[{}a-z. ]{0,24}") {
            let settings = map(json!({"a": text}));
            let read = Templates::read(&settings, Scope::Modules);
            if !text.contains(OPEN) {
                prop_assert_eq!(read.unwrap(), Templates::default());
            }
        }

        /// Whatever a text is, with its braces doubled it comes out as it was.
        #[test]
        fn every_text_can_be_written(text in "[{}a-z. ]{0,24}") {
            let written = text.replace(OPEN, LITERAL);
            prop_assert_eq!(fill(json!({"a": written})).unwrap(), json!({"a": text}));
        }
    }
}
