//! The devices' door: what IoT Hub's SDKs see of it, and what they hide.

use iot_hub::Thumbprints;
use jiff::SignedDuration;
use rmqtt_codec::types::QoS;
use rmqtt_codec::v3::{Connect, ConnectAckReason, LastWill, Packet};
use service_kit::units::Duration;
use wire::bus::v1 as bus_wire;
use wire::names::identity_name;
use wire::registry::v1 as registry;

use crate::hub::{Hub, SOON, identity, key_of, token};
use crate::mqtt_client::{Client, DeviceCert, connect, good_connect, hub, id, publish};

const TWINS: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";
const EVENTS: &str = "devices/d/messages/events/";

fn property(name: &str, value: &str) -> bus_wire::MessageProperty {
    bus_wire::MessageProperty {
        name: name.to_owned(),
        value: Some(value.to_owned()),
    }
}

#[tokio::test]
async fn telemetry_is_acknowledged_when_it_is_durable() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let (mut client, present) = Client::connected(&hub, &certs, "d").await;
    assert!(!present);
    let topic =
        format!("{EVENTS}%24.mid=7&$.cdid=other&iothub-connection-module-id=x&colour=r%C3%B6d");
    let mut message = publish(&topic, QoS::AtLeastOnce, "{\"t\":1}");
    message.retain = true;
    client.send(Packet::Publish(Box::new(message))).await;
    let ack = Packet::PublishAck { packet_id: id(1) };
    assert_eq!(client.next().await, Some(ack));
    let found = hub.messages().await;
    let [message] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!((&*message.device_id, &*message.module_id), ("d", ""));
    assert_eq!(message.generation_id, "generation-1");
    assert_eq!(message.body, b"{\"t\":1}");
    assert_eq!(message.system_properties, [property("message-id", "7")]);
    let wanted = [property("colour", "röd"), property("mqtt-retain", "true")];
    assert_eq!(message.properties, wanted);
    // A second without an acknowledgement.
    client.publish(EVENTS, QoS::AtMostOnce, "2").await;
    client.is_quiet().await;
    testkit::wait_for("the second message", SOON, async || {
        (hub.messages().await.len() == 2).then_some(())
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_self_signed_certificate_opens_the_door_with_either_tls() {
    let (hub, certs) = hub().await;
    hub.register("d/m");
    let (cert, other) = (DeviceCert::new(), DeviceCert::new());
    let name = identity_name(&identity("d/m"));
    {
        let mut state = hub.store.state();
        let known = state.identities.get_mut(&name).unwrap();
        known.keys = None;
        known.thumbprints = Some(registry::Thumbprints {
            primary: Thumbprints::of(b"another").sha256().to_owned(),
            secondary: Thumbprints::of(&cert.der).sha256().to_lowercase(),
        });
    }
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = Client::dial(&hub, &certs, version, Some(&cert)).await;
        let (code, _) = client.call(connect("d/m", None)).await;
        assert_eq!(code, ConnectAckReason::ConnectionAccepted);
        client.is_quiet().await;
        let mut stranger = Client::dial(&hub, &certs, version, Some(&other)).await;
        let (code, _) = stranger.call(connect("d/m", None)).await;
        assert_eq!(code, ConnectAckReason::NotAuthorized);
        stranger.is_closed().await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn every_refusal_has_its_code() {
    use ConnectAckReason::{
        BadUserNameOrPassword, IdentifierRejected, NotAuthorized, ServiceUnavailable,
        UnacceptableProtocolVersion,
    };
    let (hub, certs) = hub().await;
    for path in ["d", "other", "off"] {
        hub.register(path);
    }
    hub.change_identity("off", |known| {
        let status = registry::Status::Disabled.into();
        known.map(|known| registry::Credentials { status, ..known })
    })
    .await;
    let hour = SignedDuration::from_hours(1);
    let signed = |path: &str, key: &str, good_for| Some(token(path, &key_of(key), good_for));
    let named = |name: &str| Connect {
        username: Some(name.to_owned().into()),
        ..good_connect("d")
    };
    for (what, connect, wanted) in [
        (
            "wrong key",
            connect("d", signed("d", "other", hour)),
            NotAuthorized,
        ),
        (
            "old token",
            connect("d", signed("d", "d", -hour)),
            NotAuthorized,
        ),
        (
            "another's token",
            connect("d", signed("other", "other", hour)),
            NotAuthorized,
        ),
        ("unknown", good_connect("nobody"), NotAuthorized),
        ("disabled", good_connect("off"), NotAuthorized),
        ("another hub", named("else.example/d/?x=1"), NotAuthorized),
        (
            "no token",
            connect("d", Some("x".to_owned())),
            NotAuthorized,
        ),
        ("nothing", connect("d", None), BadUserNameOrPassword),
        (
            "another's name",
            named("hub.example/e/?x=1"),
            BadUserNameOrPassword,
        ),
        (
            "no name",
            Connect {
                username: None,
                ..good_connect("d")
            },
            BadUserNameOrPassword,
        ),
        ("no id", connect("a b", None), IdentifierRejected),
    ] {
        let (mut client, code, present) = Client::try_connect(&hub, &certs, connect).await;
        assert_eq!((code, present), (wanted, false), "{what}");
        client.is_closed().await;
    }
    for (what, bytes) in [
        (
            "MQTT 3.1",
            &b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01d"[..],
        ),
        (
            "MQTT 5",
            &b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01d"[..],
        ),
    ] {
        let mut client = Client::dial(&hub, &certs, &rustls::version::TLS13, None).await;
        let (code, _) = client.call_with(bytes).await;
        assert_eq!(code, UnacceptableProtocolVersion, "{what}");
        client.is_closed().await;
    }
    hub.store.state().away = true;
    let (_, code, _) = Client::try_connect(&hub, &certs, good_connect("new")).await;
    assert_eq!(code, ServiceUnavailable);
    hub.stop().await;
}

#[tokio::test]
async fn a_twin_is_read_and_reported_to() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    let get = "$iothub/twin/GET/?$rid=r%201";
    client.publish(get, QoS::AtMostOnce, " ").await;
    client.is_quiet().await;
    client.subscribe(TWINS).await;
    client.publish(get, QoS::AtMostOnce, " ").await;
    let (topic, body) = client.message().await;
    assert_eq!(topic, "$iothub/twin/res/200/?$rid=r%201");
    let wanted = r#"{"desired":{"$version":1},"reported":{"$version":1}}"#;
    assert_eq!(body, wanted);

    let patch = "$iothub/twin/PATCH/properties/reported/?$rid=2&$version=1";
    client.publish(patch, QoS::AtLeastOnce, "{\"a\":1}").await;
    let ack = Packet::PublishAck { packet_id: id(1) };
    assert_eq!(client.next().await, Some(ack));
    let (topic, body) = client.message().await;
    assert_eq!(topic, "$iothub/twin/res/204/?$rid=2&$version=2");
    assert_eq!(body, "");
    {
        let state = hub.store.state();
        let patch = state.patches.last().unwrap();
        assert_eq!(patch.name, "devices/d");
        assert_eq!(
            (&*patch.patch_json, patch.expected_version),
            ("{\"a\":1}", 1)
        );
    }
    client.publish(patch, QoS::AtMostOnce, "[]").await;
    let (topic, body) = client.message().await;
    assert_eq!(topic, "$iothub/twin/res/400/?$rid=2");
    assert!(body.contains("\"errorCode\":400004"), "{body}");
    hub.stop().await;
}

#[tokio::test]
async fn subscriptions_outlive_the_connection_and_the_service() {
    let (mut hub, certs) = hub().await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.subscribe(DESIRED).await;
    hub.change_desired("d", 2, "{\"a\":1}").await;
    let told = |version: u64, body: &str| {
        (
            format!("$iothub/twin/PATCH/properties/desired/?$version={version}"),
            body.to_owned(),
        )
    };
    assert_eq!(client.message().await, told(2, r#"{"a":1,"$version":2}"#));
    client.send(Packet::Disconnect).await;
    client.is_closed().await;

    // What happens meanwhile is not told later.
    hub.change_desired("d", 3, "{\"a\":2}").await;
    hub.restart().await;
    let (mut client, present) = Client::connected(&hub, &certs, "d").await;
    assert!(present);
    client.is_quiet().await;
    hub.change_desired("d", 4, "{}").await;
    assert_eq!(client.message().await, told(4, r#"{"$version":4}"#));

    // A clean session forgets, and is forgotten itself.
    let clean = Connect {
        clean_session: true,
        ..good_connect("d")
    };
    let (mut client, _, present) = Client::try_connect(&hub, &certs, clean).await;
    assert!(!present);
    client.subscribe(TWINS).await;
    let (mut client, present) = Client::connected(&hub, &certs, "d").await;
    assert!(!present);
    hub.change_desired("d", 5, "{}").await;
    client.is_quiet().await;
    hub.stop().await;
}

#[tokio::test]
async fn an_identity_has_one_session_whichever_door_it_takes() {
    let (hub, certs) = hub().await;
    hub.register("d/m");
    let (mut first, _) = Client::connected(&hub, &certs, "d/m").await;
    let (mut second, _) = Client::connected(&hub, &certs, "d/m").await;
    first.is_closed().await;
    second.is_quiet().await;
    let agent = hub.agent("d/m").await;
    second.is_closed().await;
    let (mut third, _) = Client::connected(&hub, &certs, "d/m").await;
    drop(agent);
    third.is_quiet().await;
    hub.stop().await;
}

#[tokio::test]
async fn what_is_not_iot_hubs_closes_the_connection() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let subscribe = |filter: &str| Packet::Subscribe {
        packet_id: id(1),
        topic_filters: vec![(filter.to_owned().into(), QoS::AtMostOnce)],
    };
    let publish = |topic, qos| Packet::Publish(Box::new(publish(topic, qos, "")));
    for packet in [
        publish("a/b", QoS::AtMostOnce),
        publish("devices/e/messages/events/", QoS::AtLeastOnce),
        publish(EVENTS, QoS::ExactlyOnce),
        subscribe("devices/e/messages/devicebound/#"),
        subscribe("#"),
        Packet::Connect(Box::new(good_connect("d"))),
        Packet::PingResponse,
    ] {
        let (mut client, _) = Client::connected(&hub, &certs, "d").await;
        client.send(packet).await;
        client.is_closed().await;
    }
    let (mut silent, code, _) = Client::try_connect(
        &hub,
        &certs,
        Connect {
            keep_alive: 1,
            ..good_connect("d")
        },
    )
    .await;
    assert_eq!(code, ConnectAckReason::ConnectionAccepted);
    silent.is_closed().await;
    hub.stop().await;
}

#[tokio::test]
async fn a_proof_that_ends_ends_the_connection() {
    let (hub, certs) = hub().await;
    for path in ["d", "e"] {
        hub.register(path);
    }
    let skew = iot_hub::sas::CLOCK_SKEW;
    let short = token("d", &key_of("d"), SignedDuration::from_secs(2) - skew);
    let expires = connect("d", Some(short));
    let (mut client, code, _) = Client::try_connect(&hub, &certs, expires).await;
    assert_eq!(code, ConnectAckReason::ConnectionAccepted);
    client.is_closed().await;

    let (mut client, _) = Client::connected(&hub, &certs, "e").await;
    hub.change_identity("e", |_| None).await;
    client.is_closed().await;
    hub.stop().await;
}

#[tokio::test]
async fn a_will_is_published_unless_the_device_says_goodbye() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let with_will = |body: &str, topic: &str| Connect {
        last_will: Some(LastWill {
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: topic.to_owned().into(),
            message: body.to_owned().into(),
        }),
        ..good_connect("d")
    };
    let calm = with_will("calm", EVENTS);
    let (mut client, _, _) = Client::try_connect(&hub, &certs, calm).await;
    client.send(Packet::Disconnect).await;
    client.is_closed().await;
    let lost = with_will("lost", EVENTS);
    let (client, _, _) = Client::try_connect(&hub, &certs, lost).await;
    drop(client);
    testkit::wait_for("the will", SOON, async || {
        (!hub.messages().await.is_empty()).then_some(())
    })
    .await;
    let found = hub.messages().await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].body, b"lost");
    let wanted = [property("iothub-MessageType", "Will")];
    assert_eq!(found[0].properties, wanted);

    let mut client = Client::dial(&hub, &certs, &rustls::version::TLS13, None).await;
    let elsewhere = with_will("x", "a/b");
    let (code, _) = client.call(elsewhere).await;
    assert_eq!(code, ConnectAckReason::NotAuthorized);
    client.is_closed().await;

    // Whose right was taken from it says nothing any more.
    let disabled = with_will("disabled", EVENTS);
    let (mut client, _, _) = Client::try_connect(&hub, &certs, disabled).await;
    hub.change_identity("d", |_| None).await;
    client.is_closed().await;
    testkit::wait_for("the end of the session", SOON, async || {
        let page = hub.metrics().await;
        page.contains("mqtt_connections 0").then_some(())
    })
    .await;
    assert_eq!(hub.messages().await.len(), 1);
    hub.stop().await;
}

#[tokio::test]
async fn the_twin_is_told_of_connections() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let (client, _) = Client::connected(&hub, &certs, "d").await;
    drop(client);
    let notices = async || {
        let entries = hub.telemetry().await;
        let notices = entries.into_iter().filter_map(|entry| match entry.content {
            Some(bus_wire::telemetry_entry::Content::Session(notice)) => Some(notice),
            _ => None,
        });
        notices.collect::<Vec<_>>()
    };
    let found = testkit::wait_for("both notices", SOON, async || {
        Some(notices().await).filter(|found| found.len() == 2)
    })
    .await;
    assert!(found[0].connected && !found[1].connected);
    assert_eq!(found[0].session_id, found[1].session_id);
    hub.stop().await;
}

#[tokio::test]
async fn whoever_says_nothing_is_closed() {
    let certs = testkit::TestCerts::new();
    let hub = Hub::start_with(|config| {
        config.mqtt_listen = Some("127.0.0.1:0".parse().unwrap());
        config.mqtt_cert_file = Some(certs.server_certificate());
        config.mqtt_key_file = Some(certs.server_key());
        config.connections.prove_within = Duration::secs(1);
    })
    .await;
    let mut silent = Client::dial(&hub, &certs, &rustls::version::TLS13, None).await;
    silent.is_closed().await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.is_quiet().await;
    hub.stop().await;
}
