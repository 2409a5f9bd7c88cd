//! A real `nats-server` for one test: own port, own store, killed and removed on drop. It can be
//! killed without warning and started again on the same port and store.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certs::TestCerts;
use crate::wait::wait_for;

/// A server starts in well under a second; a busy machine with two cores needs more.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// What is to be told to someone whose machine has no server.
const HOW_TO_GET_ONE: &str = "no nats-server was found: run `cargo xtask tools`, or set \
     TWINWARD_NATS_SERVER to a nats-server of version 2.12 or later";

/// When the server writes its files to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// Every two minutes, as it comes; a power cut loses acknowledged messages.
    #[default]
    Interval,
    /// Before each acknowledgement, as production has it.
    Always,
}

/// How a test's server differs from the plain one.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// When files are synced.
    pub sync: Sync,
    /// Token that clients must show.
    pub token: Option<String>,
    /// Serve TLS with this certificate, and nothing else.
    pub tls: Option<TestCerts>,
    /// Run without JetStream, to test that this is noticed.
    pub without_jetstream: bool,
    /// Further lines of the server's configuration.
    pub extra: String,
}

/// A running server.
#[derive(Debug)]
pub struct NatsServer {
    directory: TempDir,
    options: NatsOptions,
    port: u16,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a plain server with JetStream.
    pub async fn start() -> Self {
        Self::start_with(NatsOptions::default()).await
    }

    /// Starts a server that syncs before each acknowledgement.
    pub async fn start_durable() -> Self {
        Self::start_with(NatsOptions {
            sync: Sync::Always,
            ..NatsOptions::default()
        })
        .await
    }

    /// Starts a server.
    pub async fn start_with(options: NatsOptions) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("twinward-nats-")
            .tempdir()
            .expect("the temporary directory can be written");
        let mut server = Self {
            directory,
            options,
            port: 0,
            child: None,
        };
        server.launch().await;
        server
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() {
            "tls"
        } else {
            "nats"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The client port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Directory with its configuration, its store and its log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// Kills it at once, as a crash does. Its store stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; what counts is that it is gone afterwards.
            let _ended = child.kill();
            child.wait().expect("a child of ours can be waited for");
        }
    }

    /// Starts it again on the same port and store; kills it first if it still runs.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch().await;
    }

    async fn launch(&mut self) {
        let root = self.directory.path().to_owned();
        let ports = root.join("ports");
        // A file of the run before would tell us of a server that is gone.
        let _absent = fs::remove_dir_all(&ports);
        fs::create_dir_all(&ports).expect("our own directory can be written");
        let config = root.join("server.conf");
        fs::write(&config, self.configuration(&root)).expect("our own directory can be written");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(root.join("server.log"));
        let log = log.expect("our own directory can be written");
        let program = find_server();
        let child = Command::new(&program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        self.child = Some(child);
        self.port = wait_for("nats-server to listen", STARTS_WITHIN, async || {
            self.fail_if_ended();
            read_port(&ports)
        })
        .await;
    }

    fn fail_if_ended(&mut self) {
        let child = self.child.as_mut().expect("it was started");
        if let Ok(Some(status)) = child.try_wait() {
            panic!("nats-server ended with {status}:\n{}", self.log());
        }
    }

    fn configuration(&self, root: &Path) -> String {
        // The server picks a free port the first time and is told it afterwards, so that clients
        // find it again after a restart.
        let port = if self.port == 0 {
            "-1".to_owned()
        } else {
            self.port.to_string()
        };
        let mut text = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: \"test\"\nports_file_dir: \"{}\"\n",
            root.join("ports").display(),
        );
        if !self.options.without_jetstream {
            let sync = match self.options.sync {
                Sync::Interval => "",
                Sync::Always => "sync_interval: always",
            };
            let store = root.join("store");
            // The bounds of streams are reserved against this. Unset it is three quarters of the
            // free disk, and tests would fail on a machine with little, although they write little.
            writeln!(
                text,
                "jetstream {{ store_dir: \"{}\"\nmax_file_store: 100GB\n{sync}\n}}",
                store.display()
            )
            .expect("writing to a string cannot fail");
        }
        if let Some(token) = &self.options.token {
            writeln!(text, "authorization {{ token: \"{token}\" }}")
                .expect("writing to a string cannot fail");
        }
        if let Some(tls) = &self.options.tls {
            let (certificate, key) = (tls.server_certificate(), tls.server_key());
            writeln!(
                text,
                "tls {{ cert_file: \"{}\", key_file: \"{}\" }}",
                certificate.display(),
                key.display()
            )
            .expect("writing to a string cannot fail");
        }
        text.push_str(&self.options.extra);
        text
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server writes `nats-server_<pid>.ports` with the addresses it listens on.
fn read_port(directory: &Path) -> Option<u16> {
    let file = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let file = file
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "ports"))?;
    let ports: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    let address = ports.get("nats")?.get(0)?.as_str()?;
    address.rsplit(':').next()?.parse().ok()
}

/// The server that tests use: `TWINWARD_NATS_SERVER`, then what `cargo xtask tools` fetched, then
/// the one on the path.
///
/// The fetched one comes before the path's, so that tests run on the pinned version wherever there
/// is one; `cargo xtask tools` itself decides whether the path's is good enough.
pub fn find_server() -> PathBuf {
    // A test has no configuration of its own to be told this by.
    #[allow(clippy::disallowed_methods)]
    let (named, path) = (
        std::env::var_os("TWINWARD_NATS_SERVER"),
        std::env::var_os("PATH"),
    );
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "TWINWARD_NATS_SERVER names {}, no file",
            named.display()
        );
        return named;
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fetched = workspace.join("target/tools/bin/nats-server");
    if fetched.is_file() {
        return fetched;
    }
    std::env::split_paths(&path.unwrap_or_default())
        .map(|directory| directory.join("nats-server"))
        .find(|candidate| candidate.is_file())
        .expect(HOW_TO_GET_ONE)
}
