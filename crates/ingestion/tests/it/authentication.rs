//! Who is let in, and for how long.

use jiff::{SignedDuration, Timestamp};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wire::registry::v1 as registry;

use crate::hub::{HOST, Hub, good_token, identity, key_of, token};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

async fn check_refused(hub: &Hub, token: &str, code: Code, reason: &str) -> Status {
    let status = hub.connect(token).await.err().expect("it is not let in");
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, reason, "{status:?}");
    let number = match code {
        Code::Unauthenticated => "401002",
        Code::PermissionDenied => "401003",
        Code::NotFound => "404010",
        Code::Unavailable => "503001",
        Code::ResourceExhausted => "429001",
        other => panic!("{other:?} is not refused with: {status:?}"),
    };
    assert_eq!(info.metadata["iot_hub_code"], number, "{status:?}");
    status
}

#[tokio::test]
async fn whoever_cannot_prove_itself_is_told_why() {
    let hub = Hub::start().await;
    hub.register("d/m");
    let key = key_of("d/m");
    check_refused(&hub, "", Code::Unauthenticated, "TOKEN_MISSING").await;
    check_refused(&hub, "Bearer x", Code::Unauthenticated, "TOKEN_MALFORMED").await;
    let wrong = token("d/m", &key_of("guess"), HOUR);
    let status = check_refused(&hub, &wrong, Code::Unauthenticated, "WRONG_KEY").await;
    assert!(!status.message().contains("sig="), "{status:?}");
    let expired = token("d/m", &key, -HOUR);
    check_refused(&hub, &expired, Code::Unauthenticated, "TOKEN_EXPIRED").await;
    let unknown = good_token("e/m");
    check_refused(&hub, &unknown, Code::NotFound, "IDENTITY_NOT_FOUND").await;
    let resource = iot_hub::SasResource::of_identity("other.example", &identity("d/m"));
    let elsewhere = iot_hub::SasToken::sign(resource, &key, Timestamp::now() + HOUR).to_string();
    check_refused(
        &hub,
        &elsewhere,
        Code::Unauthenticated,
        "TOKEN_FOR_ANOTHER_HOST",
    )
    .await;
    let of_host = iot_hub::SasToken::sign(
        iot_hub::SasResource::of_host(HOST),
        &key,
        Timestamp::now() + HOUR,
    );
    let of_host = of_host.to_string();
    check_refused(
        &hub,
        &of_host,
        Code::Unauthenticated,
        "TOKEN_WITHOUT_IDENTITY",
    )
    .await;
    hub.store.state().away = true;
    let fresh = good_token("f/m");
    check_refused(&hub, &fresh, Code::Unavailable, "CREDENTIALS_UNAVAILABLE").await;
    hub.store.state().away = false;

    let mut agent = hub
        .connect(&good_token("d/m"))
        .await
        .expect("the right key");
    let welcome = agent.hello(1).await;
    assert_eq!(
        (welcome.device_id.as_str(), welcome.module_id.as_str()),
        ("d", "m")
    );
    assert_eq!(welcome.max_event_bytes, 64 << 10);
    hub.stop().await;
}

#[tokio::test]
async fn a_disabled_identity_is_told_so_only_with_the_right_key() {
    let hub = Hub::start().await;
    hub.register("d/m");
    hub.change_identity("d/m", disabled).await;
    let guess = token("d/m", &key_of("guess"), HOUR);
    check_refused(&hub, &guess, Code::Unauthenticated, "WRONG_KEY").await;
    check_refused(
        &hub,
        &good_token("d/m"),
        Code::PermissionDenied,
        "IDENTITY_DISABLED",
    )
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn credentials_are_read_once_until_they_change() {
    let hub = Hub::start().await;
    for _ in 0..3 {
        drop(hub.agent("d/m").await);
    }
    assert_eq!(hub.store.state().credential_reads, 1);
    hub.stop().await;
}

#[tokio::test]
async fn a_session_ends_when_its_identity_changes() {
    let hub = Hub::start().await;
    let mut keys = hub.agent("keys/m").await;
    hub.change_identity("keys/m", |credentials| {
        let keys = registry::SymmetricKeys {
            primary: key_of("new").to_base64().to_string(),
            secondary: String::new(),
        };
        Some(registry::Credentials {
            keys: Some(keys),
            ..credentials.unwrap()
        })
    })
    .await;
    keys.ends_with(Code::Unauthenticated).await;

    let mut off = hub.agent("off/m").await;
    hub.change_identity("off/m", disabled).await;
    off.ends_with(Code::PermissionDenied).await;

    let mut gone = hub.agent("gone/m").await;
    hub.change_identity("gone/m", |_| None).await;
    gone.ends_with(Code::NotFound).await;

    let mut again = hub.agent("again/m").await;
    hub.change_identity("again/m", |credentials| {
        let generation_id = "generation-2".to_owned();
        Some(registry::Credentials {
            generation_id,
            ..credentials.unwrap()
        })
    })
    .await;
    again.ends_with(Code::Unauthenticated).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let hub = Hub::start().await;
    hub.register("d/m");
    // Expiry plus the skew allowed lies two seconds ahead.
    let short = token("d/m", &key_of("d/m"), SignedDuration::from_secs(2 - 300));
    let mut agent = hub.connect(&short).await.expect("a token within the skew");
    agent.hello(1).await;
    let status = agent.ends_with(Code::Unauthenticated).await;
    assert!(status.message().contains("expired"), "{status:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_peer_that_fails_too_often_must_wait_and_whoever_has_a_key_need_not() {
    let hub = Hub::start_with(|config| config.limits.auth_failures_per_minute = 3).await;
    hub.register("d/m");
    for _ in 0..3 {
        check_refused(&hub, "", Code::Unauthenticated, "TOKEN_MISSING").await;
    }
    let wrong = token("d/m", &key_of("guess"), HOUR);
    let status = check_refused(&hub, &wrong, Code::ResourceExhausted, "TOO_MANY_FAILURES").await;
    let details = status.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    let good = hub.connect(&good_token("d/m")).await;
    good.expect("it stands behind the same address as the others, and has the key");
    hub.stop().await;
}

#[allow(clippy::unnecessary_wraps)] // the form that `change_identity` takes
fn disabled(credentials: Option<registry::Credentials>) -> Option<registry::Credentials> {
    let status = registry::Status::Disabled.into();
    Some(registry::Credentials {
        status,
        ..credentials.unwrap()
    })
}
