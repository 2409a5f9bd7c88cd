//! A running twin-store, its clients, and what tests read and write on the bus.

#![allow(clippy::disallowed_methods)] // a service under test needs no supervisor of its own

use std::path::Path;
use std::time::Duration;

use bus::{Bus, BusConfig, Fetched, Outgoing, PullOptions, Sequence};
use posture::{EventPayload, Lane, SecurityEvent};
use prost::Message as _;
use serde_json::Value;
use service_kit::client::{self, ClientConfig, Connection};
use service_kit::clock::SystemClock;
use service_kit::error::Classified as _;
use service_kit::shutdown::ShutdownToken;
use service_kit::status::RemoteError;
use tempfile::TempDir;
use testkit::{NatsServer, wait_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use twin::{DeviceId, Partition, PartitionCount, partition_of};
use twin_store::app::AppError;
use twin_store::{Addresses, App, Config};
use wire::bus::v1 as bus_proto;
use wire::device::v1::device_command_service_client::DeviceCommandServiceClient;
use wire::registry::v1::audit_service_client::AuditServiceClient;
use wire::registry::v1::credential_service_client::CredentialServiceClient;
use wire::registry::v1::enrollment_service_client::EnrollmentServiceClient;
use wire::registry::v1::provisioning_service_client::ProvisioningServiceClient;
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::registry::v1::{CreateDeviceRequest, Device, GetDeviceRequest, GetModuleRequest, Module};
use wire::subjects;
use wire::twin::v1::device_twin_service_client::DeviceTwinServiceClient;
use wire::twin::v1::policy_twin_service_client::PolicyTwinServiceClient;
use wire::twin::v1::twin_bulk_service_client::TwinBulkServiceClient;
use wire::twin::v1::twin_history_service_client::TwinHistoryServiceClient;
use wire::twin::v1::twin_query_service_client::TwinQueryServiceClient;
use wire::twin::v1::twin_service_client::TwinServiceClient;
use wire::twin::v1::{GetTwinRequest, PatchTwinRequest, Twin};

/// Longer than any step may take, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Few partitions, so that tests start fast and still have more than one.
const PARTITIONS: u16 = 2;
/// The security module of device `d`.
pub(crate) const MODULE: &str = "devices/d/modules/DefenderIotMicroAgent";

/// The configuration of a service under test.
pub(crate) fn config(nats: &NatsServer, folder: &Path) -> Config {
    let any = "127.0.0.1:0".parse().expect("an address");
    Config {
        listen: any,
        admin_listen: any,
        nats: bus::NatsSettings::at(nats.url()),
        data_dir: folder.to_owned(),
        partitions: PARTITIONS,
        telemetry_stream_bytes: service_kit::units::ByteSize::mib(16),
        twins_stream_bytes: service_kit::units::ByteSize::mib(16),
        rejects_stream_bytes: service_kit::units::ByteSize::mib(16),
        ..Config::default()
    }
}

/// A running service.
pub(crate) struct Service {
    pub(crate) addresses: Addresses,
    pub(crate) shutdown: ShutdownToken,
    running: JoinHandle<Result<(), AppError>>,
    connection: Connection,
}

impl Service {
    pub(crate) async fn start(nats: &NatsServer, folder: &TempDir) -> Self {
        Self::start_with(config(nats, folder.path())).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let token = Some(config.token.clone()).filter(|token| !token.is_empty());
        let app = App::build(config, SystemClock::shared())
            .await
            .expect("it can be built");
        let addresses = app.addresses();
        let shutdown = ShutdownToken::new();
        let running = tokio::spawn(Box::pin(app.run(shutdown.clone())));
        let target = ClientConfig {
            token,
            ..ClientConfig::to(format!("http://{}", addresses.grpc))
        };
        let connection = client::connect(&target).expect("a good URL");
        Self {
            addresses,
            shutdown,
            running,
            connection,
        }
    }

    /// Stops it in good order.
    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.ended().await.expect("a good end");
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), AppError> {
        tokio::time::timeout(SOON, self.running)
            .await
            .expect("it ends")
            .expect("it does not panic")
    }

    pub(crate) fn registry(&self) -> RegistryServiceClient<Connection> {
        RegistryServiceClient::new(self.connection.clone())
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Connection> {
        AuditServiceClient::new(self.connection.clone())
    }

    pub(crate) fn commands(&self) -> DeviceCommandServiceClient<Connection> {
        DeviceCommandServiceClient::new(self.connection.clone())
    }

    pub(crate) fn credentials(&self) -> CredentialServiceClient<Connection> {
        CredentialServiceClient::new(self.connection.clone())
    }

    pub(crate) fn enrollments(&self) -> EnrollmentServiceClient<Connection> {
        EnrollmentServiceClient::new(self.connection.clone())
    }

    pub(crate) fn provisioning(&self) -> ProvisioningServiceClient<Connection> {
        ProvisioningServiceClient::new(self.connection.clone())
    }

    pub(crate) fn twins(&self) -> TwinServiceClient<Connection> {
        TwinServiceClient::new(self.connection.clone())
    }

    pub(crate) fn bulk(&self) -> TwinBulkServiceClient<Connection> {
        TwinBulkServiceClient::new(self.connection.clone())
    }

    pub(crate) fn history(&self) -> TwinHistoryServiceClient<Connection> {
        TwinHistoryServiceClient::new(self.connection.clone())
    }

    pub(crate) fn queries(&self) -> TwinQueryServiceClient<Connection> {
        TwinQueryServiceClient::new(self.connection.clone())
    }

    pub(crate) fn device_twins(&self) -> DeviceTwinServiceClient<Connection> {
        DeviceTwinServiceClient::new(self.connection.clone())
    }

    pub(crate) fn policies(&self) -> PolicyTwinServiceClient<Connection> {
        PolicyTwinServiceClient::new(self.connection.clone())
    }

    /// Creates a device with its security module.
    pub(crate) async fn create(&self, id: &str) -> Device {
        let request = CreateDeviceRequest {
            device_id: id.to_owned(),
            create_security_module: true,
            ..CreateDeviceRequest::default()
        };
        let created = self.registry().create_device(request).await;
        created.expect("created").into_inner()
    }

    pub(crate) async fn device(&self, id: &str) -> Device {
        let request = GetDeviceRequest {
            name: format!("devices/{id}"),
            ..GetDeviceRequest::default()
        };
        let device = self.registry().get_device(request).await;
        device.expect("there").into_inner()
    }

    pub(crate) async fn module(&self, name: &str) -> Module {
        let request = GetModuleRequest {
            name: name.to_owned(),
            ..GetModuleRequest::default()
        };
        let module = self.registry().get_module(request).await;
        module.expect("there").into_inner()
    }

    /// Generation of a device's security module.
    pub(crate) async fn module_generation(&self, id: &str) -> String {
        let name = format!("devices/{id}/modules/DefenderIotMicroAgent");
        self.module(&name).await.generation_id
    }

    pub(crate) async fn twin(&self, name: &str) -> Twin {
        let request = GetTwinRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        self.twins()
            .get_twin(request)
            .await
            .expect("there")
            .into_inner()
    }

    pub(crate) async fn posture(&self, name: &str) -> Value {
        serde_json::from_str(&self.twin(name).await.posture_json).expect("JSON")
    }

    /// Merges into the desired section.
    pub(crate) async fn desire(&self, name: &str, patch: &str) -> Twin {
        let request = PatchTwinRequest {
            name: name.to_owned(),
            desired_patch_json: patch.to_owned(),
            ..PatchTwinRequest::default()
        };
        self.twins()
            .patch_twin(request)
            .await
            .expect("patched")
            .into_inner()
    }

    /// Waits until the security module of `d` has folded this many events.
    pub(crate) async fn wait_for_events(&self, count: u64) {
        wait_for(&format!("{count} events"), SOON, async || {
            let posture = self.posture(MODULE).await;
            (posture["eventCount"] == count).then_some(())
        })
        .await;
    }

    /// The body of a page of the admin listener.
    pub(crate) async fn admin_page(&self, path: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(self.addresses.admin)
            .await
            .expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("answered");
        answer
    }
}

/// The refusal in a failed call.
pub(crate) fn refusal<T: std::fmt::Debug>(
    result: Result<tonic::Response<T>, tonic::Status>,
) -> RemoteError {
    RemoteError::from(result.expect_err("refused"))
}

/// Asserts the reason of a failed call, and answers the paths it complains about.
pub(crate) fn refused_with<T: std::fmt::Debug>(
    result: Result<tonic::Response<T>, tonic::Status>,
    reason: &str,
) -> Vec<String> {
    let refusal = refusal(result);
    assert_eq!(refusal.reason(), reason, "{refusal}");
    let violations = refusal.violations();
    violations.into_iter().map(|found| found.subject).collect()
}

pub(crate) fn partition(device: &str) -> Partition {
    let device = DeviceId::parse(device).expect("an id");
    partition_of(&device, PartitionCount::new(PARTITIONS).expect("a count"))
}

/// The test's own connection to the bus.
pub(crate) async fn connect(nats: &NatsServer) -> Bus {
    Bus::connect(BusConfig::local(nats.url(), "test"))
        .await
        .expect("the server is good")
}

/// Heartbeats of one lane, as ingestion admits them.
pub(crate) fn heartbeats(
    device: &str,
    generation: &str,
    sequences: impl IntoIterator<Item = u64>,
) -> bus_proto::TelemetryEntry {
    let now = service_kit::clock::SystemClock::shared().now();
    let event = |sequence| {
        wire::events::event_to_wire(&SecurityEvent {
            sequence,
            observed_at: now,
            payload: EventPayload::Heartbeat,
        })
    };
    let batch = bus_proto::AdmittedBatch {
        lane: wire::events::lane_to_wire(Lane::Low).into(),
        epoch: "6f2c3c1e-8a54-4c69-9d0b-0d6a2b9f4c11".to_owned(),
        events: sequences.into_iter().map(event).collect(),
        ..bus_proto::AdmittedBatch::default()
    };
    bus_proto::TelemetryEntry {
        device_id: device.to_owned(),
        module_id: "DefenderIotMicroAgent".to_owned(),
        generation_id: generation.to_owned(),
        receive_time: Some(wire::time::to_wire(now)),
        content: Some(bus_proto::telemetry_entry::Content::Batch(batch)),
        ..bus_proto::TelemetryEntry::default()
    }
}

/// Publishes entries of one device's partition in one message.
pub(crate) async fn publish(bus: &Bus, entries: Vec<bus_proto::TelemetryEntry>) {
    let device = entries.first().expect("an entry").device_id.clone();
    let message = bus_proto::TelemetryMessage { entries };
    publish_raw(bus, &device, message.encode_to_vec()).await;
}

/// Publishes bytes to a device's partition.
pub(crate) async fn publish_raw(bus: &Bus, device: &str, payload: Vec<u8>) {
    let subject = subjects::telemetry_subject(partition(device));
    bus.publish(Outgoing::new(subject, payload))
        .await
        .expect("stored");
}

/// Reads a stream from its beginning until `enough` of what was read.
pub(crate) async fn read_stream(
    bus: &Bus,
    stream: &str,
    enough: impl Fn(&[Fetched]) -> bool,
) -> Vec<Fetched> {
    let mut pull = bus.pull(stream, Sequence::new(0), PullOptions::default());
    let mut messages = Vec::new();
    let reading = async {
        while !enough(&messages) {
            let batch = pull.next_batch(64, SOON).await;
            messages.extend(batch.expect("the stream is whole"));
        }
    };
    tokio::time::timeout(SOON, reading)
        .await
        .unwrap_or_else(|_| panic!("{stream} does not hold what is waited for"));
    messages
}

/// Changes in the TWINS stream of a device's partition, once there are so many.
pub(crate) async fn changes(bus: &Bus, device: &str, count: usize) -> Vec<bus_proto::TwinChange> {
    let stream = subjects::twins_stream(partition(device));
    let messages = read_stream(bus, &stream, |read| changes_in(read).len() >= count).await;
    changes_in(&messages)
}

/// The changes in messages of a TWINS stream.
pub(crate) fn changes_in(messages: &[Fetched]) -> Vec<bus_proto::TwinChange> {
    let decode = |message: &Fetched| {
        bus_proto::TwinChanges::decode(message.payload.clone())
            .expect("a message of ours")
            .changes
    };
    messages.iter().flat_map(decode).collect()
}
