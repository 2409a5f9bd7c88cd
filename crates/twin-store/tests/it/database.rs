//! Two replicas on one PostgreSQL: they work on one operation together, and outlive a restart of their
//! database.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use service_kit::secret::Secret;
use testkit::{Database, NatsServer, PostgresServer, wait_for};
use tonic::Code;
use twin_store::Config;
use twin_store::config::StoreKind;
use twin_store::store::postgres::PostgresSettings;
use wire::subjects;
use wire::twin::v1::{self as proto, PatchTwinRequest};

use crate::bulk;
use crate::service::{
    Service, changes_in, config, connect, heartbeats, partition, publish, read_stream,
};

/// Everything here takes as long as a lease, a hand-over or a broken call does.
const SOON: Duration = Duration::from_mins(2);
/// 32 bytes; the same for both.
const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// So many devices that each replica has some.
const DEVICES: usize = 6;

async fn number(service: &Service, name: &str) -> Option<u64> {
    let page = service.admin_page("/metrics").await;
    let name = format!("twinward_twin_store_{name} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name))?;
    line.trim().parse().ok()
}

async fn until(service: &Service, name: &str, what: &str, enough: impl Fn(u64) -> bool) {
    wait_for(what, SOON, async || {
        number(service, name).await.filter(|found| enough(*found))
    })
    .await;
}

/// Writes to a device until it is told to stop, through either replica in turn; answers the last
/// number that was acknowledged.
async fn write(
    services: &[Service; 2],
    device: &str,
    ends: &AtomicBool,
    acknowledged: &AtomicU64,
) -> u64 {
    let mut last = 0;
    while !ends.load(Ordering::SeqCst) {
        let next = last + 1;
        let request = PatchTwinRequest {
            name: format!("devices/{device}"),
            tags_patch_json: format!(r#"{{"n":{next}}}"#),
            ..PatchTwinRequest::default()
        };
        let mut twins = services[usize::from(next % 2 == 1)].twins();
        match twins.patch_twin(request).await {
            Ok(_) => {
                last = next;
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            // Nobody can say what became of it; the same again does no harm.
            Err(status) => assert!(
                matches!(
                    status.code(),
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
                ),
                "{device}: {status}"
            ),
        }
    }
    last
}

/// Two replicas, each with its share.
async fn replicas(nats: &NatsServer, database: &Database, folder: &Path) -> [Service; 2] {
    let replica = || Config {
        store: StoreKind::Postgres,
        postgres: PostgresSettings::at(database.tcp_url()),
        master_key: Secret::new(MASTER_KEY),
        ..config(nats, folder)
    };
    let services = [
        Service::start_with(replica()).await,
        Service::start_with(replica()).await,
    ];
    for service in &services {
        until(service, "partitions_owned", "its share", |owned| owned == 1).await;
    }
    services
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_replicas_wrote_for_a_cancelled_operation_is_taken_back_as_a_whole() {
    let nats = NatsServer::start().await;
    let database = testkit::postgres::database().await;
    let folder = tempfile::tempdir().unwrap();
    let services = replicas(&nats, &database, folder.path()).await;
    let names = bulk::create(&services[0], 60).await;
    let written = async |version: u64, document: &str| {
        let mut counts = [0, 0];
        for name in &names {
            let twin = services[0].twin(name).await;
            if (twin.desired_version, twin.desired_json.as_str()) == (version, document) {
                let device = name.strip_prefix("devices/").expect("a device's name");
                counts[usize::from(partition(device).get())] += 1;
            }
        }
        counts
    };
    let mut request = bulk::patch("*", r#"{"n":1}"#);
    request.rate_per_second = 10;
    let started = bulk::start(services[1].bulk(), request).await;
    wait_for("both to have written", SOON, async || {
        let counts = written(2, r#"{"n":1}"#).await;
        counts.iter().all(|count| *count > 0).then_some(())
    })
    .await;
    let cancel = proto::CancelOperationRequest {
        name: started.name.clone(),
        ..Default::default()
    };
    let cancelled = services[1].bulk().cancel_operation(cancel).await;
    let cancelled = cancelled.expect("stopped").into_inner();
    assert_eq!(cancelled.state(), proto::OperationState::Cancelled);
    let [first, second] = written(2, r#"{"n":1}"#).await;
    assert_eq!(cancelled.succeeded, first + second, "{cancelled:?}");
    assert!(cancelled.succeeded < 60, "{cancelled:?}");
    let told = bulk::results(
        services[0].bulk(),
        &started.name,
        proto::Outcome::Unspecified,
    );
    let told = u64::try_from(told.await.len()).expect("few");
    assert_eq!(
        told,
        cancelled.succeeded + cancelled.skipped,
        "none is pending"
    );
    let undo = proto::UndoOperationRequest {
        name: started.name,
        ..Default::default()
    };
    let undo = services[1].bulk().undo_operation(undo).await;
    let undo = undo.expect("begun").into_inner();
    let undone = bulk::ended(services[0].bulk(), &undo.name).await;
    assert_eq!(undone.state(), proto::OperationState::Succeeded);
    assert_eq!(
        (undone.total, undone.succeeded),
        (first + second, first + second)
    );
    assert_eq!(written(3, "{}").await, [first, second]);
    assert_eq!(written(2, r#"{"n":1}"#).await, [0, 0]);
    for service in services {
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_replicas_outlive_a_restart_of_their_database() {
    let nats = NatsServer::start().await;
    let mut server = PostgresServer::start().await;
    let database = server.database().await;
    let folder = tempfile::tempdir().unwrap();
    let services = replicas(&nats, &database, folder.path()).await;
    let devices: Vec<_> = (0..DEVICES).map(|number| format!("d{number}")).collect();
    for device in &devices {
        services[0].create(device).await;
    }
    let module = |device: &str| format!("devices/{device}/modules/DefenderIotMicroAgent");
    let generation = services[0].module_generation(&devices[0]).await;
    let bus = connect(&nats).await;

    let (ends, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let enough = async |more: u64| {
        let from = acknowledged.load(Ordering::SeqCst);
        wait_for("writes", SOON, async || {
            (acknowledged.load(Ordering::SeqCst) >= from + more).then_some(())
        })
        .await;
    };
    let writers = devices
        .iter()
        .map(|device| write(&services, device, &ends, &acknowledged));
    let writers = futures::future::join_all(writers);
    let events = async {
        let mut sent = 0;
        // The stream is to hold what is sent while the database is gone.
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        while !ends.load(Ordering::SeqCst) {
            pace.tick().await;
            sent += 1;
            publish(&bus, vec![heartbeats(&devices[0], &generation, [sent])]).await;
        }
        sent
    };
    let blow = async {
        enough(50).await;
        server.kill();
        for service in &services {
            // One a second: it is gone for longer than any attempt to repeat a call goes on.
            until(
                service,
                "claim_failures_total",
                "it to be missed",
                |failed| failed >= 3,
            )
            .await;
        }
        server.restart().await;
        for service in &services {
            until(service, "partitions_owned", "its share again", |owned| {
                owned == 1
            })
            .await;
        }
        enough(50).await;
        ends.store(true, Ordering::SeqCst);
    };
    let (written, sent, ()) = tokio::join!(writers, events, blow);

    wait_for("every event in the posture", SOON, async || {
        let posture = services[1].posture(&module(&devices[0])).await;
        let count = posture["eventCount"].as_u64().unwrap_or(0);
        assert!(count <= sent, "{count} of {sent}");
        (count == sent).then_some(())
    })
    .await;
    for (device, written) in devices.iter().zip(written) {
        let twin = services[0].twin(&format!("devices/{device}")).await;
        assert_eq!(twin.tags_json, format!(r#"{{"n":{written}}}"#), "{device}");
        // And it is published.
        let stream = subjects::twins_stream(partition(device));
        read_stream(&bus, &stream, |read| {
            let changes = changes_in(read);
            changes
                .iter()
                .any(|change| change.revision == twin.revision)
        })
        .await;
    }
    for service in services {
        service.stop().await;
    }
}
