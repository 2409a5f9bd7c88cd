//! Crowds of strangers that make up identities, each time with more of them under way than there are
//! places for what they need, and a device elsewhere that is let in meanwhile. Nothing is measured by
//! the clock: what the crowd waits for does not go on until the device is in.

use jiff::SignedDuration;
use rmqtt_codec::v3::ConnectAckReason::{
    self, ConnectionAccepted, NotAuthorized, ServiceUnavailable,
};
use rustls::version::TLS13;
use testkit::TestCerts;
use tokio::task::JoinSet;
use wire::names::identity_name;
use wire::registry::v1 as registry;

use crate::hub::{Hub, SOON, identity, key_of, token};
use crate::mqtt_client::{Client, DeviceAuthority, connect, good_connect, hub_with};

/// Where the crowd comes from.
const CROWD: [u8; 4] = [127, 0, 0, 66];

/// Devices that are let in at the same time, and those of one network among them.
const ADMITTED: usize = 64;
const OF_NETWORK: usize = 48;

/// Connections of one network that are looked at and wait, if it has failed too often.
const SUSPECTS: usize = 3 + 96;

/// Failures of an address before it has failed too often.
const FAILURES: u32 = 4;

fn made_up(number: usize) -> rmqtt_codec::v3::Connect {
    let id = format!("made-up-{number}");
    let wrong = token(&id, &key_of("a guess"), SignedDuration::from_hours(1));
    connect(&id, Some(wrong))
}

/// Identities that are made up come all at once, each with its CONNECT sent. What they are told.
async fn crowd(
    hub: &Hub,
    certs: &TestCerts,
    numbers: std::ops::Range<usize>,
) -> JoinSet<ConnectAckReason> {
    let mut crowd = JoinSet::new();
    for number in numbers {
        let mut client = Client::dial_from(CROWD, hub, certs, &TLS13, None).await;
        crowd.spawn(async move { client.call(made_up(number)).await.0 });
    }
    crowd
}

/// Somebody from another address.
async fn from_elsewhere(hub: &Hub, certs: &TestCerts, path: &str) -> ConnectAckReason {
    let mut client = Client::dial_from([127, 0, 0, 9], hub, certs, &TLS13, None).await;
    client.call(good_connect(path)).await.0
}

async fn lookups(hub: &Hub, wanted: usize) {
    testkit::wait_for("lookups", SOON, async || {
        (hub.store.state().credential_reads >= wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_crowd_that_is_being_let_in_leaves_places_to_others() {
    let (hub, certs) = hub_with(|config| config.limits.auth_failures_per_minute = 10_000).await;
    hub.register("d");
    let gate = hub.store.hold_lookups("devices/made-up");
    let mut told = crowd(&hub, &certs, 0..2 * ADMITTED).await;
    assert_eq!(from_elsewhere(&hub, &certs, "d").await, ConnectionAccepted);
    gate.add_permits(2 * ADMITTED);
    while let Some(code) = told.join_next().await {
        assert_eq!(code.expect("told"), NotAuthorized);
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_crowd_that_failed_while_it_waited_to_be_let_in_keeps_no_places() {
    let (hub, certs) = hub_with(|config| config.limits.auth_failures_per_minute = FAILURES).await;
    hub.register("d");
    let gate = hub.store.hold_lookups("devices/made-up");
    let mut told = crowd(&hub, &certs, 0..3 * ADMITTED).await;
    // Those that were let in first are told, and by then all others have failed too often, too.
    gate.add_permits(OF_NETWORK);
    lookups(&hub, OF_NETWORK).await;
    assert_eq!(from_elsewhere(&hub, &certs, "d").await, ConnectionAccepted);
    gate.add_permits(3 * ADMITTED);
    while let Some(code) = told.join_next().await {
        let code = code.expect("told");
        assert!([NotAuthorized, ServiceUnavailable].contains(&code));
    }
    hub.stop().await;
}

/// Has the crowd's address fail too often, and then has as many of it wait as may; answers these.
async fn crowded(hub: &Hub, certs: &TestCerts) -> JoinSet<ConnectAckReason> {
    let first = usize::try_from(FAILURES).expect("a few");
    let mut told = crowd(hub, certs, 0..first).await;
    while told.join_next().await.is_some() {}
    hub.store.hold_lookups("devices/made-up");
    // Others than those of whom it is known by now that there is no such identity.
    let mut told = crowd(hub, certs, 100..100 + SUSPECTS + 1).await;
    // One is too many, and is told so while all others wait.
    let one = tokio::time::timeout(SOON, told.join_next()).await;
    let one = one.expect("in time").expect("one of them").expect("told");
    assert_eq!(one, ServiceUnavailable);
    told
}

#[tokio::test]
async fn addresses_that_failed_too_often_do_not_wait_for_each_other() {
    let (hub, certs) = hub_with(|config| config.limits.auth_failures_per_minute = FAILURES).await;
    hub.register("d");
    for number in 0..FAILURES {
        let mut client = Client::dial_from([127, 0, 0, 9], &hub, &certs, &TLS13, None).await;
        let id = format!("wrong-{number}");
        let (code, _) = client.call(good_connect(&id)).await;
        assert_eq!(code, NotAuthorized);
    }
    let waiting = crowded(&hub, &certs).await;
    assert_eq!(from_elsewhere(&hub, &certs, "d").await, ConnectionAccepted);
    // At the crowd's own address it is told to try again, at once.
    hub.register("e");
    let mut client = Client::dial_from(CROWD, &hub, &certs, &TLS13, None).await;
    let (code, _) = client.call(good_connect("e")).await;
    assert_eq!(code, ServiceUnavailable);
    drop(waiting);
    hub.stop().await;
}

#[tokio::test]
async fn a_device_that_was_there_lately_is_let_in_amid_a_crowd_by_token_and_by_authority() {
    let root = DeviceAuthority::new("root");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("devices.pem");
    std::fs::write(&file, &root.pem).unwrap();
    let (hub, certs) = hub_with(|config| {
        config.limits.auth_failures_per_minute = FAILURES;
        config.device_ca_file = Some(file);
    })
    .await;
    for path in ["by-key", "signed"] {
        hub.register(path);
    }
    let name = identity_name(&identity("signed"));
    if let Some(known) = hub.store.state().identities.get_mut(&name) {
        known.keys = None;
        known.authentication_type = registry::AuthenticationType::CertificateAuthority.into();
    }
    let cert = root.sign("signed", 2090);
    let arrive = async || {
        let mut signed = Client::dial_from(CROWD, &hub, &certs, &TLS13, Some(&cert)).await;
        let (signed, _) = signed.call(connect("signed", None)).await;
        let mut by_key = Client::dial_from(CROWD, &hub, &certs, &TLS13, None).await;
        let (by_key, _) = by_key.call(good_connect("by-key")).await;
        [signed, by_key]
    };
    assert_eq!(arrive().await, [ConnectionAccepted; 2]);
    let waiting = crowded(&hub, &certs).await;
    assert_eq!(arrive().await, [ConnectionAccepted; 2]);
    // Another chain is looked at when it is its turn.
    let other = root.sign("signed", 2090);
    let mut client = Client::dial_from(CROWD, &hub, &certs, &TLS13, Some(&other)).await;
    let (code, _) = client.call(connect("signed", None)).await;
    assert_eq!(code, ServiceUnavailable);
    drop(waiting);
    hub.stop().await;
}
