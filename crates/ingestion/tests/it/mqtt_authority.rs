//! Devices whose certificates an authority has signed.

use rmqtt_codec::v3::ConnectAckReason::{ConnectionAccepted, NotAuthorized};
use rustls::version::{TLS12, TLS13};
use wire::names::identity_name;
use wire::registry::v1 as registry;

use crate::hub::{Hub, SOON, identity};
use crate::mqtt_client::{Client, DeviceAuthority, DeviceCert, connect, good_connect, hub_with};

/// Registers an identity that proves itself by an authority.
fn register(hub: &Hub, path: &str) {
    hub.register(path);
    let mut state = hub.store.state();
    let known = state.identities.get_mut(&identity_name(&identity(path)));
    let known = known.expect("it is registered");
    known.keys = None;
    known.authentication_type = registry::AuthenticationType::CertificateAuthority.into();
}

#[tokio::test]
async fn a_certificate_of_an_authority_opens_the_door_of_its_common_name_alone() {
    let root = DeviceAuthority::new("root");
    let below = root.below("factory");
    let stranger = DeviceAuthority::new("stranger");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("devices.pem");
    let unused = DeviceAuthority::new("another");
    std::fs::write(&file, format!("{}{}", unused.pem, root.pem)).unwrap();
    let (hub, certs) = hub_with(|config| {
        config.device_ca_file = Some(file);
        // All of them come from one address.
        config.limits.identity_failures_per_minute = 1000;
    })
    .await;
    for path in ["d", "d/m"] {
        register(&hub, path);
    }
    hub.register("by-key");
    for (what, path, cert, wanted) in [
        ("signed", "d", root.sign("d", 2090), ConnectionAccepted),
        ("in a chain", "d", below.sign("d", 2090), ConnectionAccepted),
        (
            "a module",
            "d/m",
            root.sign("d/m", 2090),
            ConnectionAccepted,
        ),
        ("the device's", "d/m", root.sign("d", 2090), NotAuthorized),
        ("another's", "d", root.sign("e", 2090), NotAuthorized),
        ("another case", "d", root.sign("D", 2090), NotAuthorized),
        ("expired", "d", root.sign("d", 2021), NotAuthorized),
        ("a stranger's", "d", stranger.sign("d", 2090), NotAuthorized),
        ("its own", "d", DeviceCert::new(), NotAuthorized),
        // Who proves itself by key is not proven by an authority.
        ("by key", "by-key", root.sign("by-key", 2090), NotAuthorized),
    ] {
        for version in [&TLS12, &TLS13] {
            let mut client = Client::dial(&hub, &certs, version, Some(&cert)).await;
            let (code, _) = client.call(connect(path, None)).await;
            assert_eq!(code, wanted, "{what}");
            if code == ConnectionAccepted {
                client.is_quiet().await;
            } else {
                client.is_closed().await;
            }
        }
    }
    // Nor is one that proves itself by an authority by a token.
    let (_, code, _) = Client::try_connect(&hub, &certs, good_connect("d")).await;
    assert_eq!(code, NotAuthorized);
    let page = hub.metrics().await;
    for reason in [
        "CERTIFICATE_EXPIRED",
        "CERTIFICATE_NOT_SIGNED",
        "WRONG_COMMON_NAME",
        "WRONG_CERTIFICATE",
    ] {
        let counter = format!("twinward_ingestion_auth_failures_total{{reason=\"{reason}\"}}");
        assert!(page.contains(&counter), "{counter} is missing in\n{page}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn whoever_no_longer_proves_itself_by_an_authority_is_disconnected() {
    let root = DeviceAuthority::new("root");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("devices.pem");
    std::fs::write(&file, &root.pem).unwrap();
    let (hub, certs) = hub_with(|config| config.device_ca_file = Some(file)).await;
    register(&hub, "d");
    let cert = root.sign("d", 2090);
    let mut client = Client::dial(&hub, &certs, &TLS13, Some(&cert)).await;
    let (code, _) = client.call(connect("d", None)).await;
    assert_eq!(code, ConnectionAccepted);
    client.is_quiet().await;
    hub.change_identity("d", |known| {
        let authentication_type = registry::AuthenticationType::Sas.into();
        known.map(|known| registry::Credentials {
            authentication_type,
            ..known
        })
    })
    .await;
    client.is_closed().await;
    hub.stop().await;
}

#[tokio::test]
async fn authorities_are_exchanged_while_devices_are_connected() {
    let (former, next) = (DeviceAuthority::new("former"), DeviceAuthority::new("next"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("devices.pem");
    std::fs::write(&file, &former.pem).unwrap();
    let (hub, certs) = hub_with(|config| {
        config.device_ca_file = Some(file.clone());
        config.tls.reload_every = service_kit::units::Duration::millis(20);
    })
    .await;
    register(&hub, "d");
    register(&hub, "e");
    let old = former.sign("d", 2090);
    let mut client = Client::dial(&hub, &certs, &TLS13, Some(&old)).await;
    assert_eq!(client.call(connect("d", None)).await.0, ConnectionAccepted);

    std::fs::write(&file, &next.pem).unwrap();
    let new = next.sign("e", 2090);
    testkit::wait_for("the next authority to be trusted", SOON, async || {
        let mut client = Client::dial(&hub, &certs, &TLS13, Some(&new)).await;
        (client.call(connect("e", None)).await.0 == ConnectionAccepted).then_some(())
    })
    .await;
    // As with every look of its session.
    hub.change_identity("d", |known| known).await;
    client.is_closed().await;
    let mut again = Client::dial(&hub, &certs, &TLS13, Some(&old)).await;
    assert_eq!(again.call(connect("d", None)).await.0, NotAuthorized);
    hub.stop().await;
}

#[tokio::test]
async fn without_authorities_nobody_is_proven_by_one() {
    let root = DeviceAuthority::new("root");
    let (hub, certs) = hub_with(|_| {}).await;
    register(&hub, "d");
    let cert = root.sign("d", 2090);
    let mut client = Client::dial(&hub, &certs, &TLS13, Some(&cert)).await;
    let (code, _) = client.call(connect("d", None)).await;
    assert_eq!(code, NotAuthorized);
    assert!(hub.metrics().await.contains("AUTHORITIES_MISSING"));
    hub.stop().await;
}
