//! Builds our programs and says where they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::workspace;

/// How to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Soon.
    Dev,
    /// Fast.
    Release,
}

impl Profile {
    /// As cargo calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// Programs by name.
#[derive(Debug)]
pub(crate) struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// Where a program is.
    pub(crate) fn get(&self, name: &str) -> Result<PathBuf> {
        let found = self.0.get(name).cloned();
        found.with_context(|| format!("cargo built no program {name}"))
    }
}

/// Builds the programs of packages. Cargo says on the terminal what it does.
pub(crate) fn build(profile: Profile, packages: &[&str]) -> Result<Programs> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--locked",
        "--bins",
        "--message-format=json-render-diagnostics",
    ]);
    cargo.args(["--profile", profile.name()]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "the build failed; cargo's words are above"
    );
    Ok(Programs(executables(&String::from_utf8_lossy(
        &output.stdout,
    ))))
}

/// Reads cargo's messages.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = messages.filter_map(|message| {
        let path = message["executable"].as_str()?;
        Some((
            message["target"]["name"].as_str()?.to_owned(),
            PathBuf::from(path),
        ))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"wire\"},\"executable\":null}\n\
             {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"twinward\"},\"executable\":\"/t/twinward\"}\n\
             {\"reason\":\"build-finished\",\"success\":true}\n";
        let programs = Programs(executables(messages));
        assert_eq!(
            programs.get("twinward").unwrap(),
            PathBuf::from("/t/twinward")
        );
        assert!(programs.get("wire").is_err());
    }
}
