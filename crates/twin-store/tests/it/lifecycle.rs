//! Starting, restarting, losing the partitions, stopping.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use service_kit::clock::SystemClock;
use service_kit::secret::Secret;
use testkit::{NatsServer, wait_for};
use twin_store::{App, Config};
use wire::bus::v1::TwinChange;
use wire::registry::v1::registry_service_client::RegistryServiceClient;
use wire::registry::v1::{GetDeviceRequest, ListDevicesRequest};
use wire::twin::v1::PatchTwinRequest;

use crate::service::{
    MODULE, SOON, Service, changes_in, config, connect, heartbeats, partition, publish,
    read_stream, refused_with,
};

/// What this thread logs. Tests run on one thread with all that they start.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn follow(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no test panics in it")).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("no test panics in it")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_instance_that_lost_its_partitions_stops_and_its_write_is_nowhere() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let stale = Service::start(&nats, &folder).await;
    stale.create("d").await;
    let fresh = Service::start(&nats, &folder).await;
    let patch = PatchTwinRequest {
        name: MODULE.to_owned(),
        desired_patch_json: r#"{"stale":true}"#.to_owned(),
        ..PatchTwinRequest::default()
    };
    refused_with(stale.twins().patch_twin(patch).await, "STOPPING");
    let ended = stale
        .ended()
        .await
        .expect_err("it says why it stops")
        .to_string();
    assert!(ended.contains("another twin-store"), "{ended}");
    assert_eq!(fresh.twin(MODULE).await.desired_json, "{}");
    fresh.desire(MODULE, r#"{"fresh":true}"#).await;
    fresh.stop().await;
}

#[tokio::test]
async fn streams_made_anew_are_read_from_their_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let nats = NatsServer::start().await;
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let generation = service.module_generation("d").await;
    let bus = connect(&nats).await;
    for sequence in 1..=5 {
        publish(&bus, vec![heartbeats("d", &generation, [sequence])]).await;
    }
    service.wait_for_events(5).await;
    let version = service.twin(MODULE).await.posture_version;
    service.stop().await;
    drop((bus, nats));

    let nats = NatsServer::start().await;
    let log = Log::default();
    let _logging = log.follow();
    let service = Service::start(&nats, &folder).await;
    let bus = connect(&nats).await;
    publish(&bus, vec![heartbeats("d", &generation, [5, 6])]).await;
    service.wait_for_events(6).await;
    assert!(
        service.twin(MODULE).await.posture_version >= version,
        "it does not go down"
    );
    service.stop().await;
}

#[tokio::test]
async fn telemetry_that_is_gone_is_counted_and_the_rest_is_folded() {
    let folder = tempfile::tempdir().unwrap();
    let nats = NatsServer::start().await;
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let generation = service.module_generation("d").await;
    let bus = connect(&nats).await;
    publish(&bus, vec![heartbeats("d", &generation, [1])]).await;
    service.wait_for_events(1).await;
    service.stop().await;
    for sequence in 2..=5 {
        publish(&bus, vec![heartbeats("d", &generation, [sequence])]).await;
    }
    let stream = wire::subjects::telemetry_stream(partition("d"));
    bus.trim(&stream, bus::Sequence::new(3))
        .await
        .expect("somebody purged it");

    let log = Log::default();
    let _logging = log.follow();
    let service = Service::start(&nats, &folder).await;
    service.wait_for_events(3).await;
    let posture = service.posture(MODULE).await;
    assert_eq!(
        posture["delivery"]["low"]["missing"], 2,
        "it shows on the twin, too"
    );
    let metrics = service.admin_page("/metrics").await;
    assert!(
        metrics.contains("twinward_twin_store_telemetry_lost_messages_total 2"),
        "{metrics}"
    );
    assert!(
        log.text().contains("is gone from the stream"),
        "{}",
        log.text()
    );
    service.stop().await;
}

#[tokio::test]
async fn calls_in_flight_are_answered_and_their_changes_published_before_the_end() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let calls = futures::future::join_all((0..40).map(|number| {
        let patch = PatchTwinRequest {
            name: MODULE.to_owned(),
            desired_patch_json: format!(r#"{{"k{number}":1}}"#),
            ..PatchTwinRequest::default()
        };
        let mut twins = service.twins();
        async move { twins.patch_twin(patch).await }
    }));
    let stop = async {
        wait_for("a first write", SOON, async || {
            (service.twin(MODULE).await.desired_version > 1).then_some(())
        })
        .await;
        service.shutdown.trigger();
    };
    let (answers, ()) = tokio::join!(calls, stop);
    service.stop().await;
    let written = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(written > 0);

    let file = rusqlite::Connection::open(folder.path().join("twins.db")).unwrap();
    let sql = "SELECT count(*) FROM partitions WHERE published <> revision";
    let left: i64 = file.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
    let again = Service::start(&nats, &folder).await;
    let twin = again.twin(MODULE).await;
    let desired: serde_json::Value = serde_json::from_str(&twin.desired_json).unwrap();
    assert!(
        desired.as_object().unwrap().len() >= written,
        "what was answered is there"
    );
    let bus = connect(&nats).await;
    let stream = wire::subjects::twins_stream(partition("d"));
    read_stream(&bus, &stream, |read| {
        let last = changes_in(read).pop().and_then(|change| change.twin);
        last.is_some_and(|last| last.desired_json == twin.desired_json)
    })
    .await;
    again.stop().await;
}

#[tokio::test]
async fn without_nats_the_service_ends_in_time_and_publishes_after_the_next_start() {
    let mut nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    nats.kill();
    service.desire(MODULE, r#"{"a":1}"#).await;
    service.stop().await;
    nats.restart().await;
    let service = Service::start(&nats, &folder).await;
    let bus = connect(&nats).await;
    let stream = wire::subjects::twins_stream(partition("d"));
    let is_last = |change: &TwinChange| change.revision == 3;
    let read = read_stream(&bus, &stream, |read| changes_in(read).iter().any(is_last)).await;
    // What was confirmed only after the kill comes twice; readers go by the revision.
    let changes = changes_in(&read);
    let revisions: BTreeSet<_> = changes.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, BTreeSet::from([1, 2, 3]));
    service.stop().await;
}

#[tokio::test]
async fn a_call_needs_the_token_when_there_is_one() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_with(Config {
        token: Secret::from("the-right-token-0123".to_owned()),
        ..config(&nats, folder.path())
    })
    .await;
    service.create("d").await;
    let url = format!("http://{}", service.addresses.grpc);
    let call = async |token: Option<&str>| {
        let config = service_kit::client::ClientConfig {
            token: token.map(|token| Secret::from(token.to_owned())),
            ..service_kit::client::ClientConfig::to(url.clone())
        };
        let connection = service_kit::client::connect(&config).unwrap();
        RegistryServiceClient::new(connection)
            .get_device(GetDeviceRequest {
                name: "devices/d".to_owned(),
                view: 0,
                ..Default::default()
            })
            .await
    };
    refused_with(call(None).await, "TOKEN_MISSING");
    refused_with(call(Some("some-other-token-0123")).await, "TOKEN_WRONG");
    call(Some("the-right-token-0123"))
        .await
        .expect("the right one passes");
    service.stop().await;
}

#[tokio::test]
async fn a_damaged_twin_fails_alone() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    for id in ["a", "b", "c"] {
        service.create(id).await;
    }
    let file = rusqlite::Connection::open(folder.path().join("twins.db")).unwrap();
    let changed = file
        .execute(
            "UPDATE twins SET checksum = checksum + 1 WHERE device_id = 'b' AND module_id = ''",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    let request = GetDeviceRequest {
        name: "devices/b".to_owned(),
        view: 0,
        ..Default::default()
    };
    refused_with(
        service.registry().get_device(request).await,
        "RECORD_DAMAGED",
    );
    let devices = service
        .registry()
        .list_devices(ListDevicesRequest::default())
        .await;
    assert_eq!(devices.unwrap().into_inner().devices.len(), 2);
    let twins = service
        .twins()
        .list_twins(wire::twin::v1::ListTwinsRequest::default())
        .await;
    assert_eq!(twins.unwrap().into_inner().twins.len(), 5);
    service.desire("devices/c", r#"{"a":1}"#).await;
    let patch = PatchTwinRequest {
        name: "devices/b".to_owned(),
        desired_patch_json: r#"{"a":1}"#.to_owned(),
        ..PatchTwinRequest::default()
    };
    refused_with(service.twins().patch_twin(patch).await, "RECORD_DAMAGED");
    service
        .desire("devices/b/modules/DefenderIotMicroAgent", r#"{"a":1}"#)
        .await;
    service.stop().await;
}

#[tokio::test]
async fn another_number_of_partitions_is_refused_at_the_start() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    Service::start(&nats, &folder).await.stop().await;
    let other = Config {
        partitions: 4,
        ..config(&nats, folder.path())
    };
    let error = App::build(other, SystemClock::shared())
        .await
        .err()
        .expect("refused");
    assert!(
        error.to_string().contains("set `partitions` back to 2"),
        "{error}"
    );
}
