//! TLS between a real server and a real client.

use service_kit::client::ClientConfig;
use service_kit::server::GrpcConfig;
use service_kit::tls::{ClientTls, ServerTls};
use tonic_health::pb::HealthCheckRequest;

use crate::support::{Running, health_client, within};

#[tokio::test]
async fn a_client_believes_only_the_authority_it_was_given() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    for name in ["server", "stranger"] {
        let pair =
            rcgen::generate_simple_self_signed(vec!["hub.test".to_owned()]).expect("a certificate");
        std::fs::write(path(&format!("{name}.crt")), pair.cert.pem()).expect("a file");
        std::fs::write(
            path(&format!("{name}.key")),
            pair.signing_key.serialize_pem(),
        )
        .expect("a file");
    }
    let config = GrpcConfig {
        tls: Some(ServerTls::new(path("server.crt"), path("server.key"))),
        ..GrpcConfig::default()
    };
    let server = Running::start(&config).await;
    let client = |authority: &str| {
        let mut config = ClientConfig::to(format!("https://{}", server.address));
        config.tls = ClientTls {
            ca_file: Some(path(authority)),
            domain: Some("hub.test".to_owned()),
            ..ClientTls::default()
        };
        health_client(&config)
    };
    let request = HealthCheckRequest::default;
    within("an answer", client("server.crt").check(request()))
        .await
        .expect("believed");
    let status = within("an answer", client("stranger.crt").check(request())).await;
    assert!(
        status.is_err(),
        "a server signed by a stranger is not believed"
    );
    server.stop().await;
}
