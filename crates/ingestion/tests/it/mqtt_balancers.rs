//! Devices that share an address with others: those that are let in cost it nothing, and behind a load
//! balancer that says whose each connection is, they share none.

use rmqtt_codec::v3::ConnectAckReason::ConnectionAccepted;
use rustls::version::TLS13;
use testkit::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hub::{Hub, SOON};
use crate::mqtt_client::{Client, good_connect, hub_with, tcp_from};

/// Connections that come to nothing which an address may begin in a minute.
const CONNECTS: u32 = 3;

/// Where the balancer of these tests has its address.
const BALANCER: [u8; 4] = [127, 0, 0, 7];

/// A connection that says nothing yet.
async fn silent(hub: &Hub, from: [u8; 4]) -> TcpStream {
    let address = hub.addresses.mqtt.expect("the door is open");
    tcp_from(from, address).await
}

/// The same by the balancer, for whoever comes from `whose`.
async fn passed_on(hub: &Hub, whose: [u8; 4]) -> TcpStream {
    passed_on_by(hub, BALANCER, whose).await
}

async fn passed_on_by(hub: &Hub, balancer: [u8; 4], whose: [u8; 4]) -> TcpStream {
    let mut tcp = silent(hub, balancer).await;
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(whose);
    header.extend([10, 0, 0, 1, 0x30, 0x39, 0x22, 0xb3]);
    tcp.write_all(&header).await.expect("it is written");
    tcp
}

/// Asserts that the service closes a connection.
async fn is_closed(mut tcp: TcpStream) {
    let mut bytes = [0; 16];
    let closing = tokio::time::timeout(SOON, tcp.read(&mut bytes));
    let read = closing.await.expect("it is closed in time");
    // Reset is closed, too.
    assert_eq!(read.unwrap_or(0), 0);
}

async fn not_accepted(hub: &Hub) -> Option<u64> {
    let page = hub.metrics().await;
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        name.contains("mqtt_not_accepted")
            .then_some(value)?
            .parse()
            .ok()
    };
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(line)
}

#[tokio::test]
async fn an_address_may_connect_as_often_as_it_likes_if_it_is_let_in() {
    let (hub, certs) = hub_with(|config| {
        config.limits.address_connects_per_minute = CONNECTS;
    })
    .await;
    hub.register("d");
    for _ in 0..4 * CONNECTS {
        Client::connected(&hub, &certs, "d").await;
    }
    let mut waiting = Vec::new();
    for _ in 0..CONNECTS {
        waiting.push(silent(&hub, [127, 0, 0, 1]).await);
    }
    is_closed(silent(&hub, [127, 0, 0, 1]).await).await;
    let mut other = Client::dial_from([127, 0, 0, 9], &hub, &certs, &TLS13, None).await;
    let (code, _) = other.call(good_connect("d")).await;
    assert_eq!(code, ConnectionAccepted, "others have theirs");
    hub.stop().await;
}

#[tokio::test]
async fn behind_a_balancer_each_device_has_its_own_address() {
    let (hub, certs) = hub_with(|config| {
        config.limits.address_connects_per_minute = CONNECTS;
        let balancers = "127.0.0.7/32".to_owned().try_into();
        config.mqtt_proxy_protocol_from = balancers.expect("a network");
    })
    .await;
    hub.register("d");
    // Which of them are too many depends on whose header is read first.
    let mut waiting = Vec::new();
    for _ in 0..2 * CONNECTS {
        waiting.push(passed_on(&hub, [203, 0, 113, 1]).await);
    }
    wait_for("half of them to be closed", SOON, async || {
        (not_accepted(&hub).await? == u64::from(CONNECTS)).then_some(())
    })
    .await;
    for _ in 0..2 * CONNECTS {
        let tcp = passed_on(&hub, [203, 0, 113, 2]).await;
        let mut client = Client::shake_hands(tcp, &certs, &TLS13, None).await;
        let (code, _) = client.call(good_connect("d")).await;
        assert_eq!(code, ConnectionAccepted);
    }
    // Who does not say whose a connection is has it closed, and it is counted.
    let before = not_accepted(&hub).await.expect("it is counted");
    let mut bare = silent(&hub, BALANCER).await;
    bare.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00")
        .await
        .expect("it is written");
    is_closed(bare).await;
    wait_for("it to be counted", SOON, async || {
        let now = not_accepted(&hub).await?;
        (now > before).then_some(())
    })
    .await;
    // From elsewhere nobody says so, and what says so is no TLS.
    Client::connected(&hub, &certs, "d").await;
    let mut liar = silent(&hub, [127, 0, 0, 9]).await;
    liar.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x02\x0a\0\0\x01\x30\x39\x22\xb3")
        .await
        .expect("it is written");
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(SOON, liar.read_to_end(&mut answer));
    // An alert of TLS, if anything.
    let _ = reading.await.expect("it is closed in time");
    assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_balancer_that_hangs_leaves_another_its_devices() {
    let (hub, certs) = hub_with(|config| {
        let balancers = "127.0.0.7, 127.0.0.8".to_owned().try_into();
        config.mqtt_proxy_protocol_from = balancers.expect("addresses");
        // What hangs is not closed meanwhile.
        config.connections.prove_within = service_kit::units::Duration::secs(600);
    })
    .await;
    hub.register("d");
    let mut hanging = Vec::new();
    for _ in 0..2200 {
        hanging.push(silent(&hub, BALANCER).await);
    }
    let tcp = passed_on_by(&hub, [127, 0, 0, 8], [203, 0, 113, 1]).await;
    let mut client = Client::shake_hands(tcp, &certs, &TLS13, None).await;
    let (code, _) = client.call(good_connect("d")).await;
    assert_eq!(code, ConnectionAccepted);
    let closed = not_accepted(&hub).await.expect("it is counted");
    assert!(
        (100..=152).contains(&closed),
        "of one balancer half of all may hang: {closed} were too many"
    );
    hub.stop().await;
}
