//! Talks to the running hub through the command line, as a person would.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::children::clear_variables;

/// The program `twinward`, for one hub.
#[derive(Debug)]
pub(crate) struct Cli {
    pub(crate) program: PathBuf,
    pub(crate) env_file: PathBuf,
}

impl Cli {
    /// Runs a verb and reads its answer.
    pub(crate) fn ask(&self, verb: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.program);
        clear_variables(&mut command);
        let output = command
            .args(verb)
            .args(self.options())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let verb = verb.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        ensure!(
            output.status.success(),
            "`twinward {verb}` failed: {}",
            said.trim()
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`twinward {verb}` did not answer JSON"))
    }

    /// What every verb is given.
    pub(crate) fn options(&self) -> Vec<String> {
        let env_file = self.env_file.display().to_string();
        vec![
            "--env-file".to_owned(),
            env_file,
            "--output".to_owned(),
            "json".to_owned(),
        ]
    }
}
