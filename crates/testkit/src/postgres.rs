//! A real PostgreSQL for tests: own directory, own port, with `fsync` as production has it. It ends
//! with the test, even with one that is killed; as root it runs as somebody else, because PostgreSQL
//! refuses to run as root.
//!
//! Most tests want [`database`]: an empty database on the one server of the test process. A test that
//! stops the server, or needs TLS or settings of its own, starts a [`PostgresServer`].

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::certs::TestCerts;
use crate::free_port;
use crate::wait::wait_for;

mod programs;

use programs::User;

/// A server starts in well under a second; a busy machine with two cores needs more.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// Name and password of the one user.
const USER: &str = "twinward";

/// Runs the server and watches for the test's end: its standard input is a pipe whose other end the
/// test process has, so however that ends, the pipe closes, and server and directory go away.
/// SIGQUIT ends the server at once without writing anything back, as a crash does.
const KEEPER: &str = r#"
"$1/postgres" -D "$2/data" >>"$2/server.log" 2>&1 &
server=$!
read -r end
kill -QUIT "$server"
wait "$server"
[ "$end" = keep ] || rm -rf "$2"
"#;

/// What of a server is different from the plain one.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Serve TLS with this certificate on the port; without TLS nobody is let in there.
    pub tls: Option<TestCerts>,
    /// Ask clients for a certificate by the same authority.
    pub client_certificates: bool,
    /// No checksums of its pages, as servers before 18 have it unless they are told.
    pub without_checksums: bool,
    /// Encoding of the databases; empty: UTF8.
    pub encoding: String,
    /// Further lines of `postgresql.conf`.
    pub extra: String,
}

/// A running server.
#[derive(Debug)]
pub struct PostgresServer {
    directory: PathBuf,
    programs: PathBuf,
    user: Option<User>,
    options: PostgresOptions,
    port: u16,
    keeper: Option<Child>,
    databases: AtomicU64,
}

/// A database of one test, empty at first.
#[derive(Clone, Debug)]
pub struct Database {
    socket: PathBuf,
    port: u16,
    name: String,
}

/// An empty database on this process's own server, which starts with the first call.
pub async fn database() -> Database {
    static SERVER: OnceCell<Arc<PostgresServer>> = OnceCell::const_new();
    let server = SERVER
        .get_or_init(async || Arc::new(PostgresServer::start().await))
        .await;
    server.database().await
}

impl PostgresServer {
    /// Starts a plain server.
    pub async fn start() -> Self {
        Self::start_with(PostgresOptions::default()).await
    }

    /// Starts a server.
    pub async fn start_with(options: PostgresOptions) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("twinward-postgres-")
            .tempdir()
            .expect("the temporary directory can be written")
            // The keeper removes it, which also happens when we are killed.
            .keep();
        let user = User::to_run_as();
        if let Some(User { uid, gid }) = user {
            chown(&directory, Some(uid), Some(gid)).expect("root may give its files away");
        }
        let programs = programs::reachable(&programs::find(), user, &directory);
        let mut server = Self {
            directory,
            programs,
            user,
            options,
            port: free_port(),
            keeper: None,
            databases: AtomicU64::new(0),
        };
        server.initialize();
        server.launch().await;
        server
    }

    /// Makes an empty database.
    pub async fn database(&self) -> Database {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let database = Database {
            socket: self.directory.clone(),
            port: self.port,
            name: format!("test_{number}"),
        };
        let admin = self.maintenance().connect().await;
        admin
            .batch_execute(&format!("CREATE DATABASE {}", database.name))
            .await
            .expect("its own user may make databases");
        database
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its data, to damage them while it is stopped.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("server.log")).unwrap_or_default()
    }

    /// Ends it at once, as a crash does. Its data stay.
    pub fn kill(&mut self) {
        let Some(mut keeper) = self.keeper.take() else {
            return;
        };
        let mut pipe = keeper.stdin.take().expect("it is piped");
        pipe.write_all(b"keep\n")
            .expect("the keeper reads until it is told to end");
        drop(pipe);
        keeper.wait().expect("a child of ours can be waited for");
    }

    /// Starts it again with the same port and data; kills it first if it still runs.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch().await;
    }

    /// The database that every server has.
    fn maintenance(&self) -> Database {
        Database {
            socket: self.directory.clone(),
            port: self.port,
            name: "postgres".to_owned(),
        }
    }

    fn initialize(&self) {
        let password = self.directory.join("password");
        self.write("password", USER);
        let encoding = match self.options.encoding.as_str() {
            "" => "UTF8",
            other => other,
        };
        let mut initdb = self.command(&self.programs.join("initdb"));
        if !self.options.without_checksums {
            initdb.arg("--data-checksums");
        }
        let made = initdb
            .arg("--pgdata")
            .arg(self.directory.join("data"))
            .arg("--pwfile")
            .arg(password)
            // A power cut in the middle of a test is nobody's concern, and this takes most of its time.
            .args(["--no-sync", "--no-instructions", "--locale", "C"])
            .args(["--username", USER, "--encoding", encoding])
            .output()
            .expect("initdb can be started");
        assert!(
            made.status.success(),
            "initdb ended with {}:\n{}{}",
            made.status,
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
        let host = match (&self.options.tls, self.options.client_certificates) {
            (None, _) => "host all all 127.0.0.1/32 scram-sha-256",
            (Some(_), false) => "hostssl all all 127.0.0.1/32 scram-sha-256",
            (Some(_), true) => "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca",
        };
        self.write(
            "data/pg_hba.conf",
            &format!("local all all trust\n{host}\n"),
        );
        if let Some(tls) = &self.options.tls {
            for (name, file) in [
                ("data/server.pem", tls.server_certificate()),
                ("data/server.key", tls.server_key()),
                ("data/ca.pem", tls.ca()),
            ] {
                let text = fs::read_to_string(file).expect("the test's certificates are there");
                self.write(name, &text);
            }
        }
    }

    async fn launch(&mut self) {
        loop {
            self.write("data/postgresql.conf", &self.configuration());
            self.write("server.log", "");
            self.start_keeper();
            if self.listens().await {
                return;
            }
            // Somebody was faster than we with the port.
            self.kill();
            self.port = free_port();
        }
    }

    fn start_keeper(&mut self) {
        let mut shell = self.command(Path::new("/bin/sh"));
        let keeper = shell
            .args(["-c", KEEPER, "twinward-postgres"])
            .arg(&self.programs)
            .arg(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C on the terminal is for the test; the keeper still has to clean up behind it.
            .process_group(0)
            .spawn()
            .expect("every machine has /bin/sh");
        self.keeper = Some(keeper);
    }

    /// Waits until the server takes connections; false if its port was taken.
    async fn listens(&self) -> bool {
        let maintenance = self.maintenance();
        wait_for("PostgreSQL to listen", STARTS_WITHIN, async || {
            if maintenance.try_connect().await.is_ok() {
                return Some(true);
            }
            let log = self.log();
            if log.contains("could not bind IPv4 address") {
                return Some(false);
            }
            let ended = log.contains("database system is shut down");
            assert!(!ended, "PostgreSQL ended at once:\n{log}");
            None
        })
        .await
    }

    fn configuration(&self) -> String {
        let tls = match &self.options.tls {
            None => "",
            Some(_) => {
                "ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n\
                 ssl_ca_file = 'ca.pem'\n"
            }
        };
        // Small, because several run beside each other; all else as it comes, `fsync` above all.
        format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             max_connections = 200\nshared_buffers = 16MB\nfsync = on\n{tls}{}\n",
            self.port,
            self.directory.display(),
            self.options.extra
        )
    }

    /// Writes a file that only the server's user can read, as it wants its keys to be.
    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        fs::write(&path, text).expect("our own directory can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        if let Some(User { uid, gid }) = self.user {
            chown(&path, Some(uid), Some(gid)).expect("root may give its files away");
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        // Wherever the test runs, the other user may not be let in there.
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let Some(mut keeper) = self.keeper.take() else {
            // It was killed and not started again, so nobody else cleans up.
            let _gone = fs::remove_dir_all(&self.directory);
            return;
        };
        drop(keeper.stdin.take());
        let _ended = keeper.wait();
    }
}

impl Database {
    /// Where clients connect to: the server's socket, which is quick and asks no password.
    pub fn url(&self) -> String {
        let socket = self.socket.display().to_string().replace('/', "%2F");
        let (port, name) = (self.port, &self.name);
        format!("postgresql://{USER}@{socket}:{port}/{name}")
    }

    /// The same by TCP, with a password.
    pub fn tcp_url(&self) -> String {
        let (port, name) = (self.port, &self.name);
        format!("postgresql://{USER}:{USER}@127.0.0.1:{port}/{name}")
    }

    /// Runs statements, to look at or to damage what a store has written.
    pub async fn execute(&self, statements: &str) {
        let client = self.connect().await;
        if let Err(error) = client.batch_execute(statements).await {
            panic!("{statements}: {error}: {:?}", error.as_db_error());
        }
    }

    /// Answers the first column of the first row, as text.
    pub async fn ask(&self, query: &str) -> Option<String> {
        let client = self.connect().await;
        let rows = client.simple_query(query).await;
        let rows = rows.unwrap_or_else(|error| panic!("{query}: {error}"));
        rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }

    async fn connect(&self) -> Client {
        let connected = self.try_connect().await;
        connected.unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.url()))
    }

    async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await?;
        // It ends with the client; a test's helper has no supervisor to give it to.
        #[allow(clippy::disallowed_methods)]
        let _driver = tokio::spawn(connection);
        Ok(client)
    }
}

#[cfg(test)]
mod tests;
