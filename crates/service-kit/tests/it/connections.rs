//! Connections that do not prove themselves: closed when they are late, or when room is needed.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use service_kit::client::{self, ClientConfig};
use service_kit::health::Health;
use service_kit::secret::Secret;
use service_kit::server::web::{WebConfig, WebServer};
use service_kit::server::{ConnectionLimits, GrpcConfig, GrpcServer};
use service_kit::tasks::Tasks;
use service_kit::tls::{ClientTls, ServerTls};
use service_kit::units::Duration;
use testkit::{TestCerts, wait_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::HealthCheckRequest;
use tower::Service;

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
    let mut health = health_client(&ClientConfig::to(format!("http://{}", bouncer.address)));
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

/// A service that authenticates by itself, and takes its time: it answers when it is told to.
#[derive(Clone)]
struct Slow(Arc<Notify>);

impl NamedService for Slow {
    const NAME: &'static str = "test.Club";
}

impl Service<http::Request<Body>> for Slow {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let told = Arc::clone(&self.0);
        Box::pin(async move {
            told.notified().await;
            Ok(tonic::Status::already_exists("let in").into_http())
        })
    }
}

#[tokio::test]
async fn a_connection_whose_answer_we_owe_is_not_late() {
    let told = Arc::new(Notify::new());
    let tasks = Tasks::default();
    let config = limited(ConnectionLimits {
        prove_within: Duration::millis(100),
        ..ConnectionLimits::default()
    });
    let server = GrpcServer::bind(&config).await.expect("a free port");
    let address = server.local_addr();
    server
        .add_open_service(Slow(Arc::clone(&told)))
        .serve(&tasks, &Health::new());
    let to = ClientConfig::to(format!("http://{address}"));
    let channel = client::connect(&to).expect("usable");
    let asking = call(&channel, READ);
    let meanwhile = async {
        // Each of them is late after the first connection would have been.
        for _ in 0..5 {
            let silent = TcpStream::connect(address).await.expect("it listens");
            closed("the end of a silent one", silent).await;
        }
        told.notify_one();
    };
    let (answer, ()) = futures::future::join(asking, meanwhile).await;
    assert_eq!(answer.expect("answered"), "let in");
    within("the end", tasks.drain(PATIENCE))
        .await
        .expect("everything ends");
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
    let mut client = ClientConfig::to(format!("https://{}", bouncer.address));
    client.tls = ClientTls::believing(certs.ca());
    client.token = Some(Secret::new(TOKEN));
    let channel = client::connect(&client).expect("usable");
    call(&channel, READ).await.expect("let in");
    bouncer.stop().await;
}

/// Whoever has proven nothing has its time, and a body that comes in small parts does not prolong it.
#[tokio::test]
async fn a_body_that_comes_byte_by_byte_keeps_no_connection() {
    let tasks = Tasks::default();
    let config = WebConfig {
        connections: ConnectionLimits {
            prove_within: Duration::millis(300),
            ..ConnectionLimits::default()
        },
        ..WebConfig::default()
    };
    let server = WebServer::bind(&config).await.expect("a free port");
    let address = server.local_addr();
    let reads = |body: axum::body::Bytes| async move { body.len().to_string() };
    server.serve(&tasks, axum::Router::new().fallback(reads));
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (read, mut write) = stream.into_split();
    let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n";
    write.write_all(head).await.expect("written");
    let trickle = async {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
        while write.write_all(b"x").await.is_ok() {
            pace.tick().await;
        }
    };
    let mut read = read;
    let mut answer = Vec::new();
    let closing = within("the end", read.read_to_end(&mut answer));
    let ended = futures::future::select(Box::pin(closing), Box::pin(trickle));
    ended.await;
    assert!(answer.is_empty(), "nothing was answered");
    within("the end", tasks.drain(PATIENCE))
        .await
        .expect("everything ends");
}
