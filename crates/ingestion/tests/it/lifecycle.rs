//! Sessions and the service: take-over, TLS, probes, and the way out.

use std::time::Duration;

use ingestion::{App, Config, Error};
use service_kit::clock::SystemClock;
use testkit::{NatsServer, TestCerts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use wire::agent::v1::agent_service_client::AgentServiceClient;
use wire::bus::v1::telemetry_entry::Content;

use crate::agent::{Agent, batch, heartbeat};
use crate::fake_store::FakeStore;
use crate::hub::{self, Hub, SOON, good_token};

#[tokio::test]
async fn a_second_session_takes_over() {
    let hub = Hub::start().await;
    let mut first = hub.agent("d/m").await;
    let mut second = hub.connect(&good_token("d/m")).await.expect("a good token");
    second.hello(1).await;
    first.ends_with(Code::Aborted).await;
    second.send(batch(vec![heartbeat(1)])).await;
    assert_eq!(second.ack().await.through_sequence, 1);
    hub.stop().await;
}

#[tokio::test]
async fn a_session_on_another_instance_takes_over() {
    let hub = Hub::start().await;
    let mut first = hub.agent("d/m").await;
    let other = Config {
        instance: "ingestion-1".to_owned(),
        ..hub::config(&hub.nats, &hub.store)
    };
    let (addresses, shutdown, running) = hub::run(other).await;
    let mut second = Agent::connect(hub::client(addresses).await, &good_token("d/m"))
        .await
        .unwrap();
    second.hello(1).await;
    first.ends_with(Code::Aborted).await;
    second.send(batch(vec![heartbeat(1)])).await;
    assert_eq!(second.ack().await.through_sequence, 1);
    shutdown.trigger();
    tokio::time::timeout(SOON, running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn over_the_limit_no_session_begins() {
    let hub = Hub::start_with(|config| config.limits.sessions_max = 1).await;
    let first = hub.agent("d/m").await;
    hub.register("e/m");
    let status = hub
        .connect(&good_token("e/m"))
        .await
        .err()
        .expect("there is no room");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    first.leave().await;
    testkit::wait_for("room", SOON, async || {
        hub.connect(&good_token("e/m")).await.ok()
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn agents_connect_over_tls() {
    let certs = TestCerts::new();
    let hub = Hub::start_with(|config| {
        config.tls.cert_file = Some(certs.server_certificate());
        config.tls.key_file = Some(certs.server_key());
    })
    .await;
    hub.register("d/m");
    let authority = Certificate::from_pem(std::fs::read(certs.ca()).unwrap());
    let tls = ClientTlsConfig::new()
        .ca_certificate(authority)
        .domain_name("localhost");
    let url = format!("https://{}", hub.addresses.grpc);
    let endpoint = Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap();
    let client = AgentServiceClient::new(endpoint.connect().await.expect("the handshake"));
    let mut agent = Agent::connect(client, &good_token("d/m")).await.unwrap();
    agent.hello(1).await;
    agent.send(batch(vec![heartbeat(1)])).await;
    assert_eq!(agent.ack().await.through_sequence, 1);
    let plain = Endpoint::from_shared(format!("http://{}", hub.addresses.grpc)).unwrap();
    let refused = async {
        let client = AgentServiceClient::new(plain.connect().await.ok()?);
        Agent::connect(client, &good_token("d/m")).await.ok()
    };
    assert!(
        refused.await.is_none(),
        "plain text is not served beside TLS"
    );
    hub.stop().await;
}

#[tokio::test]
async fn a_stop_acknowledges_what_was_taken_and_says_goodbye() {
    let mut hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    for sequence in 1..=4 {
        agent.send(batch(vec![heartbeat(sequence)])).await;
    }
    assert_eq!(agent.ack().await.through_sequence, 1);
    hub.shutdown.trigger();
    let mut acknowledged = 1;
    let status = loop {
        match agent.next().await {
            Ok(wire::agent::v1::open_session_response::Message::EventsAck(ack)) => {
                acknowledged = ack.through_sequence;
            }
            Ok(other) => panic!("{other:?}"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("stops"), "{status:?}");

    hub.halt().await;
    let entries = hub.telemetry().await;
    let mut stored = 0;
    let mut notices = Vec::new();
    for entry in entries {
        match entry.content.unwrap() {
            Content::Batch(batch) => stored = batch.events[0].sequence,
            Content::Session(notice) => notices.push((notice.connected, notice.instance)),
            Content::SecurityMessage(message) => panic!("nobody sent {message:?}"),
        }
    }
    assert!(stored >= acknowledged, "{stored} of {acknowledged}");
    let instance = "ingestion-0".to_owned();
    assert_eq!(notices, [(true, instance.clone()), (false, instance)]);
}

#[tokio::test]
async fn probes_and_metrics_are_served() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    agent.send(batch(vec![heartbeat(1), heartbeat(2)])).await;
    agent.ack().await;
    let ready = get(&hub, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let page = get(&hub, "/metrics").await;
    for line in [
        "twinward_ingestion_sessions 1",
        "twinward_ingestion_events_admitted_total{lane=\"high\"} 2",
    ] {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_before_anything_is_bound() {
    let nats = NatsServer::start().await;
    let store = FakeStore::start();
    let config = Config {
        stream_replicas: 2,
        instance: String::new(),
        ..hub::config(&nats, &store)
    };
    let Err(Error::Config { problems }) = App::build(config, SystemClock::shared()).await else {
        panic!("it was accepted")
    };
    let keys: Vec<_> = problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    assert_eq!(keys, ["stream_replicas", "instance"]);
}

#[tokio::test]
async fn an_agent_that_vanishes_is_noticed_and_the_twin_is_told() {
    let hub = Hub::start().await;
    drop(hub.agent("d/m").await);
    let disconnected = async || {
        let last = hub.telemetry().await.pop()?;
        matches!(last.content, Some(Content::Session(notice)) if !notice.connected).then_some(())
    };
    testkit::wait_for("the end of the session", SOON, disconnected).await;
    let line = "twinward_ingestion_session_ends_total{reason=\"CONNECTION_LOST\"} 1";
    let counted = async || get(&hub, "/metrics").await.contains(line).then_some(());
    testkit::wait_for("the count", SOON, counted).await;
    hub.stop().await;
}

pub(crate) async fn get(hub: &Hub, path: &str) -> String {
    let mut stream = TcpStream::connect(hub.addresses.admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    answer
}
