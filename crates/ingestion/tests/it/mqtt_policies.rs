//! Tokens of the hub's shared access policies at the devices' door.

use std::path::Path;

use access_policies::Followed;
use iot_hub::{SasResource, SasToken, SymmetricKey};
use jiff::{SignedDuration, Timestamp};
use rmqtt_codec::v3::ConnectAckReason;
use rmqtt_codec::v3::ConnectAckReason::{ConnectionAccepted, NotAuthorized, ServiceUnavailable};
use testkit::TestCerts;
use wire::bus::v1::telemetry_entry::Content;
use wire::registry::v1 as registry;

use crate::hub::{HOST, Hub, SOON};
use crate::mqtt_client::{Client, DeviceCert, connect, hub_with};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const FILE: &str = "policies.toml";

/// A hub whose devices' door takes tokens of policies, which a folder holds.
async fn hub() -> (Hub, TestCerts, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    // The gateway does that.
    Followed::open(folder.path().join(FILE)).await.unwrap();
    let (hub, certs) = hub_that_reads(folder.path()).await;
    (hub, certs, folder)
}

/// The same, with a folder that somebody else has filled, or not yet.
async fn hub_that_reads(folder: &Path) -> (Hub, TestCerts) {
    let file = folder.join(FILE);
    hub_with(|config| {
        config.access_policies_file = Some(file);
        config.tls.reload_every = service_kit::units::Duration::millis(20);
    })
    .await
}

/// The keys of a policy, as the file has them.
async fn keys(folder: &Path, policy: &str) -> Vec<SymmetricKey> {
    let policies = Followed::open(folder.join(FILE)).await.unwrap();
    let policies = policies.current();
    let keys = policies.named(policy).expect("a policy").keys();
    keys.into_iter().cloned().collect()
}

fn token(path: &str, policy: &str, key: &SymmetricKey, good_for: SignedDuration) -> String {
    let (host, path) = path.split_once('/').unwrap_or((path, ""));
    let resource = SasResource::of_path(host, path);
    let token = SasToken::sign(resource, key, Timestamp::now() + good_for);
    format!("{token}&skn={policy}")
}

async fn tried(hub: &Hub, certs: &TestCerts, path: &str, token: String) -> ConnectAckReason {
    let connect = connect(path, Some(token));
    let (mut client, code, _) = Client::try_connect(hub, certs, connect).await;
    if code == ConnectionAccepted {
        client.is_quiet().await;
    } else {
        client.is_closed().await;
    }
    code
}

#[tokio::test]
async fn a_policy_opens_the_door_of_what_stands_below_its_resource() {
    let (hub, certs, folder) = hub().await;
    for path in ["d", "d/m", "device", "off"] {
        hub.register(path);
    }
    hub.change_identity("off", |known| {
        let status = registry::Status::Disabled.into();
        known.map(|known| registry::Credentials { status, ..known })
    })
    .await;
    let of_device = keys(folder.path(), "device").await;
    let owner = keys(folder.path(), "iothubowner").await;
    let service = keys(folder.path(), "service").await;
    let (exact, below) = (format!("{HOST}/devices/d"), format!("{HOST}/devices"));
    let module = format!("{HOST}/devices/d/modules/m");
    for (what, path, resource, policy, key, wanted) in [
        (
            "its own",
            "d",
            &*exact,
            "device",
            &of_device[0],
            ConnectionAccepted,
        ),
        (
            "secondary",
            "d",
            &exact,
            "device",
            &of_device[1],
            ConnectionAccepted,
        ),
        (
            "all devices",
            "d",
            &below,
            "device",
            &of_device[0],
            ConnectionAccepted,
        ),
        (
            "the hub",
            "device",
            HOST,
            "iothubowner",
            &owner[0],
            ConnectionAccepted,
        ),
        (
            "its module",
            "d/m",
            &exact,
            "device",
            &of_device[0],
            ConnectionAccepted,
        ),
        (
            "the module",
            "d/m",
            &module,
            "device",
            &of_device[0],
            ConnectionAccepted,
        ),
        (
            "a module's",
            "d",
            &module,
            "device",
            &of_device[0],
            NotAuthorized,
        ),
        (
            "a beginning",
            "device",
            &exact,
            "device",
            &of_device[0],
            NotAuthorized,
        ),
        (
            "another hub",
            "d",
            "else.example",
            "device",
            &of_device[0],
            NotAuthorized,
        ),
        (
            "without the right",
            "d",
            &below,
            "service",
            &service[0],
            NotAuthorized,
        ),
        (
            "another's key",
            "d",
            &below,
            "device",
            &service[0],
            NotAuthorized,
        ),
        (
            "no policy",
            "d",
            &below,
            "nobody",
            &of_device[0],
            NotAuthorized,
        ),
        (
            "its own key",
            "d",
            &exact,
            "device",
            &crate::hub::key_of("d"),
            NotAuthorized,
        ),
        (
            "disabled",
            "off",
            &below,
            "device",
            &of_device[0],
            NotAuthorized,
        ),
        (
            "unknown",
            "nowhere",
            &below,
            "device",
            &of_device[0],
            NotAuthorized,
        ),
    ] {
        let token = token(resource, policy, key, HOUR);
        assert_eq!(tried(&hub, &certs, path, token).await, wanted, "{what}");
    }
    let old = token(&below, "device", &of_device[0], -HOUR);
    assert_eq!(tried(&hub, &certs, "d", old).await, NotAuthorized);
    let page = hub.metrics().await;
    for (reason, count) in [("WRONG_KEY", 4), ("TOKEN_EXPIRED", 1)] {
        let name = "twinward_ingestion_auth_failures_total";
        let counter = format!("{name}{{reason=\"{reason}\"}} {count}");
        assert!(page.contains(&counter), "{counter} is missing in\n{page}");
    }
    // Six came in, by a policy.
    assert!(
        page.contains("sessions_proven_total{by=\"POLICY\"} 6"),
        "{page}"
    );
    hub.stop().await;
}

/// As in IoT Hub: whoever has a policy's key acts for any identity, and that is told.
#[tokio::test]
async fn a_policy_opens_devices_that_have_a_certificate_and_no_key_and_the_twin_is_told() {
    let (hub, certs, folder) = hub().await;
    let cert = DeviceCert::new();
    hub.register("d");
    hub.change_identity("d", |known| {
        known.map(|known| registry::Credentials {
            keys: None,
            authentication_type: registry::AuthenticationType::SelfSigned.into(),
            thumbprints: Some(registry::Thumbprints {
                primary: iot_hub::Thumbprints::of(&cert.der).sha256().to_owned(),
                secondary: String::new(),
            }),
            ..known
        })
    })
    .await;
    let own = connect("d", None);
    let mut client = Client::dial(&hub, &certs, &rustls::version::TLS13, Some(&cert)).await;
    assert_eq!(client.call(own).await.0, ConnectionAccepted);
    let key = &keys(folder.path(), "device").await[0];
    let token = token(HOST, "device", key, HOUR);
    assert_eq!(tried(&hub, &certs, "d", token).await, ConnectionAccepted);
    client.is_closed().await;

    let page = hub.metrics().await;
    for by in ["CERTIFICATE", "POLICY"] {
        let counter = format!("sessions_proven_total{{by=\"{by}\"}} 1");
        assert!(page.contains(&counter), "{counter} is missing in\n{page}");
    }
    let begun = testkit::wait_for("both beginnings", SOON, async || {
        let entries = hub.telemetry().await.into_iter();
        let begun = entries.filter_map(|entry| match entry.content {
            Some(Content::Session(notice)) if notice.connected => Some(notice.access_policy),
            _ => None,
        });
        let begun: Vec<_> = begun.collect();
        (begun.len() == 2).then_some(begun)
    })
    .await;
    assert_eq!(begun, ["", "device"]);
    hub.stop().await;
}

#[tokio::test]
async fn a_file_that_is_not_there_is_waited_for_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, certs) = hub_that_reads(folder.path()).await;
    hub.register("d");
    let made_up = token(HOST, "device", &SymmetricKey::generate([9; 32]), HOUR);
    // It is no fault of whoever comes, so nobody is made to wait for it, however often that is.
    let often = 2 * hub.config.limits.identity_failures_per_minute;
    for _ in 0..often {
        let code = tried(&hub, &certs, "d", made_up.clone()).await;
        assert_eq!(code, ServiceUnavailable);
    }
    let page = hub.metrics().await;
    let counter = format!("{{reason=\"POLICIES_MISSING\"}} {often}");
    assert!(page.contains(&counter), "{counter} is missing in\n{page}");
    assert!(!folder.path().join(FILE).exists());

    let key = keys(folder.path(), "device").await.remove(0);
    testkit::wait_for("the file to be read", SOON, async || {
        let token = token(HOST, "device", &key, HOUR);
        let code = tried(&hub, &certs, "d", token).await;
        (code == ConnectionAccepted).then_some(())
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_changed_key_and_a_policy_that_is_gone_end_the_connections_that_they_opened() {
    let (hub, certs, folder) = hub().await;
    for path in ["one", "two", "own"] {
        hub.register(path);
    }
    let file = folder.path().join(FILE);
    let first = keys(folder.path(), "device").await;
    let connected = async |path: &str, key: &SymmetricKey| {
        let token = token(HOST, "device", key, HOUR);
        let connect = connect(path, Some(token));
        let (client, code, _) = Client::try_connect(&hub, &certs, connect).await;
        assert_eq!(code, ConnectionAccepted, "{path}");
        client
    };
    let mut by_primary = connected("one", &first[0]).await;
    let mut by_secondary = connected("two", &first[1]).await;
    let (mut by_own_key, _) = Client::connected(&hub, &certs, "own").await;

    // The primary key is changed.
    let text = std::fs::read_to_string(&file).unwrap();
    let former = first[0].to_base64().to_string();
    assert!(text.contains(&former));
    let next = SymmetricKey::generate([9; 32]);
    std::fs::write(&file, text.replace(&former, &next.to_base64())).unwrap();
    by_primary.is_closed().await;
    by_secondary.is_quiet().await;
    let mut by_primary = connected("one", &next).await;
    let refused = token(HOST, "device", &first[0], HOUR);
    assert_eq!(tried(&hub, &certs, "two", refused).await, NotAuthorized);

    // The policy is taken out.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("name = \"device\"", "name = \"former\""),
    )
    .unwrap();
    by_primary.is_closed().await;
    by_secondary.is_closed().await;
    by_own_key.is_quiet().await;
    hub.stop().await;
}

#[tokio::test]
async fn a_service_that_knows_no_policies_takes_no_tokens_of_them() {
    let (hub, certs) = crate::mqtt_client::hub().await;
    hub.register("d");
    let token = token(HOST, "device", &SymmetricKey::generate([9; 32]), HOUR);
    assert_eq!(tried(&hub, &certs, "d", token).await, NotAuthorized);
    hub.stop().await;
}

/// A silent device is let go after one and a half times its keep-alive: not before, and soon after.
#[tokio::test]
async fn a_silent_device_is_let_go_after_one_and_a_half_times_its_keep_alive() {
    let (hub, certs) = crate::mqtt_client::hub().await;
    hub.register("d");
    let keep_alive = rmqtt_codec::v3::Connect {
        keep_alive: 2,
        ..crate::mqtt_client::good_connect("d")
    };
    let (mut client, code, _) = Client::try_connect(&hub, &certs, keep_alive).await;
    assert_eq!(code, ConnectionAccepted);
    client.is_quiet().await;
    let heard = std::time::Instant::now();
    client.is_closed().await;
    let silent = heard.elapsed().as_millis();
    // It is timed from before the answer was read, and a busy machine is late.
    assert!(
        (2900..SOON.as_millis() / 2).contains(&silent),
        "{silent} ms"
    );
    hub.stop().await;
}
