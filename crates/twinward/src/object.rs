//! A JSON object as a person hands it in: on the command line, or in a file.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;

/// Where an object is.
#[derive(Debug, Clone)]
pub(crate) enum ObjectArg {
    /// On the command line.
    Given(Map<String, Value>),
    /// In a file, as JSON or YAML; `-` is standard input.
    File(PathBuf),
}

impl ObjectArg {
    /// Takes what begins like JSON as that, and everything else as the name of a file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let start = text.trim_start();
        if start.is_empty() {
            return Err("a JSON object is needed, or a file that holds one".to_owned());
        }
        // No file that people keep patches in begins like this; a name that does can be given as
        // `./[…`.
        if !start.starts_with(['{', '[', '"']) {
            return Ok(Self::File(PathBuf::from(text)));
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(members)) => match twin::duplicate_key(text) {
                None => Ok(Self::Given(members)),
                Some(path) => Err(format!("{path}: the key is there a second time")),
            },
            Ok(_) => Err("a JSON object is needed, for instance '{\"key\": \"value\"}'".to_owned()),
            Err(error) => Err(format!("not JSON: {error}")),
        }
    }

    /// The object itself.
    pub(crate) fn read(self) -> Result<Map<String, Value>, Failure> {
        let path = match self {
            Self::Given(members) => return Ok(members),
            Self::File(path) => path,
        };
        let text = files::read(&path)?;
        serde_saphyr::from_str(&text).map_err(|error| {
            Failure::new(Kind::Invalid, format!("{} holds no object", path.display()))
                .because(error.without_snippet().to_string())
                .advise("a JSON or YAML object is needed, for instance {\"site\": \"hall-3\"}")
        })
    }

    /// The object as messages carry it; empty when there is none.
    pub(crate) fn print(argument: Option<Self>) -> Result<String, Failure> {
        match argument {
            Some(argument) => Ok(Value::Object(argument.read()?).to_string()),
            None => Ok(String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_an_object_or_a_file() {
        assert!(matches!(
            ObjectArg::parse(r#" {"a": 1}"#),
            Ok(ObjectArg::Given(_))
        ));
        assert!(matches!(ObjectArg::parse("-"), Ok(ObjectArg::File(_))));
        for (text, words) in [
            ("[]", "a JSON object is needed"),
            ("{", "not JSON"),
            (
                r#"{"a": {"b": 1, "b": 2}}"#,
                "a.b: the key is there a second time",
            ),
            ("", "a file"),
        ] {
            assert!(
                ObjectArg::parse(text).unwrap_err().contains(words),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_may_be_yaml_and_must_hold_an_object() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patch");
        let argument = || ObjectArg::parse(path.to_str().unwrap()).unwrap();
        std::fs::write(&path, "site: hall-3\nold: null\n").unwrap();
        assert_eq!(
            ObjectArg::print(Some(argument())).unwrap(),
            r#"{"old":null,"site":"hall-3"}"#
        );
        std::fs::write(&path, "- 1\n").unwrap();
        let failure = argument().read().unwrap_err();
        assert_eq!(failure.kind(), Kind::Invalid);
        assert!(
            failure.render().contains("holds no object"),
            "{}",
            failure.render()
        );
    }
}
