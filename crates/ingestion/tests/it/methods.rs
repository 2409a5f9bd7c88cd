//! Direct methods, from the bus to the device and back.

use std::time::Duration;

use bus::{AskError, Outgoing};
use prost::Message as _;
use rmqtt_codec::types::QoS;
use wire::bus::v1 as bus_wire;
use wire::bus::v1::MethodFailure;
use wire::bus::v1::method_outcome::Outcome;
use wire::subjects;

use crate::hub::{Hub, SOON};
use crate::mqtt_client::{Client, hub};

const METHODS: &str = "$iothub/methods/POST/#";

/// Where the instance that holds a session takes calls; none: nobody does.
async fn find(hub: &Hub, device: &str, module: &str) -> Option<String> {
    let asked = bus_wire::FindSession {
        device_id: device.to_owned(),
        module_id: module.to_owned(),
    };
    let question = Outgoing::new(subjects::FIND_SESSION_SUBJECT, asked.encode_to_vec());
    let place = hub.bus.ask(question, SOON).await.expect("an answer");
    let place = bus_wire::SessionPlace::decode(place).unwrap();
    place.has_session.then_some(place.subject)
}

async fn found(hub: &Hub, device: &str, module: &str) -> String {
    testkit::wait_for("the session", SOON, async || {
        find(hub, device, module).await
    })
    .await
}

fn call(device: &str, method: &str, within: Duration) -> bus_wire::MethodCall {
    bus_wire::MethodCall {
        device_id: device.to_owned(),
        module_id: String::new(),
        method_name: method.to_owned(),
        payload: b"{\"a\":1.50}".to_vec(),
        response_within_ms: within.as_millis().try_into().unwrap(),
    }
}

async fn ask(hub: &Hub, subject: &str, call: bus_wire::MethodCall) -> Outcome {
    let question = Outgoing::new(subject, call.encode_to_vec());
    let answer = hub.bus.ask(question, SOON).await.expect("an answer");
    let outcome = bus_wire::MethodOutcome::decode(answer).unwrap();
    outcome.outcome.expect("an outcome")
}

fn failed(failure: MethodFailure) -> Outcome {
    Outcome::Failure(failure.into())
}

fn answered(status: i32, payload: &str) -> Outcome {
    Outcome::Answer(bus_wire::MethodAnswer {
        status,
        payload: payload.into(),
    })
}

/// The next method that a device is called: its name in the topic, its id, its payload.
async fn next_call(client: &mut Client) -> (String, String, String) {
    let (topic, body) = client.message().await;
    let rest = topic.strip_prefix("$iothub/methods/POST/").expect("a call");
    let (name, rid) = rest.split_once("/?$rid=").expect("an id");
    (name.to_owned(), rid.to_owned(), body)
}

async fn answer(client: &mut Client, status: i32, rid: &str, body: &str) {
    let topic = format!("$iothub/methods/res/{status}/?$rid={rid}");
    client.publish(&topic, QoS::AtMostOnce, body).await;
}

#[tokio::test]
async fn a_device_is_called_and_its_first_answer_counts() {
    let (hub, certs) = hub().await;
    for path in ["d", "e", "d/m"] {
        hub.register(path);
    }
    assert_eq!(find(&hub, "d", "").await, None, "it is not there yet");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    let (mut other, _) = Client::connected(&hub, &certs, "e").await;
    client.subscribe(METHODS).await;
    let place = found(&hub, "d", "").await;
    assert_eq!(find(&hub, "d", "m").await, None, "its module is not");
    let device = async {
        let (name, rid, body) = next_call(&mut client).await;
        assert_eq!((&*name, &*body), ("get%2Alog", "{\"a\":1.50}"));
        // None of these is its answer.
        answer(&mut client, 200, "unknown", "\"x\"").await;
        answer(&mut other, 200, &rid, "\"stolen\"").await;
        other.is_quiet().await;
        answer(&mut client, -7, &rid, "[true]").await;
        answer(&mut client, 200, &rid, "\"again\"").await;
        client.is_quiet().await;
    };
    let call = call("d", "get*log", SOON);
    let (outcome, ()) = tokio::join!(ask(&hub, &place, call), device);
    assert_eq!(outcome, answered(-7, "[true]"));
    hub.stop().await;
}

#[tokio::test]
async fn calls_go_on_side_by_side_and_may_be_answered_after_a_reconnect() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.subscribe(METHODS).await;
    let place = found(&hub, "d", "").await;
    let device = async {
        let one = next_call(&mut client).await;
        let two = next_call(&mut client).await;
        assert_ne!(one.1, two.1, "each has an id of its own");
        // The second first, on a new connection; and a second connection makes the first close.
        let (mut again, present) = Client::connected(&hub, &certs, "d").await;
        assert!(present);
        client.is_closed().await;
        for (name, rid, _) in [two, one] {
            answer(&mut again, 200, &rid, &format!("\"{name}\"")).await;
        }
        again.is_quiet().await;
    };
    let (one, two, ()) = tokio::join!(
        ask(&hub, &place, call("d", "one", SOON)),
        ask(&hub, &place, call("d", "two", SOON)),
        device
    );
    assert_eq!(one, answered(200, "\"one\""));
    assert_eq!(two, answered(200, "\"two\""));
    hub.stop().await;
}

#[tokio::test]
async fn whoever_is_not_there_or_has_not_subscribed_is_not_called() {
    let (hub, certs) = hub().await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    let place = found(&hub, "d", "").await;
    let outcome = ask(&hub, &place, call("d", "reboot", SOON)).await;
    assert_eq!(outcome, failed(MethodFailure::NotOnline), "no subscription");
    client.subscribe("$iothub/methods/POST/reboot/#").await;
    let outcome = ask(&hub, &place, call("d", "other", SOON)).await;
    assert_eq!(outcome, failed(MethodFailure::NotOnline), "not to this one");
    client.is_quiet().await;
    let outcome = ask(&hub, &place, call("e", "reboot", SOON)).await;
    assert_eq!(outcome, failed(MethodFailure::NotOnline), "never heard of");
    let mut named = call("d", "reboot", SOON);
    named.device_id = "no such id!\n".to_owned();
    let outcome = ask(&hub, &place, named).await;
    assert_eq!(outcome, failed(MethodFailure::NotOnline));
    drop(client);
    testkit::wait_for("the end of the session", SOON, async || {
        find(&hub, "d", "").await.is_none().then_some(())
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_silent_device_is_waited_for_so_long_and_hurts_no_other() {
    let (hub, certs) = hub().await;
    for path in ["d", "e"] {
        hub.register(path);
    }
    let (mut silent, _) = Client::connected(&hub, &certs, "d").await;
    silent.subscribe(METHODS).await;
    let (mut other, _) = Client::connected(&hub, &certs, "e").await;
    other.subscribe(METHODS).await;
    let place = found(&hub, "d", "").await;
    let short = Duration::from_millis(50);
    let outcome = ask(&hub, &place, call("d", "m", short)).await;
    assert_eq!(outcome, failed(MethodFailure::NotAnswered));
    let (_, late, _) = next_call(&mut silent).await;
    // An answer that comes too late is nobody's, and no mistake.
    answer(&mut silent, 200, &late, "1").await;
    silent.is_quiet().await;
    // So many wait for one device, and the next is told so at once.
    let waiting = (0..16).map(|_| ask(&hub, &place, call("d", "m", SOON)));
    let waiting = futures::future::join_all(waiting);
    let device = async {
        let mut ids = Vec::new();
        while ids.len() < 16 {
            ids.push(next_call(&mut silent).await.1);
        }
        let outcome = ask(&hub, &place, call("d", "m", SOON)).await;
        assert_eq!(outcome, failed(MethodFailure::Busy));
        let third = async {
            let (_, rid, _) = next_call(&mut other).await;
            answer(&mut other, 201, &rid, "").await;
        };
        let (outcome, ()) = tokio::join!(ask(&hub, &place, call("e", "m", SOON)), third);
        assert_eq!(outcome, answered(201, ""));
        for rid in ids {
            answer(&mut silent, 200, &rid, "2").await;
        }
    };
    let (outcomes, ()) = tokio::join!(waiting, device);
    assert!(outcomes.iter().all(|it| *it == answered(200, "2")));
    hub.stop().await;
}

#[tokio::test]
async fn a_stop_gives_up_what_waits_and_a_new_run_is_another_place() {
    let (mut hub, certs) = hub().await;
    hub.register("d");
    let (mut client, _) = Client::connected(&hub, &certs, "d").await;
    client.subscribe(METHODS).await;
    let place = found(&hub, "d", "").await;
    let bus = hub.bus.clone();
    let question = Outgoing::new(place.clone(), call("d", "m", SOON).encode_to_vec());
    let asking = tokio::spawn(async move { bus.ask(question, SOON).await });
    next_call(&mut client).await;
    hub.restart().await;
    let outcome = asking.await.unwrap().expect("an answer before the end");
    let outcome = bus_wire::MethodOutcome::decode(outcome).unwrap().outcome;
    assert_eq!(outcome, Some(failed(MethodFailure::NotAnswered)));
    // Subscriptions outlive it, places do not.
    let (_again, present) = Client::connected(&hub, &certs, "d").await;
    assert!(present);
    assert_ne!(found(&hub, "d", "").await, place);
    let question = Outgoing::new(place, call("d", "m", SOON).encode_to_vec());
    let nobody = hub.bus.ask(question, SOON).await;
    assert!(matches!(nobody, Err(AskError::Nobody { .. })), "{nobody:?}");
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_on_the_stream_is_called_if_it_takes_methods() {
    use wire::agent::v1 as agent;
    use wire::agent::v1::open_session_request::Message;
    use wire::agent::v1::open_session_response::Message as Told;

    let hub = Hub::start().await;
    let mut deaf = hub.agent("deaf/m").await;
    hub.register("d/m");
    let token = crate::hub::good_token("d/m");
    let mut called = hub.connect(&token).await.expect("a good token");
    let hello = agent::Hello {
        session_id: uuid::Uuid::new_v4().to_string(),
        applied_desired_version: 1,
        takes_methods: true,
        ..agent::Hello::default()
    };
    called.say(Message::Hello(hello)).await;
    let place = found(&hub, "d", "m").await;
    assert_eq!(find(&hub, "deaf", "m").await, None, "it takes none");
    let mut asked = call("d", "collect", SOON);
    asked.module_id = "m".to_owned();
    let work = async {
        let Ok(Told::Method(request)) = called.next().await else {
            panic!("no call");
        };
        assert_eq!(request.method_name, "collect");
        assert_eq!(request.payload_json, "{\"a\":1.50}");
        let response = |call_id: &str, status| {
            Message::MethodResponse(agent::MethodResponse {
                call_id: call_id.to_owned(),
                status,
                payload_json: "[1]".to_owned(),
            })
        };
        // None of these is its answer.
        called.send(response("unknown", 500)).await;
        deaf.send(response(&request.call_id, 500)).await;
        // What it says next is answered, so the other's word has arrived.
        deaf.send(Message::GetTwin(agent::GetTwin::default())).await;
        assert!(matches!(deaf.next().await, Ok(Told::Twin(_))));
        called.send(response(&request.call_id, 202)).await;
    };
    let (outcome, ()) = tokio::join!(ask(&hub, &place, asked.clone()), work);
    assert_eq!(outcome, answered(202, "[1]"));
    called.leave().await;
    let outcome = ask(&hub, &place, asked).await;
    assert_eq!(outcome, failed(MethodFailure::NotOnline), "it has left");
    hub.stop().await;
}
