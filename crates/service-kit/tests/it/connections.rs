//! Connections that do not prove themselves: closed when they are late, or when room is needed.

use service_kit::secret::Secret;
use service_kit::server::{ConnectionLimits, GrpcConfig};
use service_kit::tls::{ClientTls, ServerTls};
use service_kit::units::Duration;
use testkit::{TestCerts, wait_for};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;

use crate::bouncer::{Bouncer, READ, call, refusal};
use crate::support::{PATIENCE, health_client, within};

const TOKEN: &str = "a-token-that-is-long-enough";

fn limited(limits: ConnectionLimits) -> GrpcConfig {
    GrpcConfig {
        token: Some(Secret::new(TOKEN)),
        connections: limits,
        ..GrpcConfig::default()
    }
}

async fn silent(bouncer: &Bouncer) -> TcpStream {
    TcpStream::connect(bouncer.address)
        .await
        .expect("it listens")
}

/// Waits until the server has closed the connection, whatever it said before.
async fn closed(what: &str, mut connection: TcpStream) {
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = within(what, connection.read_to_end(&mut rest)).await;
}

fn closed_count(bouncer: &Bouncer) -> String {
    let page = bouncer.registry.encode().expect("text");
    let line = page
        .lines()
        .find(|line| line.starts_with("twinward_club_grpc_connections_closed_total"));
    line.expect("the metric").to_owned()
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_and_one_that_was_let_in_is_not() {
    let bouncer = Bouncer::start(&limited(ConnectionLimits {
        prove_within: Duration::millis(300),
        ..ConnectionLimits::default()
    }))
    .await;
    let channel = bouncer.with_token(Some(TOKEN));
    call(&channel, READ).await.expect("let in");
    let mut health = health_client(&service_kit::client::ClientConfig::to(format!(
        "http://{}",
        bouncer.address
    )));
    let mut watch = within("an answer", health.watch(HealthCheckRequest::default()))
        .await
        .expect("a stream")
        .into_inner();
    within("a message", watch.message())
        .await
        .expect("a status");

    closed("the end of a silent connection", silent(&bouncer).await).await;
    let refused = bouncer.with_token(Some("another-token-of-some-length"));
    assert_eq!(refusal(&refused, READ).await, "TOKEN_WRONG");
    wait_for("both to be closed", PATIENCE, async || {
        closed_count(&bouncer).ends_with(" 2").then_some(())
    })
    .await;

    // Much longer than it may take: these two are still there.
    call(&channel, READ).await.expect("let in");
    let open = bouncer.registry.encode().expect("text");
    assert!(open.contains("twinward_club_grpc_connections 2"), "{open}");
    bouncer.stop().await;
}

#[tokio::test]
async fn when_too_many_say_nothing_the_oldest_makes_room_for_who_belongs_here() {
    let bouncer = Bouncer::start(&limited(ConnectionLimits {
        unproven_max: 3,
        ..ConnectionLimits::default()
    }))
    .await;
    let first = silent(&bouncer).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(silent(&bouncer).await);
    }
    let channel = bouncer.with_token(Some(TOKEN));
    call(&channel, READ).await.expect("let in");
    closed("the end of the oldest", first).await;
    wait_for("one to be closed", PATIENCE, async || {
        closed_count(&bouncer).ends_with(" 1").then_some(())
    })
    .await;
    // A proven one takes no room among the unproven.
    for _ in 0..5 {
        others.push(silent(&bouncer).await);
    }
    call(&channel, READ).await.expect("let in");
    drop(others);
    bouncer.stop().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_closed() {
    let certs = TestCerts::new();
    let mut config = limited(ConnectionLimits {
        prove_within: Duration::millis(200),
        ..ConnectionLimits::default()
    });
    config.tls = Some(ServerTls::new(
        certs.server_certificate(),
        certs.server_key(),
    ));
    let bouncer = Bouncer::start(&config).await;
    closed("the end", silent(&bouncer).await).await;
    let mut client = service_kit::client::ClientConfig::to(format!("https://{}", bouncer.address));
    client.tls = ClientTls::believing(certs.ca());
    client.token = Some(Secret::new(TOKEN));
    let channel = service_kit::client::connect(&client).expect("usable");
    call(&channel, READ).await.expect("let in");
    bouncer.stop().await;
}
