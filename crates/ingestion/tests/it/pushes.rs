//! Desired sections: when they go to the agent, and what its decision carries back.

use std::time::Duration;

use bus::Outgoing;
use wire::agent::v1 as wire_agent;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::open_session_request::Message;
use wire::subjects;

use crate::agent::{batch, heartbeat, hello_of};
use crate::fake_store::TRACE_OF_CHANGE;
use crate::hub::{Hub, SOON, good_token};

const NAME: &str = "devices/d/modules/m";

#[tokio::test]
async fn a_change_is_pushed_and_its_acknowledgement_carries_the_time_of_the_push() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    hub.change_desired("d/m", 2, r#"{"highPriorityMessageFrequency":1}"#)
        .await;
    let section = agent.desired().await;
    assert_eq!(section.version, 2);
    assert_eq!(
        section.document_json,
        r#"{"highPriorityMessageFrequency":1}"#
    );
    assert_eq!(
        section.trace_parent[..36],
        TRACE_OF_CHANGE[..36],
        "the trace goes on"
    );

    let acknowledge = wire_agent::AcknowledgeDesired {
        version: 2,
        outcome: Outcome::Rejected.into(),
        reason: "no such collector".to_owned(),
        invalid_fields: vec!["collectors".to_owned()],
        apply_time: Some(prost_types::Timestamp {
            seconds: 1_800_000_000,
            nanos: 5,
        }),
        trace_parent: section.trace_parent,
        ..Default::default()
    };
    agent.send(Message::AcknowledgeDesired(acknowledge)).await;
    let recorded = testkit::wait_for("the acknowledgement", SOON, async || {
        hub.store.state().acknowledged.pop()
    })
    .await;
    assert_eq!(
        (recorded.name.as_str(), recorded.version, recorded.applied),
        (NAME, 2, false)
    );
    assert_eq!(recorded.reason, "no such collector");
    assert_eq!(recorded.invalid_fields, ["collectors"]);
    assert_eq!(recorded.apply_time.unwrap().nanos, 5);
    assert!(recorded.push_time.is_some());
    hub.stop().await;
}

#[tokio::test]
async fn on_connecting_the_section_comes_only_if_versions_differ() {
    let hub = Hub::start().await;
    hub.register("d/m");
    hub.store.set_desired(NAME, 5, "{}");
    let mut behind = hub.connect(&good_token("d/m")).await.expect("a good token");
    behind.hello(4).await;
    assert_eq!(behind.desired().await.version, 5);

    let mut level = hub.connect(&good_token("d/m")).await.expect("a good token");
    level.hello(5).await;
    // What comes first after the welcome is the answer to what is sent now.
    level.send(batch(vec![heartbeat(1)])).await;
    assert_eq!(level.ack().await.through_sequence, 1);
    level.hears_nothing(Duration::from_millis(200)).await;
    hub.stop().await;
}

/// Deleted and created again, an identity starts with version 1 again; the agent may know a higher
/// one, or by chance the same, of the identity that is gone.
#[tokio::test]
async fn an_agent_that_knows_a_deleted_generation_gets_the_section_whatever_its_version() {
    let hub = Hub::start().await;
    hub.register("d/m");
    hub.store.set_desired(NAME, 5, "{}");
    for (generation, known) in [("of-long-ago", 5), ("of-long-ago", 9), ("", 4)] {
        let mut agent = hub.connect(&good_token("d/m")).await.expect("a good token");
        let welcome = agent.say(hello_of(known, generation)).await;
        assert_eq!(agent.desired().await.version, 5);
        assert!(!welcome.generation_id.is_empty());
        let mut agent = hub.connect(&good_token("d/m")).await.expect("a good token");
        agent.say(hello_of(5, &welcome.generation_id)).await;
        agent.hears_nothing(Duration::from_millis(200)).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn an_older_version_is_never_sent_after_a_newer_one() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    hub.change_desired("d/m", 7, "{}").await;
    assert_eq!(agent.desired().await.version, 7);
    // A store that was restored from a backup, say; then it goes on.
    for version in [6, 7, 8] {
        hub.change_desired("d/m", version, "{}").await;
    }
    assert_eq!(agent.desired().await.version, 8);
    hub.stop().await;
}

#[tokio::test]
async fn a_change_while_twin_store_was_away_arrives_without_another_hint() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    hub.store.state().away = true;
    hub.change_desired("d/m", 2, "{}").await;
    agent.hears_nothing(Duration::from_millis(300)).await;
    hub.store.state().away = false;
    assert_eq!(agent.desired().await.version, 2);
    hub.stop().await;
}

#[tokio::test]
async fn a_hint_that_was_lost_with_the_bus_costs_only_its_outage() {
    let mut hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    hub.nats.kill();
    hub.store.set_desired(NAME, 2, "{}");
    hub.nats.restart().await;
    assert_eq!(agent.desired().await.version, 2);
    hub.stop().await;
}

#[tokio::test]
async fn hints_that_twin_store_left_out_are_looked_for_when_it_says_so() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    hub.store.set_desired(NAME, 2, "{}");
    let lost = Outgoing::new(subjects::HINTS_LOST_SUBJECT, "");
    hub.bus.send_hint(lost).await.expect("sent");
    // By itself a session looks again after 15 seconds at the soonest.
    let looked = tokio::time::timeout(Duration::from_secs(14), agent.desired()).await;
    assert_eq!(looked.expect("looked because of the hint").version, 2);
    hub.stop().await;
}
