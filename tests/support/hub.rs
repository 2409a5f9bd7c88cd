//! A hub as an operator starts it: `twinward up`, or one process per service on a NATS server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::{NatsServer, Process, ProcessBuilder, free_port, wait_for, workspace_binary};

use super::SOON;
use super::api::Api;

/// The admin token of every hub in these stories.
pub(crate) const TOKEN: &str = "a-token-for-whole-system-tests";

/// A service of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The agents' door.
    Ingestion,
    /// Identities and twins.
    TwinStore,
    /// Policies.
    Policy,
}

/// One process per service.
pub(crate) struct Hub {
    pub(crate) nats: NatsServer,
    pub(crate) ingestion: Process,
    pub(crate) twin_store: Process,
    pub(crate) policy: Process,
    ports: Ports,
    otlp: Option<String>,
    folder: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    ingestion: u16,
    ingestion_admin: u16,
    twin_store: u16,
    twin_store_admin: u16,
    policy: u16,
    policy_admin: u16,
}

impl Ports {
    fn free() -> Ports {
        Ports {
            ingestion: free_port(),
            ingestion_admin: free_port(),
            twin_store: free_port(),
            twin_store_admin: free_port(),
            policy: free_port(),
            policy_admin: free_port(),
        }
    }

    fn of(self, part: Part) -> (u16, u16) {
        match part {
            Part::Ingestion => (self.ingestion, self.ingestion_admin),
            Part::TwinStore => (self.twin_store, self.twin_store_admin),
            Part::Policy => (self.policy, self.policy_admin),
        }
    }
}

impl Hub {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start() -> Hub {
        Hub::start_with(None).await
    }

    /// As [`Hub::start`], exporting traces to an OTLP endpoint.
    pub(crate) async fn start_with(otlp: Option<String>) -> Hub {
        let nats = NatsServer::start_durable().await;
        let ports = Ports::free();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spawn = |part| spawn(part, &nats, ports, folder.path(), otlp.as_deref());
        // The others would say, rightly, that it is not there yet, and a warning fails a story.
        let twin_store = spawn(Part::TwinStore);
        ready(ports.twin_store_admin, "twin-store").await;
        let ingestion = spawn(Part::Ingestion);
        let policy = spawn(Part::Policy);
        let hub = Hub {
            nats,
            ingestion,
            twin_store,
            policy,
            ports,
            otlp,
            folder,
        };
        for part in [Part::Ingestion, Part::Policy] {
            hub.ready(part).await;
        }
        hub
    }

    /// The agents' door.
    pub(crate) fn agent_url(&self) -> String {
        url(self.ports.ingestion)
    }

    /// Where a service serves gRPC.
    pub(crate) fn url(&self, part: Part) -> String {
        let (listen, _) = self.ports.of(part);
        url(listen)
    }

    /// A client of the registry, twin and policy APIs.
    pub(crate) fn api(&self) -> Api {
        Api::new(&url(self.ports.twin_store), &url(self.ports.policy), TOKEN)
    }

    /// A folder that is gone with the hub.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A second process of a service, on other ports and the same data.
    pub(crate) fn another(&self, part: Part) -> Process {
        let mut ports = self.ports;
        ports.twin_store = free_port();
        ports.twin_store_admin = free_port();
        spawn(
            part,
            &self.nats,
            ports,
            self.folder.path(),
            self.otlp.as_deref(),
        )
    }

    /// The process of a service.
    pub(crate) fn process(&mut self, part: Part) -> &mut Process {
        match part {
            Part::Ingestion => &mut self.ingestion,
            Part::TwinStore => &mut self.twin_store,
            Part::Policy => &mut self.policy,
        }
    }

    /// What stands in every log is right in this story, because parts are being killed.
    pub(crate) fn allow_everything(&mut self) {
        for part in [Part::Ingestion, Part::TwinStore, Part::Policy] {
            self.process(part).allow("");
        }
    }

    /// SIGKILL, then a new process on the same ports and data.
    pub(crate) async fn kill_and_restart(&mut self, part: Part) {
        self.process(part).kill();
        let mut fresh = spawn(
            part,
            &self.nats,
            self.ports,
            self.folder.path(),
            self.otlp.as_deref(),
        );
        fresh.allow("");
        *self.process(part) = fresh;
        self.ready(part).await;
    }

    /// Waits until a service says that it is ready.
    pub(crate) async fn ready(&self, part: Part) {
        let (_, admin) = self.ports.of(part);
        ready(admin, &format!("{part:?}")).await;
    }

    /// A number of a service's metrics page, without labels; nothing while it is not there.
    pub(crate) async fn metric(&self, part: Part, name: &str) -> Option<f64> {
        let (_, admin) = self.ports.of(part);
        let page = http_get(admin, "/metrics").await?;
        let line = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        page.lines().find_map(line)
    }

    /// SIGTERM for all, against the stream, and a clean end of each.
    pub(crate) async fn stop(self) {
        self.ingestion.stop(SOON).await;
        self.policy.stop(SOON).await;
        self.twin_store.stop(SOON).await;
    }
}

fn local(port: u16) -> String {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn spawn(
    part: Part,
    nats: &NatsServer,
    ports: Ports,
    folder: &Path,
    otlp: Option<&str>,
) -> Process {
    let (listen, admin) = ports.of(part);
    let (verb, prefix) = match part {
        Part::Ingestion => ("ingestion", "TWINWARD_INGESTION"),
        Part::TwinStore => ("twin-store", "TWINWARD_TWIN_STORE"),
        Part::Policy => ("policy", "TWINWARD_POLICY"),
    };
    let data = folder.join(verb);
    let mut settings = vec![("NATS_URL", nats.url()), ("PARTITIONS", "4".to_owned())];
    match part {
        Part::Ingestion => settings.extend([
            ("LISTEN", local(listen)),
            ("ADMIN_LISTEN", local(admin)),
            ("TWIN_STORE_URL", url(ports.twin_store)),
            ("TWIN_STORE_TOKEN", TOKEN.to_owned()),
            ("TOKEN", TOKEN.to_owned()),
        ]),
        Part::TwinStore => settings.extend([
            ("LISTEN", local(listen)),
            ("ADMIN_LISTEN", local(admin)),
            ("TOKEN", TOKEN.to_owned()),
            ("DATA_DIR", data.display().to_string()),
            // The shortest that it may be, so that stories need not wait for long.
            ("SESSIONS_LOST_AFTER", "10s".to_owned()),
        ]),
        Part::Policy => settings.extend([
            ("LISTEN", local(listen)),
            ("TOKEN", TOKEN.to_owned()),
            ("ADMIN_LISTEN", local(admin)),
            ("TWIN_STORE_URL", url(ports.twin_store)),
            ("TWIN_STORE_TOKEN", TOKEN.to_owned()),
            ("DATA_DIR", data.display().to_string()),
        ]),
    }
    let mut builder = ProcessBuilder::new(verb, workspace_binary("twinward")).arg(verb);
    for (name, value) in settings {
        builder = builder.env(&format!("{prefix}__{name}"), value);
    }
    if let Some(endpoint) = otlp {
        builder = builder.env("TWINWARD_TELEMETRY__OTLP_ENDPOINT", endpoint);
    }
    builder.spawn()
}

/// Everything in one process, as on a laptop.
pub(crate) struct Up {
    pub(crate) process: Process,
    variables: Variables,
    ports: Ports,
    folder: tempfile::TempDir,
}

type Variables = std::collections::BTreeMap<String, String>;

fn env_file(folder: &Path) -> PathBuf {
    folder.join("hub.env")
}

fn spawn_up(folder: &Path, ports: Ports) -> Process {
    let mut builder = ProcessBuilder::new("up", workspace_binary("twinward"))
        .args(["up", "--any-port", "--data-dir"])
        .arg(folder.join("data"))
        .arg("--nats-server")
        .arg(testkit::nats::find_server())
        .arg("--env-file")
        .arg(env_file(folder));
    for (option, port) in [
        ("--ingestion-listen", ports.ingestion),
        ("--ingestion-admin-listen", ports.ingestion_admin),
        ("--twin-store-listen", ports.twin_store),
        ("--twin-store-admin-listen", ports.twin_store_admin),
        ("--policy-listen", ports.policy),
        ("--policy-admin-listen", ports.policy_admin),
    ] {
        builder = builder.args([option.to_owned(), local(port)]);
    }
    builder.spawn()
}

async fn read_env_file(process: &mut Process, folder: &Path) -> Variables {
    let text = process.wait_for_file(&env_file(folder), SOON).await;
    text.lines()
        .filter_map(|line| line.trim_start_matches("export ").split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
        .collect()
}

impl Up {
    /// `twinward up` with a NATS server of its own.
    pub(crate) async fn start() -> Up {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = Ports::free();
        let mut process = spawn_up(folder.path(), ports);
        let variables = read_env_file(&mut process, folder.path()).await;
        Up {
            process,
            variables,
            ports,
            folder,
        }
    }

    /// Starts it again on the same ports and data, after it has ended.
    pub(crate) async fn restart(&mut self) {
        assert!(!self.process.is_running(), "it is to be ended before");
        // That of a run that was killed would tell of a hub that is gone; a clean end leaves none.
        let _absent = std::fs::remove_file(env_file(self.folder.path()));
        self.process = spawn_up(self.folder.path(), self.ports);
        self.variables = read_env_file(&mut self.process, self.folder.path()).await;
    }

    /// A variable of the env file.
    pub(crate) fn variable(&self, name: &str) -> &str {
        self.variables
            .get(name)
            .unwrap_or_else(|| panic!("the env file names no {name}"))
    }

    /// The file with its variables.
    pub(crate) fn env_file(&self) -> PathBuf {
        env_file(self.folder.path())
    }

    /// The agents' door.
    pub(crate) fn agent_url(&self) -> String {
        self.variable("TWINWARD_AGENT_URL").to_owned()
    }

    /// A client of the registry, twin and policy APIs.
    pub(crate) fn api(&self) -> Api {
        Api::new(
            self.variable("TWINWARD_TWIN_STORE_URL"),
            self.variable("TWINWARD_POLICY_URL"),
            self.variable("TWINWARD_ADMIN_TOKEN"),
        )
    }

    /// A folder that is gone with the hub.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// SIGTERM and a clean end.
    pub(crate) async fn stop(self) {
        self.process.stop(SOON).await;
    }
}

/// Waits until a service's `/readyz` answers 200.
pub(crate) async fn ready(admin: u16, what: &str) {
    wait_for(&format!("{what} to be ready"), SOON, async || {
        let answer = http_get(admin, "/readyz").await?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

/// The answer of a small HTTP server on loopback, head and body.
pub(crate) async fn http_get(port: u16, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .ok()?
        .ok()
}
