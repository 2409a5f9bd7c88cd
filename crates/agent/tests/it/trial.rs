//! A new configuration after which the service is out of reach: the agent goes back by itself.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use wire::agent::v1::AcknowledgeDesired;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::open_session_request::Message as FromAgent;

use crate::door::{Agent, CONNECTION_STRING, DEADLINE, Door, Record, directory};

const MORE: [&str; 4] = [
    "--connection-string",
    CONNECTION_STRING,
    "--revert-after",
    "4s",
];

fn intervals(high: u32) -> Value {
    json!({ "CollectorsCore_PriorityIntervals": format!("{high},500,500") })
}

fn answers(messages: &[FromAgent], version: u64) -> Vec<AcknowledgeDesired> {
    let answer = |message: &FromAgent| match message {
        FromAgent::AcknowledgeDesired(ack) if ack.version == version => Some(ack.clone()),
        _ => None,
    };
    messages.iter().filter_map(answer).collect()
}

async fn answered(record: &Record, version: u64, outcome: Outcome) -> AcknowledgeDesired {
    let what = format!("{} of version {version}", outcome.as_str_name());
    let answer = |messages: &[FromAgent]| {
        let mut answers = answers(messages, version).into_iter();
        answers.find(|answer| answer.outcome() == outcome)
    };
    record.wait(&what, answer).await
}

/// The intervals that the store on disk has in force.
fn in_force(data_dir: &tempfile::TempDir) -> Value {
    let text = std::fs::read(data_dir.path().join("config.json")).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    file["applied"]["CollectorsCore_PriorityIntervals"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cuts_the_agent_off_is_taken_back_and_told_later_also_over_a_kill() {
    let record = Record::default();
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = reserved.local_addr().unwrap().port();
    drop(reserved);
    let door = Door::open(port, record.clone()).await;
    let address = door.address;
    let data_dir = directory();
    let mut agent = Agent::start(&data_dir, address, &MORE);
    let hello = |messages: &[FromAgent]| {
        matches!(messages.first(), Some(FromAgent::Hello(_))).then_some(())
    };
    record.wait("hello", hello).await;
    door.push(5, &intervals(50));
    answered(&record, 5, Outcome::Applied).await;
    let proved = "the configuration has proved good";
    agent.process.wait_for_line(proved, DEADLINE).await;

    // It answers, and then nothing reaches it any more. It is killed before its time is over.
    door.push(6, &intervals(60));
    answered(&record, 6, Outcome::Applied).await;
    drop(door);
    agent.process.kill();
    assert_eq!(in_force(&data_dir), "60,500,500");
    let mut agent = Agent::start(&data_dir, address, &MORE);
    agent
        .process
        .allow("went back to the last good configuration");
    agent
        .process
        .wait_for_line("went back to the last good configuration", DEADLINE)
        .await;
    assert_eq!(in_force(&data_dir), "50,500,500");
    agent.process.kill();

    let record = Record::default();
    let door = Door::open(port, record.clone()).await;
    let mut agent = Agent::start(&data_dir, address, &MORE);
    let told = answered(&record, 6, Outcome::Reverted).await;
    assert_eq!(told.running_version, 5);
    assert!(told.reason.contains("version 6"), "{}", told.reason);
    // The version that it fled from is not tried again, a newer one is.
    door.push(6, &intervals(60));
    let twice = |messages: &[FromAgent]| (answers(messages, 6).len() >= 2).then_some(());
    record.wait("the same answer again", twice).await;
    let outcomes = answers(&record.messages(), 6);
    assert!(
        outcomes
            .iter()
            .all(|answer| answer.outcome() == Outcome::Reverted),
        "{outcomes:?}"
    );
    door.push(7, &intervals(70));
    answered(&record, 7, Outcome::Applied).await;
    agent.process.wait_for_line(proved, DEADLINE).await;
    assert_eq!(in_force(&data_dir), "70,500,500");
    agent.process.stop(Duration::from_secs(10)).await;
}
