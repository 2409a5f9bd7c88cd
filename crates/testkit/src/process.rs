//! A program under test: its log lines are kept, it can be waited for, terminated and killed, and
//! a warning or an error in its log that the test did not expect fails the test.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for;

/// How long an ended program's last lines may take to be read.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(2);

/// The path of a program of this workspace, built into the same directory as the running test.
///
/// Cargo builds it beforehand only for tests of the program's own package (and then
/// `env!("CARGO_BIN_EXE_name")` is better); `cargo test --workspace` builds all.
pub fn workspace_binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    // target/<profile>/deps/<test> -> target/<profile>/<name>
    let directory = test
        .parent()
        .and_then(Path::parent)
        .expect("cargo puts tests into deps");
    let binary = directory.join(name);
    assert!(
        binary.is_file(),
        "{} is not built: run `cargo build --workspace --bins` first",
        binary.display()
    );
    binary
}

/// How to start a program.
#[derive(Debug)]
pub struct ProcessBuilder {
    name: String,
    command: Command,
    allowed: Vec<String>,
}

impl ProcessBuilder {
    /// A program with a name for messages.
    pub fn new(name: &str, program: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.to_owned(),
            command: Command::new(program),
            allowed: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Expects warnings and errors that contain `text`: say in the test why they are right.
    #[must_use]
    pub fn allow(mut self, text: &str) -> Self {
        self.allowed.push(text.to_owned());
        self
    }

    /// Starts it.
    pub fn spawn(mut self) -> Process {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let out = child.stdout.take().expect("it is piped");
        let err = child.stderr.take().expect("it is piped");
        let readers = vec![collect(out, lines.clone()), collect(err, lines.clone())];
        Process {
            name: self.name,
            child,
            lines,
            readers,
            allowed: self.allowed,
            checked: false,
            status: None,
        }
    }
}

/// A running (or ended) program. Dropping it kills it and fails the test if its log holds an
/// unexpected warning or error.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    allowed: Vec<String>,
    checked: bool,
    status: Option<ExitStatus>,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far, both outputs, line by line.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// Expects warnings and errors that contain `text` from now on, and those there are already.
    pub fn allow(&mut self, text: &str) {
        self.allowed.push(text.to_owned());
    }

    /// Waits until it writes a line that contains `text`, and returns the line. Panics at the
    /// deadline or when it ends first, showing its log.
    pub async fn wait_for_line(&mut self, text: &str, deadline: Duration) -> String {
        let what = format!("a line with {text:?}");
        self.wait_until(&what, deadline, |lines| {
            lines.iter().find(|line| line.contains(text)).cloned()
        })
        .await
    }

    /// Waits until it has written a file, and returns the file's text. The file must appear whole
    /// (written aside and renamed).
    pub async fn wait_for_file(&mut self, file: &Path, deadline: Duration) -> String {
        let what = format!("the file {}", file.display());
        self.wait_until(&what, deadline, |_| {
            std::fs::read_to_string(file)
                .ok()
                .filter(|text| !text.is_empty())
        })
        .await
    }

    /// Kills it at once (SIGKILL), as a crash does, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself; what counts is that it is gone afterwards.
        let _ended = self.child.kill();
        self.status = self.child.wait().ok();
        self.join_readers();
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a child has a positive id");
        kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.poll_exit().is_none()
    }

    /// Waits until it ends by itself.
    pub async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        let status = {
            let this = &mut *self;
            wait_for(&what, deadline, async || this.poll_exit()).await
        };
        self.join_readers();
        status
    }

    /// Ends it gracefully, and asserts that it exits with success in time and that its log is
    /// clean.
    pub async fn stop(mut self, deadline: Duration) {
        self.terminate();
        let status = self.wait_exit(deadline).await;
        assert!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.name,
            self.tail()
        );
        self.assert_clean_log();
    }

    /// Asserts that there is no warning or error that was not allowed.
    pub fn assert_clean_log(&mut self) {
        self.checked = true;
        let unexpected = unexpected(&self.lines(), &self.allowed);
        assert!(
            unexpected.is_empty(),
            "{} logged {} unexpected warning(s) or error(s):\n{}",
            self.name,
            unexpected.len(),
            unexpected.join("\n")
        );
    }

    fn poll_exit(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .expect("a child of ours can be waited for");
        }
        self.status
    }

    async fn wait_until<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        look: impl Fn(&[String]) -> Option<T>,
    ) -> T {
        let this = &mut *self;
        let looked_until = wait_for(what, deadline, async || {
            // Ended is read before the log, so that a last line is not missed.
            let ended = this.poll_exit();
            if ended.is_some() {
                this.join_readers();
            }
            let seen = look(&lock(&this.lines));
            match (seen, ended) {
                (Some(seen), _) => Some(Ok(seen)),
                (None, Some(status)) => Some(Err(status)),
                (None, None) => None,
            }
        });
        match looked_until.await {
            Ok(seen) => seen,
            Err(status) => panic!(
                "{} ended with {status} before {what}:\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Lets the readers take the last lines. A reader ends with its pipe; a grandchild that
    /// outlives the program keeps the pipe open, and then its reader is left alone.
    fn join_readers(&mut self) {
        let started = Instant::now();
        for reader in self.readers.drain(..) {
            while !reader.is_finished() && started.elapsed() < LAST_LINES_WITHIN {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// The end of the log beside a failed test's own words, which often say only that something
    /// did not come.
    #[expect(clippy::print_stderr, reason = "it is a test's output")]
    fn show(&mut self) {
        self.join_readers();
        eprintln!("---- the end of {}'s log:\n{}", self.name, self.tail());
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.show();
            return;
        }
        if !self.checked {
            self.assert_clean_log();
        }
    }
}

fn collect(output: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lock(&lines).push(text);
            line.clear();
        }
    })
}

fn lock(lines: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines with level WARN or ERROR, in our text and JSON formats, that no allowance covers. A panic
/// is always unexpected.
fn unexpected(lines: &[String], allowed: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| is_trouble(line))
        .filter(|line| !allowed.iter().any(|text| line.contains(text)))
        .cloned()
        .collect()
}

fn is_trouble(line: &str) -> bool {
    // The level stands near the beginning; a device's text further on may say anything.
    let head: Vec<&str> = line.split_whitespace().take(3).collect();
    let text = head
        .iter()
        .any(|word| matches!(strip_colour(word).as_str(), "WARN" | "ERROR"));
    let json = line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
    text || json || (line.starts_with("thread '") && line.contains("panicked at"))
}

/// Takes terminal colours off a word.
fn strip_colour(word: &str) -> String {
    let mut plain = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(start) = rest.find('\u{1b}') {
        plain.push_str(&rest[..start]);
        let Some(end) = rest[start..].find('m') else {
            return plain;
        };
        rest = &rest[start + end + 1..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests;
