//! Messages from the cloud: out of the queue, to the device, and away when they are acknowledged.

use std::time::Duration;

use bus::{Outgoing, PublishError, Sequence, StreamSpec};
use iot_hub::message::{DELIVERIES_MAX, QUEUE_MAX, TIME_TO_LIVE_MAX};
use jiff::Timestamp;
use prost::Message as _;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Packet, SubscribeReturnCode};
use testkit::wait_for;
use wire::bus::v1::{DeviceBoundMessage, DeviceBoundProperty};
use wire::subjects::{self, DEVICE_MESSAGES_STREAM};

use crate::hub::{Hub, SOON, identity};
use crate::mqtt_client::{Client, good_connect, hub, id};

const FILTER: &str = "devices/d/messages/devicebound/#";
/// Of a device that was registered once.
const GENERATION: &str = "generation-1";

/// As twin-store makes it.
async fn make_queues(hub: &Hub) {
    let spec = StreamSpec::queues(
        DEVICE_MESSAGES_STREAM,
        subjects::DEVICE_MESSAGES_SUBJECTS,
        8 << 20,
        QUEUE_MAX,
        TIME_TO_LIVE_MAX,
        "a test's",
    );
    hub.bus.ensure_streams(&[spec]).await.expect("made");
}

fn message(text: &str) -> DeviceBoundMessage {
    let now = Timestamp::now();
    DeviceBoundMessage {
        message_id: text.to_owned(),
        payload: text.into(),
        enqueued_time: Some(wire::time::to_wire(now)),
        expire_time: Some(wire::time::to_wire(now + Duration::from_mins(10))),
        ..DeviceBoundMessage::default()
    }
}

async fn put(hub: &Hub, generation: &str, message: &DeviceBoundMessage) -> Sequence {
    let subject = subjects::device_messages_subject(&identity("d"), generation);
    let outgoing = Outgoing::new(subject, message.encode_to_vec());
    let published = hub.bus.publish(outgoing).await.expect("stored");
    let hint = subjects::message_subject(&identity("d"));
    hub.bus.send_hint(Outgoing::new(hint, "")).await.unwrap();
    published.sequence
}

async fn send(hub: &Hub, text: &str) {
    put(hub, GENERATION, &message(text)).await;
}

async fn waiting(hub: &Hub) -> u64 {
    let status = hub.bus.stream_status(DEVICE_MESSAGES_STREAM).await;
    status.expect("there").messages
}

async fn wait_until_waiting(hub: &Hub, count: u64) {
    wait_for("the queue", SOON, async || {
        (waiting(hub).await == count).then_some(())
    })
    .await;
}

async fn subscribe(client: &mut Client, qos: QoS) {
    client
        .send(Packet::Subscribe {
            packet_id: id(9),
            topic_filters: vec![(FILTER.into(), qos)],
        })
        .await;
    let status = vec![SubscribeReturnCode::Success(qos)];
    let acknowledged = client.next().await;
    let packet_id = id(9);
    assert_eq!(
        acknowledged,
        Some(Packet::SubscribeAck { packet_id, status })
    );
}

async fn received(client: &mut Client) -> Publish {
    match client.next().await {
        Some(Packet::Publish(publish)) => *publish,
        other => panic!("no message: {other:?}"),
    }
}

async fn receive(client: &mut Client, text: &str) -> Publish {
    let publish = received(client).await;
    assert_eq!(publish.payload, text.as_bytes());
    publish
}

async fn acknowledge(client: &mut Client, publish: &Publish) {
    let packet_id = publish.packet_id.expect("an id");
    client.send(Packet::PublishAck { packet_id }).await;
}

#[tokio::test]
async fn a_message_waits_arrives_as_it_was_sent_and_is_gone_when_acknowledged() {
    let (hub, certs) = hub().await;
    make_queues(&hub).await;
    hub.register("d");
    let first = DeviceBoundMessage {
        correlation_id: "c-1".to_owned(),
        user_id: "u".to_owned(),
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        properties: vec![DeviceBoundProperty {
            name: "level of".to_owned(),
            value: "a/b&c".to_owned(),
        }],
        payload: b"\0\xff".to_vec(),
        ..message("m-1")
    };
    let expiry = wire::time::required("expire_time", first.expire_time).unwrap();
    put(&hub, GENERATION, &first).await;
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.is_quiet().await;
    subscribe(&mut client, QoS::AtLeastOnce).await;
    let publish = received(&mut client).await;
    let expiry = format!("{expiry:.3}").replace(':', "%3A");
    let topic = format!(
        "devices/d/messages/devicebound/%24.mid=m-1&%24.cid=c-1&%24.uid=u&%24.exp={expiry}\
         &%24.ct=application%2Fjson&%24.ce=utf-8\
         &%24.to=%2Fdevices%2Fd%2Fmessages%2FdeviceBound&iothub-ack=none&level%20of=a%2Fb%26c"
    );
    assert_eq!(publish.topic.to_string(), topic);
    assert_eq!(&publish.payload[..], b"\0\xff");
    assert_eq!((publish.qos, publish.dup), (QoS::AtLeastOnce, false));
    assert_eq!(waiting(&hub).await, 1, "it is not acknowledged");
    acknowledge(&mut client, &publish).await;
    wait_until_waiting(&hub, 0).await;
    // Now that it is there, more come at once, in order, before the first is acknowledged.
    for text in ["2", "3", "4"] {
        send(&hub, text).await;
    }
    let mut publishes = Vec::new();
    for text in ["2", "3", "4"] {
        publishes.push(receive(&mut client, text).await);
    }
    // One that acknowledges and leaves at once has acknowledged.
    for publish in &publishes {
        acknowledge(&mut client, publish).await;
    }
    client.send(Packet::Disconnect).await;
    wait_until_waiting(&hub, 0).await;
    hub.stop().await;
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_again_in_order_also_after_a_restart() {
    let (mut hub, certs) = hub().await;
    make_queues(&hub).await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    subscribe(&mut client, QoS::AtLeastOnce).await;
    for text in ["1", "2", "3"] {
        send(&hub, text).await;
    }
    let mut second = None;
    for text in ["1", "2", "3"] {
        let publish = receive(&mut client, text).await;
        assert!(!publish.dup);
        second = Some(publish).filter(|_| text == "2").or(second);
    }
    acknowledge(&mut client, &second.expect("there")).await;
    wait_until_waiting(&hub, 2).await;
    drop(client);
    // The subscription is kept, and so is the queue.
    hub.restart().await;
    let (mut client, present) = Client::connected(&hub, &certs, "d").await;
    assert!(present);
    for text in ["1", "3"] {
        let publish = receive(&mut client, text).await;
        acknowledge(&mut client, &publish).await;
    }
    wait_until_waiting(&hub, 0).await;
    client.is_quiet().await;
    hub.stop().await;
}

#[tokio::test]
async fn a_device_that_never_acknowledges_gets_a_message_so_many_times() {
    let (hub, certs) = hub().await;
    make_queues(&hub).await;
    hub.register("d");
    send(&hub, "1").await;
    let deliveries = subjects::mqtt_deliveries_subject(&identity("d"));
    for round in 1..=DELIVERIES_MAX {
        let (mut client, _) = Client::connected(&hub, &certs, "d").await;
        if round == 1 {
            subscribe(&mut client, QoS::AtLeastOnce).await;
        }
        let publish = receive(&mut client, "1").await;
        assert_eq!(publish.dup, round > 1, "{round}");
        client.send(Packet::Disconnect).await;
        wait_for("the count", SOON, async || {
            let stream = subjects::MQTT_SESSIONS_STREAM;
            let kept = hub.bus.newest(stream, &deliveries).await.unwrap()?;
            let kept = wire::bus::v1::MessageDeliveries::decode(kept).unwrap();
            kept.counts.values().any(|it| *it == round).then_some(())
        })
        .await;
    }
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    send(&hub, "2").await;
    let publish = receive(&mut client, "2").await;
    assert!(!publish.dup);
    acknowledge(&mut client, &publish).await;
    wait_until_waiting(&hub, 0).await;
    let metrics = hub.metrics().await;
    let line = "device_messages_total{reason=\"IN_VAIN\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    hub.stop().await;
}

#[tokio::test]
async fn what_ended_or_is_meant_for_another_generation_is_not_delivered() {
    let (hub, certs) = hub().await;
    make_queues(&hub).await;
    hub.register("d");
    let ended = DeviceBoundMessage {
        expire_time: Some(wire::time::to_wire(Timestamp::now())),
        ..message("ended")
    };
    put(&hub, GENERATION, &ended).await;
    put(&hub, "0", &message("of an older device")).await;
    let broken = subjects::device_messages_subject(&identity("d"), GENERATION);
    let broken = Outgoing::new(broken, &b"\xff"[..]);
    hub.bus.publish(broken).await.expect("stored");
    send(&hub, "good").await;
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    subscribe(&mut client, QoS::AtMostOnce).await;
    let publish = receive(&mut client, "good").await;
    assert_eq!((publish.qos, publish.packet_id), (QoS::AtMostOnce, None));
    // At quality of service 0 what has gone out is done with.
    wait_until_waiting(&hub, 1).await;
    client.is_quiet().await;
    hub.stop().await;
}

#[tokio::test]
async fn a_clean_session_finds_the_queue_but_must_subscribe() {
    let (hub, certs) = hub().await;
    make_queues(&hub).await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    subscribe(&mut client, QoS::AtLeastOnce).await;
    send(&hub, "1").await;
    receive(&mut client, "1").await;
    drop(client);
    let mut clean = good_connect("d");
    clean.clean_session = true;
    let (mut client, _, _) = Client::try_connect(&hub, &certs, clean).await;
    client.is_quiet().await;
    subscribe(&mut client, QoS::AtLeastOnce).await;
    let publish = receive(&mut client, "1").await;
    acknowledge(&mut client, &publish).await;
    wait_until_waiting(&hub, 0).await;
    hub.stop().await;
}

#[tokio::test]
async fn many_messages_go_out_a_few_at_a_time_and_a_full_queue_takes_no_more() {
    let (hub, certs) = hub().await;
    make_queues(&hub).await;
    hub.register("d");
    for number in 0..QUEUE_MAX {
        send(&hub, &number.to_string()).await;
    }
    let subject = subjects::device_messages_subject(&identity("d"), GENERATION);
    let more = Outgoing::new(subject, message("more").encode_to_vec());
    let refused = hub.bus.publish(more).await.expect_err("it is full");
    assert!(
        matches!(refused, PublishError::QueueFull { .. }),
        "{refused:?}"
    );
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    subscribe(&mut client, QoS::AtLeastOnce).await;
    let mut open = Vec::new();
    for number in 0..8 {
        open.push(receive(&mut client, &number.to_string()).await);
    }
    client.is_quiet().await;
    for number in 8..QUEUE_MAX {
        let oldest = open.remove(0);
        acknowledge(&mut client, &oldest).await;
        open.push(receive(&mut client, &number.to_string()).await);
    }
    for publish in &open {
        acknowledge(&mut client, publish).await;
    }
    wait_until_waiting(&hub, 0).await;
    hub.stop().await;
}
