//! Two replicas on one PostgreSQL that let nobody in without a certificate: whoever calls either of
//! them is known by its own name wherever the call is carried out.

#![allow(clippy::disallowed_methods)] // a service under test needs no supervisor of its own

use std::collections::BTreeSet;

use service_kit::auth::AuthConfig;
use service_kit::client::{self, ClientConfig, Connection};
use service_kit::clock::SystemClock;
use service_kit::error::Classified as _;
use service_kit::secret::Secret;
use service_kit::shutdown::ShutdownToken;
use service_kit::tls::{ClientTls, ListenerTls};
use tempfile::TempDir;
use testkit::{NatsServer, TestCerts, wait_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use twin_store::app::AppError;
use twin_store::config::StoreKind;
use twin_store::{Addresses, App, Config};
use wire::registry::v1 as registry;
use wire::registry::v1::audit_service_client::AuditServiceClient;
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::twin::v1::twin_history_service_client::TwinHistoryServiceClient;
use wire::twin::v1::twin_service_client::TwinServiceClient;
use wire::twin::v1::{ListTwinRevisionsRequest, PatchTwinRequest};

use crate::service::{SOON, config, refusal};

/// Enough that both replicas own some of them.
const DEVICES: usize = 8;
/// 32 bytes; the same for both.
const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A replica, and the certificates that open it.
struct Replica {
    addresses: Addresses,
    shutdown: ShutdownToken,
    running: JoinHandle<Result<(), AppError>>,
}

impl Replica {
    async fn start(nats: &NatsServer, folder: &TempDir, url: &str, certs: &TestCerts) -> Self {
        let mut config: Config = config(nats, folder.path());
        config.store = StoreKind::Postgres;
        config.postgres.url = Secret::new(url);
        config.master_key = Secret::new(MASTER_KEY);
        config.tls = ListenerTls {
            cert_file: Some(certs.server_certificate()),
            key_file: Some(certs.server_key()),
            client_ca_file: Some(certs.ca()),
            ..ListenerTls::default()
        };
        config.auth = AuthConfig {
            certificates: vec![
                "DNS:alice=operator".to_owned(),
                "DNS:guest=reader".to_owned(),
            ],
            ..AuthConfig::default()
        };
        // The replicas' own certificate has no role.
        let (cert, key) = certs.issue_client("replica");
        config.replica.ca_file = Some(certs.ca());
        config.replica.cert_file = Some(cert);
        config.replica.key_file = Some(key);
        let app = App::build(config, SystemClock::shared())
            .await
            .expect("it can be built");
        let addresses = app.addresses();
        let shutdown = ShutdownToken::new();
        let running = tokio::spawn(Box::pin(app.run(shutdown.clone())));
        Self {
            addresses,
            shutdown,
            running,
        }
    }

    /// A connection of whoever has this certificate.
    fn connection(&self, certs: &TestCerts, name: &str) -> Connection {
        let (cert, key) = certs.issue_client(name);
        let url = format!("https://localhost:{}", self.addresses.grpc.port());
        let target = ClientConfig {
            tls: ClientTls {
                cert_file: Some(cert),
                key_file: Some(key),
                ..ClientTls::believing(certs.ca())
            },
            ..ClientConfig::to(url)
        };
        client::connect(&target).expect("a good URL")
    }

    /// A number of the metrics page.
    async fn metric(&self, name: &str) -> Option<String> {
        let mut socket = tokio::net::TcpStream::connect(self.addresses.admin)
            .await
            .ok()?;
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut page = String::new();
        socket.read_to_string(&mut page).await.ok()?;
        let name = format!("twinward_twin_store_{name} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name))?;
        Some(line.trim().to_owned())
    }

    async fn stop(self) {
        self.shutdown.trigger();
        let ended = tokio::time::timeout(SOON, self.running).await;
        let ended = ended.expect("it ends").expect("it does not panic");
        ended.expect("a good end");
    }
}

async fn patch(connection: &Connection, device: &str) {
    let request = PatchTwinRequest {
        name: format!("devices/{device}"),
        desired_patch_json: r#"{"x": 1}"#.to_owned(),
        ..Default::default()
    };
    let patched = TwinServiceClient::new(connection.clone())
        .patch_twin(request)
        .await;
    let twin = patched.expect("an operator may").into_inner();
    let writers = &twin.desired_metadata_json;
    assert!(writers.contains("operator:DNS:alice"), "{writers}");
    assert!(!writers.contains("replica"), "{writers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_certificate_to_one_replica_is_known_by_its_name_to_the_other() {
    let certs = TestCerts::new();
    let nats = NatsServer::start().await;
    let database = testkit::postgres::database().await;
    let folder = tempfile::tempdir().expect("a folder");
    let one = Replica::start(&nats, &folder, &database.url(), &certs).await;
    let other = Replica::start(&nats, &folder, &database.url(), &certs).await;
    for replica in [&one, &other] {
        wait_for("the partitions to be shared out", SOON, async || {
            (replica.metric("partitions_owned").await? == "1").then_some(())
        })
        .await;
    }

    // One by one to one replica, and as a batch to the other; then writes through both.
    let (at_one, at_other) = (
        one.connection(&certs, "alice"),
        other.connection(&certs, "alice"),
    );
    let device = |number: usize| registry::CreateDeviceRequest {
        device_id: format!("cam-{number}"),
        ..Default::default()
    };
    for number in 0..DEVICES {
        let created = RegistryServiceClient::new(at_one.clone())
            .create_device(device(number))
            .await;
        created.expect("an operator may");
    }
    let batch = registry::BatchCreateDevicesRequest {
        requests: (DEVICES..2 * DEVICES).map(device).collect(),
    };
    let made = RegistryServiceClient::new(at_other.clone())
        .batch_create_devices(batch)
        .await
        .expect("an operator may")
        .into_inner();
    for result in made.results {
        assert_eq!(result.error, None, "{}", result.name);
    }
    for connection in [&at_one, &at_other] {
        for number in 0..2 * DEVICES {
            patch(connection, &format!("cam-{number}")).await;
        }
    }
    for replica in [&one, &other] {
        let passed_on = replica
            .metric(r#"calls_forwarded_total{outcome="answered"}"#)
            .await;
        assert!(passed_on.is_some_and(|count| count != "0"));
    }

    // What is written down names her, and nobody else.
    let request = registry::ListAuditEntriesRequest {
        page_size: 1000,
        ..Default::default()
    };
    let entries = AuditServiceClient::new(at_one.clone())
        .list_audit_entries(request)
        .await
        .expect("an operator may")
        .into_inner()
        .entries;
    assert_eq!(entries.len(), 6 * DEVICES);
    let actors: BTreeSet<_> = entries.iter().map(|entry| &*entry.actor).collect();
    assert_eq!(actors, BTreeSet::from(["operator:DNS:alice"]));
    for number in 0..2 * DEVICES {
        let request = ListTwinRevisionsRequest {
            name: format!("devices/cam-{number}"),
            ..Default::default()
        };
        let history = TwinHistoryServiceClient::new(at_other.clone())
            .list_twin_revisions(request)
            .await
            .expect("an operator may")
            .into_inner();
        assert!(history.revisions.len() >= 2, "{history:?}");
        for revision in history.revisions {
            assert_eq!(revision.actor, "operator:DNS:alice");
        }
    }

    // The other replica judges by the caller's roles, and not by the replica's.
    let guest = one.connection(&certs, "guest");
    for number in 0..DEVICES {
        let request = PatchTwinRequest {
            name: format!("devices/cam-{number}"),
            tags_patch_json: "{}".to_owned(),
            ..Default::default()
        };
        let refused = TwinServiceClient::new(guest.clone())
            .patch_twin(request)
            .await;
        let refused = refusal(refused);
        assert_eq!(refused.fact("permission"), Some("twins.write"));
        assert_eq!(refused.fact("principal"), Some("DNS:guest"));
    }
    // And nobody is believed who only says that it passes a call on.
    let mut forged = tonic::Request::new(PatchTwinRequest {
        name: "devices/cam-0".to_owned(),
        tags_patch_json: "{}".to_owned(),
        ..Default::default()
    });
    let claims = "v1.eyJuYW1lIjoiYWxpY2UiLCJyb2xlcyI6WyJhZG1pbiJdLCJ2aWEiOiJvaWRjIiwiYXQiOjB9.AAAA";
    let claims = claims.parse().expect("metadata");
    forged.metadata_mut().insert("x-twinward-caller", claims);
    let refused = TwinServiceClient::new(guest).patch_twin(forged).await;
    let refused = refusal(refused);
    assert_eq!(refused.reason(), "REPLICA_NOT_BELIEVED");
    assert_eq!(refused.fact("iot_hub_code"), Some("401002"));
    one.stop().await;
    other.stop().await;
}
