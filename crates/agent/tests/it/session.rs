//! A session from `hello` to a pushed configuration and back.

use std::net::TcpListener;

use serde_json::json;
use wire::agent::v1::acknowledge_desired::Outcome;
use wire::agent::v1::open_session_request::Message as FromAgent;
use wire::agent::v1::security_event::Payload;
use wire::agent::v1::{AcknowledgeDesired, EventBatch};

use crate::door::{Agent, CONNECTION_STRING, DEADLINE, Door, Record, directory};

fn has_port(batch: &EventBatch, port: u16) -> bool {
    batch.events.iter().any(|event| match &event.payload {
        Some(Payload::ListeningPorts(snapshot)) => snapshot
            .ports
            .iter()
            .any(|entry| entry.port == u32::from(port)),
        _ => false,
    })
}

fn acknowledgement(messages: &[FromAgent], version: u64) -> Option<(usize, AcknowledgeDesired)> {
    messages
        .iter()
        .enumerate()
        .find_map(|(index, message)| match message {
            FromAgent::AcknowledgeDesired(ack) if ack.version == version => {
                Some((index, ack.clone()))
            }
            _ => None,
        })
}

fn reported(messages: &[FromAgent]) -> Vec<serde_json::Value> {
    messages
        .iter()
        .filter_map(|message| match message {
            FromAgent::PatchReported(patch) => serde_json::from_str(&patch.patch_json).ok(),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_port_is_told_at_once_and_a_configuration_is_flushed_applied_and_reported() {
    let record = Record::default();
    let door = Door::open(0, record.clone()).await;
    let data_dir = directory();
    let watched = directory();
    let more = ["--connection-string", CONNECTION_STRING];
    let mut agent = Agent::start(&data_dir, door.address, &more);
    record
        .wait("hello", |messages| {
            matches!(messages.first(), Some(FromAgent::Hello(_))).then_some(())
        })
        .await;

    // Every lane waits at least half an hour by default; a port does not.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let batches = |messages: &[FromAgent]| -> Vec<EventBatch> {
        let batch = |message: &FromAgent| match message {
            FromAgent::Events(batch) => Some(batch.clone()),
            _ => None,
        };
        messages.iter().filter_map(batch).collect()
    };
    record
        .wait("the port", |messages| {
            batches(messages)
                .iter()
                .any(|batch| has_port(batch, port))
                .then_some(())
        })
        .await;

    // A process is in the medium lane, which is not due for hours; it runs when the agent looks at it.
    let mut process = std::process::Command::new("sleep")
        .arg("3603")
        .spawn()
        .unwrap();
    door.push(
        5,
        &json!({
            "CollectorsCore_PriorityIntervals": "0.05,0.05,0.05",
            "FileSystem_Paths": watched.path(),
        }),
    );
    let (acknowledged_at, ack) = record
        .wait("the acknowledgement", |messages| {
            acknowledgement(messages, 5)
        })
        .await;
    assert_eq!((ack.outcome(), ack.reason.as_str()), (Outcome::Applied, ""));
    assert!(
        ack.trace_parent
            .starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    );
    let patch = record
        .wait("the report", |messages| reported(messages).pop())
        .await;
    assert_eq!(patch["latest_state"], "success");
    let before = record.messages()[..acknowledged_at].to_vec();
    process.kill().unwrap();
    process.wait().unwrap();
    let flushed = batches(&before).iter().flat_map(|batch| batch.events.clone()).any(|event| {
        matches!(&event.payload, Some(Payload::Process(process)) if process.command_line == "sleep 3603")
    });
    assert!(
        flushed,
        "what was gathered under the old configuration was not sent before"
    );

    // The new collector and the new intervals are in force: a file shows within seconds.
    std::fs::write(watched.path().join("file"), "text").unwrap();
    record
        .wait("the file", |messages| {
            let events = batches(messages).into_iter().flat_map(|batch| batch.events);
            let mut files = events.filter_map(|event| match event.payload {
                Some(Payload::File(file)) => Some(file.path),
                _ => None,
            });
            files.any(|path| path.ends_with("/file")).then_some(())
        })
        .await;

    agent.process.allow("is not valid");
    agent.process.allow("an older configuration is refused");
    door.push(
        6,
        &json!({ "Process_Mode": 9, "CollectorsCore_PriorityIntervals": "1,2" }),
    );
    let (_, ack) = record
        .wait("the refusal", |messages| acknowledgement(messages, 6))
        .await;
    assert_eq!(ack.outcome(), Outcome::Rejected);
    let mut fields = ack.invalid_fields.clone();
    fields.sort_unstable();
    assert_eq!(fields, ["CollectorsCore_PriorityIntervals", "Process_Mode"]);
    let patch = record
        .wait("the second report", |messages| {
            reported(messages).into_iter().nth(1)
        })
        .await;
    assert_eq!(patch["latest_state"], "failed");

    door.push(4, &json!({}));
    let (_, ack) = record
        .wait("the old one's refusal", |messages| {
            acknowledgement(messages, 4)
        })
        .await;
    assert_eq!(ack.outcome(), Outcome::Rejected);

    agent.process.terminate();
    assert!(agent.process.wait_exit(DEADLINE).await.success());
    agent.process.assert_clean_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_enrols_once_and_keeps_its_key() {
    let record = Record::default();
    let door = Door::open(0, record.clone()).await;
    let data_dir = directory();
    let more = ["--enrollment-token", "good", "--device-id", "d1"];
    let mut agent = Agent::start(&data_dir, door.address, &more);
    record
        .wait("hello", |messages| messages.first().map(|_| ()))
        .await;
    agent.process.kill();
    // The next start needs no token: it has the key.
    let mut agent = Agent::start(&data_dir, door.address, &[]);
    record
        .wait("the second hello", |messages| {
            let hello = |message: &&FromAgent| matches!(message, FromAgent::Hello(_));
            (messages.iter().filter(hello).count() == 2).then_some(())
        })
        .await;
    agent.process.terminate();
    assert!(agent.process.wait_exit(DEADLINE).await.success());
    agent.process.assert_clean_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_known_ends_enrolment_with_a_reason() {
    let door = Door::open(0, Record::default()).await;
    let data_dir = directory();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_twinward-agent"))
        .args([
            "enroll",
            "--enrollment-token",
            "bad",
            "--device-id",
            "d1",
            "--server",
        ])
        .arg(format!("http://{}", door.address))
        .arg("--data-dir")
        .arg(data_dir.path())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("cannot enrol device `d1`: the token is unknown"),
        "{text}"
    );
}

fn acknowledgements(messages: &[FromAgent]) -> Vec<(u64, Outcome)> {
    messages
        .iter()
        .filter_map(|message| match message {
            FromAgent::AcknowledgeDesired(ack) => Some((ack.version, ack.outcome())),
            _ => None,
        })
        .collect()
}

/// The twin would wait for the answer for as long as the session lasts.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_could_not_be_passed_on_is_given_again_in_the_same_session() {
    let record = Record::default();
    let door = Door::open(0, record.clone()).await;
    door.mood().acknowledgements_refused = 2;
    let data_dir = directory();
    let more = ["--connection-string", CONNECTION_STRING];
    let mut agent = Agent::start(&data_dir, door.address, &more);
    agent.process.allow("the service refused a message");
    agent.process.wait_for_line("session open", DEADLINE).await;
    door.push(3, &json!({}));
    let trace = record
        .wait("the third acknowledgement", |messages| {
            let count = acknowledgements(messages).len();
            (count == 3).then(|| acknowledgement(messages, 3).unwrap().1.trace_parent)
        })
        .await;
    assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    let confirmed = || {
        let text = std::fs::read(data_dir.path().join("config.json")).ok()?;
        let stored: serde_json::Value = serde_json::from_slice(&text).ok()?;
        (stored["confirmed"] == true).then_some(())
    };
    testkit::wait_for("the confirmation", DEADLINE, async || confirmed()).await;
    let hellos = record.messages();
    let hellos = hellos.iter().filter(|it| matches!(it, FromAgent::Hello(_)));
    assert_eq!(hellos.count(), 1, "all in one session");
    agent.process.terminate();
    assert!(agent.process.wait_exit(DEADLINE).await.success());
    agent.process.assert_clean_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_was_created_again_starts_its_versions_again() {
    let record = Record::default();
    let door = Door::open(0, record.clone()).await;
    door.mood().generation_id = "one".to_owned();
    let data_dir = directory();
    let more = ["--connection-string", CONNECTION_STRING];
    let mut agent = Agent::start(&data_dir, door.address, &more);
    agent.process.wait_for_line("session open", DEADLINE).await;
    door.push(7, &json!({}));
    record
        .wait("the first report", |messages| reported(messages).pop())
        .await;
    agent.process.kill();

    door.mood().generation_id = "two".to_owned();
    let mut agent = Agent::start(&data_dir, door.address, &more);
    agent
        .process
        .wait_for_line("deleted and created again", DEADLINE)
        .await;
    door.push(1, &json!({}));
    record
        .wait("the new one's report", |messages| {
            reported(messages).into_iter().nth(1)
        })
        .await;
    let messages = record.messages();
    assert_eq!(
        acknowledgements(&messages),
        [(7, Outcome::Applied), (1, Outcome::Applied)]
    );
    let said: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            FromAgent::Hello(hello) => {
                Some((hello.applied_desired_version, hello.generation_id.as_str()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(said, [(0, ""), (7, "one")]);
    agent.process.terminate();
    assert!(agent.process.wait_exit(DEADLINE).await.success());
    agent.process.assert_clean_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_takes_the_call_and_says_nothing_is_left() {
    let record = Record::default();
    let door = Door::open(0, record.clone()).await;
    door.mood().silent = true;
    let data_dir = directory();
    let more = ["--connection-string", CONNECTION_STRING];
    let mut agent = Agent::start(&data_dir, door.address, &more);
    agent
        .process
        .wait_for_line("the service did not answer", DEADLINE)
        .await;
    door.mood().silent = false;
    agent.process.wait_for_line("session open", DEADLINE).await;
    agent.process.terminate();
    assert!(agent.process.wait_exit(DEADLINE).await.success());
    agent.process.assert_clean_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_is_called_and_answered_and_collecting_sends_what_is_seen() {
    let record = Record::default();
    let door = Door::open(0, record.clone()).await;
    let data_dir = directory();
    let more = ["--connection-string", CONNECTION_STRING];
    let agent = Agent::start(&data_dir, door.address, &more);
    // The first look at everything is over when its events have come.
    record
        .wait("the first events", |messages| {
            let takes = messages.iter().any(|message| match message {
                FromAgent::Hello(hello) => hello.takes_methods,
                _ => false,
            });
            let told = messages
                .iter()
                .any(|message| matches!(message, FromAgent::Events(_)));
            (takes && told).then_some(())
        })
        .await;
    let answer = async |call_id: &str| {
        record
            .wait("the answer", |messages| {
                messages.iter().find_map(|message| match message {
                    FromAgent::MethodResponse(answer) if answer.call_id == call_id => {
                        let payload: serde_json::Value =
                            serde_json::from_str(&answer.payload_json).ok()?;
                        Some((answer.status, payload))
                    }
                    _ => None,
                })
            })
            .await
    };
    door.call("1", "ping");
    let (status, payload) = answer("1").await;
    assert_eq!(status, 200);
    assert!(payload["agentVersion"].is_string(), "{payload}");
    door.call("2", "reboot");
    let (status, payload) = answer("2").await;
    assert_eq!(status, 404);
    assert_eq!(payload["methods"], json!(["collectNow", "ping"]));

    // No port changed, and the interval is half an hour.
    let snapshots = |messages: &[FromAgent]| {
        let mut count = 0;
        for message in messages {
            if let FromAgent::Events(batch) = message {
                let of_ports =
                    |payload: &Option<Payload>| matches!(payload, Some(Payload::ListeningPorts(_)));
                count += batch
                    .events
                    .iter()
                    .filter(|it| of_ports(&it.payload))
                    .count();
            }
        }
        count
    };
    let before = snapshots(&record.messages());
    door.call("3", "collectNow");
    let (status, payload) = answer("3").await;
    assert_eq!(status, 200);
    let collectors = payload["collectors"].as_array().expect("a list");
    assert!(!collectors.is_empty());
    record
        .wait("what was collected", |messages| {
            (snapshots(messages) > before).then_some(())
        })
        .await;
    agent.process.stop(DEADLINE).await;
}
