//! One device (or stranger) that does too much of something, and another that does not notice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use rmqtt_codec::types::QoS;
use rmqtt_codec::v3::ConnectAckReason;
use rmqtt_codec::v3::ConnectAckReason::{ConnectionAccepted, NotAuthorized, ServiceUnavailable};
use rmqtt_codec::v3::Packet;
use rustls::version::TLS13;
use tokio::io::AsyncReadExt;

use crate::hub::{Hub, SOON, key_of, token};
use crate::mqtt_client::{Client, connect, good_connect, hub, hub_with, id, tcp_from};

const TWINS: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";
const GET: &str = "$iothub/twin/GET/?$rid=1";

/// Far more than another device needs, and far less than any limit makes somebody wait.
const NOT_DELAYED: Duration = Duration::from_secs(5);

/// Asserts that a device that has done nothing is served: a request about its twin is answered.
async fn is_served(client: &mut Client) {
    let began = Instant::now();
    client.publish(GET, QoS::AtMostOnce, "").await;
    let (topic, _) = client.message().await;
    assert_eq!(topic, "$iothub/twin/res/200/?$rid=1");
    let took = began.elapsed();
    assert!(took < NOT_DELAYED, "{took:?}");
}

/// A device that is connected and has subscribed to answers.
async fn another(hub: &Hub, certs: &testkit::TestCerts) -> Client {
    hub.register("another");
    let (mut client, _) = Client::connected(hub, certs, "another").await;
    client.subscribe(TWINS).await;
    client
}

#[tokio::test]
async fn guessing_keys_of_a_device_is_stopped_and_costs_no_other_device_behind_the_address() {
    let (hub, certs) = hub_with(|config| {
        config.limits.identity_failures_per_minute = 3;
        config.limits.auth_failures_per_minute = 10;
    })
    .await;
    hub.register("d");
    let mut calm = another(&hub, &certs).await;
    let wrong = token("d", &key_of("a guess"), SignedDuration::from_hours(1));
    let guess = || connect("d", Some(wrong.clone()));
    for turn in 0..20 {
        let (mut client, code, _) = Client::try_connect(&hub, &certs, guess()).await;
        let wanted = if turn < 3 {
            NotAuthorized
        } else {
            ServiceUnavailable
        };
        assert_eq!(code, wanted, "turn {turn}");
        client.is_closed().await;
    }
    is_served(&mut calm).await;
    // A third one comes in from the same address, and the device itself from its own.
    hub.register("third");
    Client::connected(&hub, &certs, "third").await;
    let mut device = Client::dial_from([127, 0, 0, 9], &hub, &certs, &TLS13, None).await;
    let (code, _) = device.call(good_connect("d")).await;
    assert_eq!(
        code, ConnectionAccepted,
        "nobody locks it out from elsewhere"
    );
    assert!(hub.metrics().await.contains("reason=\"TOO_MANY_FAILURES\""));
    hub.stop().await;
}

/// Guesses keys of `victim` from this machine's address until told to stop; answers what it was told.
async fn guess_on(
    hub: &Hub,
    certs: &testkit::TestCerts,
    enough: &AtomicBool,
    guesses: &AtomicUsize,
) -> Vec<ConnectAckReason> {
    let mut told = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let key = key_of(&format!(
            "guess {}",
            guesses.fetch_add(1, Ordering::Relaxed)
        ));
        let wrong = token("victim", &key, SignedDuration::from_hours(1));
        let guess = connect("victim", Some(wrong));
        told.push(Client::try_connect(hub, certs, guess).await.1);
    }
    told
}

#[tokio::test]
async fn guesses_that_go_on_do_not_keep_the_device_itself_out() {
    const DEFAULT: usize = 10;
    let (hub, certs) = hub().await;
    hub.register("victim");
    let (enough, guesses) = (AtomicBool::new(false), AtomicUsize::new(0));
    let guess = || guess_on(&hub, &certs, &enough, &guesses);
    let coming_in = async {
        testkit::wait_for("guesses to be over every limit", SOON, async || {
            (guesses.load(Ordering::Relaxed) > 8 * DEFAULT).then_some(())
        })
        .await;
        // From the same address, while they go on.
        for turn in 0..12 {
            let before = guesses.load(Ordering::Relaxed);
            let (mut client, code, _) =
                Client::try_connect(&hub, &certs, good_connect("victim")).await;
            assert_eq!(code, ConnectionAccepted, "turn {turn}");
            client.is_quiet().await;
            testkit::wait_for("another guess", SOON, async || {
                (guesses.load(Ordering::Relaxed) > before).then_some(())
            })
            .await;
        }
        enough.store(true, Ordering::Relaxed);
    };
    let (one, two, three, four, ()) = tokio::join!(guess(), guess(), guess(), guess(), coming_in);
    let told = [one, two, three, four].concat();
    let refused = |code| told.iter().filter(|it| **it == code).count();
    let first = refused(NotAuthorized);
    assert!((1..=DEFAULT + 4).contains(&first), "{first}");
    assert_eq!(first + refused(ServiceUnavailable), told.len());
    let page = hub.metrics().await;
    let counter = format!(
        "auth_failures_total{{reason=\"TOO_MANY_FAILURES\"}} {}",
        refused(ServiceUnavailable)
    );
    assert!(page.contains(&counter), "{counter}\n{page}");
    hub.stop().await;
}

#[tokio::test]
async fn made_up_ids_lock_out_nobody_behind_their_address() {
    let (hub, certs) = hub_with(|config| config.limits.auth_failures_per_minute = 3).await;
    hub.register("d");
    let made_up = async |turn: usize| {
        let id = format!("made-up-{turn}");
        let wrong = token(&id, &key_of("a guess"), SignedDuration::from_hours(1));
        let connecting = Client::try_connect(&hub, &certs, connect(&id, Some(wrong)));
        connecting.await.1
    };
    for turn in 0..8 {
        let wanted = if turn < 3 {
            NotAuthorized
        } else {
            ServiceUnavailable
        };
        assert_eq!(made_up(turn).await, wanted, "turn {turn}");
    }
    let good = Client::connected(&hub, &certs, "d");
    let (_, code) = tokio::join!(good, made_up(8));
    assert_eq!(code, ServiceUnavailable, "they still get nowhere");
    hub.stop().await;
}

#[tokio::test]
async fn two_devices_with_one_key_do_not_push_each_other_out_for_ever() {
    let (hub, certs) = hub_with(|config| config.limits.identity_connects_per_minute = 3).await;
    hub.register("d");
    let mut calm = another(&hub, &certs).await;
    let mut last = None;
    for _ in 0..3 {
        last = Some(Client::connected(&hub, &certs, "d").await.0);
    }
    for _ in 0..5 {
        let (_, code, _) = Client::try_connect(&hub, &certs, good_connect("d")).await;
        assert_eq!(code, ServiceUnavailable);
    }
    last.expect("three came in").is_quiet().await;
    is_served(&mut calm).await;
    assert!(hub.metrics().await.contains("reason=\"TOO_MANY_CONNECTS\""));
    hub.stop().await;
}

#[tokio::test]
async fn silent_connections_of_one_address_leave_room_for_others() {
    let (hub, certs) = hub_with(|config| {
        config.limits.address_unproven_max = 8;
        config.connections.prove_within = service_kit::units::Duration::secs(600);
    })
    .await;
    hub.register("d");
    let door = hub.addresses.mqtt.expect("the door is open");
    let from = [127, 0, 0, 66];
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(tcp_from(from, door).await);
    }
    // Accepted in the order in which they came, so the next ones are over the limit.
    for _ in 0..20 {
        let mut over = tcp_from(from, door).await;
        let read = tokio::time::timeout(SOON, over.read(&mut [0; 1])).await;
        let read = read.expect("it is closed at once");
        assert!(read.is_err() || read.is_ok_and(|count| count == 0));
    }
    Client::connected(&hub, &certs, "d").await;
    // One that goes makes room.
    held.pop();
    testkit::wait_for("room", SOON, async || {
        let mut next = tcp_from(from, door).await;
        let mut byte = [0; 1];
        let silent = tokio::time::timeout(Duration::from_millis(200), next.read(&mut byte));
        silent.await.is_err().then_some(())
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_device_that_sends_too_fast_is_read_slowly_and_loses_nothing() {
    let (hub, certs) = hub_with(|config| config.limits.device_packets_per_second = 20).await;
    hub.register("d");
    let mut calm = another(&hub, &certs).await;
    let (mut fast, _) = Client::connected(&hub, &certs, "d").await;
    let began = Instant::now();
    for _ in 0..60 {
        fast.send(Packet::PingRequest).await;
    }
    is_served(&mut calm).await;
    for _ in 0..60 {
        assert_eq!(fast.next().await, Some(Packet::PingResponse));
    }
    // Twenty at once, the others at twenty a second.
    assert!(began.elapsed() >= Duration::from_millis(1900));
    hub.stop().await;
}

#[tokio::test]
async fn what_is_over_a_bound_ends_its_own_connection_alone() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let mut calm = another(&hub, &certs).await;
    let huge = "x".repeat(60_000);
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.publish(&huge, QoS::AtLeastOnce, "").await;
    client.is_closed().await;
    is_served(&mut calm).await;
    // Thousands of subscriptions, in one packet and one after the other.
    let method = |number: u32| format!("$iothub/methods/POST/m{number}/#");
    let filter = |number| (method(number).into(), QoS::AtLeastOnce);
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    let topic_filters = (0..5000).map(filter).collect();
    let packet_id = id(1);
    client
        .send(Packet::Subscribe {
            packet_id,
            topic_filters,
        })
        .await;
    client.is_closed().await;
    is_served(&mut calm).await;
    // What was refused is not kept either.
    let (_, present) = Client::connected(&hub, &certs, "d").await;
    assert!(!present);
    assert!(
        hub.metrics()
            .await
            .contains("reason=\"TOO_MANY_SUBSCRIPTIONS\"")
    );
    hub.stop().await;
}

#[tokio::test]
async fn a_device_that_sends_too_many_bytes_is_read_slowly_and_loses_nothing() {
    let (hub, certs) = hub_with(|config| {
        config.limits.device_bytes_per_second = service_kit::units::ByteSize::kib(100);
    })
    .await;
    hub.register("d");
    let mut calm = another(&hub, &certs).await;
    let (mut fast, _) = Client::connected(&hub, &certs, "d").await;
    let began = Instant::now();
    let body = "x".repeat(100 << 10);
    for _ in 0..3 {
        let events = "devices/d/messages/events/";
        fast.publish(events, QoS::AtLeastOnce, &body).await;
    }
    is_served(&mut calm).await;
    for _ in 0..3 {
        let packet_id = id(1);
        assert_eq!(fast.next().await, Some(Packet::PublishAck { packet_id }));
    }
    // One at once, the others at one a second.
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert_eq!(hub.messages().await.len(), 3);
    hub.stop().await;
}

#[tokio::test]
async fn a_bag_of_thousands_of_properties_ends_its_own_connection_alone() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let mut calm = another(&hub, &certs).await;
    for bag in ["a&".repeat(30_000), format!("a={}", "x".repeat(8 << 10))] {
        let (mut client, _) = Client::connected(&hub, &certs, "d").await;
        let topic = format!("devices/d/messages/events/{bag}");
        client.publish(&topic, QoS::AtLeastOnce, "").await;
        client.is_closed().await;
        is_served(&mut calm).await;
    }
    testkit::wait_for("the reason to be counted", SOON, async || {
        let page = hub.metrics().await;
        page.contains("reason=\"MESSAGE_TOO_LARGE\"").then_some(())
    })
    .await;
    assert!(hub.messages().await.is_empty());
    hub.stop().await;
}

#[tokio::test]
async fn a_device_that_does_not_read_costs_no_memory_and_is_told_when_it_reads_again() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let mut calm = another(&hub, &certs).await;
    calm.subscribe(DESIRED).await;
    let (mut stuck, _) = Client::connected(&hub, &certs, "d").await;
    stuck.subscribe(DESIRED).await;
    let reads = || hub.store.state().desired_reads.get("devices/d").copied();
    let large = "x".repeat(28_000);
    let (mut version, mut quiet) = (1, 0);
    while quiet < 20 {
        version += 1;
        assert!(version < 1500, "it is still looked at: 40 MB wait by now");
        let before = reads();
        let document = format!("{{\"v\":{version},\"x\":\"{large}\"}}");
        hub.change_desired("d", version, &document).await;
        // Hints come in order, so the stuck one has its own when the other is told.
        hub.change_desired("another", version, "{}").await;
        let (topic, _) = calm.message().await;
        assert!(topic.ends_with(&format!("$version={version}")), "{topic}");
        quiet = if reads() == before { quiet + 1 } else { 0 };
    }
    is_served(&mut calm).await;
    let last = format!("$version={version}");
    let mut told = 0;
    while !stuck.message().await.0.ends_with(&last) {
        told += 1;
    }
    assert!(told < version - 20, "{told} of {version}");
    hub.stop().await;
}

#[tokio::test]
async fn the_oldest_silent_connection_makes_room_whoever_opened_it() {
    let (hub, certs) = hub_with(|config| {
        config.connections.unproven_max = 8;
        config.connections.prove_within = service_kit::units::Duration::secs(600);
    })
    .await;
    hub.register("d");
    let mut calm = another(&hub, &certs).await;
    let door = hub.addresses.mqtt.expect("the door is open");
    let mut held = Vec::new();
    for turn in 0..40 {
        held.push(tcp_from([127, 0, 0, 100 + turn % 4], door).await);
    }
    // Those that came first were closed, though no time of theirs was over.
    for mut oldest in held.drain(..32) {
        let read = tokio::time::timeout(SOON, oldest.read(&mut [0; 1])).await;
        let read = read.expect("it makes room");
        assert!(read.is_err() || read.is_ok_and(|count| count == 0));
    }
    // The places are all taken, and a device comes in.
    let (mut device, _) = Client::connected(&hub, &certs, "d").await;
    device.is_quiet().await;
    is_served(&mut calm).await;
    assert!(hub.metrics().await.contains("reason=\"MADE_ROOM\""));
    hub.stop().await;
}
