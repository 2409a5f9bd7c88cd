use super::*;
use crate::mqtt::wire::MESSAGE_BYTES_MAX;

const TWINS: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

fn session(filters: &[&str]) -> Session {
    let identity = IdentityKey::parse_path("d").unwrap();
    let mut subscriptions = Subscriptions::default();
    for text in filters {
        let filter = Filter::parse(text, &identity).unwrap();
        subscriptions.add(filter, QoS::AtLeastOnce).unwrap();
    }
    Session::new(identity, subscriptions, Persistence::Kept, None)
}

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn publish(topic: &str, qos: QoS, body: &[u8]) -> Packet {
    Packet::Publish(Box::new(Publish {
        dup: false,
        retain: false,
        qos,
        topic: topic.to_owned().into(),
        packet_id: (qos != QoS::AtMostOnce).then(|| id(1)),
        payload: Bytes::copy_from_slice(body),
        properties: None,
    }))
}

fn subscribe(filters: &[&str]) -> Packet {
    let topic_filters = filters
        .iter()
        .map(|text| ((*text).to_owned().into(), QoS::ExactlyOnce));
    Packet::Subscribe {
        packet_id: id(7),
        topic_filters: topic_filters.collect(),
    }
}

fn suback() -> Packet {
    Packet::SubscribeAck {
        packet_id: id(7),
        status: vec![SubscribeReturnCode::Success(QoS::AtLeastOnce)],
    }
}

#[test]
fn whoever_sends_faster_than_is_stored_is_not_read() {
    let mut session = session(&[]);
    let large = vec![0; MESSAGE_BYTES_MAX];
    let topic = "devices/d/messages/events/";
    for _ in 0..4 {
        assert!(session.may_read());
        let effects = session.on_packet(publish(topic, QoS::AtLeastOnce, &large));
        assert!(matches!(
            effects.unwrap()[..],
            [Effect::Store { ack: Some(_), .. }]
        ));
    }
    assert!(!session.may_read());
    session.on_stored(MESSAGE_BYTES_MAX);
    assert!(session.may_read());
    let small = || publish(topic, QoS::AtMostOnce, b"1");
    for _ in 0..ACKS_MAX - 3 {
        assert!(session.may_read());
        assert!(session.on_packet(small()).is_ok());
    }
    assert!(!session.may_read());
}

#[test]
fn requests_about_the_twin_go_one_after_the_other() {
    let mut session = session(&[TWINS]);
    let patch = "$iothub/twin/PATCH/properties/reported/?$rid=p";
    let first = session.on_packet(publish(patch, QoS::AtLeastOnce, b"{}"));
    let request = Request::PatchReported {
        rid: "p".to_owned(),
        patch_json: "{}".to_owned(),
        base_version: 0,
        acknowledged: true,
    };
    let wanted = vec![Effect::AckPatch(id(1)), Effect::Ask(request)];
    assert_eq!(first.unwrap(), wanted);
    let get = publish("$iothub/twin/GET/?$rid=g", QoS::AtMostOnce, b" ");
    assert_eq!(session.on_packet(get).unwrap(), vec![]);
    let answer = answer::patched("p", 2);
    let next = Request::GetTwin {
        rid: "g".to_owned(),
    };
    assert_eq!(
        session.on_twin_answer(answer.clone()),
        vec![Effect::Send(answer), Effect::Ask(next)]
    );
}

#[test]
fn whoever_has_not_subscribed_to_answers_gets_none() {
    let mut session = session(&[]);
    let get = publish("$iothub/twin/GET/?$rid=g", QoS::AtLeastOnce, b"");
    assert_eq!(session.on_packet(get).unwrap(), vec![Effect::Ack(id(1))]);
    let patch = "$iothub/twin/PATCH/properties/reported/?$rid=p";
    let asked = session.on_packet(publish(patch, QoS::AtMostOnce, b"{}"));
    assert!(matches!(asked.unwrap()[..], [Effect::Ask(_)]));
    assert_eq!(session.on_twin_answer(answer::patched("p", 2)), vec![]);
}

#[test]
fn subscriptions_are_kept_before_they_are_granted() {
    let mut session = session(&[]);
    let effects = session.on_packet(subscribe(&[DESIRED])).unwrap();
    let [
        Effect::Ask(Request::Remember {
            keep,
            follow,
            reply,
        }),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert!(keep.as_ref().is_some_and(|it| !it.is_empty()) && *follow);
    assert_eq!(*reply, suback());
    session.on_hint(9);
    assert_eq!(session.next_changes(), None, "its version is not known yet");
    assert_eq!(
        session.on_remembered(suback(), Some(4)),
        vec![Effect::Send(suback())]
    );
    session.on_hint(5);
    assert_eq!(session.next_changes(), Some(4));
    // The same again has nothing to keep.
    assert_eq!(
        session.on_packet(subscribe(&[DESIRED])).unwrap(),
        vec![Effect::Send(suback())]
    );
    let change = DesiredChange {
        version: 5,
        patch_json: "{}".to_owned(),
    };
    let told = Effect::Send(answer::notification(&change));
    assert_eq!(session.on_changes(vec![change], 5), vec![told]);
    let gone = session.on_packet(Packet::Unsubscribe {
        packet_id: id(8),
        topic_filters: vec![DESIRED.to_owned().into()],
    });
    assert!(matches!(
        gone.unwrap()[..],
        [Effect::Ask(Request::Remember { follow: false, .. })]
    ));
    session.on_hint(6);
    assert_eq!(session.next_changes(), None);
}

#[test]
fn what_iot_hub_does_not_know_ends_the_connection() {
    let end = |packet| session(&[]).on_packet(packet).unwrap_err().code();
    let telemetry = "devices/d/messages/events/";
    let large = vec![0; MESSAGE_BYTES_MAX + 1];
    let many = "a&".repeat(30_000);
    for (packet, code) in [
        (publish("a/b", QoS::AtMostOnce, b""), "TOPIC_UNKNOWN"),
        (
            publish("devices/e/messages/events/", QoS::AtMostOnce, b""),
            "TOPIC_UNKNOWN",
        ),
        (publish(telemetry, QoS::ExactlyOnce, b""), "QOS_2"),
        (
            publish(telemetry, QoS::AtMostOnce, &large),
            "MESSAGE_TOO_LARGE",
        ),
        (
            publish(&format!("{telemetry}{many}"), QoS::AtMostOnce, b""),
            "MESSAGE_TOO_LARGE",
        ),
        (subscribe(&["#"]), "TOPIC_UNKNOWN"),
        (Packet::PublishRelease { packet_id: id(1) }, "QOS_2"),
        (Packet::PingResponse, "UNEXPECTED_PACKET"),
        (Packet::Connect(Box::default()), "UNEXPECTED_PACKET"),
        (Packet::Disconnect, "FINISHED"),
    ] {
        assert_eq!(end(packet), code);
    }
    let six: Vec<String> = (0..6)
        .map(|number| format!("$iothub/methods/POST/m{number}/#"))
        .collect();
    let six: Vec<&str> = six.iter().map(String::as_str).collect();
    assert_eq!(end(subscribe(&six)), "TOO_MANY_SUBSCRIPTIONS");
}
