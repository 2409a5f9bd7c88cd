//! Policies call methods of agents: once when they begin to hold, with what came of it recorded, and never
//! twice because the policy service died in the middle.

use std::time::Duration;

use serde_json::Value;
use testkit::{ProcessBuilder, wait_for, workspace_binary};
use wire::agent::v1::open_session_request::Message as Up;
use wire::agent::v1::open_session_response::Message as Down;
use wire::agent::v1::{MethodRequest, MethodResponse, OpenSessionRequest};
use wire::policy::v1 as policy;
use wire::policy::v1::action_call::Outcome;
use wire::policy::v1::action_service_client::ActionServiceClient;
use wire::twin::v1::PatchTwinRequest;

use crate::support::SOON;
use crate::support::agent::{Session, hello, open, sas};
use crate::support::api::Api;
use crate::support::hub::{self, Hub, Part, TOKEN};
use crate::support::real_agent::RealAgent;

/// Collects on an agent while a tag of its twin says so.
fn collects() -> policy::Policy {
    policy::Policy {
        policy_id: "collects".to_owned(),
        target: "*".to_owned(),
        when: "tags.alarm = true".to_owned(),
        actions: Some(policy::PolicyActions {
            calls: vec![policy::PolicyAction {
                name: "collect".to_owned(),
                method: "collectNow".to_owned(),
                ..policy::PolicyAction::default()
            }],
            ..policy::PolicyActions::default()
        }),
        ..policy::Policy::default()
    }
}

async fn alarm(api: &Api, twin: &str, on: bool) {
    let request = PatchTwinRequest {
        name: twin.to_owned(),
        tags_patch_json: format!("{{\"alarm\": {on}}}"),
        ..PatchTwinRequest::default()
    };
    api.patch(request).await.expect("a small patch");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_collects_because_a_policy_begins_to_hold() {
    let hub = hub::Up::start().await;
    let agent = RealAgent::enroll(&hub.api(), &hub.agent_url(), "watched", hub.folder()).await;
    let twin = "devices/watched/modules/DefenderIotMicroAgent";
    let seen = |twin: &crate::support::api::Twin| {
        twin.posture()["listeningPortsSnapshot"]["observedAt"].clone()
    };
    let first = hub
        .api()
        .twin_until(twin, "the agent's first snapshots", |twin| {
            seen(twin).is_string()
        })
        .await;
    let before = seen(&first);
    hub.api().apply(collects()).await.expect("a good policy");
    alarm(&hub.api(), twin, true).await;
    // Its interval is half an hour, so this is what the policy asked for.
    hub.api()
        .twin_until(twin, "what was collected", |twin| {
            seen(twin).is_string() && seen(twin) != before
        })
        .await;
    let listed = wait_for("the result", SOON, async || {
        let listed = list(&hub).await;
        (listed["calls"].as_array()?.len() == 1).then_some(listed)
    })
    .await;
    let call = &listed["calls"][0];
    assert_eq!(call["outcome"], "succeeded", "{listed}");
    assert_eq!(call["status"], 200);
    assert_eq!(call["twin"], twin);
    assert!(call["payload"]["collectors"].is_array(), "{call}");
    assert_eq!(listed["pendingCount"], 0);
    let audited = hub.api().audited("method.invoke").await;
    let actors: Vec<&str> = audited.iter().map(|entry| entry.actor.as_str()).collect();
    assert_eq!(actors, ["policy:collects@1"]);
    agent.stop().await;
    hub.stop().await;
}

/// What the command line prints of the policy's calls.
async fn list(hub: &hub::Up) -> Value {
    let mut verb = ProcessBuilder::new("actions", workspace_binary("twinward"))
        .args(["-o", "json", "policy", "actions", "collects"])
        .args(["--device", "watched"])
        .env("TWINWARD_POLICY_URL", hub.variable("TWINWARD_POLICY_URL"))
        .env("TWINWARD_ADMIN_TOKEN", hub.variable("TWINWARD_ADMIN_TOKEN"))
        .allow("")
        .spawn();
    let status = verb.wait_exit(SOON).await;
    let text = verb.lines().join("\n");
    assert!(status.success(), "{text}");
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_while_an_agent_is_called_calls_it_no_second_time() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let device = api.device("cam-1").await;
    let mut first = hello(0);
    if let Up::Hello(hello) = &mut first {
        hello.takes_methods = true;
    }
    let token = sas(&device, Duration::from_hours(1));
    let session = open(&hub.agent_url(), &token, first).await;
    let mut session = session.expect("a session");
    api.apply(collects()).await.expect("a good policy");
    let calm = policy::Policy {
        policy_id: "calm".to_owned(),
        target: "tags.alarm = false".to_owned(),
        settings_json: r#"{"calm": true}"#.to_owned(),
        ..policy::Policy::default()
    };
    api.apply(calm).await.expect("a good policy");
    alarm(&api, &device.twin, true).await;
    let called = method(&mut session).await;
    assert_eq!(called.method_name, "collectNow");
    // It dies with the call under way, which nobody answers.
    hub.kill_and_restart(Part::Policy).await;
    let ended = calls(&hub, 1).await;
    assert_eq!((ended[0].outcome(), ended[0].cause), (Outcome::Unknown, 1));
    // The next cause is the next call: none came between.
    alarm(&api, &device.twin, false).await;
    api.twin_until(&device.twin, "the calm to be seen", |twin| {
        twin.desired()["calm"] == true
    })
    .await;
    alarm(&api, &device.twin, true).await;
    let again = method(&mut session).await;
    assert_ne!(again.call_id, called.call_id);
    let answer = Up::MethodResponse(MethodResponse {
        call_id: again.call_id,
        status: 200,
        payload_json: "{}".to_owned(),
    });
    let sent = session.up.send(OpenSessionRequest {
        message: Some(answer),
    });
    sent.await.expect("the session is open");
    let ended = calls(&hub, 2).await;
    assert_eq!(
        (ended[0].outcome(), ended[0].cause),
        (Outcome::Succeeded, 2)
    );
    drop(session);
    hub.stop().await;
}

/// The next method that is called of an agent.
async fn method(session: &mut Session) -> MethodRequest {
    let next = async {
        loop {
            let message = session.down.message().await.expect("the session is open");
            let message = message.expect("it goes on").message;
            if let Some(Down::Method(request)) = message {
                return request;
            }
        }
    };
    let waited = tokio::time::timeout(SOON, next).await;
    waited.expect("a method is called")
}

async fn calls_of(hub: &Hub) -> Vec<policy::ActionCall> {
    let config = service_kit::client::ClientConfig {
        token: Some(service_kit::secret::Secret::new(TOKEN)),
        ..service_kit::client::ClientConfig::to(hub.url(Part::Policy))
    };
    let connection = service_kit::client::connect(&config).expect("a usable URL");
    let request = policy::ListActionCallsRequest {
        parent: "policies/collects".to_owned(),
        ..policy::ListActionCallsRequest::default()
    };
    let listed = ActionServiceClient::new(connection)
        .list_action_calls(request)
        .await;
    listed.map_or_else(|_| Vec::new(), |listed| listed.into_inner().calls)
}

/// Waits for so many calls that have ended, the newest first.
async fn calls(hub: &Hub, count: usize) -> Vec<policy::ActionCall> {
    wait_for("calls that have ended", SOON, async || {
        let calls = calls_of(hub).await;
        (calls.len() >= count).then_some(calls)
    })
    .await
}
