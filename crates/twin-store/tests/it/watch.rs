use serde_json::Value;
use testkit::NatsServer;
use tonic::Streaming;
use wire::registry::v1::DeleteDeviceRequest;
use wire::twin::v1 as proto;
use wire::twin::v1::watch_twins_response::Event;

use crate::service::{MODULE, SOON, Service, refused_with};

async fn open(service: &Service, name: &str, filter: &str) -> Streaming<proto::WatchTwinsResponse> {
    let request = proto::WatchTwinsRequest {
        name: name.to_owned(),
        filter: filter.to_owned(),
        skip_snapshot: false,
        ..Default::default()
    };
    service
        .twins()
        .watch_twins(request)
        .await
        .expect("a watch")
        .into_inner()
}

async fn next(watch: &mut Streaming<proto::WatchTwinsResponse>) -> proto::WatchTwinsResponse {
    tokio::time::timeout(SOON, watch.message())
        .await
        .expect("it comes")
        .expect("the watch goes on")
        .expect("the watch goes on")
}

/// The names in the snapshot.
async fn snapshot(watch: &mut Streaming<proto::WatchTwinsResponse>) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        match next(watch).await.event.expect("an event") {
            Event::Twin(twin) => names.push(twin.name),
            Event::SnapshotComplete(complete) => {
                assert_eq!(complete.twin_count, names.len() as u64);
                return names;
            }
            Event::Bookmark(_) => {}
            other => panic!("{other:?} is not of a snapshot"),
        }
    }
}

#[tokio::test]
async fn a_watch_shows_what_is_there_then_every_change_then_the_removal() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let mut watch = open(&service, "", "").await;
    assert_eq!(snapshot(&mut watch).await, ["devices/d", MODULE]);
    for number in 1..=3 {
        let written = service
            .desire(MODULE, &format!(r#"{{"n":{number}}}"#))
            .await;
        let change = next(&mut watch).await;
        assert_eq!(change.changes, [i32::from(proto::Change::Desired)]);
        assert_eq!(change.event, Some(Event::Twin(written)));
    }
    let delete = DeleteDeviceRequest {
        name: "devices/d".to_owned(),
        etag: String::new(),
        ..Default::default()
    };
    service.registry().delete_device(delete).await.unwrap();
    for name in ["devices/d", MODULE] {
        let event = next(&mut watch).await.event;
        assert_eq!(event, Some(Event::DeletedName(name.to_owned())));
    }
    service.stop().await;
}

#[tokio::test]
async fn a_watch_passes_only_what_was_asked_for() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    service.create("e").await;
    let mut one = open(&service, MODULE, "").await;
    let mut some = open(&service, "", "properties.desired.n > 1").await;
    assert_eq!(snapshot(&mut one).await, [MODULE]);
    assert!(snapshot(&mut some).await.is_empty());
    service.desire("devices/e", r#"{"n":2}"#).await;
    service.desire(MODULE, r#"{"n":1}"#).await;
    let name = |response: proto::WatchTwinsResponse| match response.event {
        Some(Event::Twin(twin)) => twin.name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(next(&mut one).await), MODULE);
    assert_eq!(name(next(&mut some).await), "devices/e");
    let request = proto::WatchTwinsRequest {
        filter: "((".to_owned(),
        ..proto::WatchTwinsRequest::default()
    };
    let refused = service.twins().watch_twins(request).await;
    assert_eq!(
        refused_with(refused.map(|_| tonic::Response::new(())), "INVALID_FIELD"),
        ["filter"]
    );
    service.stop().await;
}

#[tokio::test]
async fn no_twin_goes_back_while_it_changes_under_the_snapshot_and_the_last_state_comes() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    service.create("e").await;
    let names = ["devices/d", MODULE, "devices/e"];
    let last = 40;
    let writing = async {
        for number in 1..=last {
            for name in names {
                service.desire(name, &format!(r#"{{"n":{number}}}"#)).await;
            }
        }
    };
    let watching = async |_| {
        let mut watch = open(&service, "", "").await;
        let mut seen = std::collections::BTreeMap::new();
        while names.iter().any(|name| seen.get(*name) != Some(&last)) {
            let Some(Event::Twin(twin)) = next(&mut watch).await.event else {
                continue;
            };
            let desired: Value = serde_json::from_str(&twin.desired_json).unwrap();
            let now = desired["n"].as_i64().unwrap_or_default();
            let before = seen.insert(twin.name.clone(), now).unwrap_or_default();
            assert!(before <= now, "{} went from {before} to {now}", twin.name);
        }
    };
    let watchers = futures::future::join_all((0..8).map(watching));
    tokio::join!(writing, watchers);
    service.stop().await;
}

#[tokio::test]
async fn open_watches_are_counted_and_end_with_a_reason_when_the_service_stops() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&nats, &folder).await;
    let mut kept = open(&service, "", "").await;
    let dropped = open(&service, "", "").await;
    snapshot(&mut kept).await;
    let count = async |wanted: &str| {
        testkit::wait_for(wanted, SOON, async || {
            let page = service.admin_page("/metrics").await;
            page.contains(wanted).then_some(())
        })
        .await;
    };
    count("twinward_twin_store_watches 2").await;
    drop(dropped);
    count("twinward_twin_store_watches 1").await;
    service.shutdown.trigger();
    let end = tokio::time::timeout(SOON, kept.message())
        .await
        .expect("it ends");
    refused_with(end.map(tonic::Response::new), "STOPPING");
    service.stop().await;
}
