//! A hub that is started for a measurement or for odd requests: `twinward up` as an operator starts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::demo::guard;
use crate::workspace;

/// `twinward up` allows itself two minutes.
const UP_WITHIN: Duration = Duration::from_secs(130);
/// It allows itself 20 s to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A hub of our own, in a directory below `target/` that goes with it. Stopped when dropped, whatever
/// happened.
pub(crate) struct Hub {
    process: Child,
    env_file: PathBuf,
    log: PathBuf,
    _directory: TempDir,
}

impl Hub {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(program: &Path, nats: &Path, prefix: &str) -> Result<Self> {
        Self::start_with(program, nats, prefix, &[], |_| Ok(()))
    }

    /// The same with variables of the environment, and on what `prepare` puts into its data directory.
    pub(crate) fn start_with(
        program: &Path,
        nats: &Path,
        prefix: &str,
        environment: &[(&str, &str)],
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        // Not in the system's temporary directory: where that is memory, nothing would be durable.
        let target = workspace::root().join("target");
        fs::create_dir_all(&target)?;
        let holder = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&target)?;
        let directory = holder.path();
        let env_file = directory.join("hub.env");
        let path = directory.join("twinward.log");
        let log = fs::File::create(&path)?;
        prepare(&directory.join("hub"))?;
        let process = guard::command(program)
            .args(["up", "--any-port", "--data-dir"])
            .arg(directory.join("hub"))
            .arg("--env-file")
            .arg(&env_file)
            .arg("--nats-server")
            .arg(nats)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start twinward")?;
        let mut hub = Self {
            process,
            env_file,
            log: path,
            _directory: holder,
        };
        let deadline = Instant::now() + UP_WITHIN;
        while !hub.env_file.exists() {
            if let Some(status) = hub.process.try_wait()? {
                bail!("twinward has ended with {status}; it said:\n{}", hub.log());
            }
            ensure!(
                Instant::now() < deadline,
                "twinward was not ready within {UP_WITHIN:?}"
            );
            std::thread::sleep(LOOK);
        }
        Ok(hub)
    }

    /// The file with its addresses.
    pub(crate) fn env_file(&self) -> &Path {
        &self.env_file
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Stops it in good order; not ending is an error.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.terminate();
        let deadline = Instant::now() + STOPS_WITHIN;
        loop {
            if let Some(status) = self.process.try_wait()? {
                ensure!(status.success(), "twinward ended with {status}");
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "twinward did not stop within {STOPS_WITHIN:?}"
            );
            std::thread::sleep(LOOK);
        }
    }

    fn terminate(&self) {
        // It may have ended by itself; then there is nothing to do. It is not waited for yet, so
        // the number is still its own.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
