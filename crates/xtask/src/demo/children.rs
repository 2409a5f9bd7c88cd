//! The programs that the demo runs: started in the order of who needs whom, stopped in the opposite
//! one, waited for, and killed only when they do not end.
//!
//! Each has a process group of its own, because Ctrl-C goes to the whole group of a terminal and
//! would stop all of them at once.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::events::{Event, Events};
use super::guard;
use super::screen::Screen;

/// How long a program may take to end when it is asked to; `twinward up` allows itself 20 s.
const ENDS_WITHIN: Duration = Duration::from_secs(25);
/// How long the system may take to end a killed one.
const DIES_WITHIN: Duration = Duration::from_secs(5);
/// Lines of a log that are shown when its program fails.
const LOG_LINES_SHOWN: usize = 8;

/// A program to run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// As people are told.
    pub(crate) name: &'static str,
    pub(crate) path: &'a Path,
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) output: Output,
}

/// What becomes of a program's standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// It goes to the log, as its errors do.
    Log,
    /// We read it.
    Ours,
}

/// A running program. The handle is bound to the process, so that a signal never hits another one
/// that got its number.
#[derive(Debug)]
struct Running {
    name: &'static str,
    handle: OwnedFd,
}

/// All running programs, in the order of their start.
#[derive(Debug)]
pub(crate) struct Children {
    running: Kill,
    logs: PathBuf,
}

/// Ends everything at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kill(Arc<Mutex<Vec<Arc<Running>>>>);

impl Kill {
    /// Kills what runs.
    pub(crate) fn all(&self) {
        for running in self.lock().iter() {
            signal(running, Signal::KILL);
        }
    }

    /// The program that was started last.
    fn last(&self) -> Option<Arc<Running>> {
        self.lock().last().cloned()
    }

    fn forget(&self, ended: &Arc<Running>) {
        self.lock().retain(|running| !Arc::ptr_eq(running, ended));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Running>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Children {
    /// None yet; their logs will be in this directory.
    pub(crate) fn new(running: Kill, logs: PathBuf) -> Self {
        Self { running, logs }
    }

    /// Starts a program. Its end becomes an event. Hands back its output if that is ours.
    pub(crate) fn start(
        &mut self,
        program: Program<'_>,
        events: &Events,
    ) -> Result<Option<ChildStdout>> {
        let Program {
            name,
            path,
            arguments,
            variables,
            output,
        } = program;
        let log = File::create(self.log(name)).with_context(|| format!("cannot log {name}"))?;
        let mut command = guard::command(path);
        clear_variables(&mut command);
        let stdout = match output {
            Output::Log => Stdio::from(log.try_clone()?),
            Output::Ours => Stdio::piped(),
        };
        let mut child = command
            .args(arguments)
            .envs(variables)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take();
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .with_context(|| format!("cannot get a handle of {name}"))?;
        self.running.lock().push(Arc::new(Running { name, handle }));
        let ended = events.sender();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                // Nobody listens only when we are about to end.
                let _ = ended.send(Event::Ended { name, status });
            }
        });
        Ok(stdout)
    }

    /// Where a program's log is.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The end of what a program has said.
    pub(crate) fn last_lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<_> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let shown = lines
            .iter()
            .skip(lines.len().saturating_sub(LOG_LINES_SHOWN));
        shown.map(|line| (*line).to_owned()).collect()
    }

    /// Stops everything, the last one started first, each before the next. Says whether each ended
    /// by itself.
    pub(crate) fn stop(&mut self, events: &Events, screen: Screen) -> bool {
        let mut clean = true;
        while let Some(last) = self.running.last() {
            clean &= stop(&last, events, screen);
            // Only now: until it has ended, a second Ctrl-C must still find it.
            self.running.forget(&last);
        }
        clean
    }
}

/// Stops one program; says whether it ended by itself.
fn stop(running: &Running, events: &Events, screen: Screen) -> bool {
    if ended_already(running) {
        return true;
    }
    signal(running, Signal::TERM);
    if wait(running, events, ENDS_WITHIN) {
        return true;
    }
    screen.say(&format!("{} does not end and is killed", running.name));
    signal(running, Signal::KILL);
    wait(running, events, DIES_WITHIN);
    false
}

/// A shell in which somebody worked with another hub must not lead the demo there.
pub(crate) fn clear_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("TWINWARD_"))
        {
            command.env_remove(name);
        }
    }
}

fn signal(running: &Running, signal: Signal) {
    // It may have ended by itself; then there is nothing to do.
    let _ = pidfd_send_signal(&running.handle, signal);
}

/// A process that was waited for takes no more signals.
fn ended_already(running: &Running) -> bool {
    // There is no signal 0 for handles in rustix; SIGCONT does nothing to what runs.
    pidfd_send_signal(&running.handle, Signal::CONT).is_err()
}

fn wait(running: &Running, events: &Events, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        match events.next(Some(deadline)) {
            Some(Event::Ended { name, .. }) if name == running.name => return true,
            Some(
                Event::Ended { .. } | Event::Twin(_) | Event::Unreadable(_) | Event::Interrupted,
            ) => {}
            None => return false,
        }
    }
}
