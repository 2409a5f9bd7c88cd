//! The NATS server must not outlive us, also when we are killed and cannot stop it.
//!
//! Linux can end a process when its parent dies, but only the process itself may ask for it. So we
//! do not start the server: we start ourselves again with a hidden argument, ask for it there, and
//! become the server (`exec` keeps the wish). Nothing else runs in between.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// First argument of a guard; no person types it.
const ARGUMENT: &str = "--guard-child-of";
/// What a shell answers when a program cannot be run.
const CANNOT_RUN: u8 = 126;

/// A command that starts `program` so that it ends when this process does.
///
/// It must be spawned by the main thread: the wish is bound to the thread that starts the child.
pub(super) fn command(program: &Path) -> tokio::process::Command {
    // Not `current_exe`: the file may have been replaced (a new build) since we were started.
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command
        .arg(ARGUMENT)
        .arg(std::process::id().to_string())
        .arg(program);
    command
}

/// Acts as a guard if the arguments say so; comes back only if that fails.
pub(crate) fn main(arguments: &[OsString]) -> Option<ExitCode> {
    let (parent, program, rest) = match arguments {
        [_, argument, parent, program, rest @ ..] if argument == ARGUMENT => {
            (parent, program, rest)
        }
        _ => return None,
    };
    let error = match guard(parent, program, rest) {
        Ok(()) => return Some(ExitCode::SUCCESS),
        Err(error) => error,
    };
    let _ = writeln!(
        std::io::stderr(),
        "cannot run {}: {error}",
        Path::new(program).display()
    );
    Some(ExitCode::from(CANNOT_RUN))
}

fn guard(parent: &OsStr, program: &OsStr, rest: &[OsString]) -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the wish was made; then nobody would send the signal.
    let is_parent =
        getppid().is_some_and(|pid| parent.to_str() == Some(&pid.as_raw_nonzero().to_string()));
    if !is_parent {
        return Ok(());
    }
    Err(Command::new(program).args(rest).exec())
}
