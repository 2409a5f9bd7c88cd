//! Events: what is admitted becomes durable before it is acknowledged, what is not is named.

use std::time::Duration;

use bus::{PullOptions, Reject, Sequence};
use prost::Message as _;
use service_kit::units::ByteSize;
use tonic::Code;
use wire::agent::v1 as wire_agent;
use wire::agent::v1::open_session_request::Message;
use wire::bus::v1::telemetry_entry::Content;

use crate::agent::{EPOCH, TRACE, batch, heartbeat, process};
use crate::hub::{Hub, SOON, good_token};
use crate::lifecycle::get;
use crate::raw;

#[tokio::test]
async fn a_bad_event_is_rejected_by_name_and_the_others_are_stored() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    let unknown = wire_agent::SecurityEvent {
        payload: None,
        ..heartbeat(3)
    };
    agent
        .send(batch(vec![
            heartbeat(1),
            process(2, 70 << 10),
            unknown,
            heartbeat(5),
        ]))
        .await;
    let ack = agent.ack().await;
    assert_eq!((ack.through_sequence, ack.epoch.as_str()), (5, EPOCH));
    let named: Vec<_> = ack
        .rejected
        .iter()
        .map(|it| (it.sequence, it.reason.as_str()))
        .collect();
    assert_eq!(named, [(2, "EVENT_TOO_LARGE"), (3, "UNKNOWN_KIND")]);
    assert!(ack.rejected[0].message.contains("at most 65536"), "{ack:?}");

    let entries = hub.telemetry().await;
    let entry = entries
        .iter()
        .find(|it| matches!(it.content, Some(Content::Batch(_))))
        .unwrap();
    let Some(Content::Batch(stored)) = &entry.content else {
        unreachable!("it was looked for")
    };
    let sequences: Vec<u64> = stored.events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [1, 5]);
    assert_eq!(stored.rejected_sequences, [2, 3]);
    assert_eq!(stored.dropped_total, 3);
    assert_eq!(
        (entry.device_id.as_str(), entry.module_id.as_str()),
        ("d", "m")
    );
    assert_eq!(entry.generation_id, "generation-1");
    assert!(entry.receive_time.is_some());
    assert_eq!(entry.trace_parent[..36], TRACE[..36], "the trace goes on");

    let mut pull = hub
        .bus
        .pull("REJECTS", Sequence::ZERO, PullOptions::default());
    let mut rejects = Vec::new();
    while rejects.len() < 2 {
        rejects.extend(pull.next_batch(10, SOON).await.unwrap());
    }
    let codes: Vec<_> = rejects
        .iter()
        .map(|it| it.headers.get(Reject::CODE).unwrap())
        .collect();
    assert_eq!(codes, ["EVENT_TOO_LARGE", "UNKNOWN_KIND"]);
    assert!(
        rejects[1]
            .headers
            .get(Reject::SOURCE)
            .unwrap()
            .contains("devices/d/modules/m")
    );
    agent.leave().await;
    hub.stop().await;
}

#[tokio::test]
async fn a_flood_of_rejected_events_is_counted_and_not_kept() {
    let mut hub = Hub::start_with(|config| config.limits.rejects_per_minute = 2).await;
    let mut agent = hub.agent("d/m").await;
    let bad = |sequence| wire_agent::SecurityEvent {
        payload: None,
        ..heartbeat(sequence)
    };
    agent.send(batch((1..=100).map(bad).collect())).await;
    assert_eq!(agent.ack().await.rejected.len(), 100);
    agent.leave().await;
    // A stop stores what is queued, so that there is nothing left to wait for.
    hub.halt().await;
    assert_eq!(
        hub.bus.last_sequence("REJECTS").await.unwrap(),
        Sequence::new(2)
    );
}

#[tokio::test]
async fn a_malformed_batch_is_answered_and_the_session_goes_on() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    agent.send(batch(vec![])).await;
    assert_eq!(agent.error().await.reason, "INVALID_BATCH");
    agent.send(batch(vec![heartbeat(2), heartbeat(1)])).await;
    assert!(agent.error().await.message.contains("events[1].sequence"));
    agent.send(batch((1..=501).map(heartbeat).collect())).await;
    let error = agent.error().await;
    assert_eq!(
        (error.reason.as_str(), error.retryable),
        ("MESSAGE_TOO_LARGE", false)
    );
    assert!(error.message.contains("at most 500"), "{}", error.message);
    agent.send(batch(vec![heartbeat(1)])).await;
    assert_eq!(agent.ack().await.through_sequence, 1);
    hub.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_message_end_their_stream_only() {
    let hub = Hub::start().await;
    let mut other = hub.agent("other/m").await;
    hub.register("d/m");
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", hub.addresses.grpc));
    let channel = channel.unwrap().connect().await.unwrap();
    let hello = wire_agent::OpenSessionRequest {
        message: Some(crate::agent::hello(1)),
    };
    let garbage: [Vec<u8>; 4] = [
        vec![0xff; 40],
        // `events` that claim to be longer than the message.
        vec![0x12, 0x7f, 0x01],
        // A group that is never closed.
        vec![0x0b],
        vec![0; 3 << 20],
    ];
    for bytes in garbage {
        let messages = vec![hello.encode_to_vec(), bytes];
        let status = raw::send(channel.clone(), &good_token("d/m"), messages).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    other.send(batch(vec![heartbeat(1)])).await;
    assert_eq!(other.ack().await.through_sequence, 1);
    let mut again = hub
        .connect(&good_token("d/m"))
        .await
        .expect("the service goes on");
    again.hello(1).await;
    hub.stop().await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_durable() {
    let mut hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    agent.send(batch(vec![heartbeat(1)])).await;
    assert_eq!(agent.ack().await.through_sequence, 1);

    hub.nats.kill();
    agent.send(batch(vec![heartbeat(2)])).await;
    agent.hears_nothing(Duration::from_millis(700)).await;
    // The agent gives up and comes back with the same batch once the bus is there again.
    drop(agent);
    hub.nats.restart().await;
    let mut agent = hub
        .connect(&good_token("d/m"))
        .await
        .expect("it is let in again");
    agent.hello(1).await;
    agent.send(batch(vec![heartbeat(2)])).await;
    assert_eq!(agent.ack().await.through_sequence, 2);
    let stored = hub.stored_sequences().await;
    assert!(stored.contains(&1) && stored.contains(&2), "{stored:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_full_stream_slows_the_agent_until_there_is_room() {
    let hub = Hub::start_with(|config| config.telemetry_stream_bytes = ByteSize::kib(64)).await;
    let mut agent = hub.agent("d/m").await;
    let batches = 12;
    for sequence in 1..=batches {
        agent
            .send(batch(vec![
                process(2 * sequence - 1, 8000),
                process(2 * sequence, 8000),
            ]))
            .await;
    }
    let mut acknowledged = 0;
    while acknowledged < 2 * batches {
        match tokio::time::timeout(Duration::from_millis(500), agent.ack()).await {
            Ok(ack) => acknowledged = ack.through_sequence,
            Err(_nothing_came) => {
                // Full. Twin-store would fold and trim.
                let last = hub.bus.last_sequence("TELEMETRY_0").await.unwrap();
                hub.bus.trim("TELEMETRY_0", last).await.unwrap();
            }
        }
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_backlog_of_the_fold_holds_the_agents_until_it_is_worked_off() {
    let hub = Hub::start_with(|config| config.limits.backlog_bytes_max = ByteSize::kib(10)).await;
    let mut agent = hub.agent("d/m").await;
    agent
        .send(batch(vec![process(1, 8000), process(2, 8000)]))
        .await;
    assert_eq!(agent.ack().await.through_sequence, 2);
    let closed = async || {
        let page = get(&hub, "/metrics").await;
        page.contains("twinward_ingestion_inlets_closed_total 1")
            .then_some(())
    };
    testkit::wait_for("the inlet to close", SOON, closed).await;
    agent.send(batch(vec![heartbeat(3)])).await;
    agent.hears_nothing(Duration::from_millis(400)).await;
    // Held, not turned away: one that comes now is welcomed, told what it should be, and held too.
    hub.register("e/m");
    hub.store.set_desired("devices/e/modules/m", 2, "{}");
    let mut other = hub.connect(&good_token("e/m")).await.expect("a good token");
    other.hello(1).await;
    assert_eq!(other.desired().await.version, 2);
    other.send(batch(vec![heartbeat(1)])).await;
    other.hears_nothing(Duration::from_millis(200)).await;
    let last = hub.bus.last_sequence("TELEMETRY_0").await.unwrap();
    hub.bus.trim("TELEMETRY_0", last).await.unwrap();
    assert_eq!(agent.ack().await.through_sequence, 3);
    assert_eq!(other.ack().await.through_sequence, 1);
    hub.stop().await;
}

#[tokio::test]
async fn batches_are_stored_in_the_order_they_were_sent() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    for sequence in 1..=200 {
        agent.send(batch(vec![heartbeat(sequence)])).await;
    }
    for sequence in 1..=200 {
        assert_eq!(agent.ack().await.through_sequence, sequence);
    }
    let expected: Vec<u64> = (1..=200).collect();
    assert_eq!(hub.stored_sequences().await, expected);
    hub.stop().await;
}

#[tokio::test]
async fn nothing_is_read_before_hello() {
    let hub = Hub::start().await;
    hub.register("d/m");
    let mut agent = hub.connect(&good_token("d/m")).await.expect("a good token");
    agent.send(batch(vec![heartbeat(1)])).await;
    let error = agent.error().await;
    assert_eq!(error.reason, "UNEXPECTED_MESSAGE");
    assert!(error.message.contains("hello"), "{}", error.message);
    agent
        .send(Message::GetTwin(wire_agent::GetTwin {
            request_id: "7".to_owned(),
        }))
        .await;
    assert_eq!(agent.error().await.request_id, "7");
    agent.hello(1).await;
    agent.send(batch(vec![heartbeat(1)])).await;
    assert_eq!(agent.ack().await.through_sequence, 1);
    hub.stop().await;
}
