//! What a device has sent when its connection ends: acknowledged is stored, and what was read is done.

use rmqtt_codec::types::QoS;
use rmqtt_codec::v3::Packet;

use crate::hub::{Hub, SOON};
use crate::mqtt_client::{Client, hub, id, publish};

const TWINS: &str = "$iothub/twin/res/#";
const PATCH: &str = "$iothub/twin/PATCH/properties/reported/?$rid=1";
const EVENTS: &str = "devices/d/messages/events/";

fn numbered(topic: &str, qos: QoS, number: u16) -> Packet {
    let mut publish = publish(topic, qos, &format!("{{\"n\":{number}}}"));
    publish.packet_id = (qos == QoS::AtLeastOnce).then(|| id(number));
    Packet::Publish(Box::new(publish))
}

fn ack(number: u16) -> Packet {
    let packet_id = id(number);
    Packet::PublishAck { packet_id }
}

/// The numbers of the patches that are stored, in the order in which they were.
fn stored_patches(hub: &Hub) -> Vec<u16> {
    let state = hub.store.state();
    let numbers = state.patches.iter().map(|patch| {
        let digits: String = patch
            .patch_json
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        digits.parse().expect("a number")
    });
    numbers.collect()
}

async fn are_stored(hub: &Hub, wanted: &[u16]) {
    testkit::wait_for("the patches", SOON, async || {
        (stored_patches(hub).len() >= wanted.len()).then_some(())
    })
    .await;
    assert_eq!(stored_patches(hub), wanted);
}

#[tokio::test]
async fn a_patch_is_acknowledged_when_it_is_stored() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let permits = hub.store.hold_patches();
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.subscribe(TWINS).await;
    client.send(numbered(PATCH, QoS::AtLeastOnce, 1)).await;
    // A message behind it is not acknowledged before it either, as MQTT wants it.
    client.send(numbered(EVENTS, QoS::AtLeastOnce, 2)).await;
    client.is_quiet().await;
    assert!(stored_patches(&hub).is_empty());
    permits.add_permits(1);
    assert_eq!(client.next().await, Some(ack(1)));
    assert_eq!(stored_patches(&hub), [1]);
    let rest = [client.next().await.unwrap(), client.next().await.unwrap()];
    let answered = rest.iter().any(|it| matches!(it, Packet::Publish(_)));
    assert!(answered && rest.contains(&ack(2)), "{rest:?}");
    hub.stop().await;
}

#[tokio::test]
async fn patches_before_a_goodbye_are_stored_and_acknowledged() {
    for qos in [QoS::AtLeastOnce, QoS::AtMostOnce] {
        let (hub, certs) = hub().await;
        hub.register("d");
        let (mut client, _) = Client::connected(&hub, &certs, "d").await;
        let mut packets: Vec<_> = (1..=8).map(|it| numbered(PATCH, qos, it)).collect();
        packets.push(Packet::Disconnect);
        client.send_at_once(packets).await;
        if qos == QoS::AtLeastOnce {
            for number in 1..=8 {
                assert_eq!(client.next().await, Some(ack(number)));
            }
        }
        client.is_closed().await;
        assert_eq!(stored_patches(&hub), [1, 2, 3, 4, 5, 6, 7, 8]);
        hub.stop().await;
    }
}

#[tokio::test]
async fn messages_before_a_goodbye_are_stored_and_acknowledged() {
    for qos in [QoS::AtLeastOnce, QoS::AtMostOnce] {
        let (hub, certs) = hub().await;
        hub.register("d");
        let (mut client, _) = Client::connected(&hub, &certs, "d").await;
        let mut packets: Vec<_> = (1..=100).map(|it| numbered(EVENTS, qos, it)).collect();
        packets.push(Packet::Disconnect);
        client.send_at_once(packets).await;
        if qos == QoS::AtLeastOnce {
            for number in 1..=100 {
                assert_eq!(client.next().await, Some(ack(number)));
            }
        }
        client.is_closed().await;
        let found = hub.messages().await;
        let found: Vec<_> = found
            .iter()
            .map(|it| String::from_utf8_lossy(&it.body))
            .collect();
        let wanted: Vec<_> = (1..=100).map(|it| format!("{{\"n\":{it}}}")).collect();
        assert_eq!(found, wanted);
        hub.stop().await;
    }
}

#[tokio::test]
async fn a_session_that_is_taken_over_stores_what_it_had_read_before_the_next_is_read() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let permits = hub.store.hold_patches();
    let (mut first, _) = Client::connected(&hub, &certs, "d").await;
    for number in 1..=4 {
        first.send(numbered(PATCH, QoS::AtLeastOnce, number)).await;
    }
    first.is_quiet().await;
    let (mut second, _) = Client::connected(&hub, &certs, "d").await;
    second.send(numbered(PATCH, QoS::AtLeastOnce, 5)).await;
    permits.add_permits(5);
    for number in 1..=4 {
        assert_eq!(first.next().await, Some(ack(number)));
    }
    first.is_closed().await;
    assert_eq!(second.next().await, Some(ack(5)));
    assert_eq!(stored_patches(&hub), [1, 2, 3, 4, 5]);
    hub.stop().await;
}

#[tokio::test]
async fn a_service_that_stops_stores_what_it_had_read() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let permits = hub.store.hold_patches();
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    for number in 1..=4 {
        client.send(numbered(PATCH, QoS::AtLeastOnce, number)).await;
    }
    client.is_quiet().await;
    hub.shutdown.trigger();
    permits.add_permits(4);
    for number in 1..=4 {
        assert_eq!(client.next().await, Some(ack(number)));
    }
    client.is_closed().await;
    assert_eq!(stored_patches(&hub), [1, 2, 3, 4]);
    hub.stop().await;
}

#[tokio::test]
async fn what_is_not_stored_is_not_acknowledged() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    hub.store.state().away = true;
    client.send(numbered(PATCH, QoS::AtLeastOnce, 1)).await;
    assert_eq!(client.next().await, None, "closed, so that it sends again");
    testkit::wait_for("the reason to be counted", SOON, async || {
        let page = hub.metrics().await;
        page.contains("reason=\"PATCH_NOT_STORED\"").then_some(())
    })
    .await;

    // Who hears answers knows by the answer.
    hub.store.state().away = false;
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.subscribe(TWINS).await;
    hub.store.state().away = true;
    client.send(numbered(PATCH, QoS::AtLeastOnce, 2)).await;
    assert_eq!(client.next().await, Some(ack(2)));
    let (topic, _) = client.message().await;
    assert_eq!(topic, "$iothub/twin/res/503/?$rid=1");
    hub.store.state().away = false;
    client.send(numbered(PATCH, QoS::AtLeastOnce, 3)).await;
    assert_eq!(client.next().await, Some(ack(3)));
    are_stored(&hub, &[3]).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_refusal_for_good_is_acknowledged_though_nobody_hears_it() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.publish(PATCH, QoS::AtLeastOnce, "[]").await;
    assert_eq!(client.next().await, Some(ack(1)));
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.is_quiet().await;
    hub.stop().await;
}

#[tokio::test]
async fn what_a_device_sent_before_its_connection_broke_is_done() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let permits = hub.store.hold_patches();
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    for number in 1..=4 {
        client.send(numbered(PATCH, QoS::AtMostOnce, number)).await;
    }
    client.is_quiet().await;
    drop(client);
    permits.add_permits(4);
    are_stored(&hub, &[1, 2, 3, 4]).await;
    hub.stop().await;
}
