//! Templates in settings, from the policy to the twin and what is told where they cannot be filled in.

use serde_json::json;
use service_kit::error::{Classified, Kind};
use service_kit::status::RemoteError;
use testkit::wait_for;
use wire::policy::v1 as proto;
use wire::policy::v1::judged_policy::Verdict;

use crate::world::{MODULE, SETTLE, SOON, World};

const SITE: &str = "\
kind: Policy
name: site
target: '*'
settings:
  upstream: 'https://{{tags.site}}.example/{{deviceId}}'
  ports: '{{tags.ports}}'
  echo: '{{reported.version}}'
";

async fn wait_incomplete(world: &World, names: &[&str]) {
    wait_for("what is told of the policy", SOON, async || {
        let status = world.policy("site").await.status?;
        let count = u64::try_from(names.len()).ok()?;
        (status.twins_incomplete == count && status.incomplete_twins == names).then_some(())
    })
    .await;
}

#[tokio::test]
async fn settings_follow_what_they_name_and_nothing_is_written_by_half() {
    let world = World::start().await;
    world.apply(SETTLE).await;
    world.apply(SITE).await;
    let tags = json!({"site": "lyon", "ports": [22, 443]});
    world.twins.create(MODULE, tags, json!(null)).await;
    world.settle().await;
    assert_eq!(world.twins.desired(MODULE), json!({}));
    wait_incomplete(&world, &[MODULE]).await;
    let request = proto::ExplainTwinRequest {
        name: MODULE.to_owned(),
    };
    let answer = world.client().await.explain_twin(request).await.unwrap();
    let mut policies = answer.into_inner().policies.into_iter();
    let judged = policies.find(|judged| judged.policy_id == "site").unwrap();
    assert_eq!(judged.verdict(), Verdict::Incomplete);
    let lacks = "echo needs properties.reported.version, which this twin does not have";
    assert_eq!(judged.reason, lacks);

    world.twins.report(MODULE, json!({"version": 7})).await;
    let upstream = "https://lyon.example/cam-1";
    let expected = json!({"upstream": upstream, "ports": [22, 443], "echo": 7});
    world.wait_desired(MODULE, expected).await;
    wait_incomplete(&world, &[]).await;

    let tags = json!({"site": "paris"});
    world.twins.operate(MODULE, Some(tags), None).await;
    let upstream = "https://paris.example/cam-1";
    let expected = json!({"upstream": upstream, "ports": [22, 443], "echo": 7});
    world.wait_desired(MODULE, expected).await;

    // What is within the text is an object now: all that the policy has set goes.
    let tags = json!({"site": {"town": "paris"}});
    world.twins.operate(MODULE, Some(tags), None).await;
    world.wait_desired(MODULE, json!({})).await;
    wait_incomplete(&world, &[MODULE]).await;
}

#[tokio::test]
async fn a_wrong_template_is_refused_with_its_place() {
    let world = World::start().await;
    let policy = proto::Policy {
        policy_id: "p".to_owned(),
        target: "*".to_owned(),
        settings_json: json!({"a": {"b": "x {{tags.site"}, "c": "{{posture.x}}"}).to_string(),
        ..proto::Policy::default()
    };
    let request = proto::ApplyPolicyRequest {
        policy: Some(policy),
        ..proto::ApplyPolicyRequest::default()
    };
    let refused = world
        .client()
        .await
        .apply_policy(request)
        .await
        .unwrap_err();
    let refused = RemoteError::from(refused);
    assert_eq!(refused.kind(), Kind::InvalidArgument);
    let told: Vec<_> = refused.violations().into_iter().collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0].subject, "policy.settings_json");
    assert!(
        told[0].description.starts_with("a.b, character 3: "),
        "{told:?}"
    );
    assert!(
        told[1].description.starts_with("c, character 3: posture.x"),
        "{told:?}"
    );
}
