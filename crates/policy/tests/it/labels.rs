//! Labels: policies are found by them, and twins never hear of them.

use serde_json::json;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use wire::policy::v1 as proto;
use wire::policy::v1::apply_policy_response::Outcome;

use crate::world::{MODULE, SETTLE, World};

fn labelled(labels: &str) -> String {
    format!("kind: Policy\nname: p\ntarget: '*'\nlabels: {labels}\nsettings: {{x: 1}}\n")
}

async fn found(world: &World, labels: &[(&str, &str)]) -> Result<Vec<String>, tonic::Status> {
    let labels = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let request = proto::ListPoliciesRequest {
        labels: labels.collect(),
        ..proto::ListPoliciesRequest::default()
    };
    let page = world.client().await.list_policies(request).await?;
    let policies = page.into_inner().policies.into_iter();
    Ok(policies.map(|policy| policy.policy_id).collect())
}

#[tokio::test]
async fn policies_are_found_by_their_labels() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world
        .apply(&labelled("{team: edge, example.com/tier: '1'}"))
        .await;
    let all = [("team", "edge"), ("example.com/tier", "1")];
    assert_eq!(found(&world, &[]).await.unwrap(), ["p", "settle"]);
    assert_eq!(found(&world, &all).await.unwrap(), ["p"]);
    assert_eq!(found(&world, &all[..1]).await.unwrap(), ["p"]);
    let other = [("team", "edge"), ("example.com/tier", "2")];
    assert_eq!(found(&world, &other).await.unwrap(), Vec::<String>::new());
    let refused = found(&world, &[("team", "two words")]).await.unwrap_err();
    let refused = RemoteError::from(refused);
    assert_eq!(refused.kind(), Kind::InvalidArgument);
    assert_eq!(refused.violations()[0].subject, "labels");
}

#[tokio::test]
async fn another_label_is_a_revision_that_changes_no_twin() {
    let mut world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(&labelled("{team: edge}")).await;
    world.twins.create(MODULE, json!({}), json!(null)).await;
    world.wait_desired(MODULE, json!({"x": 1})).await;
    let version = world.twins.desired_version(MODULE);

    let answer = world.apply(&labelled("{team: core}")).await.remove(0);
    assert_eq!(answer.outcome(), Outcome::Updated);
    assert_eq!(answer.policy.unwrap().revision, 2);
    let changed: Vec<_> = answer
        .changes
        .iter()
        .map(|one| (&*one.path, &*one.new_json))
        .collect();
    assert_eq!(changed, [("labels", r#"{"team":"core"}"#)]);
    world.wait_evaluated("p").await;
    world.settle().await;
    assert_eq!(world.twins.desired_version(MODULE), version);

    world.stop_service().await;
    world.start_service().await;
    world.stop_service().await;
    world.start_service().await;
    assert_eq!(found(&world, &[("team", "core")]).await.unwrap(), ["p"]);
}
