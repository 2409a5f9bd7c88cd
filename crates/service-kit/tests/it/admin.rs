//! Probes and metrics over real HTTP.

use std::net::SocketAddr;

use service_kit::admin::{AdminConfig, AdminServer};
use service_kit::health::Health;
use service_kit::metrics::Registry;
use service_kit::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, within};

/// Status line, headers and body of an answer.
async fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("a request");
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn probes_follow_the_health_of_the_components() {
    let tasks = Tasks::default();
    let health = Health::new();
    let registry = Registry::new();
    registry.scope("demo").counter("events", "Events").inc_by(5);
    let server = AdminServer::bind(&AdminConfig::default())
        .await
        .expect("a free port");
    let address = server.local_addr();
    assert_ne!(address.port(), 0, "the real port is reported");
    server.serve(&tasks, health.clone(), registry);

    let store = health.component("store");
    let (head, body) = get(address, "/readyz").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(head.contains("application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        body,
        serde_json::json!({
            "ready": false, "stopping": false, "components": {"store": {"state": "starting"}}
        })
    );
    let (head, _) = get(address, "/livez").await;
    assert!(
        head.starts_with("HTTP/1.1 200"),
        "alive while starting: {head}"
    );

    store.degraded("the disk is nearly full");
    let (head, body) = get(address, "/readyz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(body.contains("the disk is nearly full"), "{body}");

    health.stopping();
    for path in ["/readyz", "/healthz"] {
        let (head, _) = get(address, path).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{path}: {head}");
    }

    let (head, body) = get(address, "/metrics").await;
    assert!(head.contains("openmetrics-text"), "{head}");
    assert!(body.contains("twinward_demo_events_total 5"), "{body}");

    let (head, _) = get(address, "/else").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    tasks.drain(PATIENCE).await.expect("everything ends");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = AdminServer::bind(&AdminConfig::default())
        .await
        .expect("a free port");
    let taken = AdminConfig {
        listen: first.local_addr(),
    };
    let error = AdminServer::bind(&taken)
        .await
        .expect_err("in use")
        .to_string();
    assert!(error.contains(&first.local_addr().to_string()), "{error}");
}
