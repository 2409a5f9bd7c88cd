//! One trace, from the agent's events to the durable message, and from a change to its acknowledgement.

use bus::{Headers, PullOptions, Sequence};
use prost::Message as _;
use wire::agent::v1 as wire_agent;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::open_session_request::Message;
use wire::bus::v1 as bus_wire;

use crate::agent::{TRACE, batch, heartbeat};
use crate::fake_store::TRACE_OF_CHANGE;
use crate::hub::{Hub, SOON};

/// Asserts that `ours` is a span of its own in the trace of `theirs`.
fn check_child(ours: &str, theirs: &str) {
    assert_eq!(ours.len(), theirs.len(), "{ours}");
    assert_eq!(ours[..36], theirs[..36], "the same trace");
    assert_ne!(ours[36..52], theirs[36..52], "a span of its own");
}

#[tokio::test]
async fn every_hop_is_a_span_of_the_trace_that_caused_it() {
    service_kit::telemetry::ids_for_tests();
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    agent.send(batch(vec![heartbeat(1)])).await;
    agent.ack().await;
    let mut pull = hub
        .bus
        .pull("TELEMETRY_0", Sequence::ZERO, PullOptions::default());
    let stored = loop {
        let messages = pull.next_batch(10, SOON).await.unwrap();
        let traced = |it: &bus::Fetched| it.headers.get(Headers::TRACEPARENT).is_some();
        if let Some(message) = messages.into_iter().find(traced) {
            break message;
        }
    };
    let header = stored.headers.get(Headers::TRACEPARENT).unwrap();
    check_child(header, TRACE);
    let entries = bus_wire::TelemetryMessage::decode(&*stored.payload)
        .unwrap()
        .entries;
    assert!(entries.iter().any(|entry| entry.trace_parent == header));

    hub.change_desired("d/m", 2, "{}").await;
    let section = agent.desired().await;
    check_child(&section.trace_parent, TRACE_OF_CHANGE);
    let acknowledge = wire_agent::AcknowledgeDesired {
        version: 2,
        outcome: Outcome::Applied.into(),
        trace_parent: section.trace_parent.clone(),
        ..wire_agent::AcknowledgeDesired::default()
    };
    agent.send(Message::AcknowledgeDesired(acknowledge)).await;
    let at_store = testkit::wait_for("the acknowledgement", SOON, async || {
        hub.store.state().acknowledge_trace.take()
    })
    .await;
    check_child(&at_store, &section.trace_parent);
    hub.stop().await;
}
