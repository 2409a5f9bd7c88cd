//! Where a setting can come from, and which source counts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::args::Global;
use crate::env_file::{self, variable};
use crate::environment::Environment;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;

/// A value and where it was found: errors about it must say both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// On the command line.
    Option(&'static str),
    /// In the environment.
    Variable(String),
    /// In an env file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Option(name) => write!(f, "from {name}"),
            Origin::Variable(name) => write!(f, "from the variable {name}"),
            Origin::File(path) => write!(f, "from {}", path.display()),
        }
    }
}

/// The sources below the options, in order of precedence.
#[derive(Debug)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    values: BTreeMap<String, String>,
    /// The file; none for the environment.
    file: Option<PathBuf>,
}

impl Sources {
    /// Reads what there is. A file that was named must be there; the one of the default data
    /// directory need not.
    pub(crate) fn read(
        global: &Global,
        environment: &Environment,
        data_dir: &Path,
    ) -> Result<Self, Failure> {
        let variables = Source {
            values: variable::ALL
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), environment.get(name)?.to_owned())))
                .collect(),
            file: None,
        };
        // Whoever names a file or a directory on the command line means that one, also in a shell
        // that has sourced another.
        let named = match (&global.env_file, &global.data_dir) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(dir)) => Some(env_file::path_in(dir)),
            (None, None) => None,
        };
        if let Some(path) = named {
            return Ok(Self(vec![read(&path)?, variables]));
        }
        let default = env_file::path_in(data_dir);
        if !default.exists() {
            return Ok(Self(vec![variables]));
        }
        Ok(Self(vec![variables, read(&default)?]))
    }

    /// The first of several that is set, in the first source that has any of them: a variable
    /// that was set on purpose counts more than a file that lies there.
    pub(crate) fn get_first(&self, names: &[&'static str]) -> Option<(&'static str, Setting)> {
        self.0.iter().find_map(|source| {
            names
                .iter()
                .find_map(|name| Some((*name, source.get(name)?)))
        })
    }

    /// The first value that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<Setting> {
        self.0.iter().find_map(|source| source.get(name))
    }
}

impl Source {
    fn get(&self, name: &str) -> Option<Setting> {
        let value = self.values.get(name).filter(|value| !value.is_empty())?;
        let origin = match &self.file {
            Some(path) => Origin::File(path.clone()),
            None => Origin::Variable(name.to_owned()),
        };
        Some(Setting {
            value: value.clone(),
            origin,
        })
    }
}

fn read(path: &Path) -> Result<Source, Failure> {
    let text = files::read(path).map_err(|failure| {
        failure.advise("`twinward up` writes this file when everything is ready; is it running?")
    })?;
    let values = env_file::parse(&text).map_err(|error| {
        Failure::new(
            Kind::Invalid,
            format!("{} is not an env file", path.display()),
        )
        .because(error)
    })?;
    Ok(Source {
        values,
        file: Some(path.to_owned()),
    })
}
