//! What an operator reads of the ends of devices' connections.

use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use rmqtt_codec::types::QoS;
use rmqtt_codec::v3::{Connect, ConnectAckReason, LastWill, Packet};
use wire::registry::v1 as registry;

use crate::hub::{SOON, key_of, token};
use crate::mqtt_client::{Client, connect, good_connect, hub, hub_with};
use crate::provisioning;

/// What this thread logs. Tests run on one thread with all that they start.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn follow(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(crate) fn lines(&self, words: &[&str]) -> usize {
        let bytes = self.0.lock().expect("no test panics in it");
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().filter(|line| line.contains(" INFO "));
        lines
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    async fn tells(&self, words: &[&str]) {
        testkit::wait_for("a log line", SOON, async || {
            (self.lines(words) > 0).then_some(())
        })
        .await;
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = self.0.lock().expect("no test panics in it");
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Of a session that was let in.
const LEFT: &str = "device was disconnected";

#[tokio::test]
async fn why_a_session_ended_is_told() {
    let log = Log::default();
    let _guard = log.follow();
    let (hub, certs) = hub().await;
    for path in ["off", "gone", "key", "twice", "topic"] {
        hub.register(path);
    }
    let off = |known: Option<registry::Credentials>| {
        let status = registry::Status::Disabled.into();
        known.map(|known| registry::Credentials { status, ..known })
    };
    let another_key = |known: Option<registry::Credentials>| {
        let other = key_of("other").to_base64().to_string();
        let keys = Some(registry::SymmetricKeys {
            primary: other.clone(),
            secondary: other,
        });
        known.map(|known| registry::Credentials { keys, ..known })
    };
    let (mut disabled, _) = Client::connected(&hub, &certs, "off").await;
    hub.change_identity("off", off).await;
    disabled.is_closed().await;
    log.tells(&[LEFT, "identity=off", "reason=\"IDENTITY_DISABLED\""])
        .await;
    let (mut deleted, _) = Client::connected(&hub, &certs, "gone").await;
    hub.change_identity("gone", |_| None).await;
    deleted.is_closed().await;
    log.tells(&[LEFT, "identity=gone", "reason="]).await;
    let (mut changed, _) = Client::connected(&hub, &certs, "key").await;
    hub.change_identity("key", another_key).await;
    changed.is_closed().await;
    log.tells(&[LEFT, "identity=key", "reason="]).await;
    let (mut older, _) = Client::connected(&hub, &certs, "twice").await;
    let (_newer, _) = Client::connected(&hub, &certs, "twice").await;
    older.is_closed().await;
    log.tells(&[LEFT, "identity=twice", "reason=\"SESSION_TAKEN_OVER\""])
        .await;
    let (mut wrong, _) = Client::connected(&hub, &certs, "topic").await;
    wrong.publish("a/b", QoS::AtMostOnce, "").await;
    wrong.is_closed().await;
    log.tells(&[LEFT, "identity=topic", "reason=\"TOPIC_UNKNOWN\"", "a/b"])
        .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_token_that_ends_is_told() {
    let log = Log::default();
    let _guard = log.follow();
    let (hub, certs) = hub().await;
    hub.register("d");
    let skew = iot_hub::sas::CLOCK_SKEW;
    let short = token("d", &key_of("d"), SignedDuration::from_secs(2) - skew);
    let expires = connect("d", Some(short));
    let (mut client, code, _) = Client::try_connect(&hub, &certs, expires).await;
    assert_eq!(code, ConnectAckReason::ConnectionAccepted);
    client.is_closed().await;
    log.tells(&[LEFT, "identity=d", "expired"]).await;
    hub.stop().await;
}

#[tokio::test]
async fn why_a_device_was_not_let_in_is_told() {
    let log = Log::default();
    let _guard = log.follow();
    let (hub, certs) = hub_with(|config| config.limits.identity_connects_per_minute = 1).await;
    hub.register("d");
    hub.register("e");
    let will = Connect {
        last_will: Some(LastWill {
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "a/b".to_owned().into(),
            message: bytes::Bytes::new(),
        }),
        ..good_connect("e")
    };
    let (_, code, _) = Client::try_connect(&hub, &certs, will).await;
    assert_eq!(code, ConnectAckReason::NotAuthorized, "it is told to stop");
    let not = "device was not let in";
    log.tells(&[not, "client=\"e\"", "reason=\"WILL_REFUSED\""])
        .await;
    let (_first, _) = Client::connected(&hub, &certs, "d").await;
    let (_, code, _) = Client::try_connect(&hub, &certs, good_connect("d")).await;
    assert_eq!(code, ConnectAckReason::ServiceUnavailable);
    log.tells(&[not, "client=\"d\"", "reason=\"TOO_MANY_CONNECTS\""])
        .await;
    let mut garbage = Client::dial(&hub, &certs, &rustls::version::TLS13, None).await;
    garbage.send(Packet::PingRequest).await;
    garbage.is_closed().await;
    log.tells(&[not, "reason=\"UNEXPECTED_PACKET\""]).await;
    hub.stop().await;
}

/// Lines of one reason that a minute has room for.
const LINES_MAX: usize = 60;

#[tokio::test]
async fn whoever_is_refused_before_anything_is_looked_at_does_not_fill_the_log() {
    let log = Log::default();
    let _guard = log.follow();
    let (hub, certs) = hub().await;
    for _ in 0..LINES_MAX + 10 {
        let unreadable = Connect {
            username: Some("nobody".to_owned().into()),
            ..good_connect("d")
        };
        let (_, code, _) = Client::try_connect(&hub, &certs, unreadable).await;
        assert_eq!(code, ConnectAckReason::BadUserNameOrPassword);
    }
    let told = log.lines(&["a device was not let in"]);
    // A slow run may take more than a minute.
    assert!((LINES_MAX..LINES_MAX + 10).contains(&told), "{told}");
    let page = hub.metrics().await;
    let all = format!("}} {}", LINES_MAX + 10);
    let mut failures = page
        .lines()
        .filter(|line| line.contains("auth_failures_total{"));
    assert!(failures.any(|line| line.ends_with(&all)), "all are counted");
    hub.stop().await;
}

#[tokio::test]
async fn how_registering_ended_and_what_was_refused_is_told_and_counted() {
    let log = Log::default();
    let _guard = log.follow();
    let (hub, certs) = hub().await;
    let registers = || provisioning::connect("0neTEST", "sn-1", Some("good"));
    let (mut client, code, _) = Client::try_connect(&hub, &certs, registers()).await;
    assert_eq!(code, ConnectAckReason::ConnectionAccepted);
    let unknown = provisioning::poll("unknown");
    client.publish(&unknown, QoS::AtMostOnce, " ").await;
    log.tells(&["a registration was refused", "sn-1", "number=404"])
        .await;
    assert!(
        hub.metrics()
            .await
            .contains("registrations_refused_total{code=\"404")
    );
    client.publish(&unknown, QoS::ExactlyOnce, " ").await;
    client.is_closed().await;
    log.tells(&["registering has ended", "sn-1", "reason=\"QOS_2\""])
        .await;
    hub.stop().await;
}
