//! Security messages by MQTT: events for postures in `TELEMETRY`, the rest in `REJECTS`.

use bus::{PullOptions, Reject, Sequence};
use rmqtt_codec::types::QoS;
use rmqtt_codec::v3::Packet;
use wire::agent::v1::security_event::Payload;
use wire::bus::v1 as bus_wire;
use wire::bus::v1::telemetry_entry::Content;

use crate::hub::{Hub, SOON};
use crate::mqtt_client::{Client, hub, id};

const SECURITY: &str = "devices/d/modules/m/messages/events/\
    %24.mid=7&%24.ifid=urn%3aazureiot%3aSecurity%3aSecurityAgent%3a1";

/// A documented message with these events.
fn message(events: &str) -> String {
    format!(
        r#"{{"AgentVersion":"0.0.6","AgentId":"0f8fad5b-d9cb-469f-a165-70867728950e",
        "MessageSchemaVersion":"1.0","Events":[{events}]}}"#
    )
}

fn event(name: &str, payload: &str) -> String {
    format!(
        r#"{{"Id":"7c9e6679-7425-40de-944b-e07fc1f90ae7","TimestampLocal":"2024-05-01T12:00:00Z",
        "TimestampUTC":"2024-05-01T10:00:00Z","Category":"Periodic","Name":"{name}",
        "EventType":"Security","IsEmpty":false,"PayloadSchemaVersion":"1.0","Payload":[{payload}]}}"#
    )
}

async fn stored(hub: &Hub) -> Vec<bus_wire::SecurityMessage> {
    let entries = hub.telemetry().await.into_iter();
    let message = |entry: bus_wire::TelemetryEntry| match entry.content {
        Some(Content::SecurityMessage(message)) => {
            let ids = (&*entry.device_id, &*entry.module_id, &*entry.generation_id);
            assert_eq!(ids, ("d", "m", "generation-1"));
            assert!(entry.receive_time.is_some());
            Some(message)
        }
        _ => None,
    };
    entries.filter_map(message).collect()
}

#[tokio::test]
async fn a_security_message_is_acknowledged_when_its_events_are_durable() {
    let (hub, certs) = hub().await;
    hub.register("d/m");
    let (mut client, _) = Client::connected(&hub, &certs, "d/m").await;
    let port = r#"{"Protocol":"tcp","LocalAddress":"0.0.0.0","LocalPort":"22"}"#;
    let events = [
        event("ListeningPorts", port),
        event("OSBaseline", r#"{"CceId":"1"}"#),
    ];
    let body = message(&events.join(","));
    // Sent twice, as after a lost acknowledgement.
    for _ in 0..2 {
        client.publish(SECURITY, QoS::AtLeastOnce, &body).await;
        let ack = Packet::PublishAck { packet_id: id(1) };
        assert_eq!(client.next().await, Some(ack));
    }
    client.publish(SECURITY, QoS::AtLeastOnce, "no JSON").await;
    let ack = Packet::PublishAck { packet_id: id(1) };
    assert_eq!(client.next().await, Some(ack));

    let found = stored(&hub).await;
    let [first, again, nothing] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(first, again, "twin-store knows it again by its key");
    assert_ne!(first.key, nothing.key);
    assert_eq!((first.events.len(), first.rejected), (1, 1));
    assert_eq!((nothing.events.len(), nothing.rejected), (0, 1));
    let Some(Payload::ListeningPorts(ports)) = &first.events[0].payload else {
        panic!("{first:?}");
    };
    assert_eq!(ports.ports[0].port, 22);

    let mut pull = hub
        .bus
        .pull("REJECTS", Sequence::ZERO, PullOptions::default());
    let mut rejects = Vec::new();
    while rejects.len() < 2 {
        rejects.extend(pull.next_batch(10, SOON).await.unwrap());
    }
    let codes: Vec<_> = rejects
        .iter()
        .map(|it| it.headers.get(Reject::CODE).unwrap())
        .collect();
    assert_eq!(codes, ["UNKNOWN_KIND", "INVALID_MESSAGE"], "kept once");
    assert_eq!(&rejects[1].payload[..], b"no JSON");
    let application = wire::subjects::APPLICATION_STREAM;
    let last = hub.bus.last_sequence(application).await.unwrap();
    assert_eq!(last, Sequence::ZERO, "nothing for applications");
    hub.stop().await;
}
