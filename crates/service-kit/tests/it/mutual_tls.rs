//! Client certificates: who shows a good one is known by it, and certificates that are renewed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use service_kit::auth::AuthConfig;
use service_kit::client::{self, ClientConfig, Connection};
use service_kit::error::{Classified as _, Kind};
use service_kit::secret::Secret;
use service_kit::server::GrpcConfig;
use service_kit::tls::{ClientAuth, ClientTls, ServerTls};
use service_kit::units::Duration;
use testkit::{TestCerts, wait_for};
use tokio::net::TcpStream;

use crate::bouncer::{Bouncer, READ, call};
use crate::support::{PATIENCE, within};

const TOKEN: &str = "a-token-that-is-long-enough";
const ACT: &str = "/test.Club/devices.act";

fn server(certs: &TestCerts, client_auth: ClientAuth) -> GrpcConfig {
    GrpcConfig {
        tls: Some(ServerTls {
            client_ca_file: Some(certs.ca()),
            client_auth,
            reload_every: Duration::millis(20),
            ..ServerTls::new(certs.server_certificate(), certs.server_key())
        }),
        auth: AuthConfig {
            certificates: vec![
                "DNS:ingestion=service".to_owned(),
                "CN:alice=reader+operator".to_owned(),
            ],
            ..AuthConfig::default()
        },
        ..GrpcConfig::default()
    }
}

/// A channel that believes the authority in `ca`, and shows a certificate if there is one.
fn client(server: &Bouncer, ca: &Path, shown: Option<&(PathBuf, PathBuf)>) -> ClientConfig {
    let mut config = ClientConfig::to(format!("https://{}", server.address));
    config.tls = ClientTls {
        cert_file: shown.map(|(cert, _)| cert.clone()),
        key_file: shown.map(|(_, key)| key.clone()),
        ..ClientTls::believing(ca)
    };
    config
}

fn connect(config: &ClientConfig) -> Connection {
    client::connect(config).expect("a usable configuration")
}

#[tokio::test]
async fn a_certificate_is_its_principal_and_who_shows_none_is_not_connected() {
    let certs = TestCerts::new();
    let bouncer = Bouncer::start(&server(&certs, ClientAuth::Required)).await;
    let ca = certs.ca();
    let ingestion = certs.issue_client("ingestion");
    let shown = connect(&client(&bouncer, &ca, Some(&ingestion)));
    let who = call(&shown, ACT).await.expect("let in");
    assert_eq!(who, "DNS:ingestion [service]");
    let alice = certs.issue_client("alice");
    let shown = connect(&client(&bouncer, &ca, Some(&alice)));
    let who = call(&shown, READ).await.expect("let in");
    assert_eq!(who, "CN:alice [reader,operator]");
    let refused = call(&shown, ACT).await.expect_err("not for people");
    assert_eq!(refused.fact("permission"), Some("devices.act"));

    // The authority knows it, the hub does not.
    let shown = connect(&client(&bouncer, &ca, Some(&certs.issue_client("mallory"))));
    let refused = call(&shown, READ).await.expect_err("no roles");
    assert_eq!(refused.kind(), Kind::PermissionDenied);
    assert_eq!(refused.fact("principal"), Some("DNS:mallory"));

    let strangers = TestCerts::new();
    let foreign = strangers.issue_client("ingestion");
    for (what, certificate) in [("none", None), ("a stranger's", Some(&foreign))] {
        let channel = connect(&client(&bouncer, &ca, certificate));
        let refused = call(&channel, ACT).await.expect_err(what);
        // The connection is closed before any API could say why.
        assert_eq!(refused.reason(), "UNKNOWN", "{what}: {refused}");
    }
    // Nor do clients believe a stranger.
    let channel = connect(&client(&bouncer, &strangers.ca(), Some(&ingestion)));
    let refused = call(&channel, ACT).await.expect_err("not believed");
    assert_eq!(refused.kind(), Kind::Unavailable, "{refused}");
    bouncer.stop().await;
}

#[tokio::test]
async fn where_certificates_are_optional_a_token_does_and_goes_first() {
    let certs = TestCerts::new();
    let mut config = server(&certs, ClientAuth::Optional);
    config.token = Some(Secret::new(TOKEN));
    let bouncer = Bouncer::start(&config).await;
    let ca = certs.ca();
    let none = client(&bouncer, &ca, None);
    let refused = call(&connect(&none), READ).await.expect_err("nobody");
    assert_eq!(refused.reason(), "TOKEN_MISSING");
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let with = |mut config: ClientConfig, token: &str| {
        config.token = Some(Secret::new(token));
        connect(&config)
    };
    let who = call(&with(none, TOKEN), READ).await.expect("let in");
    assert_eq!(who, "admin [admin,service]");
    let alice = client(&bouncer, &ca, Some(&certs.issue_client("alice")));
    let who = call(&connect(&alice), READ).await.expect("let in");
    assert_eq!(who, "CN:alice [reader,operator]");
    let who = call(&with(alice.clone(), TOKEN), READ)
        .await
        .expect("let in");
    assert_eq!(who, "admin [admin,service]");
    let wrong = call(&with(alice, "another-token-of-some-length"), READ).await;
    assert_eq!(wrong.expect_err("wrong").reason(), "TOKEN_WRONG");
    bouncer.stop().await;
}

/// The certificate that the server shows now.
async fn shown_by(bouncer: &Bouncer, certs: &TestCerts) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_file(certs.ca()).expect("ours");
    roots.add(ca).expect("ours");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(bouncer.address)
        .await
        .expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = within("a handshake", connector.connect(name, tcp))
        .await
        .expect("believed");
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .expect("a certificate");
    certificates[0].to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let certs = TestCerts::new();
    let bouncer = Bouncer::start(&server(&certs, ClientAuth::Optional)).await;
    let first = shown_by(&bouncer, &certs).await;
    let old = connect(&client(
        &bouncer,
        &certs.ca(),
        Some(&certs.issue_client("alice")),
    ));
    call(&old, READ).await.expect("let in");

    certs.renew_server();
    let second = wait_for("the renewed certificate", PATIENCE, async || {
        let shown = shown_by(&bouncer, &certs).await;
        (shown != first).then_some(shown)
    })
    .await;
    // Half a renewal: the certificate is there and its key is not.
    std::fs::write(certs.server_certificate(), "not yet").expect("our own file");
    for _ in 0..5 {
        assert_eq!(shown_by(&bouncer, &certs).await, second);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    certs.renew_server();
    wait_for("the next certificate", PATIENCE, async || {
        let shown = shown_by(&bouncer, &certs).await;
        (shown != second && shown != first).then_some(())
    })
    .await;
    // What was connected stays connected.
    call(&old, READ).await.expect("let in");
    bouncer.stop().await;
}

#[tokio::test]
async fn a_client_shows_its_renewed_certificate_when_it_connects_again() {
    let certs = TestCerts::new();
    let config = server(&certs, ClientAuth::Required);
    let bouncer = Bouncer::start(&config).await;
    let (cert, key) = certs.issue_client("ingestion");
    let channel = connect(&client(
        &bouncer,
        &certs.ca(),
        Some(&(cert.clone(), key.clone())),
    ));
    let who = call(&channel, READ).await.expect("let in");
    assert_eq!(who, "DNS:ingestion [service]");

    let (renewed_cert, renewed_key) = certs.issue_client("alice");
    std::fs::rename(renewed_cert, cert).expect("our own file");
    std::fs::rename(renewed_key, key).expect("our own file");
    let address = bouncer.address;
    bouncer.stop().await;
    // The same address, so that the same channel connects again.
    let again = GrpcConfig {
        listen: address,
        ..config
    };
    let bouncer = Bouncer::start(&again).await;
    let who = wait_for("the new connection", PATIENCE, async || {
        call(&channel, READ).await.ok()
    });
    assert_eq!(who.await, "CN:alice [reader,operator]");
    bouncer.stop().await;
}
