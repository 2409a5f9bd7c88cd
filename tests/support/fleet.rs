//! A hub whose twin-store runs in two replicas on one PostgreSQL, behind a balancer as a cluster has
//! one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use testkit::{
    Database, NatsServer, PostgresServer, Process, ProcessBuilder, free_port, wait_for,
    workspace_binary,
};
use tokio::net::{TcpListener, TcpStream};

use super::SOON;
use super::api::Api;
use super::hub::{TOKEN, http_get};

/// How many replicas there are.
pub(crate) const REPLICAS: usize = 2;
/// Partitions of the hub.
pub(crate) const PARTITIONS: usize = 4;
/// 32 bytes; the same for both.
const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The hub. The replicas come first, so that their log is looked at before their servers are gone.
pub(crate) struct Fleet {
    pub(crate) replicas: Vec<Process>,
    _ingestion: Process,
    _policy: Process,
    ports: Vec<(u16, u16)>,
    ingestion_port: u16,
    policy_port: u16,
    nats: NatsServer,
    database: Database,
    _postgres: PostgresServer,
    _folder: tempfile::TempDir,
}

impl Fleet {
    /// Starts everything and waits until the partitions are shared out evenly.
    pub(crate) async fn start() -> Fleet {
        let nats = NatsServer::start_durable().await;
        let postgres = PostgresServer::start().await;
        let database = postgres.database().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports: Vec<_> = (0..REPLICAS).map(|_| (free_port(), free_port())).collect();
        let balancer = balance(ports.iter().map(|(port, _)| *port).collect()).await;
        let replicas = ports.iter().map(|ports| replica(&nats, &database, *ports));
        let replicas = replicas.collect();
        let (ingestion_port, policy_port) = (free_port(), free_port());
        let common = |prefix: &str, verb: &str, port: u16| {
            ProcessBuilder::new(verb, workspace_binary("twinward"))
                .arg(verb)
                .env(&format!("{prefix}__NATS_URL"), nats.url())
                .env(&format!("{prefix}__PARTITIONS"), PARTITIONS.to_string())
                .env(&format!("{prefix}__LISTEN"), local(port))
                .env(&format!("{prefix}__ADMIN_LISTEN"), local(0))
                .env(&format!("{prefix}__TWIN_STORE_URL"), url(balancer))
                .env(&format!("{prefix}__TWIN_STORE_TOKEN"), TOKEN)
                // Parts are being killed, and they say so.
                .allow("")
        };
        let ingestion = common("TWINWARD_INGESTION", "ingestion", ingestion_port).spawn();
        let policy = common("TWINWARD_POLICY", "policy", policy_port)
            .env("TWINWARD_POLICY__TOKEN", TOKEN)
            .env("TWINWARD_POLICY__DATA_DIR", folder.path().join("policy"))
            .spawn();
        let fleet = Fleet {
            replicas,
            _ingestion: ingestion,
            _policy: policy,
            ports,
            ingestion_port,
            policy_port,
            nats,
            database,
            _postgres: postgres,
            _folder: folder,
        };
        fleet.shared_out(&[PARTITIONS / 2, PARTITIONS / 2]).await;
        fleet
    }

    /// A client of one replica.
    pub(crate) fn api(&self, replica: usize) -> Api {
        let (port, _) = self.ports[replica];
        Api::new(&url(port), &url(self.policy_port), TOKEN)
    }

    /// The agents' door.
    pub(crate) fn agent_url(&self) -> String {
        url(self.ingestion_port)
    }

    /// Starts a replica again that has ended.
    pub(crate) fn start_again(&mut self, replica: usize) {
        self.replicas[replica] = self::replica(&self.nats, &self.database, self.ports[replica]);
    }

    /// Waits until every replica owns as many partitions as it is to have, and is ready if it has any.
    pub(crate) async fn shared_out(&self, owned: &[usize]) {
        for (replica, expected) in owned.iter().enumerate() {
            let what = format!("replica {replica} to own {expected} partitions");
            wait_for(&what, SOON, async || {
                let owned = self.metric(replica, "partitions_owned").await?;
                (owned == expected.to_string()).then_some(())
            })
            .await;
            let (_, admin) = self.ports[replica];
            wait_for("the replica to be ready", SOON, async || {
                let answer = http_get(admin, "/readyz").await?;
                answer.starts_with("HTTP/1.1 200").then_some(())
            })
            .await;
        }
    }

    /// A number of a replica's metrics page, with its labels, if any, in `name`.
    pub(crate) async fn metric(&self, replica: usize, name: &str) -> Option<String> {
        let (_, admin) = self.ports[replica];
        let page = http_get(admin, "/metrics").await?;
        let name = format!("twinward_twin_store_{name} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name))?;
        Some(line.trim().to_owned())
    }
}

fn replica(nats: &NatsServer, database: &Database, (listen, admin): (u16, u16)) -> Process {
    let mut builder = ProcessBuilder::new("twin-store", workspace_binary("twinward"));
    builder = builder.arg("twin-store");
    for (name, value) in [
        ("NATS_URL", nats.url()),
        ("PARTITIONS", PARTITIONS.to_string()),
        ("LISTEN", local(listen)),
        ("ADMIN_LISTEN", local(admin)),
        ("TOKEN", TOKEN.to_owned()),
        ("STORE", "postgres".to_owned()),
        ("POSTGRES_URL", database.tcp_url()),
        ("MASTER_KEY", MASTER_KEY.to_owned()),
    ] {
        builder = builder.env(&format!("TWINWARD_TWIN_STORE__{name}"), value);
    }
    builder.spawn()
}

/// Connects whoever comes to the next port that takes connections.
async fn balance(ports: Vec<u16>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let turn = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (ports, turn) = (ports.clone(), turn.clone());
            tokio::spawn(async move {
                let first = turn.fetch_add(1, Ordering::Relaxed);
                for offset in 0..ports.len() {
                    let port = ports[(first + offset) % ports.len()];
                    let connecting = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
                    let within = Duration::from_secs(1);
                    if let Ok(Ok(mut server)) = tokio::time::timeout(within, connecting).await {
                        let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        return;
                    }
                }
            });
        }
    });
    port
}

fn local(port: u16) -> String {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
