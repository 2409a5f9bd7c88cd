//! Two policies that undo each other are stopped: what they write in turns is frozen, both are named on
//! the twin, and a change of one of them lets it go.

use serde_json::{Value, json};
use wire::policy::v1 as policy;
use wire::twin::v1::ListTwinsRequest;

use crate::support::agent::Agent;
use crate::support::api::Api;
use crate::support::hub::{Hub, Part};

/// A policy over all modules.
fn over_all(id: &str, when: &str, settings: &Value) -> policy::Policy {
    policy::Policy {
        policy_id: id.to_owned(),
        scope: policy::Scope::Modules.into(),
        target: "*".to_owned(),
        when: when.to_owned(),
        settings_json: settings.to_string(),
        ..Default::default()
    }
}

/// The twins that say of a path that it is frozen.
async fn found(api: &Api) -> Vec<String> {
    let request = ListTwinsRequest {
        filter: "IS_DEFINED(posture.configuration.frozen)".to_owned(),
        ..Default::default()
    };
    let page = api.twins.clone().list_twins(request).await;
    let twins = page.expect("a search").into_inner().twins.into_iter();
    twins.map(|twin| twin.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_policies_that_fight_are_stopped_and_named_on_the_twin() {
    let mut hub = Hub::start().await;
    hub.allow_everything();
    let api = hub.api();
    let device = api.device("cam-1").await;
    let mut agent = Agent::new(hub.agent_url(), device.clone());
    // Each switches the other on and itself off.
    let first = over_all("first", "NOT IS_DEFINED(desired.y)", &json!({"x": 1}));
    let second = over_all("second", "IS_DEFINED(desired.x)", &json!({"y": 1}));
    api.apply(first).await.expect("a good policy");
    api.apply(second).await.expect("a good policy");

    let twin = &device.twin;
    let frozen = |twin: &crate::support::api::Twin| {
        twin.posture()["configuration"]["frozen"][0]["writers"].clone()
    };
    let known = api
        .twin_until(twin, "a frozen path", |twin| frozen(twin).is_array())
        .await;
    let mut writers: Vec<String> = serde_json::from_value(frozen(&known)).expect("names");
    writers.sort();
    assert_eq!(writers, ["policy:first@1", "policy:second@1"]);
    assert_eq!(found(&api).await, std::slice::from_ref(twin));

    // It stays as it is, over the death of the service as well.
    hub.kill_and_restart(Part::Policy).await;
    let after = api.twin(twin).await.expect("it is there");
    assert_eq!(after.0.desired_version, known.0.desired_version);
    assert_eq!(found(&api).await, std::slice::from_ref(twin));

    let second = over_all("second", "", &json!({"y": 1}));
    api.apply(second).await.expect("a good policy");
    agent
        .desired_until(|desired| *desired == json!({"y": 1}))
        .await;
    api.twin_until(twin, "nothing to be frozen", |twin| frozen(twin).is_null())
        .await;
    hub.stop().await;
}
