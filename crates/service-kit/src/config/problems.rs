//! What is wrong with a configuration: all of it, not the first thing found.

use std::fmt;
use std::path::Path;

use super::spelled_out::SpelledOut;

/// Something that is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key, or the file.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
    /// Where the value came from, if that is known.
    pub origin: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        match &self.origin {
            Some(origin) => write!(f, " ({origin})"),
            None => Ok(()),
        }
    }
}

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    pub(super) fn of_file(path: &Path, message: String) -> Self {
        Self::new(vec![Problem {
            key: path.display().to_string(),
            message,
            origin: None,
        }])
    }

    /// Everything that is wrong.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A configuration struct that can check itself: ranges, and keys that depend on each other.
pub trait Validate {
    /// Parts whose keys stand among this struct's own: with `nats_` for the field `nats`, the key
    /// `nats_url` is the field's `url`. Heeded for whole configurations, not for their parts.
    const SPELLED_OUT: &'static [SpelledOut] = &[];

    /// Adds everything that is wrong to `problems`.
    fn validate(&self, problems: &mut Problems);
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub struct Problems {
    /// What stands before a key, each with its separator.
    within: Vec<String>,
    found: Vec<Problem>,
}

impl Problems {
    /// Adds a problem unless `holds`; the message says what is allowed.
    pub fn require(&mut self, holds: bool, key: &str, message: impl Into<String>) {
        if !holds {
            self.add(key, message);
        }
    }

    /// Adds a problem.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        self.found.push(Problem {
            key: format!("{}{key}", self.within.concat()),
            message: message.into(),
            origin: None,
        });
    }

    /// Checks a nested struct under its key.
    pub fn nested(&mut self, key: &str, part: &impl Validate) {
        self.under(format!("{key}."), part);
    }

    /// Checks a part that the configuration spells out in keys of its own: `url` of the part is
    /// `twin_store_url` there, if the prefix is `twin_store_`.
    pub fn spelled_out(&mut self, prefix: &str, part: &impl Validate) {
        self.under(prefix.to_owned(), part);
    }

    fn under(&mut self, prefix: String, part: &impl Validate) {
        self.within.push(prefix);
        part.validate(self);
        self.within.pop();
    }

    /// Everything found so far.
    pub fn found(&self) -> &[Problem] {
        &self.found
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.found
    }
}
