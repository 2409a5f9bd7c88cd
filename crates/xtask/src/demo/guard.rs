//! The demo's programs must not outlive it, also when it is killed and can stop nothing.
//!
//! Linux can end a process when its parent dies, but only the process itself may ask for it. So the
//! demo starts itself again with a hidden command, asks for it there, and becomes the program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Arguments of the hidden command.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The process that must live.
    parent: i32,
    /// What to become.
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// A command that starts a program so that it is told to end when this process dies. To be spawned
/// by the main thread: the wish is bound to the thread that starts the child.
pub(crate) fn command(program: &std::path::Path) -> Command {
    // Not `current_exe`: the file may have been replaced since we were started.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("guard")
        .arg(std::process::id().to_string())
        .arg(program);
    command
}

/// Becomes the program; comes back only if that fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // A polite signal: `twinward up` then stops its parts in their order.
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot be a guard")?;
    // The parent may have died before the wish was made.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
    ensure!(
        parent == Some(arguments.parent),
        "the process that asked for it is gone"
    );
    let (program, rest) = arguments.program.split_first().context("no program")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
