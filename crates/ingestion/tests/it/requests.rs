//! Requests that twin-store answers: reported patches and reads.

use wire::agent::v1 as wire_agent;
use wire::agent::v1::open_session_request::Message;
use wire::agent::v1::open_session_response::Message as Answer;

use crate::hub::Hub;

fn patch(request_id: &str, patch_json: &str) -> Message {
    Message::PatchReported(wire_agent::PatchReported {
        request_id: request_id.to_owned(),
        patch_json: patch_json.to_owned(),
    })
}

#[tokio::test]
async fn patches_are_answered_in_their_order_with_the_new_version() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    for index in 0..20 {
        agent
            .send(patch(
                &format!("p{index}"),
                &format!("{{\"index\":{index}}}"),
            ))
            .await;
    }
    for index in 0..20 {
        let Ok(Answer::ReportedPatched(patched)) = agent.next().await else {
            panic!("no answer to {index}")
        };
        assert_eq!(
            (patched.request_id, patched.version),
            (format!("p{index}"), index + 2)
        );
    }
    let sent: Vec<String> = hub
        .store
        .state()
        .patches
        .iter()
        .map(|patch| patch.patch_json.clone())
        .collect();
    assert_eq!(sent[19], r#"{"index":19}"#);
    assert!(
        hub.store
            .state()
            .patches
            .iter()
            .all(|it| it.name == "devices/d/modules/m")
    );
    hub.stop().await;
}

#[tokio::test]
async fn a_twin_is_read_with_both_sections() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    agent
        .send(Message::GetTwin(wire_agent::GetTwin {
            request_id: "t".to_owned(),
        }))
        .await;
    let Ok(Answer::Twin(twin)) = agent.next().await else {
        panic!("no twin")
    };
    assert_eq!((twin.request_id.as_str(), twin.desired_version), ("t", 1));
    assert_eq!(
        (twin.desired_json.as_str(), twin.reported_json.as_str()),
        ("{}", "{}")
    );
    hub.stop().await;
}

#[tokio::test]
async fn a_refusal_carries_twin_stores_reason_and_an_outage_says_later() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    agent.send(patch("bad", "[]")).await;
    let error = agent.error().await;
    assert_eq!(
        (error.request_id.as_str(), error.reason.as_str()),
        ("bad", "INVALID_PATCH")
    );
    assert!(
        error.message.contains("patch_json: must be a JSON object"),
        "{}",
        error.message
    );
    assert!(!error.retryable);
    // What twin-store called it, and not what its kind would be called.
    assert_eq!(
        (error.iot_hub_code, error.iot_hub_name.as_str()),
        (400_004, "ArgumentInvalid")
    );

    hub.store.state().away = true;
    agent.send(patch("later", "{}")).await;
    let error = agent.error().await;
    assert_eq!(
        (
            error.request_id.as_str(),
            error.reason.as_str(),
            error.retryable
        ),
        ("later", "TWIN_STORE_UNAVAILABLE", true)
    );
    assert_eq!(error.iot_hub_code, 503_001);
    hub.store.state().away = false;
    agent.send(patch("later", "{}")).await;
    assert!(matches!(agent.next().await, Ok(Answer::ReportedPatched(_))));
    hub.stop().await;
}

#[tokio::test]
async fn an_identity_that_twin_store_does_not_find_ends_its_session() {
    let hub = Hub::start().await;
    let mut agent = hub.agent("d/m").await;
    {
        // Deleted, with the hint lost.
        let mut state = hub.store.state();
        state.identities.clear();
        state.twins.clear();
    }
    agent
        .send(Message::GetTwin(wire_agent::GetTwin {
            request_id: "t".to_owned(),
        }))
        .await;
    agent.ends_with(tonic::Code::NotFound).await;
    hub.stop().await;
}
