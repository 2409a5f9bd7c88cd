//! A web server behind a load balancer that says whose connections it passes on.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request;
use service_kit::server::web::{Visitor, WebConfig, WebServer};
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// What is answered to these bytes.
async fn answer(address: SocketAddr, parts: &[&[u8]]) -> String {
    let tcp = TcpStream::connect(address).await.expect("it listens");
    converse(tcp, parts).await
}

/// A connection from an address of this machine.
async fn from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("bound");
    socket.connect(to).await.expect("it listens")
}

/// The same over a connection that is there.
async fn converse(mut tcp: TcpStream, parts: &[&[u8]]) -> String {
    for part in parts {
        tcp.write_all(part).await.expect("it is written");
        tcp.flush().await.expect("it is written");
    }
    let mut text = String::new();
    // Reset is no answer, too.
    let _ = tcp.read_to_string(&mut text).await;
    text
}

/// Tells the visitor where it comes from.
async fn who(request: Request) -> String {
    let visitor = request.extensions().get::<Visitor>();
    let address = visitor.map(|visitor| visitor.address().to_string());
    address.unwrap_or_default()
}

#[tokio::test]
async fn whoever_a_balancer_names_is_the_visitor() {
    let config = WebConfig {
        balancers: "127.0.0.1".to_owned().try_into().expect("an address"),
        ..WebConfig::default()
    };
    let server = WebServer::bind(&config).await.expect("it binds");
    let address = server.local_addr();
    let tasks = Tasks::new(ShutdownToken::new());
    server.serve(&tasks, Router::new().fallback(who));
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\x30\x39\x22\xb3";
    let whole = answer(address, &[header, REQUEST]).await;
    assert!(whole.ends_with("203.0.113.7:12345"), "{whole}");
    let in_pieces = answer(
        address,
        &[&header[..5], &header[5..20], &header[20..], REQUEST],
    )
    .await;
    assert!(in_pieces.ends_with("203.0.113.7:12345"), "{in_pieces}");
    let own = answer(address, &[b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", REQUEST]).await;
    assert!(own.contains("127.0.0.1:"), "{own}");
    let bare = answer(address, &[REQUEST]).await;
    assert_eq!(bare, "", "nothing is answered without a header");
    tasks.shutdown_token().trigger();
}

#[tokio::test]
async fn a_balancer_that_hangs_takes_nothing_from_another() {
    let balancers = "127.0.0.7, 127.0.0.8".to_owned().try_into();
    let mut config = WebConfig {
        balancers: balancers.expect("addresses"),
        ..WebConfig::default()
    };
    config.connections.prove_within = service_kit::units::Duration::secs(600);
    let server = WebServer::bind(&config).await.expect("it binds");
    let address = server.local_addr();
    let tasks = Tasks::new(ShutdownToken::new());
    server.serve(&tasks, Router::new().fallback(who));
    let mut hanging = Vec::new();
    for _ in 0..1100 {
        hanging.push(from([127, 0, 0, 7], address).await);
    }
    let other = from([127, 0, 0, 8], address).await;
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\x30\x39\x22\xb3";
    let told = converse(other, &[header, REQUEST]).await;
    assert!(told.ends_with("203.0.113.7:12345"), "{told}");
    tasks.shutdown_token().trigger();
}
