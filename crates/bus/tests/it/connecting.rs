use std::time::Duration;

use bus::{Bus, BusConfig, ConnectError, Credentials, LinkState, Outgoing, Tls};
use testkit::{NatsOptions, NatsServer, TestCerts, wait_for};

use crate::{SOON, connect};

fn quickly(url: String) -> BusConfig {
    BusConfig {
        connect_within: Duration::from_millis(200),
        ..BusConfig::local(url, "test")
    }
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused_with_what_is_missing() {
    let options = NatsOptions {
        without_jetstream: true,
        ..NatsOptions::default()
    };
    let server = NatsServer::start_with(options).await;
    let error = Bus::connect(quickly(server.url()))
        .await
        .expect_err("no JetStream");
    assert!(
        matches!(error, ConnectError::NoJetStream { .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("runs without JetStream; start it with `-js`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_reported_in_time() {
    let url = format!("nats://127.0.0.1:{}", testkit::free_port());
    let error = Bus::connect(quickly(url.clone()))
        .await
        .expect_err("nobody listens");
    assert!(
        matches!(error, ConnectError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&url), "{error}");
}

#[tokio::test]
async fn a_token_opens_the_door_and_a_wrong_one_does_not() {
    let options = NatsOptions {
        token: Some("sesame".into()),
        ..NatsOptions::default()
    };
    let server = NatsServer::start_with(options).await;
    let with = |token: &str| BusConfig {
        credentials: Credentials::Token(token.into()),
        ..BusConfig::local(server.url(), "test")
    };
    Bus::connect(with("sesame")).await.expect("the right token");
    let error = Bus::connect(with("barley"))
        .await
        .expect_err("the wrong token");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn tls_works_with_the_authority_and_fails_without() {
    let certs = TestCerts::new();
    let options = NatsOptions {
        tls: Some(certs.clone()),
        ..NatsOptions::default()
    };
    let server = NatsServer::start_with(options).await;
    let tls = Tls {
        ca_file: Some(certs.ca()),
        client: None,
    };
    let trusting = BusConfig {
        tls: Some(tls),
        ..BusConfig::local(server.url(), "test")
    };
    Bus::connect(trusting)
        .await
        .expect("the authority is known")
        .check()
        .await
        .expect("it answers");
    let error = Bus::connect(quickly(server.url()))
        .await
        .expect_err("unknown authority");
    assert!(
        matches!(error, ConnectError::Unreachable { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_link_goes_down_and_comes_up_again() {
    let mut server = NatsServer::start().await;
    let bus = connect(&server).await;
    let mut link = bus.link();
    let before = *link.borrow();
    assert_eq!(before.state, LinkState::Up);
    server.kill();
    tokio::time::timeout(SOON, link.wait_for(|link| link.state == LinkState::Down))
        .await
        .expect("the loss is noticed")
        .expect("the bus lives");
    assert!(!bus.is_up());
    server.restart().await;
    tokio::time::timeout(SOON, link.wait_for(|link| link.state == LinkState::Up))
        .await
        .expect("the link is restored")
        .expect("the bus lives");
    assert!(bus.link().borrow().generation > before.generation);
    wait_for("JetStream to answer", SOON, async || bus.check().await.ok()).await;
}

#[tokio::test]
async fn hints_reach_who_listens() {
    let server = NatsServer::start().await;
    let (ingestion, store) = (connect(&server).await, connect(&server).await);
    let mut hints = ingestion.listen("push.*").await.expect("listening");
    let hint = Outgoing::new("push.ZGV2", &b"7"[..]).header("traceparent", "00-1-2-01");
    store.send_hint(hint).await.expect("sent");
    let hint = tokio::time::timeout(SOON, hints.recv())
        .await
        .expect("it comes")
        .expect("open");
    assert_eq!(
        (hint.subject.as_str(), &hint.payload[..]),
        ("push.ZGV2", &b"7"[..])
    );
    assert_eq!(hint.headers.get("traceparent"), Some("00-1-2-01"));
}
