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

/// The trial does not end by itself while a test lasts.
const LONG: [&str; 4] = [
    "--connection-string",
    CONNECTION_STRING,
    "--revert-after",
    "1h",
];

/// As many kills on trial as lead back, and a few.
const KILLS: usize = 10;

const WENT_BACK: &str = "went back to the last good configuration";

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

/// The store on disk.
fn kept(data_dir: &tempfile::TempDir) -> Value {
    let text = std::fs::read(data_dir.path().join("config.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The intervals that it has in force.
fn in_force(data_dir: &tempfile::TempDir) -> Value {
    let file = kept(data_dir);
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
    agent.process.allow(WENT_BACK);
    agent.process.wait_for_line(WENT_BACK, DEADLINE).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_has_the_agent_killed_after_each_first_contact_is_taken_back() {
    let record = Record::default();
    let door = Door::open(0, record.clone()).await;
    let data_dir = directory();
    let mut agent = Agent::start(&data_dir, door.address, &LONG);
    agent.process.wait_for_line("session open", DEADLINE).await;
    door.push(5, &intervals(50));
    answered(&record, 5, Outcome::Applied).await;
    agent.process.kill();
    for _ in 0..KILLS {
        let mut agent = Agent::start(&data_dir, door.address, &LONG);
        agent.process.allow(WENT_BACK);
        agent.process.wait_for_line("session open", DEADLINE).await;
        agent.process.kill();
    }
    let mut agent = Agent::start(&data_dir, door.address, &LONG);
    agent.process.wait_for_line("session open", DEADLINE).await;
    let told = answered(&record, 5, Outcome::Reverted).await;
    assert_eq!(told.running_version, 0);
    assert!(told.reason.contains("killed"), "{}", told.reason);
    assert_eq!(in_force(&data_dir), Value::Null);
    agent.process.allow(WENT_BACK);
    agent.process.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_kills_the_agent_with_its_first_look_is_taken_back() {
    let record = Record::default();
    let door = Door::open(0, record.clone()).await;
    let data_dir = directory();
    let mut agent = Agent::start(&data_dir, door.address, &LONG);
    agent.process.wait_for_line("session open", DEADLINE).await;
    door.push(5, &intervals(50));
    answered(&record, 5, Outcome::Applied).await;
    agent.process.kill();
    drop(door);

    // Whoever reads this file waits for a writer, so the first look does not end in time.
    let machine = directory();
    let users = machine.path().join("etc/passwd");
    std::fs::create_dir(machine.path().join("etc")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&users).status();
    assert!(made.unwrap().success());
    let mut stuck = LONG.to_vec();
    let root = machine.path().to_str().unwrap();
    stuck.extend(["--machine-root", root]);
    let nowhere = "127.0.0.1:9".parse().unwrap();
    testkit::wait_for("the agent to go back", DEADLINE, async || {
        let before = kept(&data_dir);
        let mut agent = Agent::start(&data_dir, nowhere, &stuck);
        agent.process.allow("");
        // It notes that it starts before anything else can go wrong.
        testkit::wait_for("the start to be noted", DEADLINE, async || {
            (kept(&data_dir) != before).then_some(())
        })
        .await;
        agent.process.kill();
        (in_force(&data_dir) == Value::Null).then_some(())
    })
    .await;
}
