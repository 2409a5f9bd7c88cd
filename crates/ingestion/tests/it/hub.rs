//! One instance of ingestion with everything around it, for one test.

use std::time::Duration;

use bus::{Bus, BusConfig, Outgoing, PullOptions, Sequence};
use ingestion::{Addresses, App, Config, Error, Limits};
use iot_hub::{SasResource, SasToken, SymmetricKey};
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use service_kit::client::ServiceAddress;
use service_kit::clock::SystemClock;
use service_kit::shutdown::ShutdownToken;
use testkit::NatsServer;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use twin::IdentityKey;
use wire::agent::v1::agent_service_client::AgentServiceClient;
use wire::bus::v1 as bus_wire;
use wire::names::identity_name;
use wire::registry::v1 as registry;
use wire::subjects;

use crate::agent::Agent;
use crate::fake_store::FakeStore;

/// How long anything may take that should happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The host in every token.
pub(crate) const HOST: &str = "hub.example";

/// Where the one partition's telemetry is.
const STREAM: &str = "TELEMETRY_0";

pub(crate) struct Hub {
    pub(crate) nats: NatsServer,
    pub(crate) store: FakeStore,
    pub(crate) bus: Bus,
    pub(crate) addresses: Addresses,
    pub(crate) shutdown: ShutdownToken,
    pub(crate) config: Config,
    running: Option<JoinHandle<Result<(), Error>>>,
}

/// The key of an identity: of its own, so that tests do not pass by mistaking one for another.
pub(crate) fn key_of(path: &str) -> SymmetricKey {
    let mut seed = [7; 32];
    for (slot, byte) in seed.iter_mut().zip(path.bytes()) {
        *slot = byte;
    }
    SymmetricKey::generate(seed)
}

pub(crate) fn identity(path: &str) -> IdentityKey {
    IdentityKey::parse_path(path).unwrap()
}

/// A token of an identity, made with a key, good for a while (or not any more).
pub(crate) fn token(path: &str, key: &SymmetricKey, good_for: SignedDuration) -> String {
    let resource = SasResource::of_identity(HOST, &identity(path));
    SasToken::sign(resource, key, Timestamp::now() + good_for).to_string()
}

pub(crate) fn good_token(path: &str) -> String {
    token(path, &key_of(path), SignedDuration::from_hours(1))
}

/// What every test begins with; one partition, so that all telemetry is in one stream.
pub(crate) fn config(nats: &NatsServer, store: &FakeStore) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        public_host: HOST.to_owned(),
        nats: bus::NatsSettings::at(nats.url()),
        twin_store: ServiceAddress::at(store.url()),
        partitions: 1,
        limits: Limits::default(),
        ..Config::default()
    }
}

impl Hub {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let nats = NatsServer::start().await;
        let store = FakeStore::start();
        let mut config = config(&nats, &store);
        change(&mut config);
        let (addresses, shutdown, running) = run(config.clone()).await;
        let bus = Bus::connect(BusConfig::local(nats.url(), "test"))
            .await
            .unwrap();
        Self {
            nats,
            store,
            bus,
            addresses,
            shutdown,
            config,
            running: Some(running),
        }
    }

    /// Stops it and starts another in its place.
    pub(crate) async fn restart(&mut self) {
        self.halt().await;
        let (addresses, shutdown, running) = run(self.config.clone()).await;
        self.addresses = addresses;
        self.shutdown = shutdown;
        self.running = Some(running);
    }

    /// The page of its metrics.
    pub(crate) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let address = self.addresses.admin;
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }

    /// Registers an identity with its key and an empty twin.
    pub(crate) fn register(&self, path: &str) {
        let name = identity_name(&identity(path));
        let credentials = registry::Credentials {
            name: name.clone(),
            generation_id: "generation-1".to_owned(),
            etag: "1".to_owned(),
            status: registry::Status::Enabled.into(),
            keys: Some(registry::SymmetricKeys {
                primary: key_of("some other key").to_base64().to_string(),
                secondary: key_of(path).to_base64().to_string(),
            }),
            ..Default::default()
        };
        self.store
            .state()
            .identities
            .insert(name.clone(), credentials);
        self.store.set_desired(&name, 1, "{}");
    }

    /// Changes what the store knows of an identity, and says so on the bus.
    pub(crate) async fn change_identity(
        &self,
        path: &str,
        change: impl FnOnce(Option<registry::Credentials>) -> Option<registry::Credentials>,
    ) {
        let key = identity(path);
        let name = identity_name(&key);
        {
            let mut state = self.store.state();
            let before = state.identities.remove(&name);
            if let Some(after) = change(before) {
                state.identities.insert(name, after);
            }
        }
        let hint = bus_wire::IdentityHint::default().encode_to_vec();
        self.bus
            .send_hint(Outgoing::new(subjects::identity_subject(&key), hint))
            .await
            .unwrap();
    }

    /// Changes the desired section, and says so on the bus.
    pub(crate) async fn change_desired(&self, path: &str, version: u64, document_json: &str) {
        let key = identity(path);
        self.store
            .set_desired(&identity_name(&key), version, document_json);
        let hint = bus_wire::PushHint {
            desired_version: version,
            ..Default::default()
        };
        let hint = Outgoing::new(subjects::push_subject(&key), hint.encode_to_vec());
        self.bus.send_hint(hint).await.unwrap();
    }

    pub(crate) async fn client(&self) -> AgentServiceClient<Channel> {
        client(self.addresses).await
    }

    /// Connects with a token; the session is not opened by a hello yet.
    pub(crate) async fn connect(&self, token: &str) -> Result<Agent, Status> {
        Agent::connect(self.client().await, token).await
    }

    /// An agent of a registered identity, past its welcome.
    pub(crate) async fn agent(&self, path: &str) -> Agent {
        self.register(path);
        let mut agent = self.connect(&good_token(path)).await.expect("a good token");
        agent.hello(1).await;
        agent
    }

    /// Everything that is durable, in order.
    pub(crate) async fn telemetry(&self) -> Vec<bus_wire::TelemetryEntry> {
        let last = self.bus.last_sequence(STREAM).await.unwrap();
        let mut pull = self
            .bus
            .pull(STREAM, Sequence::ZERO, PullOptions::default());
        let mut entries = Vec::new();
        while pull.position() < last {
            for message in pull.next_batch(100, SOON).await.unwrap() {
                entries.extend(
                    bus_wire::TelemetryMessage::decode(message.payload)
                        .unwrap()
                        .entries,
                );
            }
        }
        entries
    }

    /// All messages for applications that are durable.
    pub(crate) async fn messages(&self) -> Vec<bus_wire::ApplicationMessage> {
        let stream = subjects::APPLICATION_STREAM;
        let last = self.bus.last_sequence(stream).await.unwrap();
        let mut pull = self
            .bus
            .pull(stream, Sequence::ZERO, PullOptions::default());
        let mut found = Vec::new();
        while pull.position() < last {
            for message in pull.next_batch(100, SOON).await.unwrap() {
                let pack = bus_wire::ApplicationMessages::decode(message.payload).unwrap();
                found.extend(pack.messages);
            }
        }
        found
    }

    /// Sequences of all admitted events that are durable.
    pub(crate) async fn stored_sequences(&self) -> Vec<u64> {
        let entries = self.telemetry().await;
        let batches = entries.iter().filter_map(|entry| match &entry.content {
            Some(bus_wire::telemetry_entry::Content::Batch(batch)) => Some(batch),
            Some(
                bus_wire::telemetry_entry::Content::Session(_)
                | bus_wire::telemetry_entry::Content::SecurityMessage(_),
            )
            | None => None,
        });
        batches
            .flat_map(|batch| batch.events.iter().map(|event| event.sequence))
            .collect()
    }

    /// Tells it to stop, and asserts that it does so well. What is around it stays.
    pub(crate) async fn halt(&mut self) {
        self.shutdown.trigger();
        let running = self.running.take().expect("it is stopped once");
        let ended = tokio::time::timeout(SOON, running).await;
        ended
            .expect("it stops in time")
            .unwrap()
            .expect("it stops well");
    }

    /// Tells it to stop, and asserts that it does so well.
    pub(crate) async fn stop(mut self) {
        self.halt().await;
    }
}

/// Runs an instance.
pub(crate) async fn run(
    config: Config,
) -> (Addresses, ShutdownToken, JoinHandle<Result<(), Error>>) {
    let app = App::build(config, SystemClock::shared())
        .await
        .expect("everything is there");
    let addresses = app.addresses();
    let shutdown = ShutdownToken::new();
    (addresses, shutdown.clone(), tokio::spawn(app.run(shutdown)))
}

pub(crate) async fn client(addresses: Addresses) -> AgentServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", addresses.grpc)).unwrap();
    AgentServiceClient::new(endpoint.connect().await.unwrap())
}
