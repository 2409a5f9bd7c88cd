//! Devices that register first: what the provisioning SDKs see of the listener, and what they hide.

use rmqtt_codec::types::QoS;
use rmqtt_codec::v3::{Connect, ConnectAckReason, Packet};
use serde_json::Value;
use wire::registry::v1::registration_claim::Proof;

use crate::fake_store::OPERATION;
use crate::hub::HOST;
use crate::mqtt_client::{Client, DeviceCert, hub, id, publish};

const ANSWERS: &str = "$dps/registrations/res/#";
const REGISTER: &str = "$dps/registrations/PUT/iotdps-register/?$rid=r-1";

pub(crate) fn poll(operation: &str) -> String {
    format!("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=r-2&operationId={operation}")
}

/// A CONNECT as SDKs send it.
pub(crate) fn connect(scope: &str, id: &str, password: Option<&str>) -> Connect {
    let name = format!("{scope}/registrations/{id}/api-version=2019-03-31&ClientVersion=x%2F1");
    Connect {
        keep_alive: 60,
        client_id: id.to_owned().into(),
        username: Some(name.into()),
        password: password.map(|password| password.to_owned().into()),
        ..Connect::default()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_device_registers_and_is_told_its_hub() {
    let (hub, certs) = hub().await;
    let (mut client, code, present) =
        Client::try_connect(&hub, &certs, connect("0neTEST", "sn-1", Some("good"))).await;
    assert_eq!(
        (code, present),
        (ConnectAckReason::ConnectionAccepted, false)
    );
    client.subscribe(ANSWERS).await;
    let body = r#"{"registrationId":"sn-1","payload":{"a":1}}"#;
    let message = publish(REGISTER, QoS::AtLeastOnce, body);
    client.send(Packet::Publish(Box::new(message))).await;
    assert_eq!(
        client.next().await,
        Some(Packet::PublishAck { packet_id: id(1) })
    );
    let (topic, body) = client.message().await;
    assert_eq!(topic, "$dps/registrations/res/202/?$rid=r-1&retry-after=1");
    assert_eq!(json(&body)["status"], "assigning");
    let operation = json(&body)["operationId"].as_str().unwrap().to_owned();
    client
        .publish(&poll(&operation), QoS::AtMostOnce, " ")
        .await;
    let (topic, body) = client.message().await;
    assert_eq!(topic, "$dps/registrations/res/200/?$rid=r-2");
    let body = json(&body);
    assert_eq!(body["status"], "assigned");
    assert_eq!(body["registrationState"]["assignedHub"], HOST);
    assert_eq!(body["registrationState"]["deviceId"], "device-of-sn-1");
    client.publish(&poll("unknown"), QoS::AtMostOnce, " ").await;
    let (topic, body) = client.message().await;
    assert_eq!(topic, "$dps/registrations/res/404/?$rid=r-2");
    assert_eq!(json(&body)["errorCode"].as_u64().unwrap() / 1000, 404);
    client.is_quiet().await;
    let registered = hub.store.state().registered.clone();
    let proofs: Vec<_> = registered.into_iter().map(|claim| claim.proof).collect();
    assert_eq!(proofs, [Some(Proof::SasToken("good".to_owned()))]);
    hub.stop().await;
}

#[tokio::test]
async fn a_certificate_is_passed_on_and_every_refusal_has_its_code() {
    use ConnectAckReason::{
        BadUserNameOrPassword, ConnectionAccepted, NotAuthorized, ServiceUnavailable,
    };
    let (hub, certs) = hub().await;
    let cert = DeviceCert::new();
    let mut shown = Client::dial(&hub, &certs, &rustls::version::TLS12, Some(&cert)).await;
    let (code, _) = shown.call(connect("0neTEST", "sn-1", None)).await;
    assert_eq!(code, ConnectionAccepted);
    shown.subscribe(ANSWERS).await;
    shown.publish(REGISTER, QoS::AtMostOnce, "").await;
    let (topic, _) = shown.message().await;
    assert!(topic.starts_with("$dps/registrations/res/202/"), "{topic}");
    {
        let state = hub.store.state();
        let Some(Proof::Chain(chain)) = &state.registered[0].proof else {
            panic!("a chain");
        };
        assert_eq!(chain.certificates, [cert.der.to_vec()]);
    }
    let other_client = Connect {
        client_id: "sn-2".into(),
        ..connect("0neTEST", "sn-1", Some("good"))
    };
    for (connect, wanted) in [
        (connect("0neTEST", "sn-1", Some("bad")), NotAuthorized),
        (connect("0neELSE", "sn-1", Some("good")), NotAuthorized),
        (connect("0neTEST", "other", Some("good")), NotAuthorized),
        (connect("0neTEST", "sn-1", None), BadUserNameOrPassword),
        (
            connect("0neTEST", "sn 1", Some("good")),
            BadUserNameOrPassword,
        ),
        (other_client, BadUserNameOrPassword),
    ] {
        let name = format!("{connect:?}");
        let (mut client, code, _) = Client::try_connect(&hub, &certs, connect).await;
        assert_eq!(code, wanted, "{name}");
        client.is_closed().await;
    }
    hub.store.state().away = true;
    let good = connect("0neTEST", "sn-1", Some("good"));
    let (_, code, _) = Client::try_connect(&hub, &certs, good).await;
    assert_eq!(code, ServiceUnavailable, "to be tried again");
    hub.stop().await;
}

#[tokio::test]
async fn requests_that_fail_are_answered_and_other_topics_close_the_connection() {
    let (hub, certs) = hub().await;
    let good = || connect("0neTEST", "sn-taken", Some("good"));
    let (mut client, ..) = Client::try_connect(&hub, &certs, good()).await;
    // Who does not listen is told nothing.
    client.publish(REGISTER, QoS::AtMostOnce, "").await;
    client.is_quiet().await;
    client.subscribe(ANSWERS).await;
    for (body, status) in [
        ("", 409),
        ("{", 400),
        ("[]", 400),
        (r#"{"registrationId":"sn-1"}"#, 400),
    ] {
        client.publish(REGISTER, QoS::AtMostOnce, body).await;
        let (topic, answer) = client.message().await;
        assert_eq!(
            topic,
            format!("$dps/registrations/res/{status}/?$rid=r-1"),
            "{body}"
        );
        assert!(json(&answer)["message"].is_string(), "{answer}");
        assert!(json(&answer)["trackingId"].is_string(), "{answer}");
    }
    client
        .publish("devices/sn-taken/messages/events/", QoS::AtMostOnce, "1")
        .await;
    client.is_closed().await;
    for filter in ["#", "$iothub/twin/res/#"] {
        let (mut client, ..) = Client::try_connect(&hub, &certs, good()).await;
        client
            .send(Packet::Subscribe {
                packet_id: id(1),
                topic_filters: vec![(filter.into(), QoS::AtMostOnce)],
            })
            .await;
        client.is_closed().await;
    }
    // More than any device needs.
    let (mut client, ..) = Client::try_connect(&hub, &certs, good()).await;
    for _ in 0..65 {
        client.publish(&poll(OPERATION), QoS::AtMostOnce, "").await;
    }
    client.is_closed().await;
    hub.stop().await;
}
