//! Outages and kills: nothing that was durable is lost, and nothing is numbered twice.

use std::collections::BTreeMap;
use std::net::TcpListener;

use prost::Message;
use wire::agent::v1::Lane;
use wire::agent::v1::open_session_request::Message as FromAgent;

use crate::door::{Agent, CONNECTION_STRING, DEADLINE, Door, Record, directory};

/// All events of a lane by sequence; the same sequence must always carry the same event.
fn events(record: &Record, lane: Lane) -> BTreeMap<u64, Vec<u8>> {
    let mut events = BTreeMap::new();
    let mut epochs = Vec::new();
    for batch in record.batches() {
        if batch.lane() != lane {
            continue;
        }
        epochs.push(batch.epoch);
        assert_eq!(batch.dropped_total, 0);
        for event in batch.events {
            let bytes = event.encode_to_vec();
            let kept = events
                .entry(event.sequence)
                .or_insert_with(|| bytes.clone());
            assert_eq!(
                *kept, bytes,
                "sequence {} stands for two events",
                event.sequence
            );
        }
    }
    epochs.dedup();
    assert!(epochs.len() <= 1, "one lane has one epoch: {epochs:?}");
    events
}

fn assert_without_holes(events: &BTreeMap<u64, Vec<u8>>) {
    let sequences: Vec<u64> = events.keys().copied().collect();
    let expected: Vec<u64> = (1..=u64::try_from(sequences.len()).unwrap()).collect();
    assert_eq!(sequences, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_without_a_service_and_across_kills_arrives_without_a_hole() {
    let record = Record::default();
    let data_dir = directory();
    let more = ["--connection-string", CONNECTION_STRING];
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);

    // Nobody listens: the agent collects, and is killed in the middle of it, again and again.
    for _ in 0..3 {
        let mut agent = Agent::start(&data_dir, address, &more);
        agent
            .process
            .wait_for_line("no session with the service", DEADLINE)
            .await;
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let high = data_dir.path().join("spool/high");
        testkit::wait_for("events in the spool", DEADLINE, async || {
            let entries = std::fs::read_dir(&high).ok()?;
            let bytes: u64 = entries
                .flatten()
                .filter_map(|entry| Some(entry.metadata().ok()?.len()))
                .sum();
            (bytes > 200).then_some(())
        })
        .await;
        agent.process.kill();
    }

    let door = Door::open(address.port(), record.clone()).await;
    let mut agent = Agent::start(&data_dir, address, &more);
    record
        .wait("events", |messages| {
            messages
                .iter()
                .any(|message| matches!(message, FromAgent::Events(_)))
                .then_some(())
        })
        .await;
    // The service goes and comes back under the running agent.
    let seen = events(&record, Lane::High).len();
    drop(door);
    agent.process.wait_for_line("session over", DEADLINE).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _door = Door::open(address.port(), record.clone()).await;
    testkit::wait_for("events after the outage", DEADLINE, async || {
        (events(&record, Lane::High).len() > seen).then_some(())
    })
    .await;
    drop(listener);

    agent.process.allow("the service ended the session");
    agent.process.terminate();
    assert!(agent.process.wait_exit(DEADLINE).await.success());
    for lane in [Lane::High, Lane::Medium, Lane::Low] {
        assert_without_holes(&events(&record, lane));
    }
    assert!(
        events(&record, Lane::High).len() >= 4,
        "each run had something to say"
    );
    agent.process.assert_clean_log();
}
