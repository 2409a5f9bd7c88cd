//! Everything one test needs: NATS, the twin-store, and the service, which can be stopped and
//! started again on the same data.

use std::time::Duration;

use bus::{Bus, BusConfig, Fetched, PullOptions, Sequence};
use policy::rollout::Guard;
use policy::{Addresses, App, Config, Error};
use serde_json::{Value, json};
use service_kit::client::ServiceAddress;
use service_kit::clock::SystemClock;
use service_kit::shutdown::ShutdownToken;
use tempfile::TempDir;
use testkit::{NatsServer, wait_for};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use twin::{DeviceId, PartitionCount, partition_of};
use wire::policy::v1 as proto;
use wire::policy::v1::policy_service_client::PolicyServiceClient;
use wire::subjects::REJECTS_STREAM;

use crate::twin_store::TwinStore;

/// Long enough for two busy cores; nothing waits so long unless it is broken.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Few, so that tests stay small; more than one, because that is where mistakes hide.
pub(crate) const PARTITIONS: u16 = 2;

/// The module twin that most tests look at.
pub(crate) const MODULE: &str = "devices/cam-1/modules/DefenderIotMicroAgent";

/// The sample of the documentation.
pub(crate) const SAMPLE: &str = include_str!("../../../../deploy/samples/unexpected-listener.yaml");

pub(crate) struct World {
    pub nats: NatsServer,
    pub bus: Bus,
    pub twins: TwinStore,
    folder: TempDir,
    guard: Guard,
    running: Option<Running>,
}

struct Running {
    addresses: Addresses,
    shutdown: ShutdownToken,
    task: JoinHandle<Result<(), Error>>,
}

impl World {
    /// Everything up and ready.
    pub(crate) async fn start() -> World {
        World::start_with(Guard::default()).await
    }

    /// Everything up and ready, with other bounds of changes.
    pub(crate) async fn start_with(guard: Guard) -> World {
        // Spans have ids only where somebody subscribes.
        service_kit::telemetry::ids_for_tests();
        let nats = NatsServer::start().await;
        let bus = Bus::connect(BusConfig::local(nats.url(), "test"))
            .await
            .unwrap();
        let partitions = PartitionCount::new(PARTITIONS).unwrap();
        let twins = TwinStore::start(bus.clone(), partitions).await;
        let folder = TempDir::new().unwrap();
        let mut world = World {
            nats,
            bus,
            twins,
            folder,
            guard,
            running: None,
        };
        world.start_service().await;
        world
    }

    /// Starts it and waits until it is ready; also while twin-store is away it is.
    pub(crate) async fn start_service(&mut self) {
        let mut config = Config {
            nats: bus::NatsSettings::at(self.nats.url()),
            twin_store: ServiceAddress::at(format!("http://{}", self.twins.address)),
            data_dir: self.folder.path().to_owned(),
            partitions: PARTITIONS,
            mass_change: self.guard.clone(),
            ..Config::default()
        };
        config.listen.set_port(0);
        config.admin_listen.set_port(0);
        let app = App::build(config, SystemClock::shared()).await.unwrap();
        let (addresses, health) = (app.addresses(), app.health());
        let shutdown = ShutdownToken::new();
        let task = tokio::spawn(app.run(shutdown.clone()));
        self.running = Some(Running {
            addresses,
            shutdown,
            task,
        });
        wait_for("the service to be ready", SOON, async || {
            health.is_ready().then_some(())
        })
        .await;
    }

    /// Stops the service in good order.
    pub(crate) async fn stop_service(&mut self) {
        let running = self.running.take().expect("the service runs");
        running.shutdown.trigger();
        let ended = tokio::time::timeout(SOON, running.task).await;
        ended
            .expect("it stops in time")
            .expect("it does not panic")
            .expect("it stops well");
    }

    /// Loses all that the stopped service keeps.
    pub(crate) fn lose(&self) {
        assert!(self.running.is_none(), "the service is stopped first");
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }

    /// What the stopped service keeps.
    pub(crate) fn copy(&self) -> Vec<(std::ffi::OsString, Vec<u8>)> {
        assert!(self.running.is_none(), "the service is stopped first");
        let files = std::fs::read_dir(self.folder.path()).unwrap();
        let files = files.map(|file| file.unwrap());
        files
            .map(|file| (file.file_name(), std::fs::read(file.path()).unwrap()))
            .collect()
    }

    /// Puts back what was kept.
    pub(crate) fn restore(&self, copy: Vec<(std::ffi::OsString, Vec<u8>)>) {
        self.lose();
        for (name, content) in copy {
            std::fs::write(self.folder.path().join(name), content).unwrap();
        }
    }

    /// Damages what the stopped service keeps; answers how many rows that were.
    pub(crate) fn damage(&self, statement: &str) -> usize {
        assert!(self.running.is_none(), "the service is stopped first");
        let file = self.folder.path().join("policy.db");
        let database = rusqlite::Connection::open(file).unwrap();
        database.execute(statement, []).unwrap()
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.running.as_ref().expect("the service runs").addresses
    }

    pub(crate) async fn client(&self) -> PolicyServiceClient<Channel> {
        let url = format!("http://{}", self.addresses().grpc);
        PolicyServiceClient::connect(url).await.unwrap()
    }

    /// Applies every policy of a file.
    pub(crate) async fn apply(&self, file: &str) -> Vec<proto::ApplyPolicyResponse> {
        let mut answers = Vec::new();
        for spec in policy::file::parse(file).unwrap() {
            let request = proto::ApplyPolicyRequest {
                policy: Some(policy::resource::to_request(&spec)),
                validate_only: false,
                note: String::new(),
                etag: String::new(),
            };
            let answer = self.client().await.apply_policy(request).await.unwrap();
            answers.push(answer.into_inner());
        }
        answers
    }

    pub(crate) async fn policy(&self, id: &str) -> proto::Policy {
        let request = proto::GetPolicyRequest {
            name: format!("policies/{id}"),
        };
        self.client()
            .await
            .get_policy(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn delete_policy(&self, id: &str) {
        let name = format!("policies/{id}");
        let request = proto::DeletePolicyRequest {
            name,
            etag: String::new(),
            ..proto::DeletePolicyRequest::default()
        };
        self.client().await.delete_policy(request).await.unwrap();
    }

    /// Waits until all twins were looked at after a policy's last change.
    pub(crate) async fn wait_evaluated(&self, id: &str) -> proto::Evaluation {
        wait_for("all twins to be evaluated", SOON, async || {
            self.policy(id)
                .await
                .evaluation
                .filter(|evaluation| evaluation.complete)
        })
        .await
    }

    pub(crate) async fn wait_desired(&self, name: &str, expected: Value) {
        let mut last = Value::Null;
        let what = format!("{name} to become {expected}");
        let deadline = tokio::time::Instant::now() + SOON;
        while last != expected {
            last = self.twins.desired(name);
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited for {what}; it is {last}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until everything published so far has been evaluated: a change made now comes last in
    /// its partition. Needs [`SETTLE`].
    pub(crate) async fn settle(&self) {
        let count = PartitionCount::new(PARTITIONS).unwrap();
        for partition in count.partitions() {
            let device = (0..).map(|n| DeviceId::parse(&format!("settle-{n}")).unwrap());
            let device = device
                .into_iter()
                .find(|id| partition_of(id, count) == partition);
            let name = format!("devices/{}", device.expect("one of all numbers"));
            self.twins
                .create(&name, json!({"settle": true}), Value::Null)
                .await;
            self.wait_desired(&name, json!({"settled": true})).await;
            self.twins.delete(&name).await;
        }
    }

    /// Calls that were made for a twin.
    pub(crate) fn calls_for(&self, name: &str) -> usize {
        self.twins
            .calls()
            .iter()
            .filter(|call| call.request.name == name)
            .count()
    }

    /// Waits for this many rejects and returns them.
    pub(crate) async fn rejects(&self, count: usize) -> Vec<Fetched> {
        let mut pull = self
            .bus
            .pull(REJECTS_STREAM, Sequence::ZERO, PullOptions::default());
        let mut found = Vec::new();
        let deadline = tokio::time::Instant::now() + SOON;
        while found.len() < count {
            assert!(
                tokio::time::Instant::now() < deadline,
                "only {} rejects",
                found.len()
            );
            found.extend(
                pull.next_batch(16, Duration::from_millis(100))
                    .await
                    .unwrap(),
            );
        }
        found
    }

    /// The rejects there are now.
    pub(crate) async fn rejects_now(&self) -> Vec<Fetched> {
        let mut pull = self
            .bus
            .pull(REJECTS_STREAM, Sequence::ZERO, PullOptions::default());
        pull.next_batch(16, Duration::ZERO).await.unwrap()
    }

    /// The page of metrics.
    pub(crate) async fn metrics(&self) -> String {
        self.page("/metrics").await
    }

    /// Reads a page of the admin listener.
    pub(crate) async fn page(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.addresses().admin)
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }
}

/// A policy that [`World::settle`] needs.
pub(crate) const SETTLE: &str = "\
kind: Policy
name: settle
scope: devices
target: tags.settle = true
settings: {settled: true}
";
