//! Loading a service's configuration: defaults, then the TOML file, then the environment, then
//! flags; later layers win key by key. The only place that reads the environment.
//!
//! All problems are reported at once, each with its key and where the value came from. Unknown
//! keys are problems, so a configuration struct derives `Serialize` and `Deserialize` with
//! `#[serde(default, deny_unknown_fields)]`, implements `Default` and [`Validate`], and uses no
//! enums that carry data (two layers could not be merged).
//!
//! A variable is `TWINWARD_<SERVICE>__<FIELD>`, nested with another double underscore:
//! `TWINWARD_TWIN_STORE__GRPC__LISTEN=0.0.0.0:7402` is `listen` of `[grpc]`. Values need no quotes;
//! lists are TOML (`["a", "b"]`) or separated by commas. An empty variable counts as unset, as
//! with OpenTelemetry's variables, because container tools cannot leave one out.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

mod layers;
mod problems;
mod spelled_out;

pub use problems::{ConfigError, Problem, Problems, Validate};
pub use spelled_out::{SpelledOut, document};

use layers::{Layers, Setting};

/// The first part of every variable's name.
const PRODUCT: &str = "TWINWARD";
/// Between the parts of a variable's name.
const SEPARATOR: &str = "__";

/// Reads a variable of the environment, for what is not a service's configuration (`NO_COLOR`, the
/// CLI's own variables). Empty or not Unicode counts as unset.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the environment"
)]
pub fn env_var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where a configuration comes from.
#[derive(Debug, Clone)]
pub struct Loader {
    prefix: String,
    file: Option<PathBuf>,
    section: Option<String>,
    variables: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

impl Loader {
    /// The configuration of a service (`twin-store`), from this process's environment and no file.
    #[must_use]
    pub fn new(service: &str) -> Self {
        let name = service.replace('-', "_").to_ascii_uppercase();
        Self {
            prefix: format!("{PRODUCT}_{name}{SEPARATOR}"),
            file: None,
            section: None,
            variables: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            flags: Vec::new(),
        }
    }

    /// Reads this file too, if one is given. It must then exist.
    #[must_use]
    pub fn file(mut self, file: Option<impl Into<PathBuf>>) -> Self {
        self.file = file.map(Into::into);
        self
    }

    /// Takes only this table of the file; the rest belongs to other services.
    #[must_use]
    pub fn section(mut self, name: impl Into<String>) -> Self {
        self.section = Some(name.into());
        self
    }

    /// Replaces the process's environment, for tests.
    #[must_use]
    pub fn environment<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.variables = variables
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        self
    }

    /// Sets a key (`grpc.listen`) above every other layer, for command-line flags.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.flags.push((key.into(), value.into()));
        self
    }

    /// Loads and checks the configuration.
    pub fn load<T>(&self) -> Result<T, ConfigError>
    where
        T: Default + Serialize + DeserializeOwned + Validate,
    {
        let defaults = layers::defaults::<T>()?;
        let file = spelled_out::into_tables(self.read_file()?, T::SPELLED_OUT);
        let origin = self.file.as_deref().map_or_else(String::new, file_origin);
        let settings = self.settings(T::SPELLED_OUT);
        let (value, mut problems) = Layers::new(defaults, file, origin, settings).resolve();
        let value: Option<T> = value;
        for problem in &mut problems {
            spelled_out::name(problem, T::SPELLED_OUT);
        }
        if let Some(value) = &value {
            let mut found = Problems::default();
            value.validate(&mut found);
            // A key that could not be read fell back to its default; what the check says about
            // the default would only confuse.
            for problem in found.into_vec() {
                if !problems.iter().any(|known| known.key == problem.key) {
                    problems.push(problem);
                }
            }
        }
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ConfigError::new(problems)),
        }
    }

    fn read_file(&self) -> Result<Table, ConfigError> {
        let Some(path) = &self.file else {
            return Ok(Table::new());
        };
        let whole = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::of_file(path, format!("cannot be read: {error}")))?;
        let mut table: Table = toml::from_str(&whole)
            .map_err(|error| ConfigError::of_file(path, syntax_problem(&whole, &error)))?;
        let Some(section) = &self.section else {
            return Ok(table);
        };
        match table.remove(section) {
            None => Ok(Table::new()),
            Some(toml::Value::Table(part)) => Ok(part),
            Some(_) => Err(ConfigError::of_file(
                path,
                format!("`{section}` must be a table"),
            )),
        }
    }

    /// What the environment and the flags set, in order of precedence.
    fn settings(&self, parts: &[SpelledOut]) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (name, value) in &self.variables {
            if let Some(key) = name.strip_prefix(&self.prefix)
                && !value.is_empty()
            {
                let path = key.split(SEPARATOR).map(str::to_ascii_lowercase).collect();
                let path = spelled_out::path(path, parts);
                settings.push(Setting::new(path, value, format!("from {name}")));
            }
        }
        // The environment has no order; problems should be reported in the same order every time.
        settings.sort_by(|a, b| a.path().cmp(b.path()));
        for (key, value) in &self.flags {
            let path = key.split('.').map(str::to_owned).collect();
            let path = spelled_out::path(path, parts);
            settings.push(Setting::new(
                path,
                value,
                "from the command line".to_owned(),
            ));
        }
        settings
    }
}

/// The configuration in effect, as TOML, with its secrets redacted.
pub fn effective<T: Serialize>(config: &T) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(config)
}

fn file_origin(path: &Path) -> String {
    format!("in {}", path.display())
}

/// Where and what, without the line itself: toml's own text shows it, and it may hold a secret.
fn syntax_problem(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}

#[cfg(test)]
mod tests;
