use bus::Reject;
use service_kit::trace;
use testkit::NatsServer;
use wire::bus::v1::TelemetryEntry;
use wire::twin::v1::Change;

use crate::service::{
    MODULE, Service, changes, connect, heartbeats, publish, publish_raw, read_stream,
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn events_count_once_though_they_come_twice_and_the_service_restarts_between() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let bus = connect(&nats).await;
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let generation = service.module_generation("d").await;
    let batch = |range| vec![heartbeats("d", &generation, range)];
    publish(&bus, batch(1..=10)).await;
    publish(&bus, batch(1..=10)).await;
    service.wait_for_events(10).await;
    service.stop().await;

    publish(&bus, batch(5..=20)).await;
    let service = Service::start(&nats, &folder).await;
    publish(&bus, batch(21..=30)).await;
    service.wait_for_events(30).await;
    // A stop in the middle of the stream, without waiting for the fold.
    for first in (31..=200).step_by(10) {
        publish(&bus, batch(first..=first + 9)).await;
    }
    service.stop().await;
    let service = Service::start(&nats, &folder).await;
    service.wait_for_events(200).await;
    let posture = service.posture(MODULE).await;
    let lane = &posture["delivery"]["low"];
    assert_eq!(lane["received"], 200, "{lane}");
    assert_eq!(lane["lost"].as_u64().unwrap_or_default(), 0, "{lane}");
    assert_eq!(lane["missing"].as_u64().unwrap_or_default(), 0, "{lane}");
    service.stop().await;
}

#[tokio::test]
async fn poison_goes_to_rejects_with_its_reason_and_the_partition_goes_on() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let bus = connect(&nats).await;
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let generation = service.module_generation("d").await;
    publish_raw(&bus, "d", b"\xff\xff not protobuf".to_vec()).await;
    let empty = TelemetryEntry {
        content: None,
        ..heartbeats("d", &generation, [1])
    };
    publish(
        &bus,
        vec![
            heartbeats("d", &generation, [1]),
            empty.clone(),
            heartbeats("d", "another generation", [2]),
            heartbeats("d", &generation, [2]),
        ],
    )
    .await;
    service.wait_for_events(2).await;
    let rejects = read_stream(&bus, "REJECTS", |read| read.len() >= 3).await;
    let header = |index: usize, name| {
        rejects[index]
            .headers
            .get(name)
            .unwrap_or_default()
            .to_owned()
    };
    let codes: Vec<_> = (0..3).map(|index| header(index, Reject::CODE)).collect();
    assert_eq!(codes, ["MALFORMED_MESSAGE", "INVALID_ENTRY", "NO_TWIN"]);
    assert!(
        header(1, Reject::REASON).contains("content"),
        "{}",
        header(1, Reject::REASON)
    );
    assert!(
        header(2, Reject::REASON).contains("anew"),
        "{}",
        header(2, Reject::REASON)
    );
    let original = prost::Message::encode_to_vec(&empty);
    assert_eq!(rejects[1].payload, original, "what was rejected is kept");
    assert!(!rejects[2].payload.is_empty());
    let metrics = service.admin_page("/metrics").await;
    for line in [
        "twinward_twin_store_events_folded_total 2",
        "twinward_twin_store_messages_poison_total 2",
        "twinward_twin_store_entries_refused_total 1",
        "twinward_twin_store_changes_published_total",
        "twinward_twin_store_commit_duration_seconds_count",
        "twinward_twin_store_telemetry_backlog_messages{partition=",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    service.stop().await;
}

#[tokio::test]
async fn the_change_continues_the_trace_of_the_newest_entry() {
    service_kit::telemetry::ids_for_tests();
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let bus = connect(&nats).await;
    let service = Service::start(&nats, &folder).await;
    service.create("d").await;
    let generation = service.module_generation("d").await;
    let mut entry = heartbeats("d", &generation, [1]);
    entry.trace_parent = TRACE.to_owned();
    publish(&bus, vec![entry]).await;
    let published = changes(&bus, "d", 3).await;
    let change = &published[2];
    assert_eq!(change.changes, [i32::from(Change::Posture)]);
    assert_eq!(&change.trace_parent[..36], &TRACE[..36], "the same trace");
    assert_ne!(
        &change.trace_parent[36..52],
        &TRACE[36..52],
        "the fold's own span"
    );
    let timeline = change.timeline.as_ref().expect("a timeline");
    assert!(timeline.observe_time.is_some() && timeline.receive_time.is_some());
    assert!(timeline.fold_time.is_some());

    let span = tracing::info_span!("operator");
    assert!(trace::set_parent(&span, TRACE));
    let call = service.desire(MODULE, r#"{"a":1}"#);
    tracing::Instrument::instrument(call, span).await;
    let published = changes(&bus, "d", 4).await;
    assert_eq!(
        &published[3].trace_parent[..36],
        &TRACE[..36],
        "through the call"
    );
    service.stop().await;
}
