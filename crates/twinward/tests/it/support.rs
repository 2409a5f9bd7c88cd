//! Starts `twinward up` with a data directory of its own, and runs verbs against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use testkit::{Process, ProcessBuilder};
use twinward::env_file;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_twinward");
/// Starting takes half a second; a busy machine takes longer.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// A running `up`. Dropping it kills it.
pub(crate) struct Up {
    pub(crate) process: Process,
    pub(crate) variables: BTreeMap<String, String>,
    data_dir: PathBuf,
}

impl Up {
    /// Starts it and waits until it says that it serves.
    pub(crate) async fn start(data_dir: &Path) -> Self {
        let process = builder(data_dir).spawn();
        Self::wait(process, data_dir).await
    }

    /// Waits for the env file.
    pub(crate) async fn wait(mut process: Process, data_dir: &Path) -> Self {
        let text = process
            .wait_for_file(&env_file::path_in(data_dir), SOON)
            .await;
        let variables = env_file::parse(&text).expect("up writes what we read");
        Self {
            process,
            variables,
            data_dir: data_dir.to_owned(),
        }
    }

    /// The process id of its NATS server.
    pub(crate) fn nats_pid(&self) -> rustix::process::Pid {
        nats_pid(&self.data_dir).expect("its NATS server runs")
    }

    /// Runs a verb that must succeed, and reads the JSON that it prints.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.ask(&[arguments, &["-o", "json"]].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).expect("-o json prints JSON")
    }

    /// Runs a verb that must succeed, and reads the JSON objects that it prints, one a line.
    #[track_caller]
    pub(crate) fn json_lines(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let output = self.ask(&[arguments, &["-o", "json"]].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        json_lines(&output)
    }

    /// Runs a verb that must fail in this way, and say these words.
    #[track_caller]
    pub(crate) fn fails(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.ask(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for word in words {
            assert!(
                text.contains(word),
                "{arguments:?} does not say {word:?}: {text}"
            );
        }
    }

    /// Runs a verb that finds everything through the data directory.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        verb(&self.data_dir)
            .args(arguments)
            .output()
            .expect("the program runs")
    }
}

/// `up` on free ports in a directory of its own.
pub(crate) fn builder(data_dir: &Path) -> ProcessBuilder {
    ProcessBuilder::new("up", PROGRAM)
        .args(["up", "--any-port", "--nats-server"])
        .arg(testkit::nats::find_server())
        .arg("--data-dir")
        .arg(data_dir)
}

/// A verb that finds services through this data directory, and nothing else.
pub(crate) fn verb(data_dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().env("TWINWARD_DATA_DIR", data_dir);
    command
}

/// The NATS server that was started with this data directory's configuration.
pub(crate) fn nats_pid(data_dir: &Path) -> Option<rustix::process::Pid> {
    let configuration = data_dir.join("nats/nats-server.conf");
    let configuration = configuration
        .to_str()
        .expect("a temporary directory has a plain name");
    for entry in std::fs::read_dir("/proc").expect("Linux has it").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let command_line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut arguments = command_line.split(|byte| *byte == 0);
        // Between fork and exec it is still our own program, with the same last argument.
        let is_server = arguments
            .next()
            .is_some_and(|program| program.ends_with(b"nats-server"));
        if is_server && arguments.any(|argument| argument == configuration.as_bytes()) {
            return rustix::process::Pid::from_raw(pid);
        }
    }
    None
}

/// A directory whose path is the one that `up` will print.
pub(crate) fn directory() -> TempDir {
    let parent = std::env::temp_dir().canonicalize().expect("there is one");
    tempfile::Builder::new()
        .prefix("twinward-up-")
        .tempdir_in(parent)
        .expect("it can be written")
}

/// The JSON objects that were printed, one a line.
#[track_caller]
pub(crate) fn json_lines(output: &Output) -> Vec<serde_json::Value> {
    stdout(output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

/// What was printed to standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it prints UTF-8")
}

/// What was printed to standard output.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints UTF-8")
}
