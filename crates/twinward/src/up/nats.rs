//! The NATS server of `up`: found, configured, started, watched, and stopped last.
//!
//! It listens on loopback alone, with a token of its own, and writes every message to disk before
//! it confirms it. Its port stays the same for as long as `up` runs, so that clients find it again
//! after a crash; and from one start to the next, if the port is still free.

mod config;
mod find;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use service_kit::backoff::{Backoff, Policy};
use service_kit::secret::Secret;
use service_kit::shutdown::ShutdownToken;
use tokio::process::Child;
use tokio::time::Instant;

use super::data_dir::DataDir;
use super::guard;
use crate::environment::Environment;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::{private_file, probe};

pub(super) use find::Found;

/// A server that was killed with a large store reads it back before it listens.
const STARTS_WITHIN: Duration = Duration::from_mins(1);
/// How often a starting server is asked.
const ASK_EVERY: Duration = Duration::from_millis(25);
/// A healthy server answers its greeting at once.
const GREETS_WITHIN: Duration = Duration::from_secs(2);
/// What stopping may take at most; everything is on disk already.
const STOPS_WITHIN: Duration = Duration::from_secs(5);
/// Lines of the log that are shown when it does not start.
const LOG_LINES_SHOWN: usize = 8;

/// A server that is running, and everything needed to start it again.
#[derive(Debug)]
pub(super) struct Nats {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    token: Secret,
    child: Child,
}

/// Why the server is gone for good.
#[derive(Debug, thiserror::Error)]
#[error("the NATS server does not stay up: {last}")]
pub(super) struct GivenUp {
    last: String,
}

impl Nats {
    /// Starts the server and waits until it answers.
    pub(super) async fn start(program: PathBuf, data_dir: &DataDir) -> Result<Self, Failure> {
        let directory = data_dir.directory("nats")?;
        data_dir.directory("nats/jetstream")?;
        let token = data_dir.secret("nats/token")?;
        let port = port(&directory)?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            private_file::replace(&path, text.as_bytes()).map_err(|error| {
                Failure::new(Kind::Failed, format!("cannot write {}", path.display()))
                    .because(error)
            })
        };
        write(config::FILE_NAME, config::text(&directory, port, &token))?;
        write(PORT_FILE, format!("{port}\n"))?;
        let child = spawn(&program, &directory)?;
        let mut nats = Self {
            program,
            directory,
            port,
            token,
            child,
        };
        match nats.wait_until_ready().await {
            Ok(()) => Ok(nats),
            Err(why) => Err(Failure::new(Kind::Failed, "the NATS server does not start")
                .because(why)
                .detail(format!(
                    "its log: {}",
                    nats.directory.join(config::LOG_FILE).display()
                ))),
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// What clients must show.
    pub(super) fn token(&self) -> &Secret {
        &self.token
    }

    /// Starts the server again, with back-off, whenever it ends; stops it when told to.
    pub(super) async fn supervise(mut self, stop: ShutdownToken) -> Result<(), GivenUp> {
        // About a minute of attempts. Behind it is something that starting again does not mend,
        // such as a full disk, and the services wait meanwhile.
        let policy = Policy {
            first: Duration::from_millis(100),
            cap: Duration::from_secs(10),
            budget: Some(12),
        };
        let mut backoff = Backoff::new(policy);
        loop {
            let started = Instant::now();
            let Some(ended) = stop.run_until(self.child.wait()).await else {
                self.stop().await;
                return Ok(());
            };
            if started.elapsed() > policy.cap {
                backoff = Backoff::new(policy);
            }
            let mut last = describe(ended);
            loop {
                let Some(delay) = backoff.next_delay() else {
                    return Err(GivenUp { last });
                };
                tracing::warn!(
                    cause = last,
                    delay_ms = delay.as_millis(),
                    "the NATS server ended and is started again"
                );
                if stop.run_until(tokio::time::sleep(delay)).await.is_none() {
                    return Ok(());
                }
                match self.restart().await {
                    Ok(()) => break,
                    Err(why) => last = why,
                }
            }
            tracing::info!(address = %self.address(), "the NATS server is back");
        }
    }

    async fn restart(&mut self) -> Result<(), String> {
        self.child = spawn(&self.program, &self.directory).map_err(|failure| failure.reason())?;
        self.wait_until_ready().await
    }

    /// Waits until it greets, or says why it does not.
    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + STARTS_WITHIN;
        let address = self.address().to_string();
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                let log = last_lines(&self.directory);
                return Err(format!("{}{log}", describe(Ok(status))));
            }
            match probe::nats(&address, GREETS_WITHIN).await {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(ASK_EVERY).await,
                Err(error) => {
                    // Whatever it does, it does not serve; another one takes its place.
                    let _ = self.child.kill().await;
                    return Err(format!(
                        "no answer within {} s: {error}",
                        STARTS_WITHIN.as_secs()
                    ));
                }
            }
        }
    }

    /// Asks it to end; if it does not, ends it. Nothing is lost either way: it has confirmed
    /// nothing that is not on disk.
    async fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // It can only fail if the server is gone already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(STOPS_WITHIN, self.child.wait())
            .await
            .is_err()
        {
            tracing::warn!("the NATS server does not end and is killed");
            let _ = self.child.kill().await;
        }
    }
}

/// Finds a server program that is good enough.
pub(super) async fn find(
    named: Option<&Path>,
    environment: &Environment,
) -> Result<Found, Failure> {
    find::find(named, environment).await
}

/// The file in which the port is kept from one start to the next.
const PORT_FILE: &str = "port";

/// The port of the last start if it is free, or a free one.
fn port(directory: &Path) -> Result<u16, Failure> {
    let bind = |port| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr())
    };
    let last = std::fs::read_to_string(directory.join(PORT_FILE))
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok());
    if let Some(port) = last.filter(|port| bind(*port).is_ok()) {
        return Ok(port);
    }
    // Between this and the server's own bind another program may take the port; the server then
    // ends, says so, and the next start finds another.
    let address = bind(0).map_err(|error| {
        Failure::new(Kind::Failed, "no free port for the NATS server").because(error)
    })?;
    Ok(address.port())
}

fn spawn(program: &Path, directory: &Path) -> Result<Child, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(Kind::Failed, format!("cannot start {}", program.display())).because(error)
    };
    // What it says before it has read where its log should go.
    let early = std::fs::File::create(directory.join(config::EARLY_LOG_FILE)).map_err(cannot)?;
    guard::command(program)
        .arg("--config")
        .arg(directory.join(config::FILE_NAME))
        .stdin(Stdio::null())
        .stdout(early.try_clone().map_err(cannot)?)
        .stderr(early)
        // Ctrl-C goes to the whole group of a terminal; the server must go last, so it has a
        // group of its own.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)
}

fn describe(ended: std::io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// The end of what the server has said, to be put behind an error.
fn last_lines(directory: &Path) -> String {
    let mut text = String::new();
    for name in [config::EARLY_LOG_FILE, config::LOG_FILE] {
        let log = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in lines
            .iter()
            .skip(lines.len().saturating_sub(LOG_LINES_SHOWN))
        {
            text.push_str("\n  ");
            text.push_str(line);
        }
    }
    text
}
