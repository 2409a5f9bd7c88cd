//! What a configuration of IoT Hub is: parsed and checked once, valid ever after (spec
//! iot-hub-twins §9). Knows neither protobuf nor SQL, and carries nothing out.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use twin::query::{QueryError, Source, Statement};
use twin::{Condition, Map};

use crate::policy_doc::{Field, Scope, check_device_tags, check_no_self_reference};

mod content;

/// Characters of an id.
const ID_CHARS_MAX: usize = 128;
/// Custom metrics of a configuration, as IoT Hub allows them.
const METRICS_MAX: usize = 5;
/// Characters of a metric's name, a schema version or a content type.
const NAME_CHARS_MAX: usize = 128;
/// Bytes of labels: as many as tags of a twin count.
const LABELS_BYTES_MAX: usize = 8192;
/// Opens the target condition of module twins.
const FROM: &str = "from";
const MODULES: &str = "devices.modules";
const WHERE: &str = "where";

/// The id of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigurationId(String);

impl ConfigurationId {
    /// Accepts 1 to 128 of the allowed characters; the error says what was found and what is allowed.
    pub fn parse(text: &str) -> Result<ConfigurationId, String> {
        const ALLOWED: &str = "1 to 128 lower-case letters, digits and `-+%_*!'`";
        let chars = text.chars().count();
        if chars == 0 || chars > ID_CHARS_MAX {
            return Err(format!("has {chars} characters; allowed are {ALLOWED}"));
        }
        let good = |found: char| {
            found.is_ascii_lowercase() || found.is_ascii_digit() || "-+%_*!'".contains(found)
        };
        match text.chars().find(|found| !good(*found)) {
            Some(found) => Err(format!(
                "has the character {found:?}; allowed are {ALLOWED}"
            )),
            None => Ok(ConfigurationId(text.to_owned())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConfigurationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a configuration says. This is also how it is stored: fields may be added, never reused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationSpec {
    /// Kept as it was sent.
    pub schema_version: String,
    /// An object of texts.
    pub labels: Option<Map>,
    /// What it sets, and in which kind of twin.
    pub content: Option<Map>,
    /// Kept as it was sent.
    pub content_type: Option<String>,
    /// Which twins.
    pub target_condition: String,
    /// The higher wins a path.
    pub priority: i32,
    /// Queries by name.
    pub metric_queries: BTreeMap<String, String>,
}

impl ConfigurationSpec {
    /// What there is to carry out: which twins, and what is set in them; none if it targets none or
    /// sets nothing, and of content for IoT Edge, which is kept only.
    pub(crate) fn work(&self) -> Option<((Scope, Condition), Map)> {
        let (source, condition) = parse_target(&self.target_condition).ok()??;
        let content = content::check(self.content.as_ref()?).ok()??;
        let settings = content.settings.filter(|settings| !settings.is_empty())?;
        let scope = match source {
            Source::Devices => Scope::Devices,
            Source::Modules => Scope::Modules,
        };
        (content.source == source).then_some(((scope, condition), settings))
    }

    /// Everything that is wrong with it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let texts = [
            (Part::SchemaVersion, Some(&self.schema_version)),
            (Part::ContentType, self.content_type.as_ref()),
        ];
        for (part, text) in texts {
            let chars = text.map_or(0, |text| text.chars().count());
            if chars > NAME_CHARS_MAX {
                let problem =
                    format!("has {chars} characters; at most {NAME_CHARS_MAX} are allowed");
                problems.push(Problem::new(part, problem));
            }
        }
        problems.extend(self.labels.as_ref().and_then(check_labels));
        let of_content = match &self.content {
            Some(content) => match content::check(content) {
                Ok(of_content) => of_content,
                Err(problem) => {
                    problems.push(Problem::new(Part::Content, problem));
                    None
                }
            },
            None => None,
        };
        match (parse_target(&self.target_condition), of_content) {
            (Err(problem), _) => problems.push(Problem::new(Part::TargetCondition, problem)),
            (Ok(Some((found, _))), Some(wanted)) if found != wanted.source => {
                let problem = match wanted.source {
                    Source::Devices => {
                        "is about modules, and the content is for devices; want `*` or a condition \
                         without `from`"
                    }
                    Source::Modules => {
                        "is about devices, and the content is for modules; want `from \
                         devices.modules where …`"
                    }
                };
                problems.push(Problem::new(Part::TargetCondition, problem));
            }
            (Ok(Some((_, condition))), Some(wanted)) => {
                let settings = wanted.settings.unwrap_or_default();
                let own = check_no_self_reference(Field::Target, &condition, &settings);
                let scope = match wanted.source {
                    Source::Devices => Scope::Devices,
                    Source::Modules => Scope::Modules,
                };
                let foreign = check_device_tags(Field::Target, &condition, scope);
                let own = own.into_iter().chain(foreign);
                let own = own.map(|problem| problem.message);
                problems.extend(own.map(|problem| Problem::new(Part::TargetCondition, problem)));
            }
            (Ok(_), _) => {}
        }
        if self.priority < 0 {
            let problem = format!("is {}; want 0 or more", self.priority);
            problems.push(Problem::new(Part::Priority, problem));
        }
        let metrics = self.metric_queries.len();
        if metrics > METRICS_MAX {
            let problem = format!("has {metrics} queries; at most {METRICS_MAX} are allowed");
            problems.push(Problem::new(Part::Metrics, problem));
        }
        for (name, query) in &self.metric_queries {
            if let Err(problem) = metric(name, query) {
                problems.push(Problem::new(Part::Metrics, format!("`{name}`: {problem}")));
            }
        }
        problems
    }

    /// The first of the parts that can never change in which `new` differs.
    pub fn changed_for_ever(&self, new: &ConfigurationSpec) -> Option<Part> {
        if self.content != new.content {
            Some(Part::Content)
        } else if self.content_type != new.content_type {
            Some(Part::ContentType)
        } else if self.schema_version != new.schema_version {
            Some(Part::SchemaVersion)
        } else {
            None
        }
    }
}

/// A part of a configuration that can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// [`ConfigurationSpec::schema_version`].
    SchemaVersion,
    /// [`ConfigurationSpec::labels`].
    Labels,
    /// [`ConfigurationSpec::content`].
    Content,
    /// [`ConfigurationSpec::content_type`].
    ContentType,
    /// [`ConfigurationSpec::target_condition`].
    TargetCondition,
    /// [`ConfigurationSpec::priority`].
    Priority,
    /// [`ConfigurationSpec::metric_queries`].
    Metrics,
}

impl Part {
    /// The field in the gRPC contract.
    pub fn wire_field(self) -> &'static str {
        match self {
            Part::SchemaVersion => "schema_version",
            Part::Labels => "labels_json",
            Part::Content => "content_json",
            Part::ContentType => "content_type",
            Part::TargetCondition => "target_condition",
            Part::Priority => "priority",
            Part::Metrics => "metric_queries",
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which part.
    pub part: Part,
    /// What was found and what is allowed.
    pub message: String,
}

impl Problem {
    fn new(part: Part, message: impl Into<String>) -> Problem {
        Problem {
            part,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.part.wire_field(), self.message)
    }
}

fn check_labels(labels: &Map) -> Option<Problem> {
    let bytes = Value::Object(labels.clone()).to_string().len();
    if bytes > LABELS_BYTES_MAX {
        let problem = format!("has {bytes} bytes as JSON; at most {LABELS_BYTES_MAX} are allowed");
        return Some(Problem::new(Part::Labels, problem));
    }
    let (name, _) = labels.iter().find(|(_, value)| !value.is_string())?;
    let problem = format!("has `{name}`, which is no text; labels are texts");
    Some(Problem::new(Part::Labels, problem))
}

/// Checks a target condition. It says which twins it is about, unless it targets none.
pub fn target(text: &str) -> Result<Option<Source>, String> {
    Ok(parse_target(text)?.map(|(source, _)| source))
}

fn parse_target(text: &str) -> Result<Option<(Source, Condition)>, String> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Ok(None);
    }
    let Some(rest) = keyword(trimmed, FROM) else {
        return Condition::parse(text)
            .map(|condition| Some((Source::Devices, condition)))
            .map_err(|error| error.summary());
    };
    let wanted = "after `from` want `devices.modules`, and then nothing or `where` and a condition";
    let rest = keyword(rest, MODULES).ok_or(wanted)?;
    if rest.is_empty() {
        let every = Condition::parse("*").map_err(|error| error.summary())?;
        return Ok(Some((Source::Modules, every)));
    }
    let condition = keyword(rest, WHERE).ok_or(wanted)?;
    if ["", "*"].contains(&condition) {
        return Err("after `where` want a condition".to_owned());
    }
    let refused = |error: QueryError| format!("after `where`: {}", error.summary());
    let condition = Condition::parse(condition).map_err(refused)?;
    Ok(Some((Source::Modules, condition)))
}

/// What follows a word, whatever its case, if the text begins with it.
fn keyword<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(word.len())?;
    let ends = rest.is_empty() || rest.starts_with(char::is_whitespace);
    (head.eq_ignore_ascii_case(word) && ends).then(|| rest.trim_start())
}

/// Checks a custom metric.
pub fn metric(name: &str, query: &str) -> Result<(), String> {
    let chars = name.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX {
        return Err(format!(
            "the name has {chars} characters; want 1 to {NAME_CHARS_MAX}"
        ));
    }
    Statement::parse(query)
        .map(drop)
        .map_err(|error| error.summary())
}

#[cfg(test)]
mod tests;
