//! The environment variables that the program itself knows, read once through
//! `service_kit::config`.
//!
//! Verbs get them as values, so that a test can hand in its own. Configuration of the services
//! (`TWINWARD_INGESTION__…`) is not here but with `service_kit::config::Loader`.

use std::collections::BTreeMap;

use crate::env_file::variable;

/// Names that are read beside those of the env file.
const NAMES: [&str; 9] = [
    "HOME",
    "NO_COLOR",
    "PATH",
    "TERM",
    "TWINWARD_LOG",
    "TWINWARD_NATS_SERVER",
    "TWINWARD_OPERATOR",
    "USER",
    "XDG_DATA_HOME",
];

/// A snapshot of the environment.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Takes the snapshot.
    pub fn read() -> Self {
        let names = NAMES.iter().chain(&variable::ALL);
        Self(
            names
                .filter_map(|name| Some(((*name).to_owned(), service_kit::config::env_var(name)?)))
                .collect(),
        )
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }
}
