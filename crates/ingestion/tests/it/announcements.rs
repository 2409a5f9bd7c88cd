//! What a session says of itself when it begins, and again when somebody has not heard it: to the twin,
//! and to other instances, one of which may hold an older session of the same identity.

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use rmqtt_codec::types::QoS;
use rmqtt_codec::v3::ConnectAckReason::ConnectionAccepted;
use wire::bus::v1 as bus_wire;
use wire::bus::v1::telemetry_entry::Content;
use wire::subjects;

use crate::hub::{HOST, Hub, SOON, good_token, identity};
use crate::mqtt_client::{Client, good_connect, hub};

/// The beginnings that twins were told of, oldest first.
async fn begun(hub: &Hub, count: usize) -> Vec<bus_wire::SessionNotice> {
    testkit::wait_for("beginnings", SOON, async || {
        let entries = hub.telemetry().await.into_iter();
        let begun = entries.filter_map(|entry| match entry.content {
            Some(Content::Session(notice)) if notice.connected => Some(notice),
            Some(Content::Session(_) | Content::Batch(_) | Content::SecurityMessage(_)) | None => {
                None
            }
        });
        let begun: Vec<_> = begun.collect();
        (begun.len() >= count).then_some(begun)
    })
    .await
}

#[tokio::test]
async fn the_model_that_a_device_announces_is_told_and_nothing_that_is_none() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let long = format!("dtmi:com:{};1", "x".repeat(5000));
    let cases = [
        (
            "&model-id=dtmi%3Acom%3Aexample%3ACamera%3B1",
            "dtmi:com:example:Camera;1",
        ),
        (
            "&model-id=dtmi:com:example:Camera;2",
            "dtmi:com:example:Camera;2",
        ),
        (
            "&DeviceClientType=py%2F3&model-id=dtmi:com:x;1",
            "dtmi:com:x;1",
        ),
        ("", ""),
        ("&model-id=", ""),
        ("&model-id=mine", ""),
        ("&model-id=dtmi:com:x;x", ""),
        ("&model-id=%zz", ""),
        (&format!("&model-id={long}"), ""),
    ];
    for (announced, _) in &cases {
        let name = format!("{HOST}/d/?api-version=2021-04-12{announced}");
        let mut connect = good_connect("d");
        connect.username = Some(name.into());
        let (mut client, code, _) = Client::try_connect(&hub, &certs, connect).await;
        assert_eq!(code, ConnectionAccepted, "{announced}");
        client.is_quiet().await;
    }
    let begun = begun(&hub, cases.len()).await;
    let told: Vec<_> = begun.iter().map(|it| it.model_id.as_str()).collect();
    assert_eq!(told, cases.map(|(_, wanted)| wanted));
    hub.stop().await;
}

/// What instances are told of an identity's sessions.
struct Heard {
    hub_instance: String,
    hints: bus::Hints,
}

impl Heard {
    async fn begin(hub: &Hub, path: &str) -> Self {
        let subject = subjects::session_subject(&identity(path));
        Self {
            hub_instance: hub.config.instance.clone(),
            hints: hub.bus.listen(&subject).await.expect("a subscription"),
        }
    }

    /// When the session of this instance began, as it says next.
    async fn next(&mut self) -> Timestamp {
        loop {
            let hint = tokio::time::timeout(SOON, self.hints.next()).await;
            let hint = hint.expect("it is told in time").expect("a hint");
            let entry = bus_wire::TelemetryEntry::decode(&*hint.payload).expect("an entry");
            let Some(Content::Session(notice)) = entry.content else {
                panic!("no notice");
            };
            if notice.instance == self.hub_instance {
                return wire::time::required("receive_time", entry.receive_time).expect("a time");
            }
        }
    }
}

/// Another instance says that a session began there before.
async fn older_elsewhere(hub: &Hub, path: &str, before: Timestamp) {
    let notice = bus_wire::SessionNotice {
        instance: "elsewhere".to_owned(),
        connected: true,
        ..Default::default()
    };
    let entry = bus_wire::TelemetryEntry {
        receive_time: Some(wire::time::to_wire(before - SignedDuration::from_secs(9))),
        content: Some(Content::Session(notice)),
        ..Default::default()
    };
    let subject = subjects::session_subject(&identity(path));
    let hint = bus::Outgoing::new(subject, entry.encode_to_vec());
    hub.bus.send_hint(hint).await.expect("it is sent");
}

#[tokio::test]
async fn a_session_tells_an_instance_that_has_not_heard_of_it_that_it_is_the_newer_one() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let mut heard = Heard::begin(&hub, "d").await;
    let (mut device, _) = Client::connected(&hub, &certs, "d").await;
    let began = heard.next().await;
    older_elsewhere(&hub, "d", began).await;
    assert_eq!(heard.next().await, began, "the same session");
    device.is_quiet().await;
    // Its twin knows it already.
    device
        .publish("devices/d/messages/events/", QoS::AtLeastOnce, "x")
        .await;
    device.next().await.expect("a PUBACK");
    assert_eq!(begun(&hub, 1).await.len(), 1);

    // And so does an agent's.
    hub.register("a");
    let mut heard = Heard::begin(&hub, "a").await;
    let mut agent = hub.connect(&good_token("a")).await.expect("a good token");
    agent.hello(1).await;
    let began = heard.next().await;
    older_elsewhere(&hub, "a", began).await;
    assert_eq!(heard.next().await, began, "the same session");
    hub.stop().await;
}
